"""A trial on disk: one safetensors file, its tensors and, in the header, where the trial stands.

The file is replaced as a whole, so a process that dies while writing leaves the file before it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from golf_opt.engines.base import EpochResult, Job, LaneState
from golf_opt.files import replace_file

FORMAT = 1


class DamagedCheckpoint(ValueError):
    """The file is no checkpoint of this trial."""


@dataclass(frozen=True)
class Checkpoint:
    """The state of a lane, and what its trial reported so far."""

    state: LaneState
    history: tuple[EpochResult, ...]
    engine: str


class CheckpointFolder:
    """The checkpoints of one study, a file a trial."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, number: int) -> Path:
        return self.folder / f"{number}.safetensors"

    def save(self, number: int, job: Job, checkpoint: Checkpoint) -> None:
        save_checkpoint(self.path(number), job, checkpoint)

    def load(self, number: int, job: Job | None = None) -> Checkpoint:
        """Return a trial's last checkpoint; raises as `load_checkpoint` does."""
        return load_checkpoint(self.path(number), job)

    def delete(self, number: int) -> None:
        self.path(number).unlink(missing_ok=True)


def describe_job(job: Job) -> dict[str, Any]:
    """Return what a checkpoint must share with the job that continues it."""
    return {
        "net": job.net.describe(),
        "candidate": job.candidate.to_dict(),
        "seed": job.seed,
        "epochs": job.epochs,
    }


def save_checkpoint(path: Path, job: Job, checkpoint: Checkpoint) -> None:
    """Write the checkpoint, whole or not at all."""
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
    replace_file(path, save(state.tensors, metadata={"golf_opt": json.dumps(header)}))


def load_checkpoint(path: Path, job: Job | None = None) -> Checkpoint:
    """Read a checkpoint; with `job`, only one that this job wrote.

    Raises:
        FileNotFoundError: there is none.
        DamagedCheckpoint: it cannot be read, or is of another job.
    """
    if not path.is_file():
        raise FileNotFoundError(path)
    try:
        with safe_open(path, framework="numpy") as file:
            header = json.loads((file.metadata() or {})["golf_opt"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return _from_header(path, header, tensors, job)
    except (SafetensorError, KeyError, TypeError, json.JSONDecodeError, OSError) as error:
        raise DamagedCheckpoint(f"{path} cannot be read as a checkpoint: {error}") from error


def _from_header(
    path: Path, header: dict[str, Any], tensors: dict[str, Any], job: Job | None
) -> Checkpoint:
    if job is not None and header["job"] != json.loads(json.dumps(describe_job(job))):
        wrong = [key for key, value in describe_job(job).items() if header["job"].get(key) != value]
        raise DamagedCheckpoint(f"{path} is of another trial: its {', '.join(wrong)} differs.")
    history: Sequence[dict[str, Any]] = header["history"]
    state = LaneState(
        tensors, header["epoch"], header["step"], header["loss_sum"], header["time_s"]
    )
    return Checkpoint(state, tuple(EpochResult(**row) for row in history), header["engine"])
