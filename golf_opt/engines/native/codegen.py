"""A list of layers -> the C++ types that the kernel is made of, all in one or each by itself.

Neighbouring layers that the kernel can do in one go become one: a convolution or a normalisation
with the activation behind it, and with the 2x2 max pool behind that. What is fused is found here by
pattern; no net has a kernel of its own.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

import numpy as np

from golf_opt.task import layers
from golf_opt.task.arch import Net, Node
from golf_opt.task.inputs import InputSpec
from golf_opt.task.layers import Shape

MAX_PARAMS = 1 << 20  # each has a gradient in every lane of a vector: 64 MiB
MAX_ACTIVATIONS = 1 << 24  # positions of one image's tensor

ACTIVATIONS = {  # the kernel's names
    "relu": "Relu", "prelu": "PRelu", "gelu": "Gelu", "hard_swish": "HardSwish", "tanh": "Tanh",
    "scale": "Scale",
}  # fmt: skip


@dataclass(frozen=True)
class Group:
    """Layers that run in one go: `node`, then maybe an activation, then maybe a 2x2 max pool."""

    node: Node
    activation: Node | None = None
    pool: Node | None = None

    @property
    def nodes(self) -> list[Node]:
        found = [self.node, self.activation, self.pool]
        return list({id(node): node for node in found if node is not None}.values())

    @property
    def output_shape(self) -> Shape:
        return self.nodes[-1].output_shape

    @property
    def halo(self) -> tuple[int, int]:
        """Rows and columns of zeros that it wants around its input."""
        layer = self.node.layer
        return layer.pads if isinstance(layer, layers.Conv) else (0, 0)


def unsupported(net: Net) -> str | None:
    """Return why the native engine cannot train this net, None where it can."""
    if net.num_params > MAX_PARAMS:
        return f"{net.name} has {net.num_params:,} parameters, but native does up to {MAX_PARAMS:,}"
    for node in net.nodes:
        if type(node.layer) not in layers.KINDS.values():
            return f"layer {node.name} is of kind {node.layer.kind}, which native does not know"
        if math.prod(node.output_shape) > MAX_ACTIVATIONS:
            size = layers.show_shape(node.output_shape)
            return f"layer {node.name} has {size} outputs, which is too large for native"
    return None


def group_layers(nodes: Sequence[Node]) -> list[Group]:
    """Fuse neighbours, first come first served; what an `add` reads later ends its group."""
    groups: list[Group] = []
    ends = sorted({node.of + 1 for node in nodes if node.of is not None} | {len(nodes)})
    at = 0
    while at < len(nodes):
        group = _group(nodes[: next(end for end in ends if end > at)], at)
        groups.append(group)
        at += len(group.nodes)
    return groups


def _group(nodes: Sequence[Node], at: int) -> Group:
    node = nodes[at]
    activation = pool = None
    if isinstance(node.layer, (layers.Conv, layers.BatchNorm, *layers.ACTIVATIONS)):
        rest = nodes[at + 1 :]
        if isinstance(node.layer, layers.ACTIVATIONS):
            activation = node
        elif rest and isinstance(rest[0].layer, layers.ACTIVATIONS):
            activation, rest = rest[0], rest[1:]
        if rest and _is_small_pool(rest[0]):
            pool = rest[0]
    elif _is_small_pool(node):
        pool = node
    return Group(node, activation, pool)


def _is_small_pool(node: Node) -> bool:
    return isinstance(node.layer, layers.MaxPool) and node.layer.sizes == (2, 2)


def dropout_nodes(net: Net) -> list[int]:
    """Return, for every dropout in order, the index of the node whose key it draws with."""
    first: dict[str, int] = {}
    for index, node in enumerate(net.nodes):
        first.setdefault(node.name, index)
    return [first[node.name] for node in net.nodes if isinstance(node.layer, layers.Dropout)]


def generate(net: Net) -> str:
    """Return the header that defines `GolfNet`."""
    return _Writer(net).header()


@dataclass(frozen=True)
class Piece:
    """A layer of the kernel, as C++ that does not say where its numbers lie in the net.

    Nets share what is the same here: the source is all that a piece depends on.
    """

    source: str  # of its way forward and, from the first trained layer on, its way back
    trained: bool
    weights: int  # where its own begin among the net's
    buffers: int
    dropouts: int
    second: int  # the other tensor that a sum reads, or -1


@dataclass(frozen=True)
class Pieces:
    """What a net is made of, from its images on."""

    input: str
    layers: tuple[Piece, ...]
    first_trained: int
    numbers: int  # trained ones
    classes: int


def reader(distorts: bool, mixes: bool) -> str:
    """Return the kernel's name for what reads images, distorts them, and mixes those of a batch."""
    return ("Mixed" if mixes else "") + ("Distorter" if distorts else "Loader")


def pieces(net: Net, distorts: bool = False, mixes: bool = False) -> Pieces:
    """Return the net's layers, each by itself; for distorts and mixes see `reader`."""
    writer = _Writer(net)
    return Pieces(
        writer.input(reader(distorts, mixes)),
        tuple(writer.piece(index) for index in range(len(writer.groups))),
        writer.first_trained,
        net.num_params,
        net.input.classes,
    )


class _Writer:
    def __init__(self, net: Net) -> None:
        self.net = net
        self.groups = group_layers(net.nodes)
        self.tensor_of = {id(group.nodes[-1]): i + 1 for i, group in enumerate(self.groups)}
        self.weight_at = _offsets(net.parameters)
        self.buffer_at = _offsets(net.buffers)
        self.constants: list[str] = []
        self.dropouts = itertools.count()
        self.alone = False  # whether a layer is to say nothing of the net that it is in
        self.first_trained = next(
            i for i, group in enumerate(self.groups) if any(node.parameters for node in group.nodes)
        )

    def header(self) -> str:
        layers = [self._layer(index, group) for index, group in enumerate(self.groups)]
        return "\n".join(
            [
                f"// {', '.join(node.name for node in self.net.nodes)}",
                "namespace golf {",
                *self.constants,
                _normal(self.net.input),
                f"using GolfNet = Net<{self.net.num_params}, {self.first_trained}, Pixels,",
                ",\n".join(f"    {layer}" for layer in layers) + ">;",
                "}",
                "",
            ]
        )

    def input(self, reads: str) -> str:
        """Return the piece that reads the images."""
        header = "distort.hpp" if "Distorter" in reads else "pixels.hpp"
        images = f"{reads}<{self._tensor(0)}, Pixels>"
        of = _piece([_normal(self.net.input)], {"input": f"input_of<{images}>()"})
        return f'#include "{header}"\n{of}'

    def piece(self, index: int) -> Piece:
        """Return group `index` by itself, with the convolution that it is joined with."""
        group = self.groups[index]
        parts = [(index, group)]
        if self._is_joined(index):
            parts.append((index - 1, self.groups[index - 1]))
        names = {node.name for _, part in parts for node in part.nodes}
        own = copy.copy(self)
        own.alone = True
        own.weight_at, weights = _own(self.weight_at, names)
        own.buffer_at, buffers = _own(self.buffer_at, names)
        own.constants, own.dropouts = [], itertools.count()
        trained = index >= self.first_trained
        types = ", ".join(own._layer(at, part) for at, part in parts)
        ways = ("forward", "backward") if trained else ("forward",)
        return Piece(
            source=_piece(own.constants, {way: f"{way}_of<{types}>()" for way in ways}),
            trained=trained,
            weights=weights,
            buffers=buffers,
            dropouts=sum(isinstance(g.node.layer, layers.Dropout) for g in self.groups[:index]),
            second=self._second(group) if group.node.of is not None else -1,
        )

    def _is_joined(self, index: int) -> bool:
        """Whether group `index` is a normalisation that goes by rows with a convolution."""
        group, before = self.groups[index], self.groups[index - 1]
        return (
            index > 0
            and isinstance(group.node.layer, layers.BatchNorm)
            and isinstance(before.node.layer, layers.Conv)
            and before.nodes == [before.node]
            and self._weight(before.node, "bias") < 0
            and all(g.node.of is None or self._second(g) != index for g in self.groups)
        )

    def _second(self, group: Group) -> int:
        """Return the other tensor that a sum reads."""
        assert group.node.of is not None
        return self.tensor_of[id(self.net.nodes[group.node.of])]

    def _tensor(self, index: int) -> str:
        """Return the type of the tensor in front of group `index`."""
        if index == len(self.groups):
            return _tensor(self.groups[-1].output_shape)
        return _tensor(self.groups[index].node.input_shape, self.groups[index].halo)

    def _layer(self, index: int, group: Group) -> str:
        node, layer = group.node, group.node.layer
        source, out = self._tensor(index), self._tensor(index + 1)
        where = f"{self._weight(node, 'weight')}, {self._weight(node, 'bias')}"
        deeper = "true" if index > self.first_trained else "false"
        if isinstance(layer, layers.Conv):
            depthwise = "true" if isinstance(layer, layers.Depthwise) else "false"
            kernel = f"{_window(*layer.kernels, *layer.strides)}, {depthwise}"
            return f"Conv<{source}, {self._epilogue(group, out)}, {kernel}, {where}, {deeper}>"
        if isinstance(layer, layers.BatchNorm):
            mean, variance = (
                self.buffer_at[f"{node.name}.running_{name}"] for name in ("mean", "var")
            )
            epilogue = self._epilogue(group, out)
            return f"BatchNorm<{source}, {epilogue}, {where}, {mean}, {variance}>"
        if isinstance(layer, layers.Linear):
            return f"Linear<{source}, {out}, {where}, {deeper}>"
        if isinstance(layer, layers.Dropout):
            return f"Dropout<{source}, {out}, {next(self.dropouts)}, {self._chance(layer.p)}>"
        if isinstance(layer, layers.GlobalAvgPool):
            return f"GlobalAvgPool<{source}, {out}>"
        if isinstance(layer, layers.AvgPool):
            return f"AvgPool<{source}, {out}, {_window(*layer.sizes)}>"
        if isinstance(layer, layers.MaxPool) and not group.pool:
            return f"MaxPool<{source}, {out}, {_window(*layer.sizes)}>"
        if node.of is not None:
            other = self._second(group)
            return f"Add<{source}, {self._tensor(other)}, {out}, {0 if self.alone else other}>"
        return f"Apply<{source}, {self._epilogue(group, out)}, {deeper}>"

    def _weight(self, node: Node, tensor: str) -> int:
        return self.weight_at.get(f"{node.name}.{tensor}", -1)

    def _epilogue(self, group: Group, out: str) -> str:
        wide = group.pool.input_shape if group.pool else group.output_shape
        pool = "true" if group.pool else "false"
        return f"Epilogue<{_tensor(wide)}, {out}, {self._activation(group.activation)}, {pool}>"

    def _activation(self, node: Node | None) -> str:
        if node is None:
            return "Identity"
        if isinstance(node.layer, layers.LeakyReLU):
            return f"LeakyRelu<{self._constant(f'VALUE = {_float(node.layer.slope)}')}>"
        if isinstance(node.layer, (layers.PReLU, layers.Scale)):
            return f"{ACTIVATIONS[node.layer.kind]}<{self._weight(node, 'weight')}>"
        return ACTIVATIONS[node.layer.kind]

    def _chance(self, p: float) -> str:
        """Dropout's probability: random words of 24 bits below the threshold are dropped."""
        threshold = math.ceil(float(np.float32(p)) * 2**24)
        return self._constant(f"SCALE = {_float(1 / (1 - p))}", f"THRESHOLD = {threshold}")

    def _constant(self, *values: str) -> str:
        name = f"Constant{len(self.constants)}"
        members = " ".join(f"static constexpr float {value};" for value in values)
        self.constants.append(f"struct {name} {{ {members} }};")
        return name


def _offsets(tensors: Sequence[layers.Parameter]) -> dict[str, int]:
    sizes = [tensor.size for tensor in tensors]
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return {tensor.name: start for tensor, start in zip(tensors, starts, strict=True)}


def _own(at: Mapping[str, int], names: Set[str]) -> tuple[dict[str, int], int]:
    """Return where the tensors of some layers lie behind the first of them, and where that is."""
    found = {name: start for name, start in at.items() if name.rpartition(".")[0] in names}
    first = min(found.values(), default=0)
    return {name: start - first for name, start in found.items()}, first


def _piece(constants: Sequence[str], symbols: Mapping[str, str]) -> str:
    """Return C++ that defines `golf_<name>` for each symbol."""
    made = [f"constexpr auto {name.upper()} = {of};" for name, of in symbols.items()]
    shown = [f"PIECE(golf_{name}, golf::{name.upper()})" for name in symbols]
    return "\n".join(["namespace golf {", *constants, *made, "}", *shown, ""])


def _tensor(shape: Shape, halo: tuple[int, int] = (0, 0)) -> str:
    return f"Tensor<{', '.join(map(str, (*(*shape, 1, 1)[:3], *halo)))}>"


def _window(*sides: int) -> str:
    return f"Window<{', '.join(map(str, sides))}>"


def _normal(spec: InputSpec) -> str:
    """Return the type that knows mean and standard deviation of each channel."""
    members = [
        f"static INLINE constexpr float {name}(int c) {{ return {_chosen(values)}; }}"
        for name, values in (("mean", spec.mean), ("std", spec.std))
    ]
    return f"struct Pixels {{ {' '.join(members)} }};"


def _chosen(values: Sequence[float]) -> str:
    """Return the C++ that takes value c: device code has no way to a table of constants."""
    *others, last = map(_float, values)
    return "".join(f"c == {c} ? {value} : " for c, value in enumerate(others)) + last


def _float(value: float) -> str:
    return f"{float(np.float32(value))!r}f"
