"""How numbers and names are shown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def percent(accuracy: float) -> str:
    """Return an accuracy in [0, 1] as `97.72 %`."""
    return f"{100 * accuracy:.2f} %"


def show_duration(seconds: float) -> str:
    """Return `42 s`, `3 min 5 s` or `2 h 10 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def count(number: int, thing: str) -> str:
    """Return `1 trial` or `4,330 trials`."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def printable(text: str, but: str = "") -> str:
    """Return a text with what a terminal would obey, or could not show, as `\\x1b`.

    Args:
        text: of others: a stored name, a file's content.
        but: characters to leave as they are.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in but else ascii(c)[1:-1] for c in text)


def one_line(text: str, most: int = 2000) -> str:
    """Return a text in one printable line, cut where it is longer than `most` characters."""
    line = printable(" ".join(filter(None, map(str.strip, text.splitlines()))))
    return line if len(line) <= most else f"{line[:most]}..."


def slug(label: str) -> str:
    """Return a label as a name for files: `c4-5-4, trial 17` as `c4-5-4-trial-17`."""
    return re.sub(r"[^\w.@-]+", "-", label).strip("-.") or "net"


def show_params(params: Mapping[str, Any]) -> str:
    """Return `batch_size=14 lr=0.0008 step_size=5 gamma=0.62`."""
    return " ".join(
        f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in params.items()
    )


def aligned(head: Sequence[str], rows: Iterable[Sequence[str]], sides: str) -> list[str]:
    """Return a table in lines of text; `sides` has an `l` or an `r` for each column."""
    lines = [head, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if side == "r" else cell.ljust(width)
            for cell, width, side in zip(line, widths, sides, strict=True)
        ).rstrip()
        for line in lines
    ]


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]], sides: str) -> str:
    """Return a table in Markdown; `sides` has an `l` or an `r` for each column."""
    rule = "".join("---:|" if side == "r" else "---|" for side in sides)
    first, *others = (f"| {' | '.join(row)} |" for row in (head, *rows))
    return "\n".join([first, f"|{rule}", *others])
