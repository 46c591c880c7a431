"""What a learning curve comes to at its last epoch, from its beginning."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache

import numpy as np

POWERS = np.array([0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0])  # of the epoch, in how a curve flattens
FEWEST = 3  # epochs that a curve is drawn through


def extrapolated(values: Mapping[int, float], epoch: int, sign: int = 1) -> float:
    """Return the value that a curve is expected to have at the end of an epoch.

    The curve is `a - b / epoch ** c` with b not negative, through the last epochs above all, by
    least squares for each c of a few. It never ends below its last value, and never gains more than
    the last step's gain an epoch. Of fewer than three epochs it is the last value itself.

    Args:
        values: by epoch, from 1; not empty.
        epoch: any; before the last one of the curve it makes no difference.
        sign: 1 where larger is better, -1 where smaller is.
    """
    return _end(tuple(sorted(values.items())), epoch, sign)


@lru_cache(maxsize=100_000)  # a search looks at the curves of all its paused trials at every ask
def _end(curve: tuple[tuple[int, float], ...], epoch: int, sign: int) -> float:
    values = dict(curve)
    epochs = np.array([step for step in values if step > 0], dtype=np.float64)
    last = values[max(values)]
    if len(epochs) < FEWEST or epoch <= epochs[-1]:
        return last
    heights = sign * np.array([values[int(step)] for step in epochs])
    if not np.isfinite(heights).all():
        return last
    weights = epochs / epochs[-1]
    shapes = -(epochs[None, :] ** -POWERS[:, None])  # [powers, epochs], rising
    mean = (shapes @ weights / weights.sum())[:, None]
    height = heights @ weights / weights.sum()
    slopes = ((shapes - mean) * (heights - height)) @ weights
    slopes = np.maximum(slopes / ((shapes - mean) ** 2 @ weights), 0.0)
    misses = ((heights - height - slopes[:, None] * (shapes - mean)) ** 2) @ weights
    best = int(np.argmin(misses))
    gain = slopes[best] * (float(epochs[-1]) ** -POWERS[best] - float(epoch) ** -POWERS[best])
    per_epoch = max(0.0, (heights[-1] - heights[0]) / (epochs[-1] - epochs[0]))
    gain = min(float(gain), per_epoch * (epoch - float(epochs[-1])))
    end = float(heights[-1]) + gain
    return sign * end if math.isfinite(end) else last
