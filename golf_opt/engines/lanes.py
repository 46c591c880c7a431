"""The lanes of an engine at work: runs go in, and none is idle while another run waits."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from golf_opt.engines.base import Engine, EpochResult, Job, LaneState, Slice, Work
from golf_opt.engines.scheduler import Scheduler

Key = TypeVar("Key")


class Trainable(Protocol):
    """What a lane can hold: a job, and where it begins if not at its start."""

    @property
    def job(self) -> Work: ...

    @property
    def resume(self) -> LaneState | None: ...

    @property
    def until(self) -> int | None:
        """The epoch at whose end the lane rests; None is the job's last."""


AnyRun = TypeVar("AnyRun", bound=Trainable)


class Lanes(Scheduler[AnyRun]):
    """A scheduler whose lanes are those of an engine."""

    def __init__(self, engine: Engine[Any]) -> None:
        super().__init__(engine.num_lanes)
        self.engine = engine

    def fill(self, take: Callable[[int], AnyRun | None]) -> Iterator[tuple[int, AnyRun]]:
        """Start what `take(lane)` returns in every free lane, until it has no more."""
        for lane, run in super().fill(take):
            try:
                self.engine.start(lane, run.job, run.resume, run.until)
            except BaseException:
                self.release(lane)  # there is nothing to save or stop
                raise
            yield lane, run

    def step(self) -> list[tuple[AnyRun, Slice]]:
        """Wait for slices; return each with its run, which holds its lane until `leave`."""
        return [(self[part.lane], part) for part in self.engine.step()]

    def leave(self, lane: int) -> AnyRun:
        """Free a lane and return the run that it held."""
        self.engine.stop(lane)
        return self.release(lane)

    def close(self) -> None:
        """Free all lanes; their runs are given up."""
        for lane, _ in self.busy:
            self.leave(lane)


@dataclass(eq=False)
class Run(Generic[Key]):
    """A job on its way through a lane. `key` says which one it is to who asked for it."""

    key: Key
    job: Job
    resume: LaneState | None = None
    until: int | None = None
    history: list[EpochResult] = field(default_factory=list)
    epochs_done: float = 0.0  # fractions included
    error: str | None = None  # why training could not go on

    def add(self, part: Slice) -> None:
        """Take note of what its lane did."""
        self.epochs_done = part.epoch - 1 + part.progress
        self.error = part.error
        if part.result is not None:
            self.history.append(part.result)

    @property
    def over(self) -> bool:
        """Whether its last epoch has ended, or training could not go on."""
        ended = bool(self.history) and self.history[-1].epoch == self.job.epochs
        return ended or self.error is not None


KeyedRun = TypeVar("KeyedRun", bound=Run[Any])


def train(
    engine: Engine, runs: Iterable[KeyedRun], stopped: Callable[[], bool] = lambda: False
) -> Generator[tuple[KeyedRun, Slice]]:
    """Train runs side by side without a study; yield every slice with its run.

    At a yield the lane still holds the run, and `engine.state(slice.lane)` is that of the slice.

    Args:
        engine: its lanes must be free.
        runs: taken one at a time, when a lane is free.
        stopped: asked before every step; once true, what is in the lanes is given up.
    """
    waiting = iter(runs)
    lanes: Lanes[KeyedRun] = Lanes(engine)
    with contextlib.closing(lanes):
        while not stopped():
            for _ in lanes.fill(lambda lane: next(waiting, None)):
                pass
            if not lanes.busy:
                return
            for run, part in lanes.step():
                run.add(part)
                yield run, part
                if run.over:
                    lanes.leave(part.lane)
