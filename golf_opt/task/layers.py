"""The kinds of layers: their keys, the shapes they make, the tensors they have.

A file of conf/arch says of a layer what its class has fields for; `golf_opt.task.arch` puts layers
one behind the other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, StrictBool, StrictFloat, StrictInt

from golf_opt.config.check import model
from golf_opt.config.errors import UsageError
from golf_opt.config.types import AsGiven

Shape = tuple[int, ...]  # (channels, height, width), or (features,)
Size = Annotated[StrictInt, Field(ge=1, le=65_536)]
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


KINDS: dict[str, type[Layer]] = {
    layer.kind: layer
    for layer in (
        Conv, Depthwise, Pointwise, Linear, BatchNorm, ReLU, LeakyReLU, PReLU, MaxPool,
        GlobalAvgPool, Dropout,
    )
}  # fmt: skip
ACTIVATIONS = (ReLU, LeakyReLU, PReLU)


def show_shape(shape: Shape) -> str:
    """Return a shape as `4x12x12`."""
    return "x".join(map(str, shape))
