"""The table of docs/extending.md with the kinds of layers and their keys, from the classes.

python docs/scripts/layers.py          print it
python docs/scripts/layers.py --write  put it into the page, between its marks
"""

from __future__ import annotations

import sys
from pathlib import Path

from golf_opt.task.kinds import kinds_in_markdown
from golf_opt.utils.files import replace_section

PAGE = Path(__file__).parents[2] / "docs" / "extending.md"
BEGIN = "<!-- layers: python docs/scripts/layers.py --write -->\n"
END = "<!-- /layers -->"


def main() -> None:
    if "--write" in sys.argv:
        replace_section(PAGE, BEGIN, END, kinds_in_markdown())
    else:
        print(kinds_in_markdown())


if __name__ == "__main__":
    main()
