"""The checkpoints of a study of an objective: files that the objective wrote itself, and reads.

They stay in the study's folder. In the database they could become somebody else's, and what an
objective reads back, it may well unpickle.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from optuna.trial import Trial

from golf_opt.config.errors import UsageError
from golf_opt.engines.base import LaneState, Work
from golf_opt.engines.python.engine import result_of
from golf_opt.engines.python.files import TrialFiles
from golf_opt.storage import gate
from golf_opt.storage.checkpoint import Checkpoint, DamagedCheckpoint


class ObjectiveFiles:
    """As `checkpoint.CheckpointFolder`, but that the lanes' processes do the saving."""

    every_slice = False

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def files(self, number: int) -> TrialFiles:
        return TrialFiles(self.folder / str(number))

    def save(self, trial: Trial, job: Work, checkpoint: Checkpoint) -> None:
        """It is saved already: with every value, before the engine knew of it."""

    def load(self, number: int, job: Work | None = None) -> Checkpoint:
        """Return how far a trial's last checkpoint is, with the values up to there.

        Raises:
            FileNotFoundError: there is none.
            DamagedCheckpoint: the values cannot be read.
        """
        files = self.files(number)
        try:
            lines = files.history()
        except (OSError, UsageError, *gate.UNREADABLE) as error:
            why = gate.reason(error)
            raise DamagedCheckpoint(f"{files.folder} cannot be read: {why}") from error
        if not lines or (job is not None and len(lines) > job.epochs):
            raise FileNotFoundError(f"{files.folder} has no checkpoint")
        state = LaneState({}, len(lines), 0, 0.0, 0.0)
        results = (result_of(line.epoch, tuple(line.values), line.time_s) for line in lines)
        return Checkpoint(state, tuple(results), "python")

    def numbers(self) -> set[int]:
        return set()

    def delete(self, number: int) -> None:
        self.files(number).delete()

    def delete_all(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
