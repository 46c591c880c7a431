"""The page of `golf-opt interpret`: one HTML file that needs nothing else, not even a network."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff;
       max-width: 1120px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin: 2.5rem 0 .3rem; }
table { border-collapse: collapse; } th { text-align: left; padding-right: 1.5rem; color: #555;
       font-weight: 600; vertical-align: top; } td { padding: .1rem 0; }
nav { margin: 1.2rem 0; } nav a { margin-right: 1rem; white-space: nowrap; }
p { margin: .2rem 0 .6rem; } figure { margin: 0; } img { max-width: 100%; height: auto; }
"""


@dataclass(frozen=True)
class Picture:
    """A picture with its words."""

    name: str  # of its file, without .png
    title: str
    caption: str
    png: bytes

    @property
    def file(self) -> str:
        return f"{self.name}.png"


def page(title: str, facts: Mapping[str, str], pictures: Sequence[Picture]) -> str:
    """Return the page: facts as a table, then every picture, inline."""
    rows = "\n".join(
        f"<tr><th>{escape(key)}</th><td>{escape(text)}</td></tr>" for key, text in facts.items()
    )
    links = "\n".join(
        f'<a href="#{escape(p.name)}">{escape(p.name.replace("-", " "))}</a>' for p in pictures
    )
    return "\n".join(
        [
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            # the page may load nothing but what is in it
            '<meta http-equiv="Content-Security-Policy" '
            "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">",
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>",
            f"<h1>{escape(title)}</h1>\n<table>\n{rows}\n</table>\n<nav>\n{links}\n</nav>",
            *map(_section, pictures),
            "</body>\n</html>\n",
        ]
    )


def _section(picture: Picture) -> str:
    data = base64.b64encode(picture.png).decode()
    return (
        f'<section id="{escape(picture.name)}">\n<h2>{escape(picture.title)}</h2>\n'
        f"<p>{escape(picture.caption)}</p>\n"
        f'<figure><img alt="{escape(picture.title)}" src="data:image/png;base64,{data}"></figure>\n'
        "</section>"
    )
