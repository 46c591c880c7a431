"""A module or function of PyTorch as a layer of ours: its row, and which of its tensors are whose.

What is no layer of ours raises `NotOurs`, which says in what.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from golf_opt.task.layers import BatchNorm, Shape

Row = dict[str, Any]  # kind and options, as `build_net` takes them


class NotOurs(Exception):
    """An operation that is no layer of ours; the message goes on from `my_nets:Odd`."""


def _pair(value: Any) -> tuple[int, int]:
    pair = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    return int(pair[0]), int(pair[-1])


def _one(pair: tuple[int, int]) -> int | list[int]:
    return pair[0] if pair[0] == pair[1] else list(pair)


def _want(holds: bool, what: str) -> None:
    if not holds:
        raise NotOurs(what)


def _conv(conv: nn.Conv2d, shape: Shape) -> Row:
    kernel, stride = _pair(conv.kernel_size), _pair(conv.stride)
    depthwise = conv.groups == conv.in_channels == conv.out_channels and conv.groups > 1
    _want(_pair(conv.dilation) == (1, 1), f"dilation {conv.dilation}")
    _want(conv.groups == 1 or depthwise, f"{conv.groups} groups")
    if isinstance(conv.padding, str):
        padding = conv.padding
        _want(padding == "valid" or all(k % 2 for k in kernel), f"padding same and kernel {kernel}")
    else:
        pads = _pair(conv.padding)
        same = all(k % 2 for k in kernel) and pads == tuple((k - 1) // 2 for k in kernel)
        _want(same or pads == (0, 0), f"padding {pads}")
        padding = "same" if same and pads != (0, 0) else "valid"
    _want(conv.padding_mode == "zeros" or padding == "valid", f"padding of {conv.padding_mode}")
    common: Row = {"padding": padding, "stride": _one(stride), "bias": conv.bias is not None}
    if depthwise:
        return {"kind": "depthwise", "kernel": _one(kernel)} | common
    if kernel == (1, 1):
        return {"kind": "pointwise", "channels": conv.out_channels} | common
    return {"kind": "conv", "channels": conv.out_channels, "kernel": _one(kernel)} | common


def _linear(linear: nn.Linear, shape: Shape) -> Row:
    _want(len(shape) == 1, "on an image that is not flattened")
    return {"kind": "linear", "features": linear.out_features, "bias": linear.bias is not None}


def _batch_norm(norm: nn.BatchNorm2d | nn.BatchNorm1d, shape: Shape) -> Row:
    _want(norm.eps == BatchNorm.EPS, f"eps {norm.eps}")
    _want(norm.momentum == BatchNorm.MOMENTUM, f"momentum {norm.momentum}")
    _want(norm.affine and norm.track_running_stats, "affine or track_running_stats False")
    return {"kind": "batch_norm"}


def _prelu(prelu: nn.PReLU, shape: Shape) -> Row:
    count = prelu.num_parameters
    _want(count == shape[0], f"{count} slopes for {shape[0]} channels")
    return {"kind": "prelu"}


def _leaky_relu(leaky: nn.LeakyReLU, shape: Shape) -> Row:
    return {"kind": "leaky_relu", "slope": float(leaky.negative_slope)}


def _gelu(gelu: nn.GELU, shape: Shape) -> Row:
    _want(gelu.approximate == "none", f"approximate {gelu.approximate}")
    return {"kind": "gelu"}


def _pool(pool: nn.MaxPool2d | nn.AvgPool2d, shape: Shape) -> Row:
    size = _pair(pool.kernel_size)
    _want(len(shape) == 3, "on what is no image")
    _want(_pair(pool.stride) == size, f"kernel {size} and stride {_pair(pool.stride)}")
    _want(_pair(pool.padding) == (0, 0), f"padding {pool.padding}")
    whole = all(side % step == 0 for side, step in zip(shape[1:], size, strict=True))
    _want(whole or not pool.ceil_mode, "ceil_mode")
    if isinstance(pool, nn.MaxPool2d):
        _want(_pair(pool.dilation) == (1, 1), f"dilation {pool.dilation}")
        _want(not pool.return_indices, "return_indices")
        return {"kind": "max_pool", "size": _one(size)}
    _want(pool.divisor_override is None, "divisor_override")
    return {"kind": "avg_pool", "size": _one(size)}


def _global_pool(pool: nn.AdaptiveAvgPool2d, shape: Shape) -> Row:
    _want(len(shape) == 3, "on what is no image")
    size = _pair(pool.output_size)
    _want(size == (1, 1), f"output_size {size}")
    return {"kind": "avg_pool", "size": _one((shape[1], shape[2]))}


def _dropout(dropout: nn.Dropout, shape: Shape) -> Row:
    return {"kind": "dropout", "p": float(dropout.p)}


def _plain(kind: str) -> Callable[[Any, Shape], Row]:
    return lambda module, shape: {"kind": kind}


LAYERS: dict[type[nn.Module], Callable[[Any, Shape], Row]] = {
    nn.Conv2d: _conv, nn.Linear: _linear, nn.BatchNorm2d: _batch_norm,
    nn.BatchNorm1d: _batch_norm, nn.PReLU: _prelu, nn.ReLU: _plain("relu"),
    nn.LeakyReLU: _leaky_relu, nn.GELU: _gelu, nn.Hardswish: _plain("hard_swish"),
    nn.Tanh: _plain("tanh"), nn.MaxPool2d: _pool, nn.AvgPool2d: _pool,
    nn.AdaptiveAvgPool2d: _global_pool, nn.Dropout: _dropout,
}  # fmt: skip
PER_CHANNEL = ("batch_norm", "prelu", "scale")
EACH_BY_ITSELF = (
    *PER_CHANNEL, "relu", "leaky_relu", "gelu", "hard_swish", "tanh", "dropout", "add",
)  # fmt: skip
SAME_NUMBERS = (nn.Identity, nn.Flatten, nn.Unflatten)  # as far as their shapes say so
LOG_SOFTMAX = (nn.LogSoftmax,)

FUNCTIONS: dict[Any, type[nn.Module]] = {  # or names of methods: what they are as modules
    F.relu: nn.ReLU, torch.relu: nn.ReLU, torch.relu_: nn.ReLU, "relu": nn.ReLU, "relu_": nn.ReLU,
    F.leaky_relu: nn.LeakyReLU, F.gelu: nn.GELU, F.hardswish: nn.Hardswish,
    F.tanh: nn.Tanh, torch.tanh: nn.Tanh, "tanh": nn.Tanh, "tanh_": nn.Tanh,
    F.max_pool2d: nn.MaxPool2d, torch.max_pool2d: nn.MaxPool2d, F.avg_pool2d: nn.AvgPool2d,
    F.adaptive_avg_pool2d: nn.AdaptiveAvgPool2d, F.dropout: nn.Dropout,
    F.log_softmax: nn.LogSoftmax, torch.log_softmax: nn.LogSoftmax, "log_softmax": nn.LogSoftmax,
    torch.flatten: nn.Flatten, "flatten": nn.Flatten, torch.reshape: nn.Flatten,
    "reshape": nn.Flatten, "view": nn.Flatten, torch.squeeze: nn.Flatten, "squeeze": nn.Flatten,
    "contiguous": nn.Identity, "clone": nn.Identity,
}  # fmt: skip
SUMS = (operator.add, operator.iadd, torch.add, "add", "add_")
PRODUCTS = (operator.mul, operator.imul, torch.mul, "mul", "mul_")
MEANS = (torch.mean, "mean")
DROPPED = ("input", "training", "_stacklevel", "dtype", "inplace")  # keywords that change no layer


def as_module(target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> nn.Module:
    """Return a function's call as the module that does the same; it may be a poor likeness."""
    made = FUNCTIONS[target]
    if made in SAME_NUMBERS:
        return nn.Identity()
    options = {key: value for key, value in kwargs.items() if key not in DROPPED}
    if made is nn.Dropout:
        if not (args[2] if len(args) > 2 else kwargs.get("training", True)):
            return nn.Identity()
        args = args[:2]
    if made is nn.LogSoftmax and kwargs.get("dtype") is not None:
        raise NotOurs(f"dtype {kwargs['dtype']}")
    try:
        return made(*args[1:], **options)
    except TypeError as error:
        raise NotOurs(f"its options: {error}") from error


def name_of(target: Any, module: nn.Module | None = None) -> str:
    """Return `nn.Conv2d`, `torch.cumsum`, `F.relu`, `Tensor.view` or `operator.mul`."""
    if module is not None:
        cls = type(module)
        return f"nn.{cls.__name__}" if getattr(nn, cls.__name__, None) is cls else cls.__name__
    if isinstance(target, str):
        return f"Tensor.{target}"
    name = getattr(target, "__name__", repr(target))
    for prefix, place in (("torch", torch), ("F", F), ("operator", operator)):
        if getattr(place, name, None) is target:
            return f"{prefix}.{name}"
    return f"{getattr(target, '__module__', '')}.{name}".lstrip(".")
