"""The kinds of layers and their keys, from the classes: for `golf-opt arch --help` and the docs."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields
from typing import Any, get_type_hints

from golf_opt.config.check import must_be
from golf_opt.task.layers import KINDS, Layer

NAME = "every kind can have a name: a letter, then letters, digits or _"


@dataclass(frozen=True)
class Option:
    """A key of a kind of layer."""

    name: str
    default: str | None  # None: the key must be there
    must: str  # what its value must be, in words


@dataclass(frozen=True)
class Kind:
    """A kind of layer: what a file of architecture can say of it."""

    name: str
    what: str
    options: tuple[Option, ...]

    @property
    def example(self) -> str:
        """Return `{kind: conv, channels: ..., kernel: ..., stride: 1}`, with every default."""
        pairs = [f"kind: {self.name}"]
        pairs += [f"{o.name}: {'...' if o.default is None else o.default}" for o in self.options]
        return "{" + ", ".join(pairs) + "}"


def kinds() -> list[Kind]:
    """Return every kind of layer, in the order of the classes."""
    reuse = Kind(
        "reuse",
        "An earlier layer again, with the same tensors, which count once.",
        (Option("of", None, "the name of that layer"),),
    )
    return [*map(_kind, KINDS.values()), reuse]


def _kind(cls: type[Layer]) -> Kind:
    hints = get_type_hints(cls, include_extras=True)
    options = [
        Option(field.name, _show(field.default), must_be(hints[field.name]))
        for field in fields(cls)
        if field.init
    ]
    what = (cls.__doc__ or "").partition("\n")[0]
    return Kind(cls.kind, what, tuple(options))


def _show(default: Any) -> str | None:
    if default is MISSING:
        return None
    return str(default).lower() if isinstance(default, bool) else str(default)


def kinds_in_lines() -> list[str]:
    """Return the kinds for a terminal: a line each, and one for each of its keys."""
    lines = []
    for kind in kinds():
        lines += [f"  {kind.example}", f"      {kind.what}"]
        for option in kind.options:
            unless = "" if option.default is None else f"; {option.default} unless said"
            lines.append(f"      {option.name}: {option.must}{unless}")
    return lines


def kinds_in_markdown() -> str:
    """Return the kinds as a table of a page."""
    rows = ["| kind | what | key | value | unless said |", "|---|---|---|---|---|"]
    for kind in kinds():
        head = f"| `{kind.name}` | {kind.what} |"
        for option in kind.options:
            default = "" if option.default is None else f"`{option.default}`"
            rows.append(f"{head} `{option.name}` | {option.must} | {default} |")
            head = "| | |"
        rows += [] if kind.options else [f"{head} | | |"]
    return "\n".join(rows) + "\n"
