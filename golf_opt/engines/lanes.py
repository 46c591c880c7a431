"""Trainings side by side without a study: jobs go in, finished ones come out, no lane is idle."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Generic, TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from golf_opt.engines.base import Engine, EpochResult, Job, LaneState, Slice
from golf_opt.engines.scheduler import Scheduler

Key = TypeVar("Key")


@dataclass
class Run(Generic[Key]):
    """A job on its way through a lane. `key` says which one it is to who asked for it."""

    key: Key
    job: Job
    history: list[EpochResult] = field(default_factory=list)
    epochs_done: float = 0.0  # fractions included
    state: LaneState | None = None  # at the end of the last epoch
    error: str | None = None  # why training could not go on


def train(
    engine: Engine,
    jobs: Iterable[tuple[Key, Job]],
    on_slice: Callable[[Run[Key], Slice], None] = lambda run, done: None,
    stopped: Callable[[], bool] = lambda: False,
) -> Iterator[Run[Key]]:
    """Train the jobs in all lanes; yield each when it is over, with its final state.

    Args:
        engine: its lanes must be free.
        jobs: taken one at a time, when a lane is free.
        on_slice: told of every slice.
        stopped: asked after every step; once true, what is in the lanes is given up.
    """
    waiting = iter(jobs)
    scheduler: Scheduler[Run[Key]] = Scheduler(engine.num_lanes)

    def take(_lane: int) -> Run[Key] | None:
        entry = next(waiting, None)
        return None if entry is None else Run(*entry)

    try:
        while not stopped():
            for lane, run in scheduler.fill(take):
                engine.start(lane, run.job)
            if not scheduler.busy:
                return
            for done in engine.step():
                run = scheduler[done.lane]
                _advance(run, done)
                on_slice(run, done)
                if run.error is not None or len(run.history) == run.job.epochs:
                    run.state = engine.state(done.lane)
                    engine.stop(done.lane)
                    yield scheduler.release(done.lane)
    finally:
        for lane, _ in scheduler.busy:
            engine.stop(lane)


def _advance(run: Run[Key], done: Slice) -> None:
    run.epochs_done = done.epoch - 1 + done.progress
    run.error = done.error
    if done.result is not None:
        run.history.append(done.result)


class Watch:
    """The terminal of such trainings: a bar over all epochs, or a plain line for each that ends.

    Args:
        epochs: of all jobs together.
        console: where to; plain lines where it is no terminal.
    """

    def __init__(self, epochs: int, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False)
        self._bar = Progress(
            BarColumn(30),
            TextColumn("{task.completed:.1f}/{task.total:.0f} epochs"),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._task: TaskID = self._bar.add_task("", total=max(1, epochs))
        self._seen: dict[int, float] = {}  # epochs done of each run, by its identity

    def __enter__(self) -> Watch:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def slice(self, run: Run[Key], done: Slice) -> None:
        """Move the bar by what a lane did."""
        step = run.epochs_done - self._seen.get(id(run), 0.0)
        self._seen[id(run)] = run.epochs_done
        self._bar.update(self._task, advance=step, description=str(run.key))

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        self._bar.console.print(Text(line), soft_wrap=True)
