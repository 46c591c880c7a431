"""The engine protocol: lanes that train trials, a slice at a time, and can be stopped and moved.

Promise: a trial is a pure function of (net, candidate, seed, epochs, data) on one engine. Weights
start from `initial_weights`, data order comes from `order.places_of`, learning rates from
`recipe.learning_rates`; none of them depends on the lane, on what other lanes do, or on how often
the trial was stopped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
from typing_extensions import TypeVar

from golf_opt.config.errors import UsageError
from golf_opt.task import rng
from golf_opt.task.arch import Net
from golf_opt.task.data import Split, View
from golf_opt.task.modules.given import initial_tensors
from golf_opt.task.recipe import Candidate

Tensors = dict[str, npt.NDArray[Any]]
Floats = npt.NDArray[np.float32]
Message = Callable[[str], None]
MOMENTS = {  # what an optimiser keeps of each weight
    "adam": ("exp_avg", "exp_avg_sq"),
    "adamw": ("exp_avg", "exp_avg_sq"),
    "sgd": ("momentum",),
}


class Work(Protocol):
    """What a lane does for one trial, whichever engine does it."""

    @property
    def seed(self) -> int: ...

    @property
    def epochs(self) -> int: ...

    @property
    def parameters(self) -> Mapping[str, Any]:
        """What the trial tries, by name: what was tuned, and what is fixed."""


@dataclass(frozen=True)
class Job:
    """What a lane trains: everything that the result depends on, except the data and the engine."""

    net: Net
    candidate: Candidate
    seed: int
    epochs: int

    @property
    def parameters(self) -> Mapping[str, Any]:
        return self.candidate.to_dict()


@dataclass(frozen=True)
class EpochResult:
    """One finished epoch. Accuracies are fractions in [0, 1]."""

    epoch: int  # from 1
    loss: float  # mean training loss over the epoch's images, label smoothing included
    accuracy: float  # on the split that the objective is measured on
    lr: float  # of the epoch's last step
    time_s: float  # training and evaluation, without the time that other lanes took
    train_accuracy: float | None = None  # on all training images, after the job's last epoch

    @property
    def values(self) -> tuple[float, ...]:
        """What the study optimises, an objective each."""
        return (self.accuracy,)


@dataclass(frozen=True)
class Slice:
    """What one lane did in a step of the engine: a part of an epoch."""

    lane: int
    epoch: int  # the epoch being trained, from 1
    progress: float  # fraction of that epoch that is done, in [0, 1]
    result: EpochResult | None = None  # set when the epoch ended
    error: str | None = None  # set when training cannot go on, such as a loss that is not finite


@dataclass(frozen=True)
class LaneState:
    """All that a lane needs to go on elsewhere: tensors by name, and how far the trial is.

    Tensors are `weights/<parameter>`, `buffers/<buffer>`, and the optimiser's moments
    `exp_avg/<parameter>`, `exp_avg_sq/<parameter>` or `momentum/<parameter>`. A job may start from
    a state with `masks/<parameter>` of zeros and ones: a weight masked by zero stays zero.
    Moments that are missing are zero. A recipe that averages has `average/<parameter>` and
    `average/<buffer>`; where they are missing, they begin as the weights and buffers. One whose
    images come by their losses has `images/...`, see `order.Hardness`.
    """

    tensors: Tensors
    epoch: int  # finished epochs
    step: int  # finished steps of the epoch in progress
    loss_sum: float  # of the epoch in progress
    time_s: float  # spent on the epoch in progress

    @property
    def net(self) -> Tensors:
        """`weights/...` and `buffers/...` of what is evaluated and kept."""
        return evaluated(self.tensors)


class EngineFault(Exception):
    """The machine that trains has failed, and the engine with it; trials wait to go on."""


WorkT = TypeVar("WorkT", bound=Work, contravariant=True, default=Job)


class Engine(Protocol[WorkT]):
    """Trains jobs in numbered lanes. One thread calls it; it may use more inside."""

    name: str
    device: str
    num_lanes: int

    def start(
        self, lane: int, job: WorkT, state: LaneState | None = None, until: int | None = None
    ) -> None:
        """Put a job into a free lane, at its beginning or where `state` left it.

        Args:
            lane: a free one.
            job: its `epochs` rule the learning rates, wherever it rests.
            state: where it goes on.
            until: the epoch at whose end the lane rests; None is the job's last.
        """

    def extend(self, lane: int, until: int) -> None:
        """Let a lane that rests, or is on its way to, go on to the end of epoch `until`."""

    def step(self) -> list[Slice]:
        """Wait until a busy lane has done a slice, under about a second; return one from each.

        An engine that cannot know how long a slice takes returns without one after such a time.

        Where the engine has threads, every lane goes on by itself while the caller handles what
        was returned, so no lane waits for another or for the caller's bookkeeping. A lane that
        rests, whose last epoch ended, or that reported an error, stays occupied until `stop` and
        has no slices; where every lane is such a one, the answer is empty at once.
        """

    def state(self, lane: int) -> LaneState:
        """Return what the lane would need to go on elsewhere, as of its last returned slice."""

    def stop(self, lane: int) -> None:
        """Free the lane."""

    def evaluate(self, net: Net, tensors: Tensors, split: Split) -> float:
        """Return the accuracy in [0, 1] of `weights/...` and `buffers/...` on a split."""

    def close(self) -> None:
        """Release threads and device memory."""


@runtime_checkable
class Scoring(Engine, Protocol):
    """An engine that shows what a net says of images."""

    def logits(self, net: Net, tensors: Tensors, images: npt.NDArray[np.uint8]) -> Floats:
        """Return the class scores of images [n, channels, height, width], [n, classes] float32."""


@runtime_checkable
class Introspective(Scoring, Protocol):
    """An engine that shows more of a net than its accuracy; pruning works best with one.

    `tensors` are the net's `weights/...` and `buffers/...`; images are uint8 [n, channels, height,
    width].
    """

    def gradients(
        self,
        net: Net,
        tensors: Tensors,
        batch: Split,
        label_smoothing: float = 0.0,
        dropout_keys: Sequence[int] = (),
        distill: float = 0.0,
        temperature: float = 1.0,
    ) -> tuple[float, Tensors]:
        """Return the mean loss over one batch, `gradients/...` of it and `buffers/...` after it."""

    def gradients_of_each(self, net: Net, tensors: Tensors, split: Split) -> Floats:
        """Return the gradient of the loss on each image by itself, [n, size of the net] float32.

        Batch normalisation takes the image's own statistics.
        """

    def counter(self, net: Net, tensors: Tensors) -> Callable[[Floats, Split], int]:
        """Return a function of flat weights and a split: how many images get their label.

        The weights are those of `net.parameters` in order, padded with zeros to whole vectors. It
        has memory of its own, so that each thread can have one.
        """


def evaluated(tensors: Tensors) -> Tensors:
    """Return `weights/...` and `buffers/...` alone, of the averages where there are any."""
    return {
        name: tensors.get(f"average/{name.partition('/')[2]}", values)
        for name, values in tensors.items()
        if name.startswith(("weights/", "buffers/"))
    }


def check_teacher(job: Job, view: View) -> None:
    """Refuse to learn from a teacher where the data has none.

    Raises:
        UsageError: so it is.
    """
    if job.candidate.distill and view.train.soft is None:
        raise UsageError(
            f"distill is {job.candidate.distill:g}, but must be 0 without a teacher; give "
            "teacher=FOLDER, which golf-opt teach makes."
        )


def not_finite(lane: int, epoch: int, progress: float, loss: float) -> Slice:
    """Return the slice of a lane that cannot go on, since its loss is infinite or not a number."""
    word = "inf" if math.isinf(loss) else "nan"
    return Slice(lane, epoch, progress, error=f"training loss became {word} in epoch {epoch}")


def data_order(seed: int, epoch: int, n: int) -> npt.NDArray[np.int64]:
    """Return the order in which epoch `epoch` (from 0) visits the n training images."""
    return rng.permutation(rng.derive(seed, "order", epoch), n)


def steps_per_epoch(n: int, batch_size: int) -> int:
    """Steps in an epoch; the last batch may be smaller, as with DataLoader(drop_last=False)."""
    return -(-n // batch_size)


def initial_weights(net: Net, seed: int) -> Tensors:
    """Return `weights/...` and `buffers/...` as PyTorch's defaults would draw them, from `seed`.

    A module of the user's draws its own.
    """
    if net.module is not None:
        return initial_tensors(net.module, seed)
    tensors: Tensors = {}
    for index, parameter in enumerate(net.parameters):
        values = np.full(parameter.size, parameter.fill, dtype=np.float32)
        if parameter.bound is not None:
            draw = rng.uniform(rng.derive(seed, "init", index), parameter.size)
            values = (draw * np.float32(2) - np.float32(1)) * np.float32(parameter.bound)
        tensors[f"weights/{parameter.name}"] = values.reshape(parameter.shape)
    for buffer in net.buffers:
        tensors[f"buffers/{buffer.name}"] = np.full(buffer.shape, buffer.fill, dtype=np.float32)
    return tensors


def dropout_key(seed: int, node_index: int, step: int) -> int:
    """Return the key of one dropout layer at one global step (epoch * steps_per_epoch + step).

    Element i of the batch's activations, in [image, channel, y, x] order, is kept where
    `rng.uniform(key, n)[i] >= p`, and divided by 1 - p.
    """
    return rng.derive(seed, "dropout", node_index, step)


def module_key(seed: int, epoch: int, step: int) -> int:
    """Return the seed of what is random in a user's module, at one step of one epoch."""
    return rng.derive(seed, "module", epoch, step)


# The same keys in the form that compiled code takes.


def order_half(n: int) -> int:
    """Return the bits of one half of `data_order`'s permutation of n images."""
    return max(1, ((n - 1).bit_length() + 1) // 2)


def order_keys(seed: int, epoch: int) -> list[int]:
    """Return the key of each of the permutation's rounds."""
    key = rng.derive(seed, "order", epoch)
    return [rng.derive(key, turn) for turn in range(rng.FEISTEL_ROUNDS)]


def dropout_prefixes(seed: int, nodes: Sequence[int]) -> npt.NDArray[np.uint32]:
    """Return the part of `dropout_key` in front of the step, [nodes]."""
    return np.array([rng.derive(seed, "dropout", node) for node in nodes], dtype=np.uint32)


def dropout_keys(
    seed: int, nodes: Sequence[int], steps: npt.NDArray[Any]
) -> npt.NDArray[np.uint32]:
    """Return `dropout_key` of many steps at once, [steps, nodes]."""
    prefixes = dropout_prefixes(seed, nodes)
    return rng.mix(steps.astype(np.uint32)[:, None] ^ prefixes) + np.uint32(0x9E3779B9)
