"""The table of docs/data.md with what came out of the four tasks, from what their runs kept.

python docs/scripts/tasks.py FOLDER...  keep FOLDER/result.json of runs in bench/results/tasks.json
python docs/scripts/tasks.py --write    put the table into the page, between its marks
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from golf_opt.utils.files import print_or_write
from golf_opt.utils.stats import Spread

ROOT = Path(__file__).parents[2]
PAGE, KEPT = ROOT / "docs" / "data.md", ROOT / "bench" / "results" / "tasks.json"
BEGIN, END = "<!-- tasks: python docs/scripts/tasks.py --write -->\n", "<!-- /tasks -->"
HEAD = """\
| task | images, classes | net | best of | its accuracy | on fresh seeds: n, mean, sd | \
non-zero after pruning | C equals engine |
|---|---|---|---:|---:|---:|---:|---:|
"""


def table() -> str:
    """Return the table in Markdown."""
    return HEAD + "".join(_rows())


def _rows() -> Iterator[str]:
    for row in json.loads(KEPT.read_text()).values():
        seeds = Spread([100 * value for value in row["confirmed"]])
        yield (
            f"| {row['task']} | {'x'.join(map(str, row['input']))}, {row['classes']} "
            f"| `{row['arch']}`, {row['parameters']:,} parameters | {row['trials']} trials "
            f"| {100 * row['best']:.2f} % | {seeds.n}, {seeds.mean:.2f} %, {seeds.sd:.2f} "
            f"| {row['non_zero']} with {100 * row['pruned']:.2f} % "
            f"| {row['same']:,} of {row['images']:,} |\n"
        )


if __name__ == "__main__":
    folders = [Path(given) for given in sys.argv[1:] if given != "--write"]
    kept = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    for folder in folders:
        result = json.loads((folder / "result.json").read_text())
        kept[result["task"]] = result
    KEPT.write_text(json.dumps(kept, indent=1) + "\n")
    print_or_write(PAGE, BEGIN, END, table())
