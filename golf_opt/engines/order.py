"""Which images an epoch trains on, and in which order: each once, or by the loss that each had.

The loss is that of the image when it was last trained on, rounded to a power of two: so all engines
draw the same images, and a trial keeps half a byte of each. Draws are a function of the seed, the
epoch and these levels. In the first epoch nothing is known, and each image has its turn.

Of `forgetting` a level is something else: how often the image was right when it was last trained on
and then wrong, up to seven times, and whether it is right now (Toneva et al. 2019).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from golf_opt.engines.base import Floats, Job, LaneState, Tensors, data_order
from golf_opt.task import rng

LEVELS = 16  # losses below 2**-10, then one for each power of two
HIGHEST = 5  # losses of 2**4 and more have the last level
RIGHT = float(np.log(2))  # below that an image's own class has more than half of what there is
MOST_FORGOTTEN = 7  # times that are counted
CURRICULUM_END = 0.5  # the share of the training behind which no image is left out

Levels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Places:
    """The images of an epoch.

    `worth` is what each of them counts in the mean of its batch, [n] float32; None is one each.
    """

    images: npt.NDArray[np.uint32]
    worth: Floats | None = None


@dataclass(frozen=True)
class Hardness:
    """The level of each training image's loss when it was last trained on, [n] each.

    Attributes:
        before: as the epoch in progress began: its images are drawn by them.
        now: after the steps that it has done.
        forgetting: whether levels are of that.
    """

    before: Levels
    now: Levels
    forgetting: bool = False

    @classmethod
    def begin(cls, job: Job, state: LaneState | None, n: int) -> Hardness | None:
        """Return what a job needs to know of its n images; None where it needs nothing.

        Levels that are missing, or are of another number of images, are all the same.
        """
        if not job.candidate.by_loss:
            return None
        tensors = state.tensors if state else {}
        before = _unpacked(tensors.get("images/before"), n, np.zeros(n, dtype=np.uint8))
        now = _unpacked(tensors.get("images/now"), n, before.copy())
        return cls(before, now, job.candidate.order == "forgetting")

    def note(self, images: npt.NDArray[Any], losses: npt.NDArray[Any]) -> None:
        """Keep the losses of some images; of an image that is there twice the last one counts."""
        if self.forgetting:
            was, right = self.before[images], losses < RIGHT  # however the epoch is cut up
            times = np.minimum((was >> 1) + ((was & 1) > right), MOST_FORGOTTEN)
            self.now[images] = 2 * times + right
            return
        _, exponents = np.frexp(np.maximum(losses, 2.0**-20))  # a loss is below 2**exponent
        self.now[images] = np.clip(exponents + LEVELS - 1 - HIGHEST, 0, LEVELS - 1)

    def at_epochs_end(self) -> Hardness:
        """Return what the next epoch begins with."""
        return replace(self, before=self.now, now=self.now.copy())

    def copy(self) -> Hardness:
        return replace(self, now=self.now.copy())  # nobody writes to the other

    def weights(self) -> npt.NDArray[Any]:
        """Return what images are drawn in proportion to, [n]."""
        if not self.forgetting:
            return np.ldexp(1.0, self.before)
        times = (self.before >> 1) + 1.0 - (self.before & 1)  # what is wrong may be forgotten next
        return times if times.any() else np.ones(len(times))

    def tensors(self, step: int) -> Tensors:
        """Return `images/before` and, in the middle of an epoch, `images/now`."""
        found: Tensors = {"images/before": _packed(self.before)}
        return found | {"images/now": _packed(self.now)} if step else found


def places_of(
    job: Job,
    epoch: int,
    n: int,
    hardness: Hardness | None,
    shuffled: npt.NDArray[Any] | None = None,
) -> Places:
    """Return the images of epoch `epoch` (from 0).

    Args:
        job: whose recipe says how they are drawn.
        epoch: which one.
        n: the number of training images, and of places.
        hardness: of them, where the recipe looks at it.
        shuffled: `data_order` of the epoch, if it is there already.

    `importance`, `hard` and `forgetting` draw an image with probability p, which is (1 - share) / n
    + share * its weight / the sum of the weights: of its loss or, of `forgetting`, of how often it
    was forgotten, with one more where it is wrong now. Draws are systematic: an image comes up as
    often as n p says, rounded up or down at random. With `importance` it counts 1 / (n p), so that
    gradients are those of the mean loss on average (Katharopoulos and Fleuret 2018). `curriculum`
    leaves out the share of the images that are hardest; it falls to 0 along the first half of the
    training.
    """
    shuffled = data_order(job.seed, epoch, n) if shuffled is None else shuffled
    if hardness is None:
        return Places(shuffled.astype(np.uint32, copy=False))
    levels, share, worth = hardness.before, job.candidate.order_share, None
    if job.candidate.order == "curriculum":
        out = share * max(0.0, 1 - epoch / (CURRICULUM_END * job.epochs)) if epoch else 0.0
        easiest = shuffled[np.argsort(levels[shuffled], kind="stable")]  # ties at random
        pool = np.sort(easiest[: n - int(out * n)])
        drawn = pool[np.arange(n) % len(pool)]
    else:
        weights = hardness.weights()
        often = 1 - share + share * n * weights / weights.sum()  # n p
        start = rng.uniform(rng.derive(job.seed, "draw", epoch), 1)[0]
        ends = np.ceil(np.cumsum(often[shuffled]) - start).astype(np.int64)
        ends[-1] = n
        times = np.empty(n, dtype=np.int64)
        times[shuffled] = np.diff(ends, prepend=0)  # by chance, who comes up together too
        drawn = np.repeat(np.arange(n), times)
        if job.candidate.order == "importance":
            worth = (1 / often[drawn[shuffled]]).astype(np.float32)
    return Places(drawn[shuffled].astype(np.uint32), worth)


def _packed(levels: Levels) -> Levels:
    """Return two levels a byte."""
    even = np.append(levels, np.zeros(len(levels) % 2, dtype=np.uint8))
    packed: Levels = even[::2] | even[1::2] << np.uint8(4)
    return packed


def _unpacked(pairs: Levels | None, n: int, otherwise: Levels) -> Levels:
    if pairs is None or len(pairs) != -(-n // 2):
        return otherwise
    return np.stack([pairs & 15, pairs >> 4], axis=1).ravel()[:n]
