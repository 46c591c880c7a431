"""A plain NumPy evaluator of any net: no engine, no torch, nothing compiled.

It is the judge of what the engines, the exported files and the records say, so it shares nothing
with them but the list of layers. A module of the user's, which is no such list, is evaluated by
PyTorch. Evaluation mode: dropout does nothing, batch norm uses its running
statistics.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from golf_opt.config.errors import UsageError
from golf_opt.task import layers
from golf_opt.task.arch import Net, Node
from golf_opt.task.inputs import InputSpec
from golf_opt.task.modules import given

BATCH = 64  # images at once: what lies between two layers of a small net then fits a core's cache
MOST_NUMBERS = 1 << 24  # of one array, for which a large net gets fewer images at once
MOST_THREADS = 16  # more of them wait for Python between the steps

Array = npt.NDArray[np.floating[Any]]
Tensors = Mapping[str, npt.NDArray[Any]]
DType = type[np.float32] | type[np.float64]


def logits(
    net: Net, tensors: Tensors, images: npt.NDArray[np.uint8], dtype: DType = np.float32
) -> npt.NDArray[np.float32]:
    """Return the class scores [n, classes] of images [n, channels, height, width].

    Args:
        net: the layers.
        tensors: `weights/<parameter>` and `buffers/<buffer>`; others are ignored.
        images: uint8, not normalised; scores are before any softmax.
        dtype: of the arithmetic; the scores are float32 in any case.

    Raises:
        UsageError: a tensor is missing or has another shape than the net's.
    """
    check_tensors(net, tensors)
    if net.module is not None:
        x = normalise(net.input, images, dtype)
        return given.scores(net.module, tensors, x).astype(np.float32)
    largest = max(max(_sizes(node)) for node in net.nodes)
    batch = max(1, min(BATCH, MOST_NUMBERS // largest))
    scores = np.empty((len(images), net.input.classes), dtype=np.float32)
    tables = _tables(net.input, dtype)

    def score(at: int) -> None:
        part = np.ascontiguousarray(images[at : at + batch].transpose(1, 2, 3, 0))
        x: Array = np.stack([table[bytes_] for table, bytes_ in zip(tables, part, strict=True)])
        for _, output in _outputs(net, tensors, x):
            x = output
        scores[at : at + batch] = x.T

    with (
        threadpool_limits(1, "blas"),  # its threads wait for each other in products this small
        ThreadPoolExecutor(min(MOST_THREADS, os.cpu_count() or 1)) as pool,
    ):
        list(pool.map(score, range(0, len(images), batch)))
    return scores


def accuracy(
    net: Net,
    tensors: Tensors,
    images: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.uint8],
    dtype: DType = np.float32,
) -> float:
    """Return the share of images whose highest score is that of their label."""
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


def work_of(net: Net) -> int:
    """Return about how many multiplications an image takes."""
    return sum(math.prod(node.output_shape[:1]) * max(_sizes(node)) for node in net.nodes)


def _sizes(node: Node) -> tuple[int, int]:
    """Return how many numbers of an image a layer writes, and how many it has side by side."""
    written = math.prod(node.output_shape)
    if not isinstance(node.layer, layers.Conv):
        return written, math.prod(node.input_shape)
    window = math.prod(node.layer.kernels) * (
        1 if isinstance(node.layer, layers.Depthwise) else node.input_shape[0]
    )
    return written, window * math.prod(node.output_shape[1:])


def normalise(spec: InputSpec, images: npt.NDArray[np.uint8], dtype: DType = np.float32) -> Array:
    """Return images [n, channels, height, width] as a net's input, of the same shape."""
    by_channel = zip(_tables(spec, dtype), images.swapaxes(0, 1), strict=True)
    return np.stack([table[bytes_] for table, bytes_ in by_channel], axis=1)


def _tables(spec: InputSpec, dtype: DType) -> list[Array]:
    """Return what each byte becomes, [256] for each channel."""
    values: Array = np.arange(256, dtype=dtype)
    values = values / 255
    return [(values - mean) / std for mean, std in zip(spec.mean, spec.std, strict=True)]


def forward(net: Net, tensors: Tensors, x: Array) -> Iterator[tuple[Node, Array]]:
    """Yield every node with its output [n, *output_shape], from the input to the scores."""
    for node, output in _outputs(net, tensors, np.ascontiguousarray(np.moveaxis(x, 0, -1))):
        yield node, np.moveaxis(output, -1, 0)


def _outputs(net: Net, tensors: Tensors, x: Array) -> Iterator[tuple[Node, Array]]:
    """Yield every node with its output [*output_shape, n] for images [*shape, n].

    The images are the last axis: so every step is over long stretches of memory. What an `add`
    reads later is kept until then.
    """
    last_use = {node.of: place for place, node in enumerate(net.nodes) if node.of is not None}
    kept: dict[int, Array] = {}
    for place, node in enumerate(net.nodes):
        x = _apply(node, tensors, x) if node.of is None else x + kept[node.of]
        if place in last_use:
            kept[place] = x
        kept = {of: output for of, output in kept.items() if last_use[of] > place}
        yield node, x


def _apply(node: Node, tensors: Tensors, x: Array) -> Array:
    """Return one layer's output [*output_shape, n] for [*input_shape, n], in its precision."""
    layer = node.layer
    own = {
        name.rpartition(".")[2]: tensors[name].astype(x.dtype)
        for name in [f"weights/{p.name}" for p in node.parameters]
        + [f"buffers/{b.name}" for b in node.buffers]
    }
    match layer:
        case layers.Conv():
            return _add(_convolve(layer, x, own["weight"]), own.get("bias"))
        case layers.Linear():
            return _add(own["weight"] @ x.reshape(-1, x.shape[-1]), own.get("bias"))
        case layers.BatchNorm():
            scale = own["weight"] / np.sqrt(own["running_var"] + layer.EPS)
            return _add(x * _per_channel(scale, x), own["bias"] - own["running_mean"] * scale)
        case layers.ReLU():
            return np.maximum(x, 0)
        case layers.LeakyReLU():
            return _leaky(x, np.asarray(layer.slope, dtype=x.dtype))
        case layers.PReLU():
            return _leaky(x, _per_channel(own["weight"], x))
        case layers.Scale():
            return x * _per_channel(own["weight"], x)
        case layers.GELU() | layers.HardSwish() | layers.Tanh():
            return ELEMENTWISE[layer.kind](x)
        case layers.AvgPool():
            return sum(_pooled(x, layer.sizes)) / np.asarray(math.prod(layer.sizes), x.dtype)
        case layers.MaxPool():
            return _max_pool(x, layer.sizes)
        case layers.GlobalAvgPool():
            means: Array = x.mean(axis=(1, 2))
            return means
        case layers.Dropout():
            return x
        case layers.Module():
            return given.scores(layer, tensors, np.ascontiguousarray(np.moveaxis(x, -1, 0))).T
    raise AssertionError(f"no evaluation of {layer.kind}")


def _convolve(layer: layers.Conv, x: Array, weight: Array) -> Array:
    """Cross-correlate [c, h, w, n] with [o, c, kh, kw], or [c, 1, kh, kw] where depthwise."""
    down, across = layer.pads
    if down or across:
        x = np.pad(x, ((0, 0), (down, down), (across, across), (0, 0)))
    shifted = _windows(x, layer.kernels, layer.strides)
    if isinstance(layer, layers.Depthwise):
        return _depthwise(shifted, weight.reshape(len(weight), -1))
    single = layer.kernels == (1, 1)
    columns = next(shifted) if single else np.stack(list(shifted), axis=1)  # [c, kh * kw, h, w, n]
    shape = columns.shape[-3:]
    return (weight.reshape(len(weight), -1) @ columns.reshape(-1, math.prod(shape))).reshape(
        -1, *shape
    )


def _windows(x: Array, sizes: tuple[int, int], steps: tuple[int, int]) -> Iterator[Array]:
    """Yield what of [c, h, w, n] each place in a window sees, the window's first row first."""
    down, across = (side - size + 1 for side, size in zip(x.shape[1:3], sizes, strict=True))
    for row, column in np.ndindex(*sizes):
        yield x[:, row : row + down : steps[0], column : column + across : steps[1]]


def _depthwise(shifted: Iterator[Array], weight: Array) -> Array:
    total, product = None, None
    for place, seen in enumerate(shifted):
        kernel = _per_channel(weight[:, place], seen)
        if total is None or product is None:
            total, product = seen * kernel, np.empty_like(seen)
        else:
            total += np.multiply(seen, kernel, out=product)
    assert total is not None
    return total


def _pooled(x: Array, sizes: tuple[int, int]) -> Iterator[Array]:
    """Yield what each place in a pool's window sees; a remainder at the edge is dropped."""
    height, width = (side // size * size for side, size in zip(x.shape[1:3], sizes, strict=True))
    return _windows(x[:, :height, :width], sizes, sizes)


def _max_pool(x: Array, sizes: tuple[int, int]) -> Array:
    """Return the largest of each window."""
    first, *others = _pooled(x, sizes)
    largest = first.copy()
    for seen in others:
        np.maximum(largest, seen, out=largest)
    return largest


def _gelu(x: Array) -> Array:
    from scipy.special import erf  # only nets with this layer wait for its import

    below: Array = erf(x * np.asarray(math.sqrt(0.5), x.dtype))
    return x * ((1 + below) / 2)


def _hard_swish(x: Array) -> Array:
    return x * (np.clip(x + 3, 0, 6) / 6)


ELEMENTWISE: Mapping[str, Callable[[Array], Array]] = {  # of each number by itself
    "gelu": _gelu,
    "hard_swish": _hard_swish,
    "tanh": np.tanh,
}


def _leaky(x: Array, slope: Array) -> Array:
    """Return x where it is above 0, and its product with the slope elsewhere."""
    below = np.minimum(x, 0)
    below *= slope
    below += np.maximum(x, 0)
    return below


def _add(x: Array, bias: Array | None) -> Array:
    """Add a number for each channel, in place."""
    if bias is not None:
        x += _per_channel(bias, x)
    return x


def _per_channel(values: Array, x: Array) -> Array:
    """Return [channels] in a shape that broadcasts against [channels, ..., n]."""
    return values.reshape(-1, *[1] * (x.ndim - 1))
