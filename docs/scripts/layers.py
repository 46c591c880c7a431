"""The table of docs/extending.md with the kinds of layers and their keys, from the classes.

python docs/scripts/layers.py          print it
python docs/scripts/layers.py --write  put it into the page, between its marks
"""

from __future__ import annotations

from pathlib import Path

from golf_opt.task.kinds import kinds_in_markdown
from golf_opt.utils.files import print_or_write

PAGE = Path(__file__).parents[2] / "docs" / "extending.md"
BEGIN = "<!-- layers: python docs/scripts/layers.py --write -->\n"
END = "<!-- /layers -->"


if __name__ == "__main__":
    print_or_write(PAGE, BEGIN, END, kinds_in_markdown())
