"""What is said to a user, a line at a time."""

from __future__ import annotations

from collections.abc import Callable

from golf_opt.utils.text import printable

Say = Callable[[str], None]  # tells the user a line


def tell(line: str) -> None:
    """Print a line at once, so that a log shows it when it happens.

    It may hold a name that somebody else chose, with codes that a terminal would obey.
    """
    print(printable(line, but="\n\t"), flush=True)
