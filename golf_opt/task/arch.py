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
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, StrictBool, StrictFloat, StrictInt

from golf_opt.config.check import check, model
from golf_opt.config.errors import UsageError, check_choice, did_you_mean, short
from golf_opt.config.types import AsGiven, StudyName
from golf_opt.task.inputs import MNIST, InputSpec

Shape = tuple[int, ...]  # (channels, height, width), or (features,)
INPUT_SHAPE: Shape = (1, 28, 28)
NUM_CLASSES = 10
MOST_LAYERS = 256  # what follows is far beyond a net that is golfed with, and what a machine holds
MOST_NUMBERS = 100_000_000  # trained ones, and those between layers for one image
Size = Annotated[StrictInt, Field(ge=1, le=65_536)]
Tensors = tuple[tuple[Annotated[str, Field(max_length=500)], tuple[Size, ...]], ...]
Slope = Annotated[StrictFloat, Field(ge=0, lt=1, description="a number from 0 to below 1"), AsGiven]


@dataclass(frozen=True)
class Parameter:
    """A trained tensor: its shape, and how PyTorch's defaults initialise it.

    `bound` is b of the uniform distribution [-b, b]; where it is None the tensor starts as `fill`.
    """

    name: str
    shape: Shape
    bound: float | None = None
    fill: float = 0.0

    @property
    def size(self) -> int:
        return math.prod(self.shape)


@model
class Layer:
    """A layer without its place in a net; `name` is set when it gets one."""

    kind: ClassVar[str]

    @property
    def options(self) -> dict[str, Any]:
        """What a file of conf/arch can say of the layer, kind and name aside."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.init}

    def output_shape(self, shape: Shape) -> Shape:
        """Return the shape after this layer; raise UsageError where the input does not fit."""
        return shape

    def parameters(self, shape: Shape) -> tuple[Parameter, ...]:
        """Return the trained tensors for an input of this shape."""
        return ()

    def buffers(self, shape: Shape) -> tuple[Parameter, ...]:
        """Return the tensors that are kept but not trained."""
        return ()


def _image(layer: Layer, shape: Shape) -> tuple[int, int, int]:
    if len(shape) != 3:
        raise UsageError(f"{layer.kind} needs an image, but its input is {show_shape(shape)}.")
    return shape[0], shape[1], shape[2]


def _affine(shape: Shape, fan_in: int, bias: bool) -> tuple[Parameter, ...]:
    bound = 1 / math.sqrt(fan_in)  # kaiming_uniform(a=sqrt(5)), PyTorch's default
    weight = Parameter("weight", shape, bound)
    return (weight, Parameter("bias", shape[:1], bound)) if bias else (weight,)


@model
class Conv(Layer):
    """Dense convolution; weight [channels, in_channels, kernel, kernel]."""

    kind = "conv"
    channels: Size
    kernel: Size
    stride: Size = 1
    padding: Literal["valid", "same"] = "valid"
    bias: StrictBool = True

    def output_shape(self, shape: Shape) -> Shape:
        _, height, width = _image(self, shape)
        return self.out_channels(shape), self._side(height), self._side(width)

    def out_channels(self, shape: Shape) -> int:
        return self.channels

    @property
    def pad(self) -> int:
        """Zeros added on each side."""
        return (self.kernel - 1) // 2 if self.padding == "same" else 0

    def _side(self, side: int) -> int:
        if self.padding == "same" and self.kernel % 2 == 0:
            raise UsageError(f"kernel is {self.kernel}, but must be odd where padding is 'same'.")
        padded = side + 2 * self.pad
        if self.kernel > padded:
            raise UsageError(
                f"kernel {self.kernel}x{self.kernel} is larger than its input {side}x{side}; "
                "use a smaller kernel, fewer pools, or padding 'same'."
            )
        return (padded - self.kernel) // self.stride + 1

    def parameters(self, shape: Shape) -> tuple[Parameter, ...]:
        weight = (self.channels, shape[0], self.kernel, self.kernel)
        return _affine(weight, shape[0] * self.kernel**2, self.bias)


@model
class Depthwise(Conv):
    """One kernel per channel; weight [channels, 1, kernel, kernel]."""

    kind = "depthwise"
    channels: int = field(default=0, init=False)  # taken from the input

    def out_channels(self, shape: Shape) -> int:
        return shape[0]

    def parameters(self, shape: Shape) -> tuple[Parameter, ...]:
        return _affine((shape[0], 1, self.kernel, self.kernel), self.kernel**2, self.bias)


@model
class Pointwise(Conv):
    """A 1x1 convolution."""

    kind = "pointwise"
    kernel: int = field(default=1, init=False)


@model
class Linear(Layer):
    """Fully connected; an image is flattened as (channel, y, x); weight [features, inputs]."""

    kind = "linear"
    features: Size
    bias: StrictBool = True

    def output_shape(self, shape: Shape) -> Shape:
        return (self.features,)

    def parameters(self, shape: Shape) -> tuple[Parameter, ...]:
        inputs = math.prod(shape)
        return _affine((self.features, inputs), inputs, self.bias)


@model
class BatchNorm(Layer):
    """Batch normalisation with running statistics; momentum 0.1, eps 1e-5 as in PyTorch."""

    kind = "batch_norm"
    MOMENTUM: ClassVar[float] = 0.1
    EPS: ClassVar[float] = 1e-5

    def parameters(self, shape: Shape) -> tuple[Parameter, ...]:
        return Parameter("weight", shape[:1], fill=1.0), Parameter("bias", shape[:1])

    def buffers(self, shape: Shape) -> tuple[Parameter, ...]:
        return Parameter("running_mean", shape[:1]), Parameter("running_var", shape[:1], fill=1.0)


@model
class ReLU(Layer):
    """What is below zero becomes zero."""

    kind = "relu"


@model
class LeakyReLU(Layer):
    """What is below zero is multiplied by `slope`."""

    kind = "leaky_relu"
    slope: Slope = 0.01


@model
class PReLU(Layer):
    """A learned slope below zero, one per channel; 0.25 at the start as in PyTorch."""

    kind = "prelu"

    def parameters(self, shape: Shape) -> tuple[Parameter, ...]:
        return (Parameter("weight", shape[:1], fill=0.25),)


@model
class MaxPool(Layer):
    """Max over size x size windows with stride `size`; a remainder at the edge is dropped."""

    kind = "max_pool"
    size: Size = 2

    def output_shape(self, shape: Shape) -> Shape:
        channels, height, width = _image(self, shape)
        if self.size > height or self.size > width:
            raise UsageError(
                f"pool {self.size}x{self.size} is larger than its input {height}x{width}."
            )
        return channels, height // self.size, width // self.size


@model
class GlobalAvgPool(Layer):
    """The mean of each channel."""

    kind = "global_avg_pool"

    def output_shape(self, shape: Shape) -> Shape:
        return (_image(self, shape)[0],)


@model
class Dropout(Layer):
    """Each number is zero with probability `p` while the net is trained."""

    kind = "dropout"
    p: Slope = 0.5


@model
class Module(Layer):
    """A module of the user's that is no list of the layers above; see `golf_opt.task.modules`.

    Its tensors have the names that the module gives them. What is stored of it is data, and whoever
    trains or evaluates it must be given the module again.
    """

    kind = "module"
    of: Annotated[str, Field(max_length=200)]  # my_nets:Odd
    graph: Annotated[str, Field(pattern="^[0-9a-f]{16}$")]  # hash of what it computes
    image: tuple[Size, ...]  # the input's shape
    features: Size  # what it gives, the number of classes
    trained: Tensors
    kept: Tensors

    def output_shape(self, shape: Shape) -> Shape:
        if shape != self.image:
            raise UsageError(
                f"{self.of} was made for {show_shape(self.image)}, and not for {show_shape(shape)}."
            )
        return (self.features,)

    def parameters(self, shape: Shape) -> tuple[Parameter, ...]:
        return tuple(Parameter(name, shape) for name, shape in self.trained)

    def buffers(self, shape: Shape) -> tuple[Parameter, ...]:
        return tuple(Parameter(name, shape) for name, shape in self.kept)


KINDS: dict[str, type[Layer]] = {
    layer.kind: layer
    for layer in (
        Conv, Depthwise, Pointwise, Linear, BatchNorm, ReLU, LeakyReLU, PReLU, MaxPool,
        GlobalAvgPool, Dropout,
    )
}  # fmt: skip
ACTIVATIONS = (ReLU, LeakyReLU, PReLU)


@dataclass(frozen=True)
class Node:
    """A layer in its place. `shared` marks one that reuses the tensors of an earlier node."""

    name: str
    layer: Layer
    input_shape: Shape
    output_shape: Shape
    shared: bool = False

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
    """A network for one input shape: nodes from image to class scores."""

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

    def describe(self) -> list[dict[str, Any]]:
        """Return the layers as plain data: what two nets must share to be the same net."""
        return [
            {"name": node.name, "kind": node.layer.kind, "shared": node.shared}
            | {field.name: getattr(node.layer, field.name) for field in fields(node.layer)}
            for node in self.nodes
        ]


def build_net(arch: Mapping[str, Any], spec: InputSpec = MNIST) -> Net:
    """Build a net from `{name, layers}`, as presets, the grammar and Hydra give it.

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
            nodes.append(_place(row, shape, nodes))
        except UsageError as error:
            raise UsageError(f"arch {name}, layer {index + 1} ({_label(row)}): {error}") from error
        shape = nodes[-1].output_shape
        if max(sum(node.num_params for node in nodes), math.prod(shape)) > MOST_NUMBERS:
            raise UsageError(f"arch {name}, layer {index + 1}: so large a net cannot be trained.")
    if any(isinstance(node.layer, Module) for node in nodes[len(nodes) == 1 :]):
        raise UsageError(f"arch {name}: a layer of kind module must be the only one.")
    if shape != (spec.classes,):
        raise UsageError(
            f"arch {name} ends in {show_shape(shape)}, but must end in {NUM_CLASSES} features; "
            f"add a layer {{kind: linear, features: {NUM_CLASSES}}}."
        )
    return Net(name, tuple(nodes), spec)


def _label(row: object) -> str:
    label = row.get("name", row.get("kind", row)) if isinstance(row, Mapping) else row
    return label if isinstance(label, str) and len(label) < 80 else short(label)


def _place(row: object, shape: Shape, nodes: Sequence[Node]) -> Node:
    if not isinstance(row, Mapping) or "kind" not in row:
        raise UsageError("a layer must be a mapping with a kind, such as {kind: relu}.")
    options = {str(key): value for key, value in row.items()}
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
    return Node(name, layer, shape, layer.output_shape(shape))


def _reuse(first: Node, shape: Shape) -> Node:
    """Return a node with the tensors of an earlier one."""
    name, layer = first.name, first.layer
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


def show_shape(shape: Shape) -> str:
    """Return a shape as `4x12x12`."""
    return "x".join(map(str, shape))
