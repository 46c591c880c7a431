"""Checkpoints come back as they went, or are refused by name."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import net

from golf_opt.engines.base import EpochResult, Job, LaneState, initial_weights
from golf_opt.storage.checkpoint import Checkpoint, CheckpointFolder, DamagedCheckpoint, pack
from golf_opt.task.recipe import Candidate
from golf_opt.utils.files import replace_file

JOB = Job(net("c4-5-4"), Candidate(14, 8e-4), seed=5, epochs=18)
CHECKPOINT = Checkpoint(
    LaneState(initial_weights(JOB.net, 5), epoch=2, step=7, loss_sum=0.1 + 0.2, time_s=1.5),
    (EpochResult(1, 0.5, 0.9, 8e-4, 3.0), EpochResult(2, 1 / 3, 0.93, 8e-4, 3.1)),
    "torch",
)


def saved(folder: Path) -> CheckpointFolder:
    checkpoints = CheckpointFolder(folder)
    replace_file(checkpoints.path(0), pack(JOB, CHECKPOINT))
    return checkpoints


def test_round_trip_is_exact(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path / "deep")
    path = checkpoints.path(0)
    loaded = checkpoints.load(0, JOB)
    assert (loaded.history, loaded.engine) == (CHECKPOINT.history, "torch")
    assert replace(loaded.state, tensors={}) == replace(CHECKPOINT.state, tensors={})
    for name, tensor in CHECKPOINT.state.tensors.items():
        np.testing.assert_array_equal(loaded.state.tensors[name], tensor)
    assert [file.name for file in path.parent.iterdir()] == ["0.safetensors"]


@pytest.mark.parametrize(
    ("job", "what"),
    [
        (replace(JOB, seed=6), "seed"),
        (replace(JOB, net=net("c8-5-4")), "net"),
        (replace(JOB, candidate=Candidate(14, 9e-4)), "candidate"),
        (replace(JOB, epochs=2), "epochs"),
    ],
)
def test_another_trials_checkpoint_is_refused(tmp_path: Path, job: Job, what: str) -> None:
    checkpoints = saved(tmp_path)
    with pytest.raises(DamagedCheckpoint, match=f"of another trial: its {what} differs"):
        checkpoints.load(0, job)


@pytest.mark.parametrize("keep", [0, 5, 100, -1])
def test_a_truncated_file_is_refused(tmp_path: Path, keep: int) -> None:
    checkpoints = saved(tmp_path)
    path = checkpoints.path(0)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DamagedCheckpoint, match="cannot be read as a checkpoint"):
        checkpoints.load(0, JOB)


def test_a_missing_file_is_told_apart(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        CheckpointFolder(tmp_path).load(0, JOB)
