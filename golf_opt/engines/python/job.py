"""What an objective is given, and what the engine knows of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from golf_opt.engines.base import EpochResult
from golf_opt.task.data import View


@dataclass(frozen=True)
class Call:
    """One trial of an objective: as `engines.base.Job` is one of a net."""

    params: Mapping[str, Any]  # tuned and fixed, by name
    seed: int
    epochs: int
    number: int  # of the trial
    folder: Path  # for its checkpoint, see `files.TrialFiles`

    @property
    def parameters(self) -> Mapping[str, Any]:
        return self.params


@dataclass(frozen=True)
class ObjectiveResult(EpochResult):
    """One epoch of an objective; `accuracy` is the first of its values, `loss` and `lr` are NaN."""

    values: tuple[float, ...] = ()


@dataclass(frozen=True)
class ObjectiveJob:
    """What your objective is called with.

    `checkpoint` is a path to write to: a file, or a folder that you make there. What is there at a
    `yield` is moved away and kept, and is there again if the trial goes on after an interrupt or
    kill -9; `done` epochs are then known already, and the first `yield` is for the one after them.
    Where nothing was written, a trial begins anew: `done` is 0.
    """

    params: Mapping[str, Any]  # tuned and fixed, by name, as the space file declares them
    seed: int  # of the trial, in [0, 2^32)
    epochs: int  # how many values to yield, in all
    number: int  # of the trial, from 0
    checkpoint: Path
    done: int  # epochs before this start
    _load: Callable[[], View] | None = field(default=None, repr=False)

    @cached_property
    def data(self) -> View:
        """The images of `data=...`, loaded when first asked for: train, objective and test."""
        if self._load is None:
            raise ValueError("job.data is not there: the study was begun without data=...")
        return self._load()
