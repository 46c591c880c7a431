"""How results look in a notebook: tables and figures as HTML that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from golf_opt.config.errors import UsageError
from golf_opt.utils.files import replace_file
from golf_opt.visualization.document import Picture


@dataclass(frozen=True)
class Plot:
    """A figure; a notebook shows it, and `save` writes it as SVG."""

    picture: Picture

    @property
    def svg(self) -> str:
        """The drawing, as an SVG element."""
        assert isinstance(self.picture.image, str)
        return self.picture.image

    def save(self, path: str | Path) -> Path:
        """Write the figure to a file that ends in .svg; return its path."""
        path = Path(path)
        if path.suffix.lower() != ".svg":
            raise UsageError(f"path is {str(path)!r}, but must end in .svg.")
        replace_file(path, self.svg.encode())
        return path

    def __repr__(self) -> str:
        return f"<Plot {self.picture.key}: {self.picture.title}>"

    @property
    def markup(self) -> Markup:
        caption = Markup("<figcaption><b>{}</b> {}</figcaption>")
        words = caption.format(self.picture.title, self.picture.caption)
        return Markup("<figure style='margin:0;max-width:820px'>{}{}</figure>").format(
            words, self.picture.element
        )

    def _repr_html_(self) -> str:
        return self.markup


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> Markup:
    """Return a table; everything in it is escaped."""
    cells = Markup("").join(Markup("<th>{}</th>").format(name) for name in head)
    lines = [Markup("<tr>{}</tr>").format(cells)]
    for row in rows:
        cells = Markup("").join(Markup("<td>{}</td>").format(cell) for cell in row)
        lines.append(Markup("<tr>{}</tr>").format(cells))
    return Markup("<table>{}</table>").format(Markup("").join(lines))


def titled(title: str, *parts: Markup | str) -> str:
    """Return parts below a title; those that are no markup are paragraphs."""
    shown = [p if isinstance(p, Markup) else Markup("<p>{}</p>").format(p) for p in parts]
    return Markup("<div><b>{}</b>{}</div>").format(title, Markup("").join(shown))
