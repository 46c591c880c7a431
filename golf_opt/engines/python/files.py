"""Where a trial of an objective stands: the checkpoint that it wrote, and the values up to there.

    <folder>/checkpoint     what the objective writes before a `yield`; gone after it
    <folder>/epoch-7        what it had written by its seventh `yield`, the last of its kind
    <folder>/values.jsonl   a line for every epoch: {"epoch": 1, "values": [0.5], "time_s": 0.1}

A value is written before the checkpoint of its epoch is put in place, and that is one rename. So
whenever the process dies, the last `epoch-N` is whole, and the values of N epochs are known.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, StrictFloat

from golf_opt.config.check import check, model
from golf_opt.config.types import Epochs
from golf_opt.utils.files import read_regular, replace_text

KEPT = "epoch-"


@model
class Line:
    """A line of values.jsonl."""

    epoch: Epochs
    values: Annotated[list[StrictFloat], Field(min_length=1)]
    time_s: StrictFloat


@dataclass(frozen=True)
class TrialFiles:
    """The files of one trial."""

    folder: Path

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint"

    @property
    def _values(self) -> Path:
        return self.folder / "values.jsonl"

    def kept(self) -> int:
        """Return the epoch of the last checkpoint; 0 where there is none."""
        names = (path.name.removeprefix(KEPT) for path in self.folder.glob(f"{KEPT}*"))
        return max((int(name) for name in names if name.isdecimal()), default=0)

    def history(self) -> list[Line]:
        """Return the epochs up to the last checkpoint.

        Raises:
            ValueError, OSError: they cannot be read, or one is missing.
        """
        epochs = self.kept()
        if not epochs:
            return []
        texts = read_regular(self._values).decode().split("\n")[:epochs]
        lines: list[Line] = [check(Line, json.loads(text)) for text in texts]
        if [line.epoch for line in lines] != list(range(1, epochs + 1)):
            raise ValueError(f"{self._values} does not have the values of {epochs} epochs")
        return lines

    def begin(self, done: int) -> None:
        """Put the checkpoint after `done` epochs where the objective looks for it, or none."""
        lines = self.history() if done else []
        assert len(lines) == done
        self.folder.mkdir(parents=True, exist_ok=True)
        _remove(self.checkpoint)
        for path in self.folder.glob(f"{KEPT}*"):
            if path.name != f"{KEPT}{done}":
                _remove(path)
        kept = self.folder / f"{KEPT}{done}"
        if kept.is_dir():
            shutil.copytree(kept, self.checkpoint)
        elif done:
            shutil.copyfile(kept, self.checkpoint)
        rows = [_row(line.epoch, line.values, line.time_s) for line in lines]
        replace_text(self._values, "".join(rows))

    def commit(self, epoch: int, values: Sequence[float], time_s: float) -> None:
        """Keep the values of an epoch, and the checkpoint if one was written since the last."""
        with self._values.open("a") as file:
            file.write(_row(epoch, values, time_s))
        if os.path.lexists(self.checkpoint):
            before = self.kept()
            _remove(self.folder / f"{KEPT}{epoch}")
            self.checkpoint.replace(self.folder / f"{KEPT}{epoch}")
            if before not in (0, epoch):
                _remove(self.folder / f"{KEPT}{before}")

    def delete(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def _row(epoch: int, values: Sequence[float], time_s: float) -> str:
    row: dict[str, Any] = {"epoch": epoch, "values": list(values), "time_s": time_s}
    return json.dumps(row) + "\n"


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
