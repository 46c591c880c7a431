"""Architectures: a name such as `c4-5-4` or a preset file -> layers, shapes and parameter counts.

    c4-5-4              conv channels 4, 5, 4; kernels 4, 3, 3; ReLU
    c4-5-4-prelu        the same with one learned slope per channel
    c4-5-4-leaky0.2     the same with LeakyReLU of slope 0.2 (0.01 where no number is given)
    c3-4-4-k5-3-3       kernels 5, 3, 3

Every convolution of the grammar is valid (no padding), has a bias and stride 1, and is followed by
the activation and, but for the last, by a 2x2 max pool; a linear layer gives the 10 classes. What
the grammar cannot say is a list of layers in a file of `conf/arch`. No torch in here: counting a
network needs none.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from golf_opt.config.schema import UsageError, check_choice, check_int, did_you_mean, load_yaml

Shape = tuple[int, ...]  # (channels, height, width), or (features,)
INPUT_SHAPE: Shape = (1, 28, 28)
NUM_CLASSES = 10
GRAMMAR = "c<channels>-<channels>-...[-k<kernel>-...][-relu|-prelu|-leaky[slope]]"


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


@dataclass(frozen=True)
class Layer:
    """A layer without its place in a net; `name` is set when it gets one."""

    kind: ClassVar[str]
    fixed: ClassVar[tuple[str, ...]] = ()  # options that are no choice of the user's

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


@dataclass(frozen=True)
class Conv(Layer):
    """Dense convolution; weight [channels, in_channels, kernel, kernel]."""

    kind = "conv"
    channels: int
    kernel: int
    stride: int = 1
    padding: str = "valid"
    bias: bool = True

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
        check_choice("padding", self.padding, ("valid", "same"))
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


@dataclass(frozen=True, kw_only=True)
class Depthwise(Conv):
    """One kernel per channel; weight [channels, 1, kernel, kernel]."""

    kind = "depthwise"
    fixed = ("channels",)
    channels: int = 0  # taken from the input

    def out_channels(self, shape: Shape) -> int:
        return shape[0]

    def parameters(self, shape: Shape) -> tuple[Parameter, ...]:
        return _affine((shape[0], 1, self.kernel, self.kernel), self.kernel**2, self.bias)


@dataclass(frozen=True)
class Pointwise(Conv):
    """A 1x1 convolution."""

    kind = "pointwise"
    fixed = ("kernel",)
    kernel: int = 1


@dataclass(frozen=True)
class Linear(Layer):
    """Fully connected; an image is flattened as (channel, y, x); weight [features, inputs]."""

    kind = "linear"
    features: int
    bias: bool = True

    def output_shape(self, shape: Shape) -> Shape:
        return (self.features,)

    def parameters(self, shape: Shape) -> tuple[Parameter, ...]:
        inputs = math.prod(shape)
        return _affine((self.features, inputs), inputs, self.bias)


@dataclass(frozen=True)
class BatchNorm(Layer):
    """Batch normalisation with running statistics; momentum 0.1, eps 1e-5 as in PyTorch."""

    kind = "batch_norm"
    MOMENTUM: ClassVar[float] = 0.1
    EPS: ClassVar[float] = 1e-5

    def parameters(self, shape: Shape) -> tuple[Parameter, ...]:
        return Parameter("weight", shape[:1], fill=1.0), Parameter("bias", shape[:1])

    def buffers(self, shape: Shape) -> tuple[Parameter, ...]:
        return Parameter("running_mean", shape[:1]), Parameter("running_var", shape[:1], fill=1.0)


@dataclass(frozen=True)
class ReLU(Layer):
    kind = "relu"


@dataclass(frozen=True)
class LeakyReLU(Layer):
    kind = "leaky_relu"
    slope: float = 0.01


@dataclass(frozen=True)
class PReLU(Layer):
    """A learned slope below zero, one per channel; 0.25 at the start as in PyTorch."""

    kind = "prelu"

    def parameters(self, shape: Shape) -> tuple[Parameter, ...]:
        return (Parameter("weight", shape[:1], fill=0.25),)


@dataclass(frozen=True)
class MaxPool(Layer):
    """Max over size x size windows with stride `size`; a remainder at the edge is dropped."""

    kind = "max_pool"
    size: int = 2

    def output_shape(self, shape: Shape) -> Shape:
        channels, height, width = _image(self, shape)
        if self.size > height or self.size > width:
            raise UsageError(
                f"pool {self.size}x{self.size} is larger than its input {height}x{width}."
            )
        return channels, height // self.size, width // self.size


@dataclass(frozen=True)
class GlobalAvgPool(Layer):
    """The mean of each channel."""

    kind = "global_avg_pool"

    def output_shape(self, shape: Shape) -> Shape:
        return (_image(self, shape)[0],)


@dataclass(frozen=True)
class Dropout(Layer):
    kind = "dropout"
    p: float = 0.5


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
        return tuple(replace(tensor, name=f"{self.name}.{tensor.name}") for tensor in tensors)


@dataclass(frozen=True)
class Net:
    """A network for one input shape: nodes from image to class scores."""

    name: str
    nodes: tuple[Node, ...]

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


def build_net(arch: Mapping[str, Any]) -> Net:
    """Build a net from `{name, layers}`, as presets, the grammar and Hydra give it.

    Raises:
        UsageError: an unknown kind or key, or a layer that does not fit its input.
    """
    name = str(arch.get("name", "unnamed"))
    rows = arch.get("layers")
    if not isinstance(rows, Sequence) or isinstance(rows, str) or not rows:
        raise UsageError(f"arch {name}: layers is {rows!r}, but must be a list of layers.")
    nodes: dict[int, Node] = {}
    named: dict[str, Layer] = {}
    shape = INPUT_SHAPE
    for index, row in enumerate(rows):
        try:
            nodes[index] = _place(row, shape, named, nodes)
        except UsageError as error:
            raise UsageError(f"arch {name}, layer {index + 1} ({_label(row)}): {error}") from error
        shape = nodes[index].output_shape
    if shape != (NUM_CLASSES,):
        raise UsageError(
            f"arch {name} ends in {show_shape(shape)}, but must end in {NUM_CLASSES} features; "
            f"add a layer {{kind: linear, features: {NUM_CLASSES}}}."
        )
    return Net(name, tuple(nodes.values()))


def _label(row: object) -> str:
    return str(row.get("name", row.get("kind", row))) if isinstance(row, Mapping) else str(row)


def _place(row: object, shape: Shape, named: dict[str, Layer], nodes: Mapping[int, Node]) -> Node:
    if not isinstance(row, Mapping) or "kind" not in row:
        raise UsageError("a layer must be a mapping with a kind, such as {kind: relu}.")
    options = {str(key): value for key, value in row.items()}
    kind = options.pop("kind")
    if kind == "reuse":
        return _reuse(options, shape, named, nodes)
    name = options.pop("name", None) or f"{kind}{1 + _count(nodes, kind)}"
    if not re.fullmatch(r"[a-zA-Z]\w*", str(name)):
        raise UsageError(f"name is {name!r}, but must be a letter, then letters, digits or _.")
    if name in named:
        raise UsageError(f"name {name!r} is taken; give the layer another, or kind: reuse.")
    layer = build_layer(kind, options)
    named[name] = layer
    return Node(name, layer, shape, layer.output_shape(shape))


def _count(nodes: Mapping[int, Node], kind: str) -> int:
    return sum(node.layer.kind == kind and not node.shared for node in nodes.values())


def _reuse(
    options: Mapping[str, Any], shape: Shape, named: Mapping[str, Layer], nodes: Mapping[int, Node]
) -> Node:
    name = check_choice("reuse.of", options.get("of"), named)
    first = next(node for node in nodes.values() if node.name == name)
    layer = first.layer
    if layer.parameters(shape) != layer.parameters(first.input_shape):
        raise UsageError(
            f"{name!r} was made for {show_shape(first.input_shape)} and cannot be reused on "
            f"{show_shape(shape)}: its tensors would differ."
        )
    return Node(name, layer, shape, layer.output_shape(shape), shared=True)


def build_layer(kind: object, options: Mapping[str, Any]) -> Layer:
    """Build one layer from its kind and options, checking both."""
    cls = KINDS[check_choice("kind", kind, [*KINDS, "reuse"])]
    known = {field.name: field for field in fields(cls) if field.name not in cls.fixed}
    for key in options:
        if key not in known:
            raise UsageError(
                f"{key!r} is no option of {kind}; it must be {did_you_mean(key, known)}"
            )
    for key, field in known.items():
        if key not in options and field.default is MISSING:
            raise UsageError(f"{key} is missing; add {key}: N.")
        if key in options:
            _check_option(key, options[key])
    return cls(**options)


def _check_option(key: str, value: object) -> None:
    if key in ("channels", "kernel", "stride", "size", "features"):
        check_int(key, value, 1, 65_536)
    elif key == "bias" and not isinstance(value, bool):
        raise UsageError(f"bias is {value!r}, but must be true or false.")
    elif key in ("p", "slope") and (
        isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1
    ):
        raise UsageError(f"{key} is {value!r}, but must be a number from 0 to below 1.")


def parse_grammar(name: str) -> dict[str, Any] | None:
    """Return `{name, layers}` for a name of the grammar, None for any other name."""
    match = re.fullmatch(
        r"c(\d+(?:-\d+)*)(?:-k(\d+(?:-\d+)*))?(?:-(relu|prelu|leaky)([\d.]*))?", name
    )
    if match is None:
        return None
    channels = [int(number) for number in match[1].split("-")]
    kernels = [int(k) for k in match[2].split("-")] if match[2] else [4] + [3] * (len(channels) - 1)
    if len(kernels) != len(channels):
        raise UsageError(
            f"arch {name} has {len(channels)} convolutions and {len(kernels)} kernels, "
            "but must have one kernel for each."
        )
    activation = _activation(name, match[3] or "relu", match[4] or "")
    layers: list[dict[str, Any]] = []
    for width, kernel in zip(channels, kernels, strict=True):
        layers += [{"kind": "conv", "channels": width, "kernel": kernel}, dict(activation)]
        layers += [{"kind": "max_pool", "size": 2}]
    layers[-1] = {"kind": "linear", "features": NUM_CLASSES}  # no pool after the last convolution
    return {"name": name, "layers": layers}


def _activation(name: str, word: str, slope: str) -> dict[str, Any]:
    if word != "leaky":
        if slope:
            raise UsageError(f"arch {name}: {word} takes no number; only leaky does.")
        return {"kind": word}
    if not re.fullmatch(r"(\d+(\.\d+)?)?", slope):
        raise UsageError(f"arch {name}: slope {slope!r} must be a number such as 0.2.")
    return {"kind": "leaky_relu", "slope": float(slope or LeakyReLU.slope)}


def presets(conf_dir: Path) -> list[str]:
    """Return the names of the preset files."""
    return sorted(path.stem for path in (conf_dir / "arch").glob("*.yaml"))


def load_arch(name: str, conf_dir: Path) -> Net:
    """Build the net of this name: a preset file of `conf_dir/arch`, or the grammar."""
    known = presets(conf_dir)
    if name in known:
        return build_net(load_yaml(conf_dir / "arch" / f"{name}.yaml"))
    arch = parse_grammar(name)
    if arch is None:
        raise UsageError(unknown_arch(name, known))
    return build_net(arch)


def unknown_arch(name: str, known: Sequence[str]) -> str:
    """Return the message for a name that is neither a preset nor of the grammar."""
    return (
        f"arch is {name!r}, but must be {GRAMMAR}, such as c4-5-4 or c4-5-4-prelu, or "
        f"{did_you_mean(name, [*known, 'c4-5-4', 'c4-5-4-prelu'])}"
    )


def show_shape(shape: Shape) -> str:
    """Return a shape as `4x12x12`."""
    return "x".join(map(str, shape))
