"""The tables of docs/records.md, from the records themselves. Needs no torch.

python -m golf_opt.golf.records.table          print it
python -m golf_opt.golf.records.table --write  put it into the page, between its two marks
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from golf_opt.config.types import BOARDS
from golf_opt.golf.records.verify import Record, load_record, record_folders
from golf_opt.utils.files import print_or_write
from golf_opt.utils.text import markdown_table

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "studies" / "records"
BARS = FOLDER / "bars.json"  # what others reached: board, who, nz, dense, test, train, how
PAGE = ROOT / "docs" / "records.md"
REPOSITORY = "https://github.com/golf-opt/golf_opt/tree/main"  # the site has no such folders
BEGIN, END = "<!-- records: make records -->\n", "<!-- /records -->"
TITLES = {
    "article": "**The article's rule**: at least 98.00 % on test, and the test set may guide",
    "holdout": "**Holdout**: at least 98.00 % on test, read once; choices by training images alone",
    "99": "**99**: at least 99.00 % on test",
    "dense": "**Dense**: at least 98.00 % on test, nothing zeroed, and the test set may guide",
}
HEAD = ("non-zero", "dense", "test", "train", "rule", "seeds", "how", "date")


def section(records: Sequence[Record], bars: Sequence[Mapping[str, Any]]) -> str:
    """Return the section in Markdown: a table a board, the fewest parameters first."""
    lines = []
    for board in BOARDS:
        rows = [(r.claim.params.nz, cells(r)) for r in records if r.claim.board == board]
        rows += [(bar["nz"], bar_cells(bar)) for bar in bars if bar["board"] == board]
        if not rows:
            continue
        table = markdown_table(HEAD, [row for _, row in sorted(rows)], "rrrrlrll")
        lines += [f"{TITLES[board]}.", "", table, ""]
    return "\n".join(lines)


def cells(record: Record) -> list[str]:
    claim, params = record.claim, record.claim.params
    link = f"{REPOSITORY}/studies/records/{claim.board}/{record.folder.name}"
    dead = f" ({params.dead} dead)" if params.dead else ""
    return [
        f"**{params.nz}**{dead}",
        str(params.dense),
        f"{100 * record.accuracy('test'):.2f}",
        f"{100 * record.accuracy('train'):.2f}",
        claim.protocol.rule,
        str(claim.protocol.seeds),
        f"[{claim.net.name}]({link}): {claim.how}",
        str(claim.date),
    ]


def bar_cells(bar: Mapping[str, Any]) -> list[str]:
    def points(value: float | None) -> str:
        return "-" if value is None else f"{value:.2f}"

    dense = "-" if bar["dense"] is None else str(bar["dense"])
    about = "about " if bar.get("about") else ""
    return [
        f"{about}{bar['nz']}",
        dense,
        points(bar["test"]),
        points(bar["train"]),
        bar["rule"],
        "-",
        f"*to beat: {bar['how']}*",
        "-",
    ]


def current() -> str:
    """Return the section as the records and bars of this checkout give it."""
    records = [load_record(folder) for folder in record_folders(FOLDER)]
    return section(records, json.loads(BARS.read_text()))


if __name__ == "__main__":
    print_or_write(PAGE, BEGIN, END, current())
