"""The training recipe: the hyperparameters of one trial, and the learning rates they stand for."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from golf_opt.config.schema import UsageError, check_choice, check_int

SCHEDULES = ("step", "cosine", "one_cycle", "constant")
OPTIMIZERS = ("adam", "adamw", "sgd")
ADAM_BETAS = (0.9, 0.999)
ADAM_EPS = 1e-8
SGD_MOMENTUM = 0.9
ONE_CYCLE_WARMUP = 0.3  # share of the steps; PyTorch's OneCycleLR default
ONE_CYCLE_START = 25.0  # initial rate = lr / 25, likewise
ONE_CYCLE_END = 1e4  # final rate = initial rate / 1e4, likewise


@dataclass(frozen=True)
class Candidate:
    """The hyperparameters of one trial; what a search space does not name keeps its default."""

    batch_size: int
    lr: float
    step_size: int = 1  # epochs between two decays of schedule `step`
    gamma: float = 1.0  # factor of each decay; 1.0 is a constant rate
    schedule: str = "step"
    optimizer: str = "adam"
    weight_decay: float = 0.0  # L2 for adam and sgd, decoupled for adamw, as in torch.optim
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        check_int("batch_size", self.batch_size, 1)
        check_int("step_size", self.step_size, 1)
        check_choice("schedule", self.schedule, SCHEDULES)
        check_choice("optimizer", self.optimizer, OPTIMIZERS)
        for name, low, high in (
            ("lr", 0.0, math.inf),
            ("gamma", 0.0, 1.0),
            ("weight_decay", 0.0, math.inf),
            ("label_smoothing", 0.0, 0.999),
        ):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise UsageError(f"{name} is {value!r}, but must be a number.")
            if not low <= value <= high or (name in ("lr", "gamma") and value == 0):
                bound = "above 0" if name in ("lr", "gamma") else "at least 0"
                top = "" if high == math.inf else f" and at most {high:g}"
                raise UsageError(f"{name} is {value!r}, but must be {bound}{top}.")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


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
    CosineAnnealingLR and OneCycleLR stepped once a step.
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
    return np.full(steps_per_epoch, lr)


def _one_cycle(lr: float, step: npt.NDArray[np.float64], total: int) -> npt.NDArray[np.float64]:
    start, end = lr / ONE_CYCLE_START, lr / ONE_CYCLE_START / ONE_CYCLE_END
    peak = ONE_CYCLE_WARMUP * total - 1
    rise = start + (lr - start) * 0.5 * (1 - np.cos(np.pi * step / max(peak, 1e-9)))
    fall_share = (step - peak) / max(total - 1 - peak, 1e-9)
    fall = end + (lr - end) * 0.5 * (1 + np.cos(np.pi * fall_share))
    return np.where(step <= peak, rise, fall)
