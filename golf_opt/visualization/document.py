"""Documents: a list of blocks, written as one HTML file, as Markdown, or in a terminal.

    page = html("Study c4-5-4", [Heading("Result"), Paragraph("Best test accuracy 97.72 %.")])

The HTML needs nothing else: no script, and nothing from anywhere else. All text is escaped.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import ClassVar

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from golf_opt import __version__
from golf_opt.utils.files import replace_file, replace_text


@dataclass(frozen=True)
class Heading:
    kind: ClassVar = "heading"
    text: str


@dataclass(frozen=True)
class Paragraph:
    kind: ClassVar = "paragraph"
    text: str


@dataclass(frozen=True)
class Table:
    kind: ClassVar = "table"
    head: Sequence[str]  # none of a table of facts, a name and a value a row
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Picture:
    kind: ClassVar = "picture"
    key: str  # of letters, digits and hyphens: the figure's id in a page, and its file's name
    title: str
    caption: str
    image: str | bytes  # an SVG element, or a PNG file

    @property
    def words(self) -> str:
        return f"{self.title}. {self.caption}".strip()

    @property
    def file(self) -> str:
        return f"{self.key}.{'svg' if isinstance(self.image, str) else 'png'}"

    @property
    def data(self) -> bytes:
        return self.image.encode() if isinstance(self.image, str) else self.image

    @property
    def element(self) -> Markup:
        """The picture as HTML; a drawing's ids get its key, as two drawings may share one."""
        if isinstance(self.image, bytes):
            text = base64.b64encode(self.image).decode()
            return Markup('<img alt="{}" src="data:image/png;base64,{}">').format(self.title, text)
        drawn = re.sub(r'\bid="([^"]+)"', rf'id="{self.key}-\1"', self.image)
        return Markup(re.sub(r'(href="|url\()#', rf"\1#{self.key}-", drawn))


Block = Heading | Paragraph | Table | Picture


def html(title: str, blocks: Sequence[Block]) -> str:
    """Return the document as one HTML file."""
    return _render("document.html.j2", title, blocks)


def markdown(title: str, blocks: Sequence[Block], folder: str = "") -> str:
    """Return the document as Markdown; its pictures lie in a folder beside it."""
    return _render("document.md.j2", title, blocks, folder)


def write_document(folder: Path, name: str, title: str, blocks: Sequence[Block]) -> list[Path]:
    """Write HTML and Markdown, and the pictures that the Markdown shows; return the first two."""
    stem = re.sub(r"[^\w.@+-]+", "-", name).strip("-.") or "study"
    page, text = folder / f"{stem}.html", folder / f"{stem}.md"
    for block in blocks:
        if isinstance(block, Picture):
            replace_file(folder / stem / block.file, block.data)
    replace_text(text, markdown(title, blocks, stem))
    replace_text(page, html(title, blocks))
    return [page, text]


def print_table(table: Table) -> None:
    """Print a table, turned where the terminal is too narrow for it."""
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    console = Console(highlight=False)
    lines: Sequence[Sequence[str]] = [table.head, *table.rows]
    columns = list(zip(*lines, strict=True))
    widths = [max(map(len, column)) for column in columns]
    if sum(widths) + 2 * len(widths) > console.width:
        lines = columns
    shown = RichTable(box=box.SIMPLE_HEAD, pad_edge=False)
    for cell in lines[0]:
        shown.add_column(Text(cell), overflow="fold")
    for line in lines[1:]:
        shown.add_row(*map(Text, line))
    console.print(shown)


def _render(template: str, title: str, blocks: Sequence[Block], folder: str = "") -> str:
    content = {"title": title, "blocks": blocks, "folder": folder, "version": __version__}
    return templates("golf_opt.visualization").get_template(template).render(content)


@cache
def templates(package: str) -> Environment:
    """Return what renders the templates of a package: HTML is escaped, unknown names are errors."""
    rules = Environment(
        loader=PackageLoader(package),
        autoescape=select_autoescape(["html.j2"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    rules.filters["plain"] = _plain
    return rules


def _plain(text: str) -> str:
    """Escape what Markdown or HTML would take for more than text."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", text)
