"""What a record's files tell of how it came to be, beyond what record.json claims.

Nothing here is typed in by anybody: it is worked out from seeds.json, config.yaml and the weights.
Where files of an older version do not hold it, it is "not recorded".
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from golf_opt.config.errors import UsageError
from golf_opt.config.yaml_file import load_plain
from golf_opt.engines.base import Tensors
from golf_opt.golf.records.schema import CONFIG, LOG, SEEDS, WEIGHTS
from golf_opt.golf.records.verify import TARGETS, Record
from golf_opt.task import layers
from golf_opt.task.arch import Net
from golf_opt.utils.files import read_regular
from golf_opt.utils.text import count, percent, show_duration

NOT_RECORDED = "not recorded"
TO_THE_END = ("complete", "confirmed")  # states of a training


@dataclass(frozen=True)
class Trainings:
    """The trainings behind a record, of its own net alone."""

    rows: Sequence[dict[str, Any]]
    target: float  # of the board
    split: str  # that their accuracies are of

    @property
    def accuracies(self) -> list[float]:
        """Of those that came to their end."""
        found = [row.get("accuracy") for row in self.rows if row.get("state") in TO_THE_END]
        return [a for a in found if isinstance(a, float) and math.isfinite(a)]

    @property
    def words(self) -> str:
        """How many there were, their mean, and how many reach the board's target."""
        tried, ended = len(self.rows), self.accuracies
        if not ended:
            return f"{tried} tried; their accuracies are {NOT_RECORDED}"
        spread = f", sd {100 * statistics.stdev(ended):.2f}" if len(ended) > 1 else ""
        reach = sum(accuracy >= self.target for accuracy in ended)
        return (
            f"{tried} tried, {len(ended)} to the end: mean {percent(statistics.mean(ended))}"
            f"{spread}, best {percent(max(ended))} ({self.split}); {reach} of {tried} "
            f"({100 * reach / tried:.0f} %) reach {percent(self.target)} before pruning"
        )


@dataclass(frozen=True)
class Facts:
    """A record and what it was made with, read once."""

    record: Record
    config: Mapping[str, Any]

    @property
    def recipe(self) -> Mapping[str, Any]:
        return _mapping(self.config.get("recipe"))

    @property
    def trainings(self) -> Trainings:
        """The trainings of the record's net; those of a search's other nets are left out."""
        rows, recipe = _rows(self.record), self.recipe
        if recipe.get("family"):
            number = self.config.get("trial")
            params = next((row.get("params") for row in rows if row.get("trial") == number), None)
            alike = [row.get("trial") for row in rows if row.get("params") == params]
            rows = [row for row in rows if row.get("trial") in alike]
        rule = recipe.get("protocol", self.record.claim.protocol.rule)
        words = "held-out images" if rule == "holdout" else "test images"
        return Trainings(rows, TARGETS[self.record.claim.board], words)

    @property
    def commands(self) -> list[str]:
        """What makes the record again, a command each; a remark begins with `#`."""
        made = [*map(_mapping, _list(self.config.get("before"))), self.config]
        steps = [word for step in made if isinstance(word := step.get("command"), str)]
        if steps and any(part in steps[0] for part in (" hunt ", " weights=")):
            return steps  # from nothing, or from a record that is here
        source = self.config.get("source", self.config.get("study", "its study"))
        remark = f"# the command of {source} was {NOT_RECORDED}; config.yaml has all its settings"
        before = self.recipe.get("command")
        return [before if isinstance(before, str) else remark, *steps]

    def made_again_by(self, others: Iterable[Facts]) -> list[str]:
        """Return the other records with the same weights, or made by the same commands."""
        own, weights = self.commands, self.record.claim.files[WEIGHTS]
        known = not own[0].startswith("#")
        return [
            other.record.label
            for other in others
            if other.record.label != self.record.label
            and (other.record.claim.files[WEIGHTS] == weights or (known and other.commands == own))
        ]

    @property
    def pruning(self) -> str:
        """Whether pruning came to its end, how many turns it had and what it took."""
        if "finished" not in self.config:
            return "not pruned"
        folder = self.record.folder
        lines = read_regular(folder / LOG, inside=folder).decode(errors="replace").splitlines()
        turns = count(sum(line.startswith('{"') for line in lines), "turn")
        ended = "to its end" if self.config["finished"] is True else "stopped before its end"
        cost: Any = self.config.get("time_s")
        known = isinstance(cost, float) and math.isfinite(cost)
        return f"{ended}, {turns}, time {show_duration(float(cost)) if known else NOT_RECORDED}"

    @property
    def commit(self) -> str:
        """The commit that the record was made with, and whether its tree was clean."""
        commit = self.record.claim.made_by.git_commit
        if commit is None:
            return NOT_RECORDED
        if commit.endswith("+"):
            return f"{commit[:-1]}, with changes: since 0.2.0 that is refused"
        return f"{commit}, without changes"


def facts_of(record: Record) -> Facts:
    """Return a record with what it was made with; nothing where that cannot be read."""
    try:
        return Facts(record, load_plain(record.folder / CONFIG, "of settings"))
    except UsageError:
        return Facts(record, {})


def _rows(record: Record) -> list[dict[str, Any]]:
    try:
        found = json.loads(read_regular(record.folder / SEEDS, inside=record.folder))
    except (ValueError, RecursionError):
        return []
    return [row for row in found if isinstance(row, dict)] if isinstance(found, list) else []


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def uncounted(net: Net, tensors: Tensors) -> str:
    """Return which numbers of a net are not trained, and so not counted."""
    running = sum(v.size for name, v in tensors.items() if name.startswith("buffers/"))
    slopes = [n.layer.slope for n in net.nodes if isinstance(n.layer, layers.LeakyReLU)]
    parts = [f"{count(2 * len(net.input.mean), 'number')} that normalise the pixels"]
    if running:
        parts.append(f"{count(running, 'running mean')} and variances of batch norm")
    if slopes:
        shown = ", ".join(f"{slope:g}" for slope in dict.fromkeys(slopes))
        parts.append(f"the fixed slope of {count(len(slopes), 'LeakyReLU')} ({shown})")
    return "; ".join(parts)
