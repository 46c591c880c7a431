"""The optimal brain surgeon: which weight can go at the least loss if the others make up for it.

Hassibi, Stork, "Second order derivatives for network pruning", 1992. With the Hessian H of the
loss, removing weight q costs w_q^2 / (2 [H^-1]_qq), and -w_q / [H^-1]_qq H^-1 e_q is what the
others are to change by. H is Fisher's information: the mean of g g^T over images, g the gradient
for a label drawn from what the net itself believes. Nets this small have room for all of H.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from golf_opt.engines.base import Floats, Introspective, Tensors
from golf_opt.task import rng
from golf_opt.task.arch import Net
from golf_opt.task.data import Split

IMAGES = 4096  # that the information is measured on
LARGEST = 4096  # survivors; more would take minutes and gigabytes


def gradients(
    engine: Introspective,
    net: Net,
    tensors: Tensors,
    train: Split,
    key: int,
    believed: bool = True,
) -> Floats:
    """Return a gradient for each of IMAGES training images, [images, size of the net].

    Args:
        engine: that gives gradients.
        net: whose they are.
        tensors: its `weights/...` and `buffers/...`.
        train: the images.
        key: of the choice of images and labels.
        believed: for labels that the net believes, as Fisher's information has it; else true ones.
    """
    chosen = rng.permutation(rng.derive(key, "images"), len(train))[:IMAGES]
    images, labels = train.images[chosen], train.labels[chosen]
    if believed:
        scores = engine.logits(net, tensors, images).astype(np.float64)
        belief = np.exp(scores - scores.max(axis=1, keepdims=True))
        up_to = belief.cumsum(axis=1) / belief.sum(axis=1, keepdims=True)
        draw = rng.uniform(rng.derive(key, "labels"), len(images))[:, None]
        labels = (up_to > draw).argmax(axis=1).astype(np.uint8)
    return engine.gradients_of_each(net, tensors, Split("chosen", images, labels))


def remove(
    weights: Floats,
    scope: npt.NDArray[np.bool_],
    each: Floats,
    step: int,
    damping: float,
    prejudice: npt.NDArray[np.float64] | None = None,
) -> Floats:
    """Return flat weights with `step` of them gone, the others making up for it.

    Args:
        weights: flat; those that are zero stay zero.
        scope: which may go, [size of the net].
        each: gradients of images, [images, size of the net].
        step: how many to remove, one after the other.
        damping: added to the diagonal of the information.
        prejudice: factors of the cost, [size of the net], for other choices nearly as good.
    """
    alive = np.flatnonzero(weights[: len(scope)])
    inverse = _inverse(each[:, alive], damping)
    left = weights[alive].astype(np.float64)
    may_go = scope[alive].copy()
    factor = 1.0 if prejudice is None else prejudice[alive]
    gone = np.zeros(len(alive), dtype=bool)
    for _ in range(min(step, int(may_go.sum()))):
        cost = factor * left**2 / np.maximum(np.diag(inverse), 1e-30)
        least = int(np.argmin(np.where(may_go, cost, np.inf)))
        column = inverse[:, least] / inverse[least, least]
        left -= left[least] * column
        inverse -= np.outer(column, inverse[least])
        inverse[least], inverse[:, least] = 0, 0
        may_go[least], gone[least] = False, True
        left[gone] = 0
    after = weights.copy()
    after[alive] = left
    return after


def single(
    weights: Floats, scope: npt.NDArray[np.bool_], each: Floats, damping: float
) -> Iterator[Floats]:
    """Yield flat weights with one of them gone, the others making up for it; the cheapest first.

    The arguments are those of `remove`.
    """
    alive = np.flatnonzero(weights[: len(scope)])
    inverse = _inverse(each[:, alive], damping)
    left = weights[alive].astype(np.float64)
    cost = left**2 / np.maximum(np.diag(inverse), 1e-30)
    for gone in np.argsort(cost, kind="stable"):
        if scope[alive[gone]]:
            after = weights.copy()
            after[alive] = left - left[gone] / inverse[gone, gone] * inverse[gone]
            after[alive[gone]] = 0
            yield after


def _inverse(each: Floats, damping: float) -> npt.NDArray[np.floating[Any]]:
    rows = each.astype(np.float64)
    information = rows.T @ rows / len(rows)
    return np.linalg.inv(information + damping * np.eye(rows.shape[1]))
