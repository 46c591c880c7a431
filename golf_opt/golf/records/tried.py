"""The log of what was tried for records, what failed too: a row each, and LOG.md made of them.

    records/tried.jsonl   a row a line: hunts, prunings, and trials by hand
    records/LOG.md        their tables
    hunts/*.json          a row of each run of `golf-opt hunt`, as it ended
    pruned/*/prune.json   what each pruning wrote beside its weights

`golf-opt leaderboard` adds to the first what the last two have new.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, ValidationError

from golf_opt.config.errors import UsageError
from golf_opt.golf.pruning.folder import PruningFolder
from golf_opt.golf.records.facts import Facts
from golf_opt.golf.records.make import portable_command
from golf_opt.utils.files import read_regular, replace_text
from golf_opt.utils.text import one_line, percent, show_duration
from golf_opt.visualization.document import Heading, Paragraph, Table, markdown

ROWS, PAGE, HUNTS = "tried.jsonl", "LOG.md", "hunts"
Share = Annotated[float, Field(ge=0, le=1)]
Seconds = Annotated[float, Field(ge=0, le=1e9)]
UNKNOWN = "-"


class Tried(BaseModel):
    """One thing that was tried, and what came of it."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    id: str = Field(min_length=1, max_length=300)
    kind: Literal["hunt", "pruning", "by hand"]
    date: datetime.date | None  # None: not recorded
    what: str
    began: str  # the net that it began with, or nothing
    n: PositiveInt | None = None  # trainings, or seeds, that the figure is the best or mean of
    measure: Literal["best", "mean"] | None = None  # of n's accuracies; None: not noted, or one
    nz: NonNegativeInt | None = None
    accuracy: Share | None = None  # on the images that decided
    upto: Share | None = None  # where only a range of accuracies is known, its other end
    beside: Share | None = None  # the accuracy without what was tried
    rule: Literal["test", "holdout"]
    target: Share | None = None
    time_s: Seconds | None = None
    ended: str = ""

    @property
    def result(self) -> str:
        """What came of it, in a few words."""
        if self.accuracy is None:
            return UNKNOWN if self.nz is None else f"{self.nz} non-zero"
        shown = percent(self.accuracy) + (f" to {percent(self.upto)}" if self.upto else "")
        of = "" if self.measure is None else f"{self.measure} of n: "
        return f"{of}{shown}" if self.nz is None else f"{self.nz} non-zero, {shown}"


def read_rows(records: Path) -> list[Tried]:
    """Return the rows of a folder of records.

    Raises:
        UsageError: a line is no row; it is named.
    """
    path = records / ROWS
    if not path.exists():
        return []
    try:
        lines = read_regular(path).decode().splitlines()
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read: {error}.") from error
    rows = []
    for number, line in enumerate(filter(None, lines), 1):
        try:
            rows.append(Tried.model_validate_json(line))
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"])) or "it"
            raise UsageError(f"{path}, line {number}: {place}: {first['msg']}.") from error
    return rows


def gathered(folder: Path, digest: str) -> list[Tried]:
    """Return rows of the hunts and prunings of a folder of studies, on one data set's images.

    What cannot be read is left out: it may be half written, or of another version.
    """
    rows = []
    for path in sorted((folder / HUNTS).glob("*.json")):
        try:
            content = json.loads(read_regular(path))
            if content.pop("data") == digest:
                rows.append(Tried.model_validate_json(json.dumps(content)))
        except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError):
            continue
    for path in sorted((folder / "pruned").glob("*/prune.json")):
        try:
            summary = PruningFolder(path.parent).read_summary()
            if summary["data_digest"] == digest and " hunt " not in summary["command"]:
                rows.append(_of_pruning(path, summary))
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return rows


def _of_pruning(path: Path, summary: dict[str, Any]) -> Tried:
    turns = len(summary["log"])
    return Tried(
        id=f"pruning {path.parent.name}",
        kind="pruning",
        date=datetime.date.fromtimestamp(path.stat().st_mtime),
        what=portable_command(summary["command"]),
        began=summary["source"],
        n=1,
        nz=summary["nz"],
        accuracy=summary["guide_accuracy"],
        rule=summary["options"]["rule"],
        target=summary["options"]["target"],
        time_s=float(summary["time_s"]),
        ended=f"{'to its end' if summary['finished'] else 'stopped'}, {turns} rounds or passes",
    )


def merged(known: Iterable[Tried], new: Iterable[Tried]) -> list[Tried]:
    """Return all rows, the new one of two with the same id, in the order of their days."""
    rows = {row.id: row for row in [*known, *new]}
    return sorted(rows.values(), key=lambda row: (row.date or datetime.date.min, row.id))


def write_log(records: Path, rows: Sequence[Tried], kept: Sequence[Facts]) -> Path:
    """Write the rows and the page of them and of the records; return the page."""
    lines = [row.model_dump_json(exclude_defaults=True) for row in rows]
    replace_text(records / ROWS, "".join(f"{line}\n" for line in lines))
    replace_text(records / PAGE, page(rows, kept))
    return records / PAGE


def page(rows: Sequence[Tried], kept: Sequence[Facts]) -> str:
    """Return LOG.md."""
    return markdown("What was tried", blocks(rows, kept))


def blocks(rows: Sequence[Tried], kept: Sequence[Facts]) -> list[Heading | Paragraph | Table]:
    """Return the log's blocks: what became records, runs of commands, and trials by hand."""
    days = sorted(kept, key=lambda facts: (facts.record.claim.date, facts.record.label))
    head: tuple[str, ...] = ("day", "record", "non-zero", "test", "trainings", "pruning")
    found: list[Heading | Paragraph | Table] = [
        Paragraph(
            "For records, what failed too. Written by golf-opt leaderboard from tried.jsonl and "
            "the records: hunts and prunings as they ended, and trials by hand. Accuracies are "
            "those of the images that decided, by the rule: test, or held-out training images."
        ),
        Heading("What became a record"),
        Table(head, [_record_cells(facts) for facts in days]),
    ]
    commands = [row for row in rows if row.kind != "by hand"]
    by_hand = [row for row in rows if row.kind == "by hand"]
    if commands:
        head = ("day", "what", "began with", "n", "result", "target", "rule", "time", "ended")
        found += [Heading("Runs of commands"), Table(head, [_command_cells(r) for r in commands])]
    if by_hand:
        words = "Run by hand, mostly with code that was not kept; figures are from notes."
        head = ("day", "what", "began with", "n", "result", "without it", "rule", "time", "remark")
        table = Table(head, [_hand_cells(row) for row in by_hand])
        found += [Heading("Trials by hand"), Paragraph(words), table]
    return found


def _record_cells(facts: Facts) -> list[str]:
    record = facts.record
    numbers = [str(record.claim.params.nz), percent(record.accuracy("test"))]
    words = [facts.trainings.words, facts.pruning]
    return [str(record.claim.date), record.label, *numbers, *words]


def _command_cells(row: Tried) -> list[str]:
    target = UNKNOWN if row.target is None else percent(row.target)
    return [*_first(row), row.result, target, row.rule, _time(row), row.ended]


def _hand_cells(row: Tried) -> list[str]:
    beside = UNKNOWN if row.beside is None else percent(row.beside)
    return [*_first(row), row.result, beside, row.rule, _time(row), row.ended]


def _first(row: Tried) -> list[str]:
    day = "not recorded" if row.date is None else str(row.date)
    return [day, one_line(row.what), one_line(row.began), str(row.n or UNKNOWN)]


def _time(row: Tried) -> str:
    return UNKNOWN if row.time_s is None else show_duration(row.time_s)


def keep_hunt(folder: Path, row: Tried, digest: str) -> None:
    """Write the row of a run of a hunt, in a file of its own."""
    stamp = f"{datetime.datetime.now():%Y%m%dT%H%M%S-%f}"
    content = row.model_dump(mode="json", exclude_defaults=True) | {"data": digest}
    replace_text(folder / HUNTS / f"{stamp}.json", json.dumps(content, indent=1) + "\n")
