"""The terminal of trainings side by side: a bar over all epochs, a line for each that ends."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from golf_opt.engines.lanes import Run


class TrainingProgress:
    """A bar in a terminal; elsewhere only the lines.

    Args:
        epochs: of all jobs together.
        console: where to.
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

    def __enter__(self) -> TrainingProgress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, run: Run[Any]) -> None:
        """Move the bar to where a run is now."""
        step = run.epochs_done - self._seen.get(id(run), 0.0)
        self._seen[id(run)] = run.epochs_done
        self._bar.update(self._task, advance=step, description=str(run.key))

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        self._bar.console.print(Text(line), soft_wrap=True)
