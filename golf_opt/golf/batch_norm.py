"""Batch norm folded into a layer beside it: the same scores, and what is deployed and counted.

With its running statistics a norm is y = a x + b for each channel, where a is
weight / sqrt(running_var + eps) and b is bias - a running_mean (Ioffe, Szegedy, "Batch
Normalization", 2015, algorithm 2). A convolution or linear layer in front of it takes up both, as
does one behind it that pads with no zeros: there b would be missing at the edge. Only means and
dropout may lie in between, which a and b go through. A norm next to nothing of that kind stays, and
so does one of shared tensors or with a sum reading what lies between it and the layer.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from golf_opt.engines.base import Tensors
from golf_opt.golf.source import TrainedNet
from golf_opt.task import layers
from golf_opt.task.arch import Net, Node, build_net
from golf_opt.task.forward import check_tensors

BETWEEN = (layers.AvgPool, layers.GlobalAvgPool, layers.Dropout)
NAME = 190  # characters of a net's name that are kept
Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]


def folded(trained: TrainedNet) -> TrainedNet:
    """Return the net as it is deployed, with a note if it had batch norm.

    Raises:
        UsageError: a tensor is missing or of another shape.
    """
    net, tensors = fold_norms(trained.net, trained.tensors)
    notes = (*trained.notes, *fold_notes(trained.net, net))
    return replace(trained, net=net, tensors=tensors, notes=notes)


def fold_norms(net: Net, tensors: Tensors) -> tuple[Net, Tensors]:
    """Return the net without those norms that can be folded, and its tensors; the same net if none.

    Scores are the same but for float32's rounding. A layer gets a bias where it needs one.

    Args:
        net: any.
        tensors: its `weights/...` and `buffers/...`, which are left as they are.

    Raises:
        UsageError: a tensor is missing or of another shape.
    """
    check_tensors(net, tensors)
    while (pair := _next(net, tensors)) is not None:
        net, tensors = _fold(net, tensors, *pair)
    return net, tensors


def fold_notes(net: Net, after: Net) -> list[str]:
    """Return a line of what `fold_norms` made of a net with batch norm, nothing of others."""
    if not _norms(net):
        return []
    stay = [after.nodes[place].name for place in _norms(after)]
    parts = []
    if after is not net:
        sizes = f"{net.num_params:,} parameters become {after.num_params:,}"
        parts.append(f"batch norm is folded, {sizes}")
    if stay:
        parts.append(f"{', '.join(stay)} cannot be folded exactly and stays")
    return ["; ".join(parts)]


def _norms(net: Net) -> list[int]:
    return [
        place
        for place, node in enumerate(net.nodes)
        if isinstance(node.layer, layers.BatchNorm) and not node.shared
    ]


def _next(net: Net, tensors: Tensors) -> tuple[int, int] | None:
    """Return the place of a norm that can be folded, and that of the layer that takes it up."""
    tied = {node.name for node in net.nodes if node.shared}
    for place in _norms(net):
        if net.nodes[place].name in tied:
            continue
        for step in (-1, 1):
            into = _beside(net, place, step)
            if into is None or net.nodes[into].name in tied:
                continue
            if step < 0 or _is_exact_behind(net.nodes[into], net.nodes[place], tensors):
                return place, into
    return None


def _beside(net: Net, place: int, step: int) -> int | None:
    """Return the first layer with weights before or behind a norm, None if the way is barred."""
    read_by_sums = {node.of for node in net.nodes}
    while min(place, place + step) not in read_by_sums:
        place += step
        if not 0 <= place < len(net.nodes):
            return None
        layer = net.nodes[place].layer
        if isinstance(layer, layers.Conv | layers.Linear):
            return place
        if not isinstance(layer, BETWEEN):
            return None
    return None


def _is_exact_behind(node: Node, norm: Node, tensors: Tensors) -> bool:
    padded = isinstance(node.layer, layers.Conv) and any(node.layer.pads)
    return not (padded and _line(norm, tensors)[1].any())


def _line(norm: Node, tensors: Tensors) -> tuple[Doubles, Doubles]:
    """Return a and b of a norm, [channels] each."""
    weight, bias, mean, variance = (
        tensors[name].astype(np.float64)
        for name in [f"weights/{p.name}" for p in norm.parameters]
        + [f"buffers/{b.name}" for b in norm.buffers]
    )
    with np.errstate(all="ignore"):  # of numbers that no training gives; they are refused later
        scale = weight / np.sqrt(variance + layers.BatchNorm.EPS)
        return scale, bias - scale * mean


def _fold(net: Net, tensors: Tensors, place: int, into: int) -> tuple[Net, Tensors]:
    norm, node = net.nodes[place], net.nodes[into]
    weight, bias = _taken_up(node, tensors, _line(norm, tensors), behind=into > place)
    rows = net.arch["layers"]
    has_bias = rows[into]["bias"] or bool(bias.any())
    rows[into]["bias"] = has_bias
    for row in rows:
        if row["kind"] == layers.Add.kind and row["of"] == norm.name:
            row["of"] = net.nodes[place - 1].name
    del rows[place]
    name = net.name if net.name.endswith("-folded") else f"{net.name[:NAME]}-folded"
    made = {f"weights/{node.name}.weight": weight}
    made |= {f"weights/{node.name}.bias": bias} if has_bias else {}
    after = build_net({"name": name, "layers": rows}, net.input)
    tensors = {**tensors, **made}
    keys = [f"weights/{p.name}" for p in after.parameters]
    keys += [f"buffers/{b.name}" for b in after.buffers]
    return after, {key: tensors[key] for key in keys}


def _taken_up(
    node: Node, tensors: Tensors, line: tuple[Doubles, Doubles], behind: bool
) -> tuple[Floats, Floats]:
    """Return weight and bias [channels] of a layer with a norm before or behind it in them."""
    scale, shift = line
    weight = tensors[f"weights/{node.name}.weight"].astype(np.float64)
    bias: Any = tensors.get(f"weights/{node.name}.bias", np.zeros(len(weight))).astype(np.float64)
    of_channel = not behind or isinstance(node.layer, layers.Depthwise)
    inputs = 1 if of_channel else node.input_shape[0]
    by_channel = weight.reshape(len(weight), inputs, -1)  # [outputs, channels of the norm, places]
    scales = scale.reshape(-1, 1, 1) if of_channel else scale.reshape(1, -1, 1)
    with np.errstate(all="ignore"):
        if not behind:
            bias = bias * scale + shift
        elif of_channel:
            bias = bias + by_channel.sum(axis=(1, 2)) * shift
        else:
            bias = bias + by_channel.sum(axis=2) @ shift
        weight = (by_channel * scales).reshape(weight.shape)
        return weight.astype(np.float32), bias.astype(np.float32)
