"""What a pruning shows while it goes on: a bar in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from golf_opt.golf.pruning.search import PruningState
from golf_opt.utils.text import percent

PLAIN_LINE_EVERY_S = 10.0


class PruningProgress:
    """A bar in a terminal, a line now and then elsewhere."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False)
        columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
        hidden = not self._console.is_terminal
        self._bar = Progress(*columns, console=self._console, transient=True, disable=hidden)
        self._task = self._bar.add_task("", total=None)
        self._rows = 0  # of the log, shown
        self._said = time.monotonic()

    def __enter__(self) -> PruningProgress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, state: PruningState) -> None:
        """Show how far the pruning is; called after every candidate."""
        for row in state.log[self._rows :]:
            self._say(_log_line(row))
        self._rows = len(state.log)
        if not self._bar.disable:
            total = len(state.order) or None
            self._bar.update(self._task, description=_now(state), completed=state.at, total=total)
        elif time.monotonic() - self._said > PLAIN_LINE_EVERY_S:
            self._say(_now(state))

    def _say(self, line: str) -> None:
        self._said = time.monotonic()
        self._console.print(line, soft_wrap=True)


def _now(state: PruningState) -> str:
    if state.stage == "rounds":
        return f"round {state.turn + 1:>3}  under way  {state.nz:>6} non-zero"
    tried = f"{state.at}/{len(state.order)}"
    return f"pass {state.turn:>4}  {tried:>9}  {state.nz:>6} non-zero"


def _log_line(row: dict[str, Any]) -> str:
    if "pass" in row:
        head = f"pass {row['pass']:>4}  {row['removed']:>4} removed"
    else:
        tried = " ".join(f"{nz}:{100 * accuracy:.2f}" for nz, accuracy in row["tried"])
        head = f"round {row['round']:>3}  tried {tried}"
    return f"{head}  {row['nz']:>6} non-zero  {percent(row['accuracy'])}"
