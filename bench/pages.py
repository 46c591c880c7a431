"""Results as pages and pictures that a command writes, and writes the same way again."""

from __future__ import annotations

from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from bench.report import PICTURES, ROOT
from golf_opt.utils.files import replace_section

END = "<!-- end -->"


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as SVG: the same figure makes the same file."""
    with matplotlib.rc_context({"svg.hashsalt": "golf_opt"}):
        figure.savefig(path, metadata={"Date": None})


def into_docs(page: str, command: str, text: str, picture: Path) -> None:
    """Put results into docs/PAGE.md, and their picture beside it.

    Args:
        page: its name, and the picture's.
        command: that wrote them, as the page's mark says.
        text: a README with a title and a paragraph, which are left out, and the picture.
        picture: that it shows, by its name.
    """
    (PICTURES / f"{page}.svg").write_bytes(picture.read_bytes())
    results = text.split("\n\n", 2)[2].replace("\n## ", "\n### ")
    results = results.replace(f"({picture.name})", f"(pictures/{page}.svg)")
    begin = f"<!-- written by {command} -->\n"
    replace_section(ROOT / "docs" / f"{page}.md", begin, END, results)
