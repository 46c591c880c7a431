"""The training recipe: the hyperparameters of one trial, and the learning rates they stand for."""

from __future__ import annotations

from dataclasses import fields
from typing import Annotated, Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from pydantic import Field, StrictFloat

from golf_opt.config.check import model
from golf_opt.config.types import AsGiven, Positive

Schedule = Literal["step", "cosine", "one_cycle", "constant", "cyclic"]
Optimizer = Literal["adam", "adamw", "sgd"]
Average = Literal["none", "ema", "swa"]
Order = Literal["uniform", "importance", "hard", "curriculum", "forgetting"]
SCHEDULES: tuple[str, ...] = get_args(Schedule)
DISTORTIONS = ("shift", "rotate", "scale", "shear", "elastic", "erase")
OPTIMIZERS: tuple[str, ...] = get_args(Optimizer)
OF_0_1 = (
    "batch_size",
    "lr",
    "step_size",
    "gamma",
    "schedule",
    "optimizer",
    "weight_decay",
    "label_smoothing",
)
ADAM_BETAS = (0.9, 0.999)
ADAM_EPS = 1e-8
SGD_MOMENTUM = 0.9
ONE_CYCLE_WARMUP = 0.3  # share of the steps; PyTorch's OneCycleLR default
ONE_CYCLE_START = 25.0  # initial rate = lr / 25, likewise
ONE_CYCLE_END = 1e4  # final rate = initial rate / 1e4, likewise


@model
class Candidate:
    """The hyperparameters of one trial; what a search space does not name keeps its default."""

    batch_size: Positive
    lr: Annotated[StrictFloat, Field(gt=0), AsGiven]
    step_size: Positive = 1  # epochs between two decays of `step`, or of a cycle of `cyclic`
    # factor of each decay; 1.0 is none
    gamma: Annotated[StrictFloat, Field(gt=0, le=1), AsGiven] = 1.0
    schedule: Schedule = "step"
    optimizer: Optimizer = "adam"
    # L2 for adam and sgd, decoupled for adamw, as in torch.optim
    weight_decay: Annotated[StrictFloat, Field(ge=0), AsGiven] = 0.0
    label_smoothing: Annotated[StrictFloat, Field(ge=0, le=0.999), AsGiven] = 0.0
    # what is evaluated and kept: the weights as they are, or their average along the way
    average: Average = "none"
    # fraction of the training: what `ema` forgets in by 1/e, and the end that `swa` is the mean of
    average_span: Annotated[StrictFloat, Field(gt=0, le=1), AsGiven] = 0.1
    # the share of the loss that is the distance to a teacher instead of that to the labels
    distill: Annotated[StrictFloat, Field(ge=0, le=1), AsGiven] = 0.0
    # that softens teacher and net for it; the higher, the more wrong classes count
    temperature: Annotated[StrictFloat, Field(ge=0.1, le=100), AsGiven] = 4.0
    # how far training images are distorted at most, each by draws of its own; 0 is not at all
    shift: Annotated[StrictFloat, Field(ge=0, le=96), AsGiven] = 0.0  # pixels
    rotate: Annotated[StrictFloat, Field(ge=0, le=180), AsGiven] = 0.0  # degrees
    scale: Annotated[StrictFloat, Field(ge=0, le=0.5), AsGiven] = 0.0  # fraction of the size
    shear: Annotated[StrictFloat, Field(ge=0, le=1), AsGiven] = 0.0  # pixels across for one down
    elastic: Annotated[StrictFloat, Field(ge=0, le=96), AsGiven] = 0.0  # pixels
    # fraction of height and width that is cut out, of every image
    erase: Annotated[StrictFloat, Field(ge=0, le=1), AsGiven] = 0.0
    # the largest share of another image of the batch, and of its label, that is mixed into each
    mixup: Annotated[StrictFloat, Field(ge=0, le=0.5), AsGiven] = 0.0
    # which images an epoch trains on: each once, or more or less often by its loss
    order: Order = "uniform"
    # how far it goes by loss: a share of draws, or of images that `curriculum` leaves out at first
    order_share: Annotated[StrictFloat, Field(ge=0, le=0.95), AsGiven] = 0.5

    @property
    def distorts(self) -> bool:
        """Whether training images are distorted."""
        return any(getattr(self, name) for name in DISTORTIONS)

    @property
    def mixes(self) -> bool:
        """Whether training images are mixed with each other."""
        return self.mixup > 0

    @property
    def draws_images(self) -> bool:
        """Whether training images are other ones in each epoch."""
        return self.distorts or self.mixes

    @property
    def by_loss(self) -> bool:
        """Whether the images of an epoch depend on the losses that they had."""
        return self.order != "uniform"

    @property
    def asks_of_code(self) -> dict[str, bool]:
        """What compiled code does for some recipes alone; any other is without it."""
        return {"distorts": self.distorts, "by_loss": self.by_loss, "mixes": self.mixes}

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data, without what came later than 0.1 and has its default.

        So what 0.1 stored is still of the same candidate.
        """
        values = ((field, getattr(self, field.name)) for field in fields(self))
        return {
            field.name: value
            for field, value in values
            if field.name in OF_0_1 or value != field.default
        }


PARAMETERS = tuple(field.name for field in fields(Candidate))


def learning_rates(
    candidate: Candidate, epoch: int, epochs: int, steps_per_epoch: int
) -> npt.NDArray[np.float64]:
    """Return the learning rate of every step of one epoch, [steps_per_epoch] float64.

    Args:
        candidate: the recipe.
        epoch: which epoch, from 0.
        epochs: how many the whole trial has.
        steps_per_epoch: optimiser steps in each.

    `step` is torch.optim.lr_scheduler.StepLR stepped once an epoch; `cosine` and `one_cycle` are
    CosineAnnealingLR and OneCycleLR stepped once a step. `cyclic` is CosineAnnealingWarmRestarts
    in cycles of `step_size` epochs, the last of which ends with the training.
    """
    step = epoch * steps_per_epoch + np.arange(steps_per_epoch, dtype=np.float64)
    total = epochs * steps_per_epoch
    lr = candidate.lr
    if candidate.schedule == "step":
        decays = epoch // candidate.step_size
        return np.full(steps_per_epoch, lr * candidate.gamma**decays)
    if candidate.schedule == "cosine":
        return lr * 0.5 * (1 + np.cos(np.pi * step / total))
    if candidate.schedule == "one_cycle":
        return _one_cycle(lr, step, total)
    if candidate.schedule == "cyclic":
        cycle = candidate.step_size * steps_per_epoch
        return lr * 0.5 * (1 + np.cos(np.pi * ((step - total) % cycle) / cycle))
    return np.full(steps_per_epoch, lr)


def _one_cycle(lr: float, step: npt.NDArray[np.float64], total: int) -> npt.NDArray[np.float64]:
    start, end = lr / ONE_CYCLE_START, lr / ONE_CYCLE_START / ONE_CYCLE_END
    peak = ONE_CYCLE_WARMUP * total - 1
    rise = start + (lr - start) * 0.5 * (1 - np.cos(np.pi * step / max(peak, 1e-9)))
    fall_share = (step - peak) / max(total - 1 - peak, 1e-9)
    fall = end + (lr - end) * 0.5 * (1 + np.cos(np.pi * fall_share))
    return np.where(step <= peak, rise, fall)


def average_rates(
    candidate: Candidate, epoch: int, epochs: int, steps_per_epoch: int
) -> npt.NDArray[np.float64] | None:
    """Return how far the average goes towards the weights after each step of one epoch.

    Args:
        candidate: the recipe.
        epoch: which epoch, from 0.
        epochs: how many the whole trial has.
        steps_per_epoch: optimiser steps in each.

    Returns:
        [steps_per_epoch] float64 in [0, 1], each for `average += rate * (weights - average)`; None
        where nothing is averaged. The first step of a training has rate 1, which is a copy.

    `ema` is the mean of the weights so far, of which those t steps ago count exp(-t / span): an
    exponential moving average without a bias towards the first (Kingma and Ba 2014). `swa` is the
    mean of the weights after each step in the last part of the training, or of those at the end of
    each cycle of `cyclic` (Izmailov et al. 2018); up to there the average is the weights.
    """
    if candidate.average == "none":
        return None
    step = epoch * steps_per_epoch + np.arange(steps_per_epoch, dtype=np.int64)
    total = epochs * steps_per_epoch
    span = candidate.average_span * total
    if candidate.average == "ema":
        rates: npt.NDArray[np.float64] = np.expm1(-1 / span) / np.expm1(-(step + 1) / span)
        return rates
    first = min(round(total - span), total - 1)
    apart = candidate.step_size * steps_per_epoch if candidate.schedule == "cyclic" else 1
    count = (total - 1 - first) // apart - (total - 2 - step) // apart  # up to this step
    sampled = (total - 1 - step) % apart == 0
    return np.where(count < 1, 1.0, sampled / np.maximum(count, 1))
