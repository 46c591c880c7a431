"""Lines at a terminal's foot that change in place."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderResult
from rich.control import Control
from rich.live import Live
from rich.segment import ControlType
from rich.text import Text

from golf_opt.utils.said import Say, tell

UP = ((ControlType.ERASE_IN_LINE, 2), (ControlType.CURSOR_UP, 1))


def may_move(console: Console, say: Say) -> bool:
    """Whether there may be lines that change: in a terminal, where nobody else wants the lines."""
    return console.is_terminal and say is tell


class LiveLines(Live):
    """rich's live view, of lines that are cut to the terminal's width.

    A terminal that becomes narrower breaks the lines that stand there into several rows. rich goes
    up by as many rows as it wrote, and would leave the first of the old ones standing above.

    Args:
        lines: what to show, asked for `refresh_per_s` times a second.
        console: the terminal.
        refresh_per_s: how often.
    """

    def __init__(
        self, lines: Callable[[], Sequence[Text]], console: Console, refresh_per_s: float
    ) -> None:
        self._shown = _Cut(())
        self._rewraps = rewraps(os.environ)
        super().__init__(
            console=console,
            get_renderable=lambda: self._shown.replaced(lines()),
            refresh_per_second=refresh_per_s,
            transient=True,
        )

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        """Put what removes the last frame before what is printed, and the new one after it."""
        rows = self._shown.rows(self.console.width) if self._rewraps else 0
        return [Control(*UP * rows), *super().process_renderables(renderables)]


class _Cut:
    """Lines that are cut to the width, and how wide they were when they were shown last."""

    def __init__(self, lines: Sequence[Text]) -> None:
        self._lines = lines
        self._widths: list[int] = []

    def replaced(self, lines: Sequence[Text]) -> _Cut:
        self._lines = lines
        return self

    def rows(self, width: int) -> int:
        """Return how many rows more than lines the last frame takes in a terminal of this width."""
        return sum(max(0, math.ceil(shown / width) - 1) for shown in self._widths)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = [line.copy() for line in self._lines[: options.size.height]]
        for line in lines:
            line.no_wrap = True
            line.truncate(options.max_width, overflow="ellipsis")
        self._widths = [line.cell_len for line in lines]
        yield from lines


def rewraps(environment: Mapping[str, str]) -> bool:
    """Return whether the terminal breaks what stands there anew when its width changes.

    All that are common do, but for xterm, rxvt, the Linux console and GNU screen.
    """
    if environment.get("TMUX"):
        return True
    term = environment.get("TERM", "")
    plain = term.startswith(("rxvt", "linux")) or "STY" in environment
    return not (plain or environment.get("XTERM_VERSION"))
