"""Studies that were begun for fleets of every engine to go on with, and what must be true then."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import optuna
import pytest

from golf_opt.config.schema import StorageConfig
from golf_opt.storage.connect import opened_storage
from golf_opt.storage.workers import coordination
from tests import chaos

TRIALS, EPOCHS = 4, 200


class Begun(chaos.Fleet):
    """A study that was begun and left in its first trial, and fleets that go on with it."""

    def __init__(self, folder: Path, storage: StorageConfig) -> None:
        super().__init__(folder, storage, TRIALS, EPOCHS, size=2, blows=1)
        labels = chaos.digits().train.labels
        chaos.np.save(folder / chaos.TEACHER, 4 * chaos.np.eye(10, dtype="float32")[labels])
        self.fleet: subprocess.Popen[str] | None = None
        (folder / chaos.SLOW).touch()  # so that it is not over before all is done to it
        self.start()
        chaos.wait_until_begun(self)
        self.end(self.running[0], signal.SIGTERM)

    def slow_down(self) -> None:
        """Let epochs take so long that much can be done before the study is over."""
        (self.folder / chaos.SLOW).write_text("0.4")

    def begin(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a fleet; its output is in a pipe."""
        self.fleet = subprocess.Popen(
            [sys.executable, "-m", "golf_opt", "fleet", *self.words, *arguments],
            cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        return self.fleet

    @property
    def words(self) -> tuple[str, ...]:
        """What every fleet of the study is given."""
        return *self._next[1:], *self._common

    def wait_for_epochs(self, count: int) -> None:
        """Wait until so many more epochs were trained."""
        goal, deadline = chaos.epochs_trained(self) + count, time.monotonic() + chaos.PATIENCE_S
        while chaos.epochs_trained(self) < goal:
            assert self.fleet is not None and self.fleet.poll() is None, self.fleet.communicate()
            left = goal - chaos.epochs_trained(self)
            assert time.monotonic() < deadline, f"{left} of {count} epochs were not trained"
            time.sleep(0.05)

    def pids(self) -> list[int]:
        """The processes that have a trial."""
        with opened_storage(self.storage) as opened:
            study = optuna.load_study(study_name=chaos.STUDY, storage=opened)
            leases = coordination(opened).leases(study._study_id)
        return [int(lease.owner.split(":")[1]) for lease in leases if lease.owner]

    def ended(self) -> str:
        """Wait until the fleet has ended well, and check the study; return what it said."""
        assert self.fleet is not None
        (self.folder / chaos.SLOW).unlink()
        out, err = self.fleet.communicate(timeout=chaos.PATIENCE_S)
        assert (self.fleet.returncode, err) == (0, ""), out + err
        assert f"study {chaos.STUDY}: {TRIALS} of {TRIALS} trials finished" in out
        chaos.check(self, TRIALS, EPOCHS)
        return out


@pytest.fixture
def left_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[StorageConfig], Begun]]:
    made: list[Begun] = []
    monkeypatch.setenv(chaos.LOG_ENV, str(tmp_path / "epochs.jsonl"))
    monkeypatch.setenv("PYTHONPATH", str(chaos.ROOT))

    def begin(storage: StorageConfig) -> Begun:
        made.append(Begun(tmp_path, storage))
        return made[-1]

    yield begin
    for study in made:
        if study.fleet is not None and study.fleet.poll() is None:
            study.fleet.terminate()
            study.fleet.communicate()
