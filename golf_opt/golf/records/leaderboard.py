"""The leaderboard: the records as a site of plain files, which needs no network and no script.

    index.html                     the boards, the front over time, the history
    log.html                       what was tried
    style.css                      of all pages
    BOARD/DATE_NAME/index.html     a record: its layers, what its channels see, its confusion
    BOARD/DATE_NAME/net.h          the net as a C header
    BOARD/DATE_NAME/*.png          its pictures

What a record says of itself may be a stranger's: it is verified first, and all text is escaped.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from golf_opt.config.errors import UsageError
from golf_opt.config.schema import LeaderboardConfig
from golf_opt.config.types import BOARDS
from golf_opt.golf.interpret.run import Look, observe
from golf_opt.golf.records import pages, tried
from golf_opt.golf.records.facts import facts_of
from golf_opt.golf.records.pages import HEADER, Entry, pictures_of
from golf_opt.golf.records.verify import (
    Record,
    RecordFault,
    load_record,
    record_folders,
    verify,
)
from golf_opt.golf.source import TrainedNet
from golf_opt.task.data import Dataset
from golf_opt.task.data import load as load_data
from golf_opt.utils.files import read_regular, staged_folder
from golf_opt.utils.text import count

BARS = "bars.json"  # beside the boards: what others published
Say = Callable[[str], None]
Files = dict[str, Callable[[], bytes]]  # of a site, by path; made when they are asked for


def write_leaderboard(config: LeaderboardConfig, say: Say) -> bool:
    """Write the log and the site; return whether all records are what they say.

    Raises:
        UsageError: there is no record, or something cannot be written.
    """
    dataset, records = load_data(config.data), config.folder / "records"
    good, wrong = verified(record_folders(records), dataset, say)
    if not good:
        raise UsageError(f"{records} holds no record of {dataset.name} that can be shown.")
    rows = tried.merged(tried.read_rows(records), tried.gathered(config.folder, dataset.digest))
    shown = entries(good, dataset)
    kept = [entry.facts for entry in shown]
    files = site(shown, read_bars(records), rows, config.steps)
    try:
        say(f"{count(len(rows), 'row')}: {tried.write_log(records, rows, kept)}")
        with staged_folder(_fit(config.output)) as made:
            for name, make in files.items():
                (made / name).parent.mkdir(parents=True, exist_ok=True)
                (made / name).write_bytes(make())
    except OSError as error:
        place = error.filename or config.output
        raise UsageError(f"{place} cannot be written: {error.strerror}.") from error
    say(f"{count(len(good), 'record')}: {config.output / 'index.html'}")
    return wrong == 0


def _fit(output: Path) -> Path:
    """Return a folder that a site may take the place of.

    Raises:
        UsageError: something else is there, which would be lost.
    """
    taken = output.exists() and not (output.is_dir() and not any(output.iterdir()))
    if taken and not (output / "log.html").is_file():
        raise UsageError(
            f"output is {str(output)!r}, but must be a new folder, or one that golf-opt "
            "leaderboard wrote: what is in it is replaced."
        )
    return output


def verified(folders: Sequence[Path], dataset: Dataset, say: Say) -> tuple[list[Record], int]:
    """Return the records that are what they say, and how many are not, of which it says why.

    Of the accuracies it checks the one on test, by which boards rank.
    """
    good = []
    for folder in folders:
        try:
            record = load_record(folder.resolve())
            verify(record, dataset, splits=("test",))
            good.append(record)
        except RecordFault as fault:
            say(f"REJECTED  {fault}")
    return good, len(folders) - len(good)


def entries(records: Sequence[Record], dataset: Dataset) -> list[Entry]:
    """Return the records with what is shown of them, board by board, the smallest first."""
    facts = [facts_of(record) for record in records]
    found = []
    for each in sorted(facts, key=lambda f: (BOARDS.index(f.record.claim.board), *_rank(f.record))):
        own = each.record
        board = [r for r in records if r.claim.board == own.claim.board]
        better = [r for r in board if _rank(r) < _rank(own)]
        since = min((r.claim.date for r in better), default=None)
        until = None if since is None else str(max(since, own.claim.date))
        first = all(r.claim.date >= own.claim.date for r in better)
        look = _look(own, dataset)
        found.append(Entry(each, look, until, first, each.made_again_by(facts)))
    return found


def _rank(record: Record) -> tuple[Any, ...]:
    return record.claim.params.nz, -record.accuracy("test"), record.claim.date, record.label


def _look(record: Record, dataset: Dataset) -> Look:
    """Return what a net does with the test images."""
    net = TrainedNet(record.label, record.net(dataset.input), record.tensors)
    return observe(net, dataset.view("test"), record.accuracy("train"))


def read_bars(records: Path) -> list[dict[str, Any]]:
    """Return what others published, of the file beside the boards, if there is one."""
    path = records / BARS
    if not path.exists():
        return []
    bars: list[dict[str, Any]] = json.loads(read_regular(path))
    return bars


def site(
    shown: Sequence[Entry],
    bars: Sequence[Mapping[str, Any]],
    rows: Sequence[tried.Tried],
    steps: int,
) -> Files:
    """Return the files of the site.

    Args:
        shown: the records.
        bars: what others published.
        rows: of the log.
        steps: of gradient ascent, for the pictures.
    """
    files: Files = {
        "index.html": partial(pages.index, shown, bars),
        "log.html": partial(pages.log, shown, rows),
        "style.css": pages.stylesheet,
    }
    for entry in shown:
        pictures = dict(pictures_of(entry.look, steps))
        files[f"{entry.path}/index.html"] = partial(pages.record, entry, list(pictures))
        files[f"{entry.path}/{HEADER}"] = partial(pages.header, entry)
        for key, draw in pictures.items():
            files[f"{entry.path}/{key}.png"] = partial(pages.drawn, draw)
    return files
