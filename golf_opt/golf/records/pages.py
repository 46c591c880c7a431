"""The pages of the leaderboard: what of a record goes into which template, all of it escaped."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from golf_opt.config.types import BOARDS
from golf_opt.golf.batch_norm import folded
from golf_opt.golf.dead import num_nonzero
from golf_opt.golf.deploy.c_code import c_header
from golf_opt.golf.interpret import run as interpret
from golf_opt.golf.interpret.run import Look, blocks
from golf_opt.golf.records import tried
from golf_opt.golf.records.facts import Facts, uncounted
from golf_opt.golf.records.table import TITLES
from golf_opt.golf.records.verify import TARGETS, Record
from golf_opt.study.card import layer_rows
from golf_opt.utils.text import count, percent
from golf_opt.visualization.document import Picture, templates
from golf_opt.visualization.plots import svg
from golf_opt.visualization.size_and_accuracy import KnownNet, front_over_time

WIDE, NARROW = 8.0, 4.2  # inches of the figure; the second is for a phone
HEADER = "net.h"
THEMED = {"#ffffff": "none", "#000000": "currentColor", "#e5e5e5": "var(--line)"}


@dataclass(frozen=True)
class Entry:
    """A record on its board."""

    facts: Facts
    look: Look
    until: str | None  # the day since when a smaller one is there; None: it is the smallest
    first: bool  # it was the smallest on its board when it came
    again: Sequence[str]  # records that are the same net, or by the same commands

    @property
    def record(self) -> Record:
        return self.facts.record

    @property
    def path(self) -> str:
        return self.record.label

    @property
    def status(self) -> str:
        if self.until is None:
            return "the record"
        return f"superseded {self.until}" if self.first else "not the smallest"


# what the page says of each picture; the pictures are those of `golf-opt interpret`
PICTURES = {
    "first-channels": "What the channels of the first layer put out, for one image of each class.",
    "visualised-channels": "The image that drives each channel highest, by gradient ascent.",
    "survivors": "Which weights are left: blue ones are not zero. A row is an output.",
}


def pictures_of(look: Look, steps: int) -> Iterator[tuple[str, Callable[[], Picture]]]:
    """Yield key and maker of each picture of a net."""
    if blocks(look.net):
        yield "first-channels", lambda: interpret.first_channels(look)
        yield "visualised-channels", lambda: next(interpret.visualisations(look, steps))
    if num_nonzero(look.net, look.trained.tensors) < look.net.num_params:
        yield "survivors", lambda: interpret.survivors(look.net, look.trained.tensors)


def drawn(draw: Callable[[], Picture]) -> bytes:
    """Return the file of a picture."""
    return draw().data


def _render(template: str, **content: Any) -> bytes:
    page = templates("golf_opt.golf.records").get_template(f"{template}.html.j2")
    return page.render(content).encode()


def stylesheet() -> bytes:
    """Return the stylesheet of all pages."""
    return resources.files("golf_opt.golf.records").joinpath("templates", "style.css").read_bytes()


def index(shown: Sequence[Entry], bars: Sequence[Mapping[str, Any]]) -> bytes:
    """Return the page of the boards."""
    boards = []
    for board in BOARDS:
        rows = [_row(entry) for entry in shown if entry.record.claim.board == board]
        rows += [_bar(bar) for bar in bars if bar["board"] == board]
        title = TITLES[board].replace("**", "")
        by_size = sorted(rows, key=lambda row: int(row["nz"]))
        boards.append({"name": board, "title": title, "rows": by_size})
    history = sorted(shown, key=lambda e: (e.record.claim.date, e.path), reverse=True)
    return _render(
        "index",
        root="",
        boards=boards,
        figures=[("wide", _front(shown, WIDE)), ("narrow", _front(shown, NARROW))],
        history=[_row(entry) for entry in history],
    )


def _row(entry: Entry) -> dict[str, Any]:
    claim = entry.record.claim
    return {
        "path": f"{entry.path}/index.html",
        "nz": claim.params.nz,
        "dense": claim.params.dense,
        "test": percent(entry.record.accuracy("test")),
        "train": percent(entry.record.accuracy("train")),
        "rule": claim.protocol.rule,
        "seeds": claim.protocol.seeds,
        "net": claim.net.name,
        "how": claim.how,
        "date": str(claim.date),
        "board": claim.board,
        "status": entry.status,
        "best": entry.until is None,
    }


def _bar(bar: Mapping[str, Any]) -> dict[str, Any]:
    """Return the row of what others published."""

    def points(value: float | None) -> str:
        return "-" if value is None else f"{value:.2f} %"

    return {
        "nz": bar["nz"],
        "about": bar.get("about", False),
        "dense": bar["dense"],
        "test": points(bar["test"]),
        "train": points(bar["train"]),
        "rule": bar["rule"],
        "how": bar["how"],
        "status": "published",
    }


def _front(shown: Sequence[Entry], width: float) -> Markup:
    """Return the figure, in the colours of the page."""
    nets = []
    for entry in shown:
        claim, accuracy = entry.record.claim, 100 * entry.record.accuracy("test")
        nets.append((claim.date, KnownNet(claim.name, claim.params.nz, accuracy)))
    figure = front_over_time(nets)
    element = svg(figure, width)
    for white, themed in THEMED.items():
        element = element.replace(white, themed)
    key = "front" if width == WIDE else "front-narrow"
    return Picture(key, figure.title, figure.caption, element).element


def record(entry: Entry, pictures: Sequence[str]) -> bytes:
    """Return the page of a record; `pictures` are keys of PICTURES."""
    look, claim = entry.look, entry.record.claim
    place = f"studies/records/{entry.path}"
    return _render(
        "record",
        root="../../",
        row=_row(entry),
        title=TITLES[claim.board].replace("**", ""),
        target=percent(TARGETS[claim.board]),
        facts=_facts(entry),
        layers=_layers(look),
        pictures=[(f"{key}.png", PICTURES[key]) for key in pictures],
        classes=look.net.input.class_names,
        confusion=_confusion(look),
        wrong=count(len(look.wrong), "image"),
        number=f"{len(look.seen):,}",
        header=HEADER,
        verify=f"golf-opt verify {place}",
        commands=entry.facts.commands,
        place=place,
        seeds=[_training(row) for row in entry.facts.trainings.rows],
    )


def _facts(entry: Entry) -> list[tuple[str, str]]:
    record, facts = entry.record, entry.facts
    claim, params = record.claim, record.claim.params
    dead = f", of which {params.dead} are without effect" if params.dead else ""
    rows = [
        ("parameters", f"{params.nz:,} are not zero of {params.dense:,}{dead}"),
        ("not counted", uncounted(entry.look.net, entry.look.trained.tensors)),
        ("test", _counted(record, "test")),
        ("train", _counted(record, "train")),
    ]
    if claim.splits.holdout is not None:
        gap = 100 * (record.accuracy("test") - record.accuracy("holdout"))
        words = f"{_counted(record, 'holdout')}; test is {gap:+.2f} points from it"
        rows.append(("held out", words))
    return [
        *rows,
        ("rule", f"{claim.protocol.rule}: {claim.protocol.words}"),
        ("trainings", facts.trainings.words),
        ("pruning", facts.pruning),
        ("made again by", ", ".join(entry.again) or "nobody yet"),
        ("commit", facts.commit),
        ("version", claim.made_by.version),
        ("data", f"{claim.data.name}, {claim.data.md5}"),
        ("status", f"{entry.status} (board {claim.board}, {claim.date})"),
    ]


def _counted(record: Record, split: str) -> str:
    counted = getattr(record.claim.splits, split)
    return f"{percent(record.accuracy(split))}: {counted.correct:,} of {counted.of:,} images"


def _training(row: Mapping[str, Any]) -> list[str]:
    def share(name: str) -> str:
        value = row.get(name)
        return percent(value) if isinstance(value, float) else "-"

    state = row.get("state", "-")
    return [
        str(row.get("seed", "-")),
        "stopped early" if state == "pruned" else str(state),
        share("accuracy"),
        share("train_accuracy"),
    ]


def _layers(look: Look) -> list[list[str]]:
    """Return a row for each layer: name, output, parameters, non-zero, multiply-adds; the total."""
    tensors, nodes = look.trained.tensors, look.net.nodes
    left = [
        0
        if node.shared
        else sum(int(np.count_nonzero(tensors[f"weights/{p.name}"])) for p in node.parameters)
        for node in nodes
    ]
    numbers = [*left, sum(left)]
    return [
        [*row[:3], f"{number:,}", row[3]]
        for row, number in zip(layer_rows(look.net), numbers, strict=True)
    ]


def _confusion(look: Look) -> list[list[tuple[int, str]]]:
    """Return [class][taken for]: how many images, and how dark a mistake is shown, in percent."""
    classes = look.net.input.classes
    counts: npt.NDArray[np.int64] = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(counts, (look.seen.labels.astype(np.int64), look.digits), 1)
    most = max(1, int((counts * (1 - np.eye(classes, dtype=np.int64))).max()))
    return [
        [
            (int(n), "right" if row == column else str(round(70 * int(n) / most)))
            for column, n in enumerate(line)
        ]
        for row, line in enumerate(counts)
    ]


def header(entry: Entry) -> bytes:
    """Return the net as a C header, batch norm folded."""
    record = entry.record
    net = folded(entry.look.trained)
    about = {
        "record": f"{record.label} of golf_opt",
        "net": record.claim.net.name,
        "parameters": f"{record.claim.params.nz:,} not zero of {record.claim.params.dense:,}",
        "test": _counted(record, "test"),
        "train": _counted(record, "train"),
    }
    return c_header(net.net, net.tensors, about).encode()


def log(shown: Sequence[Entry], rows: Sequence[tried.Tried]) -> bytes:
    """Return the page of what was tried."""
    return _render("log", root="", blocks=tried.blocks(rows, [entry.facts for entry in shown]))
