"""A trained net as one C99 header: constants, a few loops, no heap, no libm.

The frame and the loops are in templates/net.h.j2; here is what of a net goes into them.

Every layer that has weights is one of two loops. `golf_conv` walks over all weights of a kernel; a
linear layer is a convolution whose kernel is as large as its input. `golf_sparse` walks over the
non-zero weights and where in the input each belongs; a layer takes it where that is smaller, which
is below two thirds of non-zero weights. Activations, pools and batch norm work in place, so the
working memory is two buffers, and one for each output that a sum reads later.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from golf_opt.task import layers
from golf_opt.task.arch import Net, Node
from golf_opt.task.layers import show_shape
from golf_opt.visualization.document import templates

LINE = 99  # columns of a table of numbers
FLOAT_BYTES = 4
Array = npt.NDArray[Any]


def c_header(net: Net, tensors: Mapping[str, Array], about: Mapping[str, str]) -> str:
    """Return the header that defines `golf_predict`.

    Args:
        net: the layers.
        tensors: `weights/<parameter>` and `buffers/<buffer>`, finite.
        about: lines for the comment on top.
    """
    return _Writer(net, tensors).header(about)


class _Writer:
    """Goes through the layers once, and collects tables, the helpers in use and the calls."""

    def __init__(self, net: Net, tensors: Mapping[str, Array]) -> None:
        self._net, self._tensors = net, tensors
        self._tables: dict[str, str] = {}
        self._bytes = 0
        self._helpers: set[str] = set()
        self._calls: list[str] = []
        self._buffer = 0  # that holds the layer's input: a or b
        self._sizes = [math.prod(net.input.shape), 1]
        self._added = {node.of for node in net.nodes}
        self._kept: dict[int, int] = {}  # floats of the nodes whose output a sum reads
        self._index_type, self._index_bytes = _index_type(net)
        for place, node in enumerate(net.nodes):
            self._layer(node)
            if place in self._added:
                self._kept[place] = math.prod(node.output_shape)
                self._call("golf_keep", self._in, self._kept[place], f"kept{place}")

    def header(self, about: Mapping[str, str]) -> str:
        working = FLOAT_BYTES * sum([*self._sizes, *self._kept.values()])
        memory = f"{self._bytes:,} bytes of constants, {working:,} bytes to work in"
        spec = self._net.input
        frame = templates("golf_opt.golf.deploy").get_template("net.h.j2")
        return frame.render(
            about={key: _comment(text) for key, text in about.items()} | {"memory": memory},
            tables=self._tables.values(),
            helpers=self._helpers,
            index_type=self._index_type,
            sizes=self._sizes,
            kept=self._kept,
            input=spec,
            pixels=math.prod(spec.shape),
            names=map(_string, spec.names),
            normal=[
                (_float(1 / (255 * std)), _float(-mean / std))
                for mean, std in zip(spec.mean, spec.std, strict=True)
            ],
            calls=self._calls,
            scores=self._in,
        )

    @property
    def _in(self) -> str:
        return "ab"[self._buffer]

    @property
    def _out(self) -> str:
        return "ab"[1 - self._buffer]

    def _layer(self, node: Node) -> None:
        """Add the calls of one layer."""
        layer, size = node.layer, int(np.prod(node.input_shape))
        channels, sides = node.input_shape[0], _sides(node)
        area = size // channels
        self._calls.append(
            f"/* {node.name}: {show_shape(node.input_shape)} -> {show_shape(node.output_shape)} */"
        )
        match layer:
            case layers.Conv():
                self._convolve(node, layer)
            case layers.Linear():
                self._linear(node)
            case layers.BatchNorm():
                self._batch_norm(node, layer.EPS, area)
            case layers.ReLU():
                self._call("golf_relu", self._in, size)
            case layers.LeakyReLU():
                self._call("golf_leaky_relu", self._in, size, _float(layer.slope))
            case layers.PReLU():
                slopes = self._table(f"{node.name}_slope", self._tensor(node, "weight"))
                self._call("golf_prelu", self._in, channels, area, slopes)
            case layers.GELU() | layers.HardSwish() | layers.Tanh():
                self._call(f"golf_{layer.kind}", self._in, size)
            case layers.Scale():
                factors = self._table(f"{node.name}_scale", self._tensor(node, "weight"))
                self._call("golf_scale", self._in, channels, area, factors)
            case layers.MaxPool() | layers.AvgPool():
                self._call(f"golf_{layer.kind}", self._in, channels, *sides, *layer.sizes)
            case layers.Add():
                self._call("golf_add", self._in, size, f"kept{node.of}")
            case layers.GlobalAvgPool():
                self._call("golf_mean", self._in, channels, area)
            case layers.Dropout():
                self._calls[-1] = f"/* {node.name} does nothing outside of training */"
            case _:
                raise AssertionError(f"no C for {layer.kind}")

    def _convolve(self, node: Node, layer: layers.Conv) -> None:
        channels, sides, pads = node.input_shape[0], _sides(node), layer.pads
        if any(pads):
            self._call("golf_pad", self._in, channels, *sides, *pads, self._out)
            sides = _padded(node)
            self._swap(channels * math.prod(sides))
        depthwise = isinstance(layer, layers.Depthwise)
        self._weighted(node, self._tensor(node, "weight"), sides, layer.strides, depthwise)

    def _linear(self, node: Node) -> None:
        """A convolution whose kernel is as large as its input."""
        channels, sides = node.input_shape[0], _sides(node)
        weight = self._tensor(node, "weight").reshape(-1, channels, *sides)
        self._weighted(node, weight, sides, strides=(1, 1), depthwise=False)

    def _weighted(
        self,
        node: Node,
        weight: Array,
        sides: tuple[int, int],
        strides: tuple[int, int],
        depthwise: bool,
    ) -> None:
        """Add a layer with weights [outputs, depth, height, width], dense or sparse.

        Args:
            node: the layer.
            weight: its weights.
            sides: height and width of its input, padding included.
            strides: down and across.
            depthwise: whether an output reads the channel of its own number alone.
        """
        outputs, kernels = len(weight), weight.shape[2:]
        rest = zip(sides, kernels, strides, strict=True)
        outs = [(side - kernel) // stride + 1 for side, kernel, stride in rest]
        bias = "0"
        if f"weights/{node.name}.bias" in self._tensors:
            bias = self._table(f"{node.name}_bias", self._tensor(node, "bias"))
        nonzero = int(np.count_nonzero(weight))
        indices = nonzero + outputs + 1
        sparse_bytes = nonzero * FLOAT_BYTES + indices * self._index_bytes
        if sparse_bytes < FLOAT_BYTES * weight.size:
            o, c, i, j = np.nonzero(weight)
            at = ((o if depthwise else c) * sides[0] + i) * sides[1] + j
            first = np.searchsorted(o, np.arange(outputs + 1))
            self._call(
                "golf_sparse", self._in, sides[1], self._out, outputs, *outs, *strides,
                self._table(f"{node.name}_weight", weight[o, c, i, j]),
                self._table(f"{node.name}_at", at),
                self._table(f"{node.name}_first", first), bias,
            )  # fmt: skip
        else:
            self._call(
                "golf_conv", self._in, node.input_shape[0], *sides, self._out, outputs, *kernels,
                *strides, int(depthwise), self._table(f"{node.name}_weight", weight), bias,
            )  # fmt: skip
        self._swap(outputs * math.prod(outs))

    def _batch_norm(self, node: Node, eps: float, area: int) -> None:
        weight, bias, mean, var = (
            self._tensor(node, name).astype(np.float64)
            for name in ("weight", "bias", "running_mean", "running_var")
        )
        scale = weight / np.sqrt(var + eps)
        scale_table = self._table(f"{node.name}_scale", scale)
        shift_table = self._table(f"{node.name}_shift", bias - mean * scale)
        self._call("golf_affine", self._in, len(weight), area, scale_table, shift_table)

    def _tensor(self, node: Node, name: str) -> Array:
        kind = "buffers" if name.startswith("running_") else "weights"
        return self._tensors[f"{kind}/{node.name}.{name}"]

    def _call(self, helper: str, *arguments: object) -> None:
        self._helpers.add(helper)
        self._calls.append(f"{helper}({', '.join(map(str, arguments))});")

    def _swap(self, size: int) -> None:
        """The layer has written `size` floats to the other buffer, where the next one reads."""
        self._buffer = 1 - self._buffer
        self._sizes[self._buffer] = max(self._sizes[self._buffer], size)

    def _table(self, name: str, values: Array) -> str:
        """Return the name of a constant table; a layer used again on another shape has its own."""
        values = values.ravel()
        floats = values.dtype.kind == "f"
        numbers = [_float(v) if floats else str(v) for v in values.tolist()]
        kind = "float" if floats else self._index_type
        table = f"golf_{name}"
        text = _definition(kind, table, numbers)
        while self._tables.get(table, text) != text:
            table += "_again"
            text = _definition(kind, table, numbers)
        if table not in self._tables:
            self._tables[table] = text
            self._bytes += len(numbers) * (FLOAT_BYTES if floats else self._index_bytes)
        return table


def _index_type(net: Net) -> tuple[str, int]:
    """Return the C type, and its bytes, of an offset into a layer's input or weights."""
    inputs = [n.input_shape[0] * math.prod(_padded(n)) for n in net.nodes]
    largest = max([math.prod(net.input.shape), *inputs, *(p.size for p in net.parameters)])
    return ("uint16_t", 2) if largest <= np.iinfo(np.uint16).max else ("uint32_t", 4)


def _sides(node: Node) -> tuple[int, int]:
    """Height and width of a layer's input; 1 and 1 where it is features."""
    _, height, width = (*node.input_shape, 1, 1)[:3]
    return height, width


def _padded(node: Node) -> tuple[int, int]:
    """The same with the zeros that a convolution wants around it."""
    down, across = node.layer.pads if isinstance(node.layer, layers.Conv) else (0, 0)
    height, width = _sides(node)
    return height + 2 * down, width + 2 * across


def _float(value: float) -> str:
    """Return a float literal that reads back as the same float32."""
    text = f"{np.float32(value):.9g}"
    return f"{text}f" if any(mark in text for mark in ".e") else f"{text}.0f"


def _string(text: str) -> str:
    """Return a C string literal; what is not plain ASCII is written as its bytes in UTF-8."""
    plain = "".join(
        chr(byte) if 32 <= byte < 127 and chr(byte) not in '"\\?' else f"\\{byte:03o}"
        for byte in text.encode()
    )
    return f'"{plain}"'


def _comment(text: str) -> str:
    """Return text that neither ends a C comment nor upsets a compiler inside one."""
    return text.replace("*/", "* /").replace("/*", "/ *").replace("??", "? ?")


def _definition(kind: str, name: str, numbers: Sequence[str]) -> str:
    """Return a table; one of a layer without weights left holds a zero, for C has no empty ones."""
    body = textwrap.fill(
        f"{', '.join(numbers or ['0'])},", LINE, break_on_hyphens=False,
        initial_indent="    ", subsequent_indent="    ",
    )  # fmt: skip
    return f"static const {kind} {name}[{max(1, len(numbers))}] = {{\n{body}\n}};\n"
