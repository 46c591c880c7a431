"""The tables of docs/configuration.md, from the files of conf/ and their comments.

python docs/scripts/configuration.py          print them
python docs/scripts/configuration.py --write  put them into the page, between its marks
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import dropwhile
from pathlib import Path

import yaml

from golf_opt.task.arch import build_net
from golf_opt.utils.files import replace_section

ROOT = Path(__file__).parents[2]
CONF = ROOT / "conf"
PAGE = ROOT / "docs" / "configuration.md"
BEGIN = "<!-- configuration: python docs/scripts/configuration.py --write -->\n"
END = "<!-- /configuration -->"
GROUPS = ("arch", "space", "points", "sampler", "pruner", "data", "engine", "storage", "callbacks")
LINE = re.compile(r'^(?P<indent> *)(?P<item>- )?"?(?P<key>[\w.]+)"?:(?: (?P<rest>.*))?$')
LONGEST = 12  # lines of a value that a table can show


@dataclass(frozen=True)
class Key:
    """A key of a file: its dotted path, what it is unless set, and its comment."""

    path: str
    default: str
    comment: str
    lines: int  # of the file, with all that stands below the key


def title(path: Path) -> str:
    """Return the comment that a file begins with, in one line."""
    words = []
    for line in path.read_text().splitlines():
        if line.startswith("# @"):
            continue
        if not line.startswith("#"):
            break
        words.append(line.removeprefix("#").strip())
    return " ".join(words)


def keys(path: Path) -> list[Key]:
    """Return the keys of a file but Hydra's own, those of its list of defaults first."""
    lines = list(dropwhile(lambda line: line.startswith("#"), path.read_text().splitlines()))
    found: list[Key] = []
    parents: list[tuple[int, str]] = []
    before: list[str] = []  # lines of comment above a key
    for number, line in enumerate(lines):
        before = [*before, line.strip("# ")] if line.startswith("#") else before
        match = LINE.match(line)
        if match is None:
            continue
        indent = len(match["indent"])
        while parents and parents[-1][0] >= indent:
            parents.pop()
        above = [name for _, name in parents]
        parents.append((indent, match["key"]))
        if "hydra" in [*above, match["key"]] or match["key"] == "defaults":
            before = []
            continue
        value, comment = split(match["rest"] or "")
        comment, before = comment or " ".join(before), []
        names = [*above, match["key"]]
        if names[0] == "defaults":
            names = names[1:]
        elif match["item"]:
            continue  # a list of mappings: its key stands for it
        below = block(lines, number, indent)
        found.append(Key(".".join(names), value, comment, below))
    return readable(found)


def split(rest: str) -> tuple[str, str]:
    """Return the value and the comment of what stands behind a key."""
    value, _, comment = f" {rest}".partition(" #")
    return value.strip(), comment.strip()


def block(lines: list[str], number: int, indent: int) -> int:
    """Return how many lines a key's value has, its own included."""
    below = 1
    for line in lines[number + 1 :]:
        if line.strip() and len(line) - len(line.lstrip()) <= indent:
            break
        below += 1
    return below


def readable(found: list[Key]) -> list[Key]:
    """Leave out what is below a value too long for a table, and mappings that have rows below."""
    chosen: list[Key] = []
    long: list[str] = []
    for key in found:
        if any(key.path.startswith(f"{path}.") for path in long):
            continue
        if key.lines > LONGEST or key.default == "|":
            long.append(key.path)
            chosen.append(Key(key.path, "(in the file)", key.comment, key.lines))
        elif key.default or key.comment:
            chosen.append(key)
    return chosen


def code(text: str) -> str:
    return f"`{text}`" if text and not text.startswith("(") else text


def cell(text: str) -> str:
    return text.replace("|", "\\|")


def key_table(rows: list[Key], prefix: str = "") -> Iterator[str]:
    yield "| key | default | what |"
    yield "|---|---|---|"
    for key in rows:
        yield f"| {code(prefix + key.path)} | {cell(code(key.default))} | {cell(key.comment)} |"
    yield ""


def verbs() -> Iterator[str]:
    yield "## Verbs"
    yield ""
    yield "Every verb has these two:"
    yield ""
    yield from key_table(keys(CONF / "common.yaml"))
    for path in sorted(CONF.glob("*.yaml")):
        if path.stem == "common":
            continue
        name, _, what = title(path).partition(": ")
        yield f"### {name}"
        yield ""
        yield f"{what[:1].upper()}{what[1:]}"
        yield ""
        if rows := keys(path):
            yield from key_table(rows)


def groups() -> Iterator[str]:
    for group in GROUPS:
        files = sorted((CONF / group).glob("*.yaml"))
        yield f"### {group}="
        yield ""
        yield "| choice | parameters | what |" if group == "arch" else "| choice | what |"
        yield "|---|---:|---|" if group == "arch" else "|---|---|"
        for path in files:
            count = f"{num_params(path):,} | " if group == "arch" else ""
            made_by = "".join(f" (`{k.default}`)" for k in keys(path) if k.path == "_target_")
            yield f"| `{path.stem}` | {count}{cell(title(path))}{made_by} |"
        yield ""
        if group not in ("arch", "points"):
            yield from option_table(group, files)


def num_params(path: Path) -> int:
    return build_net(yaml.safe_load(path.read_text())).num_params


def option_table(group: str, files: list[Path]) -> Iterator[str]:
    """A row for each key; choices that agree on default and comment share one.

    What names the choice itself, `name` or the class that it makes, is no option.
    """
    rows: dict[Key, list[str]] = {}
    for path in files:
        options = [key for key in keys(path) if key.path != "_target_" and key.default != path.stem]
        for key in options:
            rows.setdefault(Key(key.path, key.default, key.comment, 0), []).append(path.stem)
    yield "| key | of | default | what |"
    yield "|---|---|---|---|"
    for key, choices in rows.items():
        of = "all" if len(choices) == len(files) else ", ".join(choices)
        name = code(f"{group}.{key.path}")
        yield f"| {name} | {of} | {cell(code(key.default))} | {cell(key.comment)} |"
    yield ""


def current() -> str:
    """Return the tables as the files of this checkout give them."""
    return "\n".join([*verbs(), "## Groups", "", *groups()])


def main() -> None:
    if "--write" in sys.argv:
        replace_section(PAGE, BEGIN, END, current())
    else:
        print(current())


if __name__ == "__main__":
    main()
