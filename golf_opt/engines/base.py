"""The engine protocol: lanes that train trials, a slice at a time, and can be stopped and moved.

Promise: a trial is a pure function of (net, candidate, seed, epochs, data) on one engine. Weights
start from `initial_weights`, data order comes from `data_order`, learning rates from
`recipe.learning_rates`; none of them depends on the lane, on what other lanes do, or on how often
the trial was stopped.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from golf_opt.task import rng
from golf_opt.task.arch import Net
from golf_opt.task.data import Split
from golf_opt.task.recipe import Candidate

Tensors = dict[str, npt.NDArray[Any]]
DROPOUT_KEY = "dropout"


@dataclass(frozen=True)
class Job:
    """What a lane trains: everything that the result depends on, except the data and the engine."""

    net: Net
    candidate: Candidate
    seed: int
    epochs: int


@dataclass(frozen=True)
class EpochResult:
    """One finished epoch. Accuracies are shares in [0, 1]."""

    epoch: int  # from 1
    loss: float  # mean training loss over the epoch's images, label smoothing included
    accuracy: float  # on the split that the objective is measured on
    lr: float  # of the epoch's last step
    time_s: float  # training and evaluation, without the time that other lanes took
    train_accuracy: float | None = None  # on all training images, after the job's last epoch


@dataclass(frozen=True)
class Slice:
    """What one lane did in a step of the engine: a share of an epoch."""

    lane: int
    epoch: int  # the epoch being trained, from 1
    progress: float  # share of that epoch that is done, in [0, 1]
    result: EpochResult | None = None  # set when the epoch ended
    error: str | None = None  # set when training cannot go on, such as a loss that is not finite


@dataclass(frozen=True)
class LaneState:
    """All that a lane needs to go on elsewhere: tensors by name, and where the trial stands.

    Tensors are `weights/<parameter>`, `buffers/<buffer>`, and the optimiser's moments
    `exp_avg/<parameter>`, `exp_avg_sq/<parameter>` or `momentum/<parameter>`. A job may start from
    a state with `masks/<parameter>` of zeros and ones: a weight masked by zero stays zero.
    Moments that are missing are zero.
    """

    tensors: Tensors
    epoch: int  # finished epochs
    step: int  # finished steps of the epoch in progress
    loss_sum: float  # of the epoch in progress
    time_s: float  # spent on the epoch in progress


class EngineFault(Exception):
    """The machine that trains has failed, and the engine with it; trials wait to go on."""


class Engine(Protocol):
    """Trains jobs in numbered lanes. One thread calls it; it may use more inside."""

    name: str
    device: str
    num_lanes: int

    def start(self, lane: int, job: Job, state: LaneState | None = None) -> None:
        """Put a job into a free lane, at its beginning or where `state` stands."""

    def step(self) -> list[Slice]:
        """Wait until a busy lane has done a slice, under about a second; return one from each.

        Where the engine has threads, every lane goes on by itself while the caller handles what
        was returned, so no lane waits for another or for the caller's bookkeeping. A lane whose
        last epoch ended, or that reported an error, stays occupied until `stop`.
        """

    def state(self, lane: int) -> LaneState:
        """Return what the lane would need to go on elsewhere, as of its last returned slice."""

    def stop(self, lane: int) -> None:
        """Free the lane."""

    def evaluate(self, net: Net, tensors: Mapping[str, npt.NDArray[Any]], split: Split) -> float:
        """Return the accuracy in [0, 1] of `weights/...` and `buffers/...` on a split."""

    def close(self) -> None:
        """Release threads and device memory."""


def data_order(seed: int, epoch: int, n: int) -> npt.NDArray[np.int64]:
    """Return the order in which epoch `epoch` (from 0) visits the n training images."""
    return rng.permutation(rng.derive(seed, "order", epoch), n)


def steps_per_epoch(n: int, batch_size: int) -> int:
    """Steps in an epoch; the last batch may be smaller, as with DataLoader(drop_last=False)."""
    return -(-n // batch_size)


def initial_weights(net: Net, seed: int) -> Tensors:
    """Return `weights/...` and `buffers/...` as PyTorch's defaults would draw them, from `seed`."""
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
    return rng.derive(seed, DROPOUT_KEY, node_index, step)
