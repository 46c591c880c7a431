"""What a user got wrong, told in one line: `<name> is <value>, but must be <constraint>; <fix>`."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from golf_opt.utils.text import printable

MOST_CHOICES = 50  # that a message names


class UsageError(ValueError):
    """A user's mistake; the message says what was given, what is allowed, and the fix."""


def short(value: object) -> str:
    """Return a value as code for a message; the middle of a long one is left out."""
    shown = repr(value)
    return shown if len(shown) <= 120 else f"{shown[:80]}...{shown[-20:]}"


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """Return `one of gp, tpe; did you mean 'tpe'?`, or only the choices where none is near."""
    known = sorted(choices)
    shown = ", ".join(map(printable, known[:MOST_CHOICES]))
    return f"one of {shown}{', ...' if len(known) > MOST_CHOICES else ''}{near(name, known)}"


def near(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'tpe'?` where one of the names resembles the one given."""
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {found[0]!r}?" if found else "."


def check_choice(name: str, value: object, choices: Iterable[str]) -> str:
    """Return the value if it is one of the choices that are known only when the program runs."""
    if not isinstance(value, str) or value not in choices:
        known = did_you_mean(str(value), choices)
        raise UsageError(f"{name} is {short(value)}, but must be {known}")
    return value


def check_keys(name: str, node: Iterable[str], known: Iterable[str]) -> None:
    """Refuse a key that is not known."""
    for key in node:
        if key not in known:
            raise UsageError(unknown_key(f"{name}.{key}", known))


def unknown_key(name: str, known: Iterable[str]) -> str:
    """Return the message for a dotted key that is not known."""
    return f"{name} is not a key; it must be {did_you_mean(name.rpartition('.')[2], known)}"
