"""The kinds of layers: their keys, the shapes they make, the tensors they have.

A file of conf/arch says of a layer what its class has fields for; `golf_opt.task.arch` puts layers
one behind the other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, StrictBool, StrictFloat, StrictInt, model_validator

from golf_opt.config.check import model
from golf_opt.config.errors import UsageError
from golf_opt.config.types import AsGiven

Shape = tuple[int, ...]  # (channels, height, width), or (features,)


def height_and_width(sides: int | tuple[int, int]) -> tuple[int, int]:
    """Return both sides of a window that may be given as one number."""
    return (sides, sides) if isinstance(sides, int) else sides


def _one_if_equal(sides: int | tuple[int, int]) -> int | tuple[int, int]:
    height, width = height_and_width(sides)
    return height if height == width else sides


Size = Annotated[StrictInt, Field(ge=1, le=65_536)]
Sides = Annotated[  # of a window: height and width; equal ones are one number
    Size | tuple[Size, Size],
    Field(description="a whole number of at least 1, or two of them, [height, width]"),
    AfterValidator(_one_if_equal),
]
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
        known = {field.name for field in fields(self) if field.init}
        return {name: value for name, value in self.described.items() if name in known}

    @property
    def described(self) -> dict[str, Any]:
        """Every field as plain data: what two layers must share to be the same."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {n: list(v) if isinstance(v, tuple) else v for n, v in values.items()}

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
    """Dense convolution; weight [channels, in_channels, kernel height, kernel width]."""

    kind = "conv"
    channels: Size
    kernel: Sides
    stride: Sides = 1
    padding: Literal["valid", "same"] = "valid"
    bias: StrictBool = True

    def output_shape(self, shape: Shape) -> Shape:
        _, *sides = _image(self, shape)
        if self.padding == "same" and not all(kernel % 2 for kernel in self.kernels):
            given = self.described["kernel"]
            raise UsageError(f"kernel is {given}, but must be odd where padding is 'same'.")
        padded = [side + 2 * pad for side, pad in zip(sides, self.pads, strict=True)]
        if any(kernel > side for kernel, side in zip(self.kernels, padded, strict=True)):
            raise UsageError(
                f"kernel {show_shape(self.kernels)} is larger than its input "
                f"{show_shape(tuple(sides))}; "
                "use a smaller kernel, fewer pools, or padding 'same'."
            )
        strided = zip(padded, self.kernels, self.strides, strict=True)
        rest = ((side - kernel) // stride + 1 for side, kernel, stride in strided)
        return self.out_channels(shape), *rest

    def out_channels(self, shape: Shape) -> int:
        return self.channels

    @property
    def kernels(self) -> tuple[int, int]:
        """Height and width of the kernel."""
        return height_and_width(self.kernel)

    @property
    def strides(self) -> tuple[int, int]:
        """Steps down and across."""
        return height_and_width(self.stride)

    @property
    def pads(self) -> tuple[int, int]:
        """Zeros added above and below, and on the left and on the right."""
        height, width = self.kernels
        return ((height - 1) // 2, (width - 1) // 2) if self.padding == "same" else (0, 0)

    def parameters(self, shape: Shape) -> tuple[Parameter, ...]:
        weight = (self.channels, shape[0], *self.kernels)
        return _affine(weight, math.prod(weight[1:]), self.bias)


@model
class Depthwise(Conv):
    """One kernel per channel; weight [channels, 1, kernel height, kernel width]."""

    kind = "depthwise"
    channels: int = field(default=0, init=False)  # taken from the input

    def out_channels(self, shape: Shape) -> int:
        return shape[0]

    def parameters(self, shape: Shape) -> tuple[Parameter, ...]:
        return _affine((shape[0], 1, *self.kernels), math.prod(self.kernels), self.bias)


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
class GELU(Layer):
    """x times the share of a normal distribution below x, exactly (by erf) as in PyTorch."""

    kind = "gelu"


@model
class HardSwish(Layer):
    """x times min(max(x + 3, 0), 6) / 6: nearly GELU, for a processor without exp."""

    kind = "hard_swish"


@model
class Tanh(Layer):
    """The hyperbolic tangent."""

    kind = "tanh"


@model
class Scale(Layer):
    """A learned factor for each channel; 1 at the start."""

    kind = "scale"

    def parameters(self, shape: Shape) -> tuple[Parameter, ...]:
        return (Parameter("weight", shape[:1], fill=1.0),)


@model
class Pool(Layer):
    """Windows of `size`, side by side; a remainder at the edge is dropped."""

    size: Sides = 2

    @property
    def sizes(self) -> tuple[int, int]:
        """Height and width of a window."""
        return height_and_width(self.size)

    def output_shape(self, shape: Shape) -> Shape:
        channels, height, width = _image(self, shape)
        down, across = self.sizes
        if down > height or across > width:
            raise UsageError(f"pool {down}x{across} is larger than its input {height}x{width}.")
        return channels, height // down, width // across


@model
class MaxPool(Pool):
    """Max over windows of `size`, side by side; a remainder at the edge is dropped."""

    kind = "max_pool"


@model
class AvgPool(Pool):
    """The mean over windows of `size`, side by side; a remainder at the edge is dropped."""

    kind = "avg_pool"


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
class Add(Layer):
    """The sum of what comes in and of the output of the earlier layer `of`, of the same shape."""

    kind = "add"
    of: Annotated[str, Field(description="the name of an earlier layer")]


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
    trained: Annotated[Tensors, Field(min_length=1)]  # name and shape of each
    kept: Tensors

    @model_validator(mode="after")
    def _has_names(self) -> Self:
        names = [name for name, _ in (*self.trained, *self.kept)]
        if len(set(names)) < len(names):
            raise UsageError(f"{self.of} has two tensors of one name.")
        return self

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
        Conv, Depthwise, Pointwise, Linear, BatchNorm, ReLU, LeakyReLU, PReLU, GELU,
        HardSwish, Tanh, Scale, MaxPool, AvgPool, GlobalAvgPool, Dropout, Add,
    )
}  # fmt: skip
ACTIVATIONS = (ReLU, LeakyReLU, PReLU, GELU, HardSwish, Tanh, Scale)  # of each number by itself


def show_shape(shape: Shape) -> str:
    """Return a shape as `4x12x12`."""
    return "x".join(map(str, shape))
