"""The tables of docs/configuration.md, from the files of conf/ and their comments.

python docs/scripts/configuration.py          print them
python docs/scripts/configuration.py --write  put them into the page, between its marks
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import yaml

from golf_opt.config.comments import Key, keys, title
from golf_opt.task.arch import build_net
from golf_opt.utils.files import print_or_write

ROOT = Path(__file__).parents[2]
CONF = ROOT / "conf"
PAGE = ROOT / "docs" / "configuration.md"
BEGIN = "<!-- configuration: python docs/scripts/configuration.py --write -->\n"
END = "<!-- /configuration -->"
GROUPS = (
    "arch",
    "family",
    "space",
    "recipe",
    "points",
    "sampler",
    "pruner",
    "data",
    "engine",
    "storage",
    "on",
    "callbacks",
)


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
        if group not in ("arch", "family", "recipe", "points"):
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


if __name__ == "__main__":
    print_or_write(PAGE, BEGIN, END, current())
