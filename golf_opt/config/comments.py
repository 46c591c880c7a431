"""The keys of the files of conf/ with their comments: what `--help` and the documentation show."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import dropwhile
from pathlib import Path

from golf_opt.config import CONF_DIR, yaml_file

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


def own_keys(verb: str) -> list[Key]:
    """Return the keys that a verb has, but for those of its groups."""
    return [key for key in _all_keys(verb) if not _is_group(key)]


def groups(verb: str) -> list[Key]:
    """Return the groups that a verb chooses from, as `sampler=gp` does."""
    return [key for key in _all_keys(verb) if _is_group(key)]


def choices(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF_DIR / group).glob("*.yaml"))


def known_keys(verb: str) -> list[str]:
    """Return every dotted key that a verb takes, with those of its groups."""
    found = {key.path for key in own_keys(verb)}
    for group in groups(verb):
        found.add(group.path)
        for choice in choices(group.path):
            inner = keys(CONF_DIR / group.path / f"{choice}.yaml")
            found |= {f"{group.path}.{key.path}" for key in inner}
    for path in list(found):
        parents = path.split(".")[:-1]
        found |= {".".join(parents[: depth + 1]) for depth in range(len(parents))}
    return sorted(found)


def _all_keys(verb: str) -> list[Key]:
    files = [CONF_DIR / f"{verb}.yaml", CONF_DIR / "common.yaml"]
    return [key for file in files for key in keys(file)]


def _is_group(key: Key) -> bool:
    """Whether it is chosen from; a verb may have a mapping of its own by a group's name."""
    return key.lines == 1 and (CONF_DIR / key.path).is_dir()


def _short(value: str, most: int = 24) -> str:
    return value if len(value) <= most else f"{value[: most - 3]}..."


def help_of(verb: str) -> str:
    """Return what `golf-opt VERB --help` prints: what it does, its keys, its groups, examples."""
    words = yaml_file.load(CONF_DIR / f"{verb}.yaml").hydra.help
    rows = [(key.path, _short(key.default), key.comment) for key in own_keys(verb)]
    wide = [max(len(row[column]) for row in rows) for column in (0, 1)]
    lines = [words.header.rstrip(), "", "keys, what they are unless set, and what they mean:"]
    lines += [
        f"  {key:<{wide[0]}}  {value:<{wide[1]}}  {what}".rstrip() for key, value, what in rows
    ]
    lines += ["", "groups, what can be chosen, and what is chosen unless you do:"]
    for group in groups(verb):
        what = f"; {group.comment}" if group.comment else ""
        lines.append(f"  {group.path}: {', '.join(choices(group.path))} ({group.default}{what})")
    if words.footer:
        lines += ["", words.footer.rstrip()]
    return "\n".join([*lines, "", FLAGS])


FLAGS = """\
flags:
  --cfg job            show the configuration that would run, and run nothing
  --config-dir FOLDER  look for choices of groups there too, such as FOLDER/arch/mine.yaml
What the keys of a group are, docs/configuration.md says."""
