"""In which order weights are tried: how much each seems to matter, the least first.

Every ranking is a function of the flat weights [size of the net] alone, so that a pass that was
stopped ranks as it did.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from golf_opt.config.errors import UsageError
from golf_opt.engines.base import Engine, Floats, Introspective, Tensors
from golf_opt.engines.flat import pack, unpack
from golf_opt.task import layers, rng
from golf_opt.task.arch import Net, Node
from golf_opt.task.data import Split
from golf_opt.task.layers import Parameter

Ranking = Callable[[Floats], npt.NDArray[Any]]  # flat weights -> how much each matters
SALIENCY_IMAGES = 8192
SALIENCY_BATCH = 32


def by_index(weights: Floats) -> npt.NDArray[Any]:
    """The article's order: tensors as they come, each from its first number to its last."""
    return np.arange(len(weights))


def by_magnitude(net: Net) -> Ranking:
    """Rank by abs(w) over the root mean square of what is left of its tensor."""

    def rank(weights: Floats) -> npt.NDArray[Any]:
        parts = []
        for values in unpack(weights, "weights", net.parameters).values():
            left = values[values != 0].astype(np.float64)
            rms = np.sqrt(np.mean(left**2)) if len(left) else 1.0
            parts.append(np.abs(values.ravel()) / rms)
        return np.concatenate(parts)

    return rank


def by_saliency(
    engine: Engine, net: Net, buffers: Tensors, train: Split, order: str, seed: int
) -> Ranking:
    """Rank by an estimate of how much the training loss rises when a weight becomes zero.

    `first` is mean abs(g w) over batches; `second` is mean (g w)^2, the empirical Fisher
    information in place of the Hessian (optimal brain damage).

    Raises:
        UsageError: the engine gives no gradients.
    """
    if not isinstance(engine, Introspective):
        raise UsageError(
            "method is 'saliency', but must be index, magnitude or rounds with "
            f"engine={engine.name}; gradients come from engine=native."
        )
    chosen = rng.permutation(rng.derive(seed, "saliency"), len(train))[:SALIENCY_IMAGES]
    batches = [
        train.take("train", chosen[at : at + SALIENCY_BATCH])
        for at in range(0, len(chosen), SALIENCY_BATCH)
    ]

    def rank(weights: Floats) -> npt.NDArray[Any]:
        now = unpack(weights, "weights", net.parameters) | buffers
        total = np.zeros(net.num_params)
        for batch in batches:
            _, gradients = engine.gradients(net, now, batch)
            flat = pack(gradients, "gradients", net.parameters)
            effect = np.abs(flat.astype(np.float64) * weights[: net.num_params])
            total += effect if order == "first" else effect**2
        return total / len(batches)

    return rank


def in_scope(net: Net, scope: str) -> npt.NDArray[np.bool_]:
    """Return which of the flat weights may go, [size of the net].

    `weights` are those of convolutions and linear layers; `all` has biases, activation slopes and
    normalisation too.
    """
    return np.concatenate(
        [
            np.full(p.size, scope == "all" or _is_weight(node, p))
            for node in net.nodes
            if not node.shared
            for p in node.parameters
        ]
    )


def _is_weight(node: Node, parameter: Parameter) -> bool:
    if isinstance(node.layer, layers.Module):  # as far as shapes tell
        return len(parameter.shape) > 1
    weighs = isinstance(node.layer, (layers.Conv, layers.Linear))
    return weighs and parameter.name.endswith(".weight")
