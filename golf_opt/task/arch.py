"""Architectures: a list of layers -> shapes, tensors and parameter counts.

A file of conf/arch holds such a list, `golf_opt.task.grammar` makes one from `c4-5-4`. No torch in
here: counting a network needs none. A file reads, and counts, as

    >>> import yaml
    >>> net = build_net(yaml.safe_load('''
    ...     name: mine
    ...     layers:
    ...       - {kind: conv, channels: 4, kernel: 5, padding: same}
    ...       - {kind: max_pool, size: 2}
    ...       - {kind: depthwise, name: blur, kernel: 3, padding: same, bias: false}
    ...       - {kind: reuse, of: blur}
    ...       - {kind: global_avg_pool}
    ...       - {kind: linear, features: 10}
    ... '''))
    >>> [(node.name, show_shape(node.output_shape), node.num_params) for node in net.nodes[1:4]]
    [('max_pool1', '4x14x14', 0), ('blur', '4x14x14', 36), ('blur', '4x14x14', 0)]
    >>> net.num_params
    190
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

from golf_opt.config.check import check
from golf_opt.config.errors import UsageError, check_choice, did_you_mean, short
from golf_opt.config.types import StudyName
from golf_opt.task.inputs import MNIST, InputSpec
from golf_opt.task.layers import KINDS, Add, Layer, Module, Parameter, Shape, show_shape

CLASSES, SIZES = "classes", ("channels", "features")  # of the last layer: how many there are
MOST_LAYERS = 256  # what follows is far beyond a net that is golfed with, and what a machine holds
MOST_NUMBERS = 100_000_000  # trained ones, and those between layers for one image


@dataclass(frozen=True)
class Node:
    """A layer in its place. `shared` marks one that reuses the tensors of an earlier node.

    `of` is the index of the node whose output is the second input of an `add`.
    """

    name: str
    layer: Layer
    input_shape: Shape
    output_shape: Shape
    shared: bool = False
    of: int | None = None

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """The trained tensors, named `<node>.<tensor>`; a shared node has its original's."""
        return self._named(self.layer.parameters(self.input_shape))

    @property
    def buffers(self) -> tuple[Parameter, ...]:
        return self._named(self.layer.buffers(self.input_shape))

    @property
    def num_params(self) -> int:
        """Trained numbers that this node adds; a shared node adds none."""
        return 0 if self.shared else sum(parameter.size for parameter in self.parameters)

    def _named(self, tensors: tuple[Parameter, ...]) -> tuple[Parameter, ...]:
        if isinstance(self.layer, Module):
            return tensors
        return tuple(replace(tensor, name=f"{self.name}.{tensor.name}") for tensor in tensors)


@dataclass(frozen=True)
class Net:
    """A network for one kind of input: nodes from image to class scores."""

    name: str
    nodes: tuple[Node, ...]
    input: InputSpec = MNIST

    @property
    def module(self) -> Module | None:
        """The user's module that the net is, where it is no list of layers."""
        layer = self.nodes[0].layer
        return layer if isinstance(layer, Module) else None

    @cached_property
    def parameters(self) -> tuple[Parameter, ...]:
        """Every trained tensor once, in order of first use."""
        return tuple(p for node in self.nodes if not node.shared for p in node.parameters)

    @cached_property
    def buffers(self) -> tuple[Parameter, ...]:
        return tuple(b for node in self.nodes if not node.shared for b in node.buffers)

    @cached_property
    def num_params(self) -> int:
        return sum(parameter.size for parameter in self.parameters)

    @property
    def arch(self) -> dict[str, Any]:
        """Return what `build_net` makes the same net of: its name, and its layers as a file's."""
        rows: list[dict[str, Any]] = []
        for node in self.nodes:
            own = {"kind": node.layer.kind, "name": node.name} | node.layer.options
            rows.append({"kind": "reuse", "of": node.name} if node.shared else own)
        return {"name": self.name, "layers": rows}

    def describe(self) -> list[dict[str, Any]]:
        """Return the layers as plain data: what two nets must share to be the same net."""
        return [
            {"name": node.name, "kind": node.layer.kind, "shared": node.shared}
            | node.layer.described
            for node in self.nodes
        ]


def build_net(arch: Mapping[str, Any], spec: InputSpec = MNIST) -> Net:
    """Build a net from `{name, layers}`, as presets, the grammar and Hydra give it.

    Args:
        arch: the name, and a mapping for each layer.
        spec: what the net takes and gives.

    Raises:
        UsageError: an unknown kind or key, or a layer that does not fit its input.
    """
    name = check(StudyName, arch.get("name", "unnamed"), "arch.name")
    rows = arch.get("layers")
    if not isinstance(rows, list | tuple) or not 1 <= len(rows) <= MOST_LAYERS:
        most = f"a list of layers, {MOST_LAYERS} at most"
        raise UsageError(f"arch {name}: layers is {short(rows)}, but must be {most}.")
    nodes: list[Node] = []
    shape: Shape = spec.shape
    for index, row in enumerate(rows):
        try:
            nodes.append(_place(row, shape, nodes, spec.classes))
        except UsageError as error:
            raise UsageError(f"arch {name}, layer {index + 1} ({_label(row)}): {error}") from error
        shape = nodes[-1].output_shape
        if max(sum(node.num_params for node in nodes), math.prod(shape)) > MOST_NUMBERS:
            raise UsageError(f"arch {name}, layer {index + 1}: so large a net cannot be trained.")
    if any(isinstance(node.layer, Module) for node in nodes[len(nodes) == 1 :]):
        raise UsageError(f"arch {name}: a layer of kind module must be the only one.")
    if not any(node.parameters for node in nodes):
        raise UsageError(f"arch {name} has no parameters, but must have some to train.")
    if shape != (spec.classes,):
        raise UsageError(
            f"arch {name} ends in {show_shape(shape)}, but must end in {spec.classes} features, "
            "one for each class; end with a layer {kind: linear, features: classes}."
        )
    return Net(name, tuple(nodes), spec)


def _label(row: object) -> str:
    label = row.get("name", row.get("kind", row)) if isinstance(row, Mapping) else row
    return label if isinstance(label, str) and len(label) < 80 else short(label)


def _place(row: object, shape: Shape, nodes: Sequence[Node], classes: int) -> Node:
    if not isinstance(row, Mapping) or "kind" not in row:
        raise UsageError("a layer must be a mapping with a kind, such as {kind: relu}.")
    options: dict[str, Any] = {
        str(key): classes if key in SIZES and value == CLASSES else value
        for key, value in row.items()
    }
    kind = options.pop("kind")
    named = {node.name: node for node in nodes if not node.shared}
    if kind == "reuse":
        first = check_choice("reuse.of", options.pop("of", None), named)
        _check_options("reuse", options, ["of"])
        return _reuse(named[first], shape)
    same_kind = sum(node.layer.kind == kind for node in named.values())
    name = options.pop("name", None) or f"{kind}{1 + same_kind}"
    if not re.fullmatch(r"[a-zA-Z]\w{0,63}", str(name), re.ASCII):
        raise UsageError(f"name is {name!r}, but must be a letter, then letters, digits or _.")
    if name in named:
        raise UsageError(f"name {name!r} is taken; give the layer another, or kind: reuse.")
    layer = build_layer(kind, options)
    of = _second_input(layer, shape, nodes) if isinstance(layer, Add) else None
    return Node(name, layer, shape, layer.output_shape(shape), of=of)


def _second_input(layer: Add, shape: Shape, nodes: Sequence[Node]) -> int:
    """Return the index of the node that is added to an input of this shape."""
    places = {node.name: place for place, node in enumerate(nodes) if not node.shared}
    place = places[check_choice("add.of", layer.of, places)]
    if nodes[place].output_shape != shape:
        raise UsageError(
            f"{layer.of!r} gives {show_shape(nodes[place].output_shape)}, but what it is added to "
            f"is {show_shape(shape)}; both must have one shape."
        )
    return place


def _reuse(first: Node, shape: Shape) -> Node:
    """Return a node with the tensors of an earlier one."""
    name, layer = first.name, first.layer
    if isinstance(layer, Add):
        raise UsageError(f"{name!r} is an add, which has no tensors to reuse; write another one.")
    if layer.parameters(shape) != layer.parameters(first.input_shape):
        raise UsageError(
            f"{name!r} was made for {show_shape(first.input_shape)} and cannot be reused on "
            f"{show_shape(shape)}: its tensors would differ."
        )
    return Node(name, layer, shape, layer.output_shape(shape), shared=True)


def build_layer(kind: object, options: Mapping[str, Any]) -> Layer:
    """Build one layer from its kind and options, checking both."""
    if kind == Module.kind:
        cls: type[Layer] = Module
    else:
        cls = KINDS[check_choice("kind", kind, [*KINDS, "reuse"])]
    _check_options(cls.kind, options, [field.name for field in fields(cls) if field.init])
    layer: Layer = check(cls, options)
    return layer


def _check_options(kind: str, options: Iterable[str], known: Sequence[str]) -> None:
    for key in options:
        if key not in known:
            known_keys = did_you_mean(key, known)
            raise UsageError(f"{short(key)} is no option of {kind}; it must be {known_keys}")
