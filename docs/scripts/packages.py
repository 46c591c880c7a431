"""The picture and the table of the packages, from the imports of golf_opt itself.

python docs/scripts/packages.py          print both
python docs/scripts/packages.py --write  put them into docs/pictures/ and CONTRIBUTING.md

A package stands one floor above the highest that it imports. An arrow is an import; those that
follow from others are left out. What a box says is the docstring of the package.
"""

from __future__ import annotations

import ast
import sys
import textwrap
from collections.abc import Iterator
from html import escape
from pathlib import Path

from golf_opt.utils.files import replace_section

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "golf_opt"
PICTURE = ROOT / "docs" / "pictures" / "packages.svg"
PAGE = ROOT / "CONTRIBUTING.md"
BEGIN, END = "<!-- packages: python docs/scripts/packages.py --write -->\n", "<!-- /packages -->"
WIDTH, MARGIN, GAP = 960, 16, 30
BOX_HEIGHT, ROOM_HEIGHT = 66, 118
COLUMNS = 3  # of the packages inside a package
Place = tuple[float, float, float, float]  # left, top, width, height
STYLE = """\
text { font-family: system-ui, "DejaVu Sans", sans-serif; fill: #1f2430 }
.name { font-size: 15px; font-weight: 700 } .what { font-size: 12px }
.box { fill: #eef3fb; stroke: #4a6fa5; stroke-width: 1.2 } .room { fill: #ffffff; stroke: #9bb1d0 }
.arrow { stroke: #7a8699; stroke-width: 1.4; fill: none; marker-end: url(#head) }"""


def packages(folder: Path) -> list[str]:
    return sorted(path.parent.name for path in folder.glob("*/__init__.py"))


def imports(package: str) -> set[str]:
    """Return the packages that a package imports, itself left out."""
    found = set()
    for path in (PACKAGE / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("golf_opt."):
                found.add((node.module or "").split(".")[1])
    return found - {package}


def floors(arrows: dict[str, set[str]]) -> list[list[str]]:
    """Return the packages floor by floor, the lowest first."""
    height: dict[str, int] = {}

    def measure(package: str) -> int:
        if package not in height:
            height[package] = 1 + max((measure(below) for below in arrows[package]), default=-1)
        return height[package]

    rows: list[list[str]] = [[] for _ in range(1 + max(map(measure, arrows)))]
    for package in arrows:
        rows[height[package]].append(package)
    return rows


def without_shortcuts(arrows: dict[str, set[str]]) -> dict[str, set[str]]:
    """Leave out the arrows that a longer way implies."""

    def below(package: str) -> set[str]:
        return set(arrows[package]).union(*(below(other) for other in arrows[package]))

    return {
        package: targets - set().union(*(below(other) for other in targets))
        for package, targets in arrows.items()
    }


def words(folder: Path) -> str:
    """Return the first sentence of a package's docstring."""
    text = ast.get_docstring(ast.parse((folder / "__init__.py").read_text())) or ""
    return " ".join(text.split("\n\n")[0].split()).rstrip(".").replace("`", "")


def box(name: str, what: str, place: Place, kind: str) -> Iterator[str]:
    x, y, width, height = place
    size = f'width="{width:.0f}" height="{height:.0f}"'
    yield f'<rect class="{kind}" x="{x:.0f}" y="{y:.0f}" {size} rx="6"/>'
    yield f'<text class="name" x="{x + 12:.0f}" y="{y + 22:.0f}">{escape(name)}</text>'
    for number, line in enumerate(textwrap.wrap(what, int((width - 20) / 6.7))):
        at = f'x="{x + 12:.0f}" y="{y + 41 + 15 * number:.0f}"'
        yield f'<text class="what" {at}>{escape(line)}</text>'


def rooms(package: str, place: Place) -> Iterator[str]:
    """Draw the packages inside a package, in rows."""
    x, y, width, _ = place
    each = (width - 12) / COLUMNS - 12
    for number, name in enumerate(packages(PACKAGE / package)):
        row, column = divmod(number, COLUMNS)
        corner = x + 12 + column * (each + 12), y + 64 + row * (ROOM_HEIGHT + 12)
        yield from box(name, words(PACKAGE / package / name), (*corner, each, ROOM_HEIGHT), "room")


def has_rooms(package: str) -> bool:
    """Return whether the packages inside a package are worth boxes of their own."""
    return len(packages(PACKAGE / package)) >= COLUMNS


def height_of(package: str) -> float:
    if not has_rooms(package):
        return BOX_HEIGHT
    return 64 + -(-len(packages(PACKAGE / package)) // COLUMNS) * (ROOM_HEIGHT + 12)


def layout(arrows: dict[str, set[str]]) -> dict[str, Place]:
    """Return where each box stands; one alone on its floor is as wide as what it rests on."""
    places: dict[str, Place] = {}
    bottom = 0.0
    for row in floors(arrows):
        left, right = MARGIN, WIDTH - MARGIN
        if len(row) == 1 and arrows[row[0]]:
            below = [places[target] for target in arrows[row[0]]]
            left, right = min(x for x, *_ in below), max(x + width for x, _, width, _ in below)
        row = sorted(row, key=has_rooms, reverse=True)
        parts = [4 if has_rooms(name) else 1 for name in row]
        unit = (right - left - GAP * (len(row) - 1)) / sum(parts)
        height = max(map(height_of, row))
        for name, part in zip(row, parts, strict=True):
            places[name] = (left, bottom - height, part * unit, height)
            left += part * unit + GAP
        bottom -= height + GAP
    top = min(y for _, y, _, _ in places.values())
    return {name: (x, y - top + MARGIN, w, h) for name, (x, y, w, h) in places.items()}


def picture() -> str:
    """Return the picture in SVG."""
    arrows = without_shortcuts({package: imports(package) for package in packages(PACKAGE)})
    places = layout(arrows)
    height = max(y + height for _, y, _, height in places.values()) + MARGIN
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}">',
        f"<title>The packages of golf_opt</title><style>{STYLE}</style>",
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
        'markerHeight="7" orient="auto"><path d="M0 0 8 4 0 8Z" fill="#7a8699"/></marker></defs>',
        '<rect width="100%" height="100%" fill="#ffffff"/>',
        *arrow_lines(arrows, places),
    ]
    for name, place in places.items():
        lines += box(name, words(PACKAGE / name), place, "box")
        if has_rooms(name):
            lines += rooms(name, place)
    return "\n".join([*lines, "</svg>", ""])


def arrow_lines(arrows: dict[str, set[str]], places: dict[str, Place]) -> Iterator[str]:
    for package, targets in arrows.items():
        x, y, width, height = places[package]
        for target in sorted(targets):
            to_x, to_y, to_width, _ = places[target]
            middle = (max(x, to_x) + min(x + width, to_x + to_width)) / 2  # of what they share
            yield f'<path class="arrow" d="M{middle:.0f} {y + height:.0f} V{to_y - 1:.0f}"/>'


def table() -> str:
    """Return the packages in Markdown, the highest floor first."""
    lines = ["| package | what belongs there |", "|---|---|"]
    for row in reversed(floors({package: imports(package) for package in packages(PACKAGE)})):
        for name in row:
            lines.append(f"| `{name}` | {words(PACKAGE / name)} |")
            lines += [
                f"| `{name}.{inner}` | {words(PACKAGE / name / inner)} |"
                for inner in packages(PACKAGE / name)
                if has_rooms(name)
            ]
    return "\n".join([*lines, ""])


def main() -> None:
    if "--write" in sys.argv:
        PICTURE.write_text(picture())
        replace_section(PAGE, BEGIN, END, table())
    else:
        print(picture(), table(), sep="\n", end="")


if __name__ == "__main__":
    main()
