"""What long work shows: a bar in a terminal, lines there and elsewhere."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from golf_opt.engines.lanes import Run
from golf_opt.utils.live import may_move
from golf_opt.utils.said import Say


class Bar(Progress):
    """A bar in a terminal; elsewhere only the lines, which `say` tells the user."""

    def __init__(self, say: Say, *columns: ProgressColumn, total: float | None = None) -> None:
        console = Console(highlight=False)
        hidden = not may_move(console, say)
        super().__init__(*columns, console=console, transient=True, disable=hidden)
        self._task = self.add_task("", total=total)
        self._tell = say

    def say(self, line: str) -> None:
        """Tell a line, above the bar where there is one."""
        if self.disable:
            self._tell(line)
        else:
            self.console.print(Text(line), soft_wrap=True)


class TrainingProgress(Bar):
    """Trainings side by side; `epochs` are those of all jobs together."""

    def __init__(self, epochs: int, say: Say) -> None:
        count = TextColumn("{task.completed:.1f}/{task.total:.0f} epochs")
        left, last = TimeRemainingColumn(), TextColumn("{task.description}")
        super().__init__(say, BarColumn(30), count, left, last, total=max(1, epochs))
        self._seen: dict[int, float] = {}  # epochs done of each run, by its identity

    def show(self, run: Run[Any]) -> None:
        """Move the bar to where a run is now."""
        step = run.epochs_done - self._seen.get(id(run), 0.0)
        self._seen[id(run)] = run.epochs_done
        self.update(self._task, advance=step, description=str(run.key))
