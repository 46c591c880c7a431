"""What pruning left: numbers that are not zero, and channels without effect.

count    of the non-zero ones, and how many of them are dead
clear    zeroes what cannot change the output; exact
fold     also moves constant channels into the biases behind them; equal but for rounding
shrink   cuts out the channels that neither of them left alive: a smaller net, the same function

A channel starts in a convolution, depthwise ones aside, or in a linear layer, and goes through
whatever works on each channel by itself up to the next of those. Tensors that several nodes share
are left as they are: what one use does not need another may. So are those of a user's module.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from golf_opt.engines.base import Tensors
from golf_opt.task import layers
from golf_opt.task.arch import Net, Node, build_net
from golf_opt.task.forward import ELEMENTWISE
from golf_opt.task.grammar import parse_grammar

Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[Any]


@dataclass(frozen=True)
class TensorCount:
    """One trained tensor."""

    name: str
    size: int
    nz: int


@dataclass(frozen=True)
class Count:
    """The trained numbers of a net; `dead` of the `nz` non-zero ones cannot change the output."""

    size: int
    nz: int
    dead: int
    tensors: tuple[TensorCount, ...]


def count(net: Net, tensors: Tensors) -> Count:
    """Count `weights/...` that are not zero; a tensor that several layers share counts once."""
    rows = tuple(
        TensorCount(p.name, p.size, int(np.count_nonzero(tensors[f"weights/{p.name}"])))
        for p in net.parameters
    )
    nz = sum(row.nz for row in rows)
    return Count(net.num_params, nz, nz - num_nonzero(net, clear(net, tensors)), rows)


def num_nonzero(net: Net, tensors: Tensors) -> int:
    """Return how many trained numbers are not zero."""
    return sum(int(np.count_nonzero(tensors[f"weights/{p.name}"])) for p in net.parameters)


def clear(net: Net, tensors: Tensors) -> Tensors:
    """Return the tensors with zeros where a weight cannot change the output."""
    cleared = {name: values.copy() for name, values in tensors.items()}
    for node, needed, _ in _backward(net, cleared):
        if node.name not in _tied(net):
            for parameter in node.parameters:
                cleared[f"weights/{parameter.name}"][~needed] = 0
    return cleared


def fold(net: Net, tensors: Tensors) -> Tensors:
    """Return the tensors with constant channels folded into biases, and cleared."""
    folded = clear(net, tensors)
    values = np.full(net.input.shape[0], np.nan)
    given: list[Floats] = []  # by each node
    for node in net.nodes:
        values = _constants(node, values, folded, write=node.name not in _tied(net))
        if node.of is not None:
            values = values + given[node.of]
        given.append(values)
    return clear(net, folded)


def shrink(net: Net, tensors: Tensors) -> tuple[Net, Tensors]:
    """Return the net without its dead channels, and its tensors; the same net if there are none.

    A layer keeps one channel at least, and all of those that go into a sum or come out of one.
    """
    if _tied(net):
        return net, tensors
    keeps: dict[str, tuple[Mask, Mask]] = {}  # node -> channels of its output, of its input
    keep = np.ones(net.input.classes, dtype=bool)
    whole = _kept_whole(net)
    for place, node in reversed(list(enumerate(net.nodes))):
        after, keep = keep, _reads(node, keep, tensors) if _is_dense(node) else keep
        if place - 1 in whole:
            keep = np.ones_like(keep)
        if not keep.any():
            keep = np.arange(len(keep)) == 0
        keeps[node.name] = after, keep
    if all(after.all() for after, _ in keeps.values()):
        return net, tensors
    widths = [int(keeps[node.name][0].sum()) for node in net.nodes if _is_dense(node)]
    small = build_net({"name": _name(net, widths[:-1]), "layers": _rows(net, keeps)}, net.input)
    return small, _cut(net, small, tensors, keeps)


def _tied(net: Net) -> set[str]:
    return {n.name for n in net.nodes if n.shared or isinstance(n.layer, layers.Module)}


def _kept_whole(net: Net) -> set[int]:
    """Return the nodes whose outputs have the channels of a sum or of the image; -1 is the image.

    These channels stay as they are.
    """
    start_of, start = {-1: -1}, -1  # where the channels of a node's output start
    for place, node in enumerate(net.nodes):
        start = start_of[place] = place if _is_dense(node) else start
    sums = [(place, node.of) for place, node in enumerate(net.nodes) if node.of is not None]
    fixed = {-1, *(start_of[place] for pair in sums for place in pair)}
    return {place for place, start in start_of.items() if start in fixed}


def _is_dense(node: Node) -> bool:
    """Whether every output channel reads every input channel."""
    return isinstance(node.layer, (layers.Conv, layers.Linear)) and not _is_depthwise(node)


def _is_depthwise(node: Node) -> bool:
    return isinstance(node.layer, layers.Depthwise)


def _by_channel(node: Node, weight: Floats) -> Floats:
    """Return a dense weight as a view [outputs, input channels, positions]."""
    return weight.reshape(len(weight), node.input_shape[0], -1)


def _weight(node: Node, tensors: Tensors, name: str = "weight") -> Floats | None:
    return tensors.get(f"weights/{node.name}.{name}")


def _reads(node: Node, needed: Mask, tensors: Tensors) -> Mask:
    """Return which input channels the needed output channels depend on."""
    weight = _weight(node, tensors)
    if weight is None or isinstance(node.layer, (layers.PReLU, layers.Module)):
        return needed
    if _is_dense(node):
        return np.asarray(_by_channel(node, weight)[needed].any(axis=(0, 2)))
    return needed & np.asarray(weight.reshape(len(weight), -1).any(axis=1))


def _backward(net: Net, tensors: Tensors) -> Iterator[tuple[Node, Mask, Mask]]:
    """Yield each node from the last, with the output and the input channels that have an effect."""
    reads = np.ones(net.input.classes, dtype=bool)
    added: dict[int, Mask] = {}  # what sums further on need of a node
    for place, node in reversed(list(enumerate(net.nodes))):
        needed = reads | added.pop(place, np.zeros_like(reads))
        reads = _reads(node, needed, tensors)
        if node.of is not None:
            added[node.of] = needed | added.get(node.of, np.zeros_like(needed))
        yield node, needed, reads


def _constants(node: Node, values: Floats, tensors: Tensors, write: bool) -> Floats:
    """Return the constant of each output channel, nan where it varies, from those of the inputs.

    With `write`, constants that a layer with a bias reads are moved into that bias.
    """
    layer = node.layer
    weight, bias = _weight(node, tensors), _weight(node, tensors, "bias")
    match layer:
        case layers.ReLU():
            return np.maximum(values, 0)
        case layers.LeakyReLU():
            return np.where(values < 0, layer.slope * values, values)
        case layers.PReLU():
            assert weight is not None
            return np.where(values < 0, weight * values, values)
        case layers.GELU() | layers.HardSwish() | layers.Tanh():
            return ELEMENTWISE[layer.kind](values)
        case layers.Scale():
            assert weight is not None
            return np.where(weight == 0, 0, weight * values)
        case layers.BatchNorm():
            assert weight is not None and bias is not None
            mean, var = (tensors[f"buffers/{node.name}.running_{kind}"] for kind in ("mean", "var"))
            scaled = (values - mean) / np.sqrt(var + layer.EPS) * weight + bias
            return np.where(weight == 0, bias, scaled)
        case layers.Conv() | layers.Linear():
            assert weight is not None
            return _fold_into(node, values, weight, bias, write)
    return values


def _fold_into(
    node: Node, values: Floats, weight: Floats, bias: Floats | None, write: bool
) -> Floats:
    """Fold the constants that a convolution or linear layer reads; return those it gives."""
    depthwise = _is_depthwise(node)
    by_channel = weight.reshape(len(weight), -1, 1) if depthwise else _by_channel(node, weight)
    padded = isinstance(node.layer, layers.Conv) and any(node.layer.pads)
    for channel in np.flatnonzero(~np.isnan(values)) if write else ():
        rows = np.array([channel]) if depthwise else np.arange(len(weight))
        at = (rows, slice(None)) if depthwise else (rows, channel)
        constant = float(values[channel])
        if constant != 0 and (padded or bias is None):
            continue  # a constant with zeros around it is none; and it needs a bias to move to
        if bias is not None:
            sums = by_channel[at].reshape(len(rows), -1).sum(axis=1, dtype=np.float64)
            bias[rows] += (sums * constant).astype(np.float32)
        by_channel[at] = 0
    given = np.zeros(len(weight)) if bias is None else bias.astype(np.float64)
    varies = weight.reshape(len(weight), -1).any(axis=1)
    return np.where(varies, np.nan, given)


def _rows(net: Net, keeps: dict[str, tuple[Mask, Mask]]) -> list[dict[str, Any]]:
    """Return the layers of the smaller net, as `build_net` takes them."""
    rows = []
    for node in net.nodes:
        options = {"name": node.name, "kind": node.layer.kind} | node.layer.options
        width = "features" if isinstance(node.layer, layers.Linear) else "channels"
        if _is_dense(node):
            options[width] = int(keeps[node.name][0].sum())
        rows.append(options)
    return rows


def _cut(net: Net, small: Net, tensors: Tensors, keeps: dict[str, tuple[Mask, Mask]]) -> Tensors:
    """Return the tensors without the channels that are gone."""
    cut: Tensors = {}
    shapes = {p.name: p.shape for p in (*small.parameters, *small.buffers)}
    for node in net.nodes:
        after, before = keeps[node.name]
        kinds = [("weights", p) for p in node.parameters] + [("buffers", b) for b in node.buffers]
        for kind, parameter in kinds:
            values = tensors[f"{kind}/{parameter.name}"]
            if _is_dense(node) and parameter.name.endswith(".weight"):
                values = _by_channel(node, values)[:, before]
            values = values[after].reshape(shapes[parameter.name])
            cut[f"{kind}/{parameter.name}"] = np.ascontiguousarray(values)
    return cut


def _name(net: Net, widths: list[int]) -> str:
    """Return `c4-5-3-prelu` for a net of the grammar, `<name>-shrunk` for others."""
    if parse_grammar(net.name) is None:
        return f"{net.name}-shrunk"
    return "c" + "-".join(map(str, widths)) + re.sub(r"^c\d+(-\d+)*", "", net.name)
