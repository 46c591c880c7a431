"""Where a trial stands: its tensors and, in the header, its epochs, as one safetensors file.

Kept in the study's database, or in a folder: there a file is replaced as a whole, so a process
that dies while writing leaves the file before it.
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.trial import Trial
from pydantic import StrictFloat
from safetensors import SafetensorError
from safetensors.numpy import load, save

from golf_opt.config import types
from golf_opt.config.check import check, model
from golf_opt.config.errors import UsageError
from golf_opt.engines.base import EpochResult, Job, LaneState, Tensors
from golf_opt.storage import gate
from golf_opt.storage.optuna_internals import id_of_trial, storage_of
from golf_opt.storage.studies import STUDY_ID, marks
from golf_opt.storage.workers import ManyWorkers, coordination
from golf_opt.utils.files import replace_file

FORMAT = 1
LARGEST_IN_TABLE = 1 << 20  # bytes of tensors
# of a `LaneState`
OF_IMAGES = ("images/before", "images/now")
KINDS = ("weights", "buffers", "average", "masks", "exp_avg", "exp_avg_sq", "momentum")


class DamagedCheckpoint(ValueError):
    """The file is no checkpoint of this trial."""


@dataclass(frozen=True)
class Checkpoint:
    """The state of a lane, and what its trial reported so far."""

    state: LaneState
    history: tuple[EpochResult, ...]
    engine: str


@model
class Header:
    """What a checkpoint's file says besides its tensors."""

    format: types.Positive
    job: dict[str, Any]
    engine: str
    epoch: gate.Count
    step: gate.Count
    loss_sum: StrictFloat
    time_s: StrictFloat
    history: tuple[EpochResult, ...]


def describe_job(job: Job) -> dict[str, Any]:
    """Return what a checkpoint must share with the job that continues it."""
    return {
        "net": job.net.describe(),
        "candidate": job.candidate.to_dict(),
        "seed": job.seed,
        "epochs": job.epochs,
    }


def pack(job: Job, checkpoint: Checkpoint) -> bytes:
    """Return the checkpoint as the bytes of a safetensors file."""
    state = checkpoint.state
    header = {
        "format": FORMAT,
        "job": describe_job(job),
        "engine": checkpoint.engine,
        "epoch": state.epoch,
        "step": state.step,
        "loss_sum": state.loss_sum,
        "time_s": state.time_s,
        "history": [asdict(result) for result in checkpoint.history],
    }
    return save(state.tensors, metadata={"golf_opt": json.dumps(header)})


def unpack(name: str, data: bytes, job: Job | None = None) -> Checkpoint:
    """Return the checkpoint of some bytes; with `job`, only one that this job wrote.

    Raises:
        DamagedCheckpoint: `name` cannot be read, or is of another job.
    """
    try:
        tensors = load(data)
        header: Header = check(Header, metadata(data))
        if job is not None:
            _check_job(name, job, header, tensors)
        place = (header.epoch, header.step, header.loss_sum, header.time_s)
        return Checkpoint(LaneState(tensors, *place), header.history, header.engine)
    except DamagedCheckpoint:
        raise
    except (SafetensorError, *gate.UNREADABLE) as error:
        why = gate.reason(error)
        raise DamagedCheckpoint(f"{name} cannot be read as a checkpoint: {why}") from error


def metadata(data: bytes) -> Any:
    """Return what a safetensors file of ours says besides its tensors.

    Raises:
        one of `gate.UNREADABLE`: it says nothing of ours.
    """
    size = int.from_bytes(data[:8], "little")  # of the JSON that such a file begins with
    return gate.read_json(json.loads(data[8 : 8 + size])["__metadata__"]["golf_opt"])


def _check_job(name: str, job: Job, header: Header, tensors: Tensors) -> None:
    """Refuse a checkpoint that another job wrote, or whose tensors are not those of its net."""
    ours = json.loads(json.dumps(describe_job(job)))
    if header.job != ours:
        wrong = ", ".join(key for key, value in ours.items() if header.job.get(key) != value)
        raise DamagedCheckpoint(f"{name} is of another trial: its {wrong} differs.")
    shapes = {tensor.name: tensor.shape for tensor in (*job.net.parameters, *job.net.buffers)}
    for key, tensor in tensors.items():
        kind, _, of = key.partition("/")
        if key in OF_IMAGES and tensor.dtype == np.uint8 and tensor.ndim == 1:
            continue
        if kind not in KINDS or tensor.shape != shapes.get(of) or tensor.dtype != np.float32:
            raise DamagedCheckpoint(
                f"{name} is damaged: its {key} is {tensor.dtype} of shape {tensor.shape}."
            )
    if header.epoch > job.epochs or len(header.history) != header.epoch:
        raise DamagedCheckpoint(f"{name} is damaged: it is in epoch {header.epoch}.")


class CheckpointFolder:
    """The checkpoints of one study, a file a trial."""

    every_slice = False  # a file for every epoch is enough

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, number: int) -> Path:
        return self.folder / f"{number}.safetensors"

    def save(self, trial: Trial, job: Job, checkpoint: Checkpoint) -> None:
        self.put(trial.number, job, checkpoint)

    def put(self, number: int, job: Job, checkpoint: Checkpoint) -> None:
        """Keep the checkpoint of a trial that no worker runs."""
        replace_file(self.path(number), pack(job, checkpoint))

    def load(self, number: int, job: Job | None = None) -> Checkpoint:
        """Return a trial's last checkpoint; with `job`, only one that this job wrote.

        Raises:
            FileNotFoundError: there is none.
            DamagedCheckpoint: it cannot be read, or is of another job.
        """
        path = self.path(number)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise
        except OSError as error:
            raise DamagedCheckpoint(f"{path} cannot be read as a checkpoint: {error}") from error
        return unpack(str(path), data, job)

    def numbers(self) -> set[int]:
        """Return the numbers of the trials that have one."""
        stems = (path.stem for path in self.folder.glob("*.safetensors"))
        return {int(stem) for stem in stems if stem.isdecimal()}

    def delete(self, number: int) -> None:
        self.path(number).unlink(missing_ok=True)

    def delete_all(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


class CheckpointTable(CheckpointFolder):
    """The checkpoints of one study in its database, so that any worker can go on with a trial.

    They are written with what the trial reports, in the same transaction. Nets too large for that,
    and what was saved before, are in the folder.
    """

    every_slice = True

    def __init__(self, folder: Path, workers: ManyWorkers, study: str) -> None:
        super().__init__(folder)
        self._workers, self._ledger, self._study = workers, workers.ledger, study

    def save(self, trial: Trial, job: Job, checkpoint: Checkpoint) -> None:
        if is_large(checkpoint):
            super().put(trial.number, job, checkpoint)
        else:
            data = partial(pack, job, checkpoint)
            self._workers.save_checkpoint(id_of_trial(trial), self._study, trial.number, data)

    def put(self, number: int, job: Job, checkpoint: Checkpoint) -> None:
        if is_large(checkpoint):
            super().put(number, job, checkpoint)
        else:
            self._ledger.put_checkpoint(self._study, number, pack(job, checkpoint))

    def load(self, number: int, job: Job | None = None) -> Checkpoint:
        data = self._ledger.load_checkpoint(self._study, number)
        if data is None:
            return super().load(number, job)
        return unpack(f"the checkpoint of trial {number}", data, job)

    def numbers(self) -> set[int]:
        return self._ledger.checkpoint_numbers(self._study) | super().numbers()

    def delete(self, number: int) -> None:
        self._workers.delete_checkpoint(self._study, number)
        super().delete(number)

    def delete_all(self) -> None:
        self._ledger.delete_checkpoints(self._study)
        super().delete_all()


def open_checkpoints(study: optuna.Study, folder: Path) -> CheckpointFolder:
    """Return a study's checkpoints; the study's own id keeps those of a deleted one away.

    Raises:
        UsageError: the study has no id that could name a folder.
    """
    own_id = str(marks(study).get(STUDY_ID))
    if not re.fullmatch(r"[0-9a-f]{32}", own_id):
        raise UsageError(f"study {study.study_name!r} has no id of its own, and so no checkpoints.")
    path = folder / "checkpoints" / own_id
    workers = coordination(storage_of(study))
    return CheckpointTable(path, workers, own_id) if workers.shared else CheckpointFolder(path)


def is_large(checkpoint: Checkpoint) -> bool:
    """Return whether a checkpoint is too large for the database."""
    size = sum(tensor.nbytes for tensor in checkpoint.state.tensors.values())
    return size > LARGEST_IN_TABLE
