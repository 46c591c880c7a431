"""What long work shows: a bar in a terminal, lines there and elsewhere."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from golf_opt.engines.lanes import Run


class Bar(Progress):
    """A bar in a terminal; elsewhere only the lines."""

    def __init__(self, *columns: ProgressColumn, total: float | None = None) -> None:
        console = Console(highlight=False)
        hidden = not console.is_terminal
        super().__init__(*columns, console=console, transient=True, disable=hidden)
        self._task = self.add_task("", total=total)

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        self.console.print(Text(line), soft_wrap=True)


class TrainingProgress(Bar):
    """Trainings side by side; `epochs` are those of all jobs together."""

    def __init__(self, epochs: int) -> None:
        count = TextColumn("{task.completed:.1f}/{task.total:.0f} epochs")
        left, last = TimeRemainingColumn(), TextColumn("{task.description}")
        super().__init__(BarColumn(30), count, left, last, total=max(1, epochs))
        self._seen: dict[int, float] = {}  # epochs done of each run, by its identity

    def show(self, run: Run[Any]) -> None:
        """Move the bar to where a run is now."""
        step = run.epochs_done - self._seen.get(id(run), 0.0)
        self._seen[id(run)] = run.epochs_done
        self.update(self._task, advance=step, description=str(run.key))
