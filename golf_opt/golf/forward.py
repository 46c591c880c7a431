"""A plain NumPy evaluator of any net: no engine, no torch, nothing compiled.

It is the judge of what the engines, the exported files and the records say, so it shares nothing
with them but the list of layers. Evaluation mode: dropout does nothing, batch norm uses its running
statistics.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from golf_opt.config.errors import UsageError
from golf_opt.task import arch
from golf_opt.task.arch import NUM_CLASSES, Net, Node
from golf_opt.task.data import MEAN, STD

BATCH = 500  # images at once: a few tens of MB of windows for the widest preset but pytorch-example

Array = npt.NDArray[np.floating[Any]]
Tensors = Mapping[str, npt.NDArray[Any]]
DType = type[np.float32] | type[np.float64]


def logits(
    net: Net, tensors: Tensors, images: npt.NDArray[np.uint8], dtype: DType = np.float32
) -> npt.NDArray[np.float32]:
    """Return the class scores [n, 10] of images [n, 28, 28], before any softmax.

    Args:
        net: the layers.
        tensors: `weights/<parameter>` and `buffers/<buffer>`; others are ignored.
        images: uint8, not normalised.
        dtype: of the arithmetic; the scores are float32 in any case.

    Raises:
        UsageError: a tensor is missing or has another shape than the net's.
    """
    check_tensors(net, tensors)
    scores = np.empty((len(images), NUM_CLASSES), dtype=np.float32)
    for at in range(0, len(images), BATCH):
        x = normalise(images[at : at + BATCH], dtype)
        for node in net.nodes:
            x = _apply(node, tensors, x)
        scores[at : at + BATCH] = x
    return scores


def accuracy(
    net: Net,
    tensors: Tensors,
    images: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.uint8],
    dtype: DType = np.float32,
) -> float:
    """Return the share of images [n, 28, 28] whose highest score is that of their label."""
    return float((logits(net, tensors, images, dtype).argmax(axis=1) == labels).mean())


def check_tensors(net: Net, tensors: Tensors) -> None:
    """Refuse tensors that are not those of the net; raises UsageError, naming the first."""
    expected = {f"weights/{p.name}": p.shape for p in net.parameters}
    expected |= {f"buffers/{b.name}": b.shape for b in net.buffers}
    for name, shape in expected.items():
        if name not in tensors:
            raise UsageError(f"{name} of {net.name} is missing; it must be {list(shape)}.")
        if tensors[name].shape != shape:
            found = list(tensors[name].shape)
            raise UsageError(f"{name} of {net.name} is {found}, but must be {list(shape)}.")


def normalise(images: npt.NDArray[np.uint8], dtype: DType = np.float32) -> Array:
    """Return images [n, 28, 28] as a net's input [n, 1, 28, 28]."""
    pixels: Array = images[:, None].astype(dtype)
    return (pixels / 255 - MEAN) / STD


def forward(net: Net, tensors: Tensors, x: Array) -> Iterator[tuple[Node, Array]]:
    """Yield every node with its output [n, *output_shape], from the input to the scores."""
    for node in net.nodes:
        x = _apply(node, tensors, x)
        yield node, x


def _apply(node: Node, tensors: Tensors, x: Array) -> Array:
    """Return one layer's output, in the precision of its input."""
    layer = node.layer
    own = {
        name.rpartition(".")[2]: tensors[name].astype(x.dtype)
        for name in [f"weights/{p.name}" for p in node.parameters]
        + [f"buffers/{b.name}" for b in node.buffers]
    }
    match layer:
        case arch.Conv():
            return _add(_convolve(layer, x, own["weight"]), own.get("bias"))
        case arch.Linear():
            return _add(x.reshape(len(x), -1) @ own["weight"].T, own.get("bias"))
        case arch.BatchNorm():
            scale = own["weight"] / np.sqrt(own["running_var"] + layer.EPS)
            shift = own["bias"] - own["running_mean"] * scale
            return x * _per_channel(scale, x) + _per_channel(shift, x)
        case arch.ReLU():
            return np.maximum(x, 0)
        case arch.LeakyReLU():
            return np.where(x > 0, x, layer.slope * x)
        case arch.PReLU():
            return np.where(x > 0, x, _per_channel(own["weight"], x) * x)
        case arch.MaxPool():
            _, height, width = node.output_shape
            k = layer.size
            kept = x[:, :, : height * k, : width * k]  # a remainder at the edge is dropped
            pooled: Array = kept.reshape(*x.shape[:2], height, k, width, k).max(axis=(3, 5))
            return pooled
        case arch.GlobalAvgPool():
            means: Array = x.mean(axis=(2, 3))
            return means
        case arch.Dropout():
            return x
    raise AssertionError(f"no evaluation of {layer.kind}")


def _convolve(layer: arch.Conv, x: Array, weight: Array) -> Array:
    """Cross-correlate [n, c, h, w] with [o, c, k, k], or [c, 1, k, k] where depthwise."""
    pad, k, step = layer.pad, layer.kernel, layer.stride
    padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (k, k), axis=(2, 3))
    windows = windows[:, :, ::step, ::step]  # [n, c, y, x, k, k]
    if isinstance(layer, arch.Depthwise):
        each: Array = np.einsum("ncyxij,cij->ncyx", windows, weight[:, 0])
        return each
    return np.moveaxis(np.tensordot(windows, weight, axes=((1, 4, 5), (1, 2, 3))), 3, 1)


def _add(x: Array, bias: Array | None) -> Array:
    return x if bias is None else x + _per_channel(bias, x)


def _per_channel(values: Array, x: Array) -> Array:
    """Return [channels] in a shape that broadcasts against [n, channels, ...]."""
    return values.reshape(-1, *[1] * (x.ndim - 2))
