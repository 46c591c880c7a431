"""Drift: values move by small random steps to where fewer images of the guide are wrong.

A step changes a weight by what costs the training loss little: Fisher's information says how far
that is. It stays where no more errors are counted than before, among the images that the net is
nearly undecided about; a leg of the walk stays where that holds for all images. Steps of the last
layer are counted from its features, which costs far less than a whole evaluation.

What a guide gains so is its own, and other images do not share in it. So a search like this is for
where the guide is what is asked for, and not for images held out to tell what others would say.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import numpy.typing as npt

from golf_opt.engines.base import Floats, Tensors
from golf_opt.engines.flat import unpack
from golf_opt.golf.pruning.head import Head, first_of_head
from golf_opt.golf.pruning.search import Evaluator
from golf_opt.task.arch import Net
from golf_opt.task.data import Split

DAMPING = 1e-4  # of the information, as the surgeon has it
REACH = (1.5e-3, 1.5e-2)  # of a step: the root of twice what the training loss would rise by
UNDECIDED = 0.08  # of the images, those that are counted in each step
STEPS = 60  # of a leg, of weights before the last layer; evaluations
HEAD_STEPS = 3000  # of the last layer's

Count = Callable[[int, float], int]  # the errors with another value of a weight
Take = Callable[[int, float], None]  # gives it that value


def drift(
    net: Net,
    weights: Floats,
    buffers: Tensors,
    each: Floats,
    evaluator: Evaluator,
    goal: int,
    legs: int,
    random: np.random.Generator,
) -> tuple[Floats, int]:
    """Return flat weights with the fewest errors that were found, and how many those are.

    Args:
        net: the net.
        weights: to begin with; those that are zero stay so.
        buffers: `buffers/...`.
        each: gradients of training images, [images, size of the net].
        evaluator: counts errors.
        goal: errors that are few enough.
        legs: to go, at most.
        random: of the steps.
    """
    alive = np.flatnonzero(weights[: net.num_params])
    flat = 1 / np.sqrt((each[:, alive].astype(np.float64) ** 2).mean(axis=0) + DAMPING)
    front, last = np.split(np.arange(len(alive)), [np.searchsorted(alive, first_of_head(net))])

    def go(
        here: Floats,
        near: Split,
        places: npt.NDArray[np.int64],
        steps: int,
        count: Count,
        take: Take,
    ) -> None:
        errors = evaluator.errors_among(here, near)
        low, high = np.log(REACH)
        reach = np.exp(random.uniform(low, high, steps)) * random.normal(size=steps)
        for place, far in zip(random.choice(places, steps), reach, strict=True):
            index = int(alive[place])
            value = float(np.float32(here[index] + far * flat[place]))
            if (found := count(index, value)) <= errors:
                take(index, value)
                here[index], errors = value, found

    best, least = weights, evaluator.errors(weights)
    for _ in range(legs):
        if least <= goal:
            break
        here = best.copy()
        near = evaluator.undecided(here, UNDECIDED)
        if len(last):
            tensors = unpack(here, "weights", net.parameters) | buffers
            head = Head(net, tensors, near)
            go(here, near, last, HEAD_STEPS, head.errors, head.set)
        if len(front):
            whole = partial(_errors_with, here, near, evaluator)
            go(here, near, front, STEPS, whole, lambda index, value: None)
        if (found := evaluator.errors(here, least)) <= least:
            best, least = here, found
    return best, least


def _errors_with(
    weights: Floats, images: Split, evaluator: Evaluator, index: int, value: float
) -> int:
    changed = weights.copy()
    changed[index] = value
    return evaluator.errors_among(changed, images)
