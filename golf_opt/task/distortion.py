"""Images distorted at random while they train: where each pixel of a distorted image comes from.

Every image of an epoch draws numbers by its position there: an affine map around the image's middle
(turned, scaled, sheared, shifted), a bending of it that is given at knots and linear between them
(a coarse form of the elastic distortions of Simard, Steinkraus and Platt 2003), and a square of the
image's proportions that is cut out (DeVries and Taylor 2017). The image is then sampled once,
bilinearly; outside of it, and in the square, are zero bytes. Compiled code does the same, see
`kernel/distort.hpp`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from golf_opt.task import rng
from golf_opt.task.recipe import Candidate

DRAWS = 64  # numbers of an image: seven, and from KNOTS on two for each knot
MIX = 7  # of a batch's first image: how much its images are mixed
KNOTS = 8
KNOTS_BESIDE = 5
CELLS = 4  # between knots, along the longer side
FINENESS = 256  # positions are rounded to such parts of a pixel

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Sources:
    """Where the pixels of distorted images come from, in pixels of the images as they are.

    `x` and `y` are [n, height, width]: 0 is the middle of the first column or row. `kept` has the
    same shape, and is 0 where an image is cut out before it is sampled, 1 elsewhere.
    """

    x: Array
    y: Array
    kept: Array


def distortion_key(seed: int, epoch: int) -> int:
    """Return the key of what the images of epoch `epoch` (from 0) draw."""
    return rng.derive(seed, "distort", epoch)


def sources(
    candidate: Candidate, key: int, positions: npt.NDArray[np.int64], height: int, width: int
) -> Sources:
    """Return where the pixels of n images come from.

    Args:
        candidate: the recipe, whose strengths say how far draws go.
        key: of the epoch.
        positions: of the images in the epoch, [n].
        height: of an image.
        width: likewise.
    """
    counters = positions[:, None] * DRAWS + np.arange(DRAWS)
    draws = rng.uniform_at(key, counters).astype(np.float64)[..., None, None]  # [n, DRAWS, 1, 1]
    around = 2 * draws - 1  # in [-1, 1)
    angle = np.radians(candidate.rotate) * around[:, 0]
    step = 1 / (1 + candidate.scale * around[:, 1])
    shear = candidate.shear * around[:, 2]
    rows, columns = np.arange(height)[:, None], np.arange(width)
    y, x = rows - (height - 1) / 2, columns - (width - 1) / 2
    sheared, cos, sin = x + shear * y, np.cos(angle), np.sin(angle)
    from_x = (cos * sheared - sin * y) * step + candidate.shift * around[:, 3] + (width - 1) / 2
    from_y = (sin * sheared + cos * y) * step + candidate.shift * around[:, 4] + (height - 1) / 2
    knots = candidate.elastic * around[:, KNOTS : KNOTS + 2 * KNOTS_BESIDE**2, 0, 0]
    bend = _between_knots(knots.reshape(-1, KNOTS_BESIDE, KNOTS_BESIDE, 2), height, width)
    outside = _far(columns, draws[:, 5] * width, candidate.erase * width)
    outside = outside | _far(rows, draws[:, 6] * height, candidate.erase * height)
    kept = outside.astype(np.float64)
    return Sources(_rounded(from_x + bend[..., 0]), _rounded(from_y + bend[..., 1]), kept)


def share_of_next(candidate: Candidate, key: int, position: int) -> float:
    """Return how much of the next image, and of its loss, is in each image of a batch.

    Behind the last one comes the first. With `mixup=0.5` this is what Zhang et al. (2018) do with
    alpha = 1: which of two images has the larger share makes no difference there.

    Args:
        candidate: the recipe, whose `mixup` says how far draws go.
        key: of the epoch, `distortion_key`.
        position: of the batch's first image in the epoch.
    """
    return candidate.mixup * float(rng.uniform_at(key, np.array([position * DRAWS + MIX]))[0])


def _between_knots(knots: Array, height: int, width: int) -> Array:
    """Interpolate [n, rows of knots, knots of a row, 2] at each pixel: [n, height, width, 2]."""
    cell = -(-max(height, width) // CELLS)
    y, x = (np.divmod(np.arange(side), cell) for side in (height, width))
    down, across = (y[1] / cell)[:, None, None], (x[1] / cell)[:, None]
    row = knots[:, y[0]] * (1 - down) + knots[:, y[0] + 1] * down
    return row[:, :, x[0]] * (1 - across) + row[:, :, x[0] + 1] * across


def _far(pixels: npt.NDArray[np.int64], middle: Array, side: float) -> npt.NDArray[np.bool_]:
    """Whether the middle of a pixel is half a side or more away from the middle of a square."""
    return (pixels + 0.5 <= middle - side / 2) | (pixels + 0.5 > middle + side / 2)


def _rounded(values: Array) -> Array:
    return np.floor(values * FINENESS + 0.5) / FINENESS
