"""golf-opt fleet on this machine and on a real Slurm: workers are lost, replaced, left, ended.

Each study ends with the checks of the chaos tests: exactly the total, every value once.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar

import optuna
import pytest
from conftest import Ran, told
from serving import wait_for

from golf_opt.config.schema import StorageConfig
from golf_opt.engines.native import compiler
from golf_opt.fleet.local import shares
from golf_opt.storage.connect import opened_storage
from golf_opt.storage.workers import coordination
from tests import chaos
from tests import slurm as engine

pytest_plugins = ["postgres", "slurm"]
pytestmark = pytest.mark.skipif(compiler() is None, reason="no C++ compiler")

Golf = Callable[..., Ran]
TRIALS, EPOCHS = 4, 200
QUICK = ("data=digits", "engine=torch", "space.batch_size=32", "epochs=1", "trials=1")


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
        goal, deadline = chaos.epochs_trained(self) + count, time.monotonic() + 60
        while chaos.epochs_trained(self) < goal:
            assert self.fleet is not None and self.fleet.poll() is None, self.fleet.communicate()
            assert time.monotonic() < deadline, "nothing is trained"
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
        out, err = self.fleet.communicate(timeout=120)
        assert (self.fleet.returncode, err) == (0, ""), out + err
        assert f"study {chaos.STUDY}: {TRIALS} of {TRIALS} trials finished" in out
        chaos.check(self, TRIALS, EPOCHS)
        return out


class Told(BaseHTTPRequestHandler):
    """Keeps what is posted."""

    bodies: ClassVar[list[str]] = []

    def do_POST(self) -> None:
        self.bodies.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def told_to() -> Iterator[str]:
    """The URL for notify=, of a server that keeps what it is told in `Told.bodies`."""
    pytest.importorskip("apprise")
    Told.bodies.clear()
    with HTTPServer(("127.0.0.1", 0), Told) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"json://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture
def begun(
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


# --- this machine


def test_a_worker_of_this_machine_that_is_killed_is_replaced(
    begun: Callable[[StorageConfig], Begun], tmp_path: Path, told_to: str
) -> None:
    """Then the fleet is ended and begun again: its workers end with it, nothing is lost."""
    study = begun(StorageConfig(f"sqlite:///{tmp_path}/golf.db", None))
    fleet = study.begin("workers=2", f"notify='{told_to}'")
    study.wait_for_epochs(10)
    os.kill(study.pids()[0], signal.SIGKILL)
    study.wait_for_epochs(40)
    fleet.send_signal(signal.SIGINT)
    out, err = fleet.communicate(timeout=60)
    assert (fleet.returncode, err) == (128 + signal.SIGINT, ""), out + err
    assert "2 running, 0 queued  " in out and "1 worker ended before the study did" in out
    assert "the workers ended, trials under way wait" in out
    assert ["chaos: 1 worker ended before" in body for body in Told.bodies] == [True]
    assert study.pids() == []
    study.begin("workers=1")
    study.ended()


def test_workers_of_this_machine_end_with_whatever_started_them(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from golf_opt.fleet.local import Local;"
        "Local(['sleep', '60'], 2, Path('logs')).start(2); print('begun', flush=True);"
        "time.sleep(60)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "begun\n"
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    programs = [Path(f"/proc/{child}/exe") for child in children]
    wait_for(lambda: [program.resolve().name for program in programs] == ["sleep", "sleep"])
    process.kill()
    process.communicate()
    wait_for(lambda: not any(program.exists() for program in programs))


def test_workers_share_the_cores() -> None:
    assert shares([0, 1, 2, 3, 4], 2) == [[0, 1], [2, 3]]
    assert shares([3, 7], 3) == [[3], [7], [3]]


def test_a_fleet_is_refused(golf: Golf) -> None:
    golf("study", *QUICK, "study.name=a")
    for arguments, message in (
        (["workers=0"], "workers is 0, but must be a whole number from 1 to 10000"),
        (["study=b"], "study 'b' is not in the storage"),
        (["stop=true"], "stop=true has nothing to end on=local"),
        (["on=cloud"], "on is 'cloud', but must be one of "),
        (["on=slurm", "on.memory=lots"], "on.memory is 'lots', but must be a size such as 500M"),
        (["on=slurm", "+on.qos=high"], "on.qos is not a key; it must be one of cpus, "),
        (["objective=m:f"], "trains a net; leave objective= out"),
        (["notify=nonsense"], "notify is no URL that apprise knows"),
    ):
        assert message in told(golf("fleet", "study=a", *arguments)), arguments


# --- Slurm


@pytest.mark.postgres
def test_slurm_loses_workers_of_every_kind(
    slurm: Path,
    begun: Callable[[StorageConfig], Begun],
    on_postgres: StorageConfig,
    monkeypatch: pytest.MonkeyPatch,
    golf: Golf,
) -> None:
    """By SIGTERM, SIGUSR2 (as before a time limit) and requeue; left, looked at, ended, begun."""
    monkeypatch.setenv("SLURM_CONF", str(slurm))
    study = begun(on_postgres)
    fleet = study.begin("on=slurm", "workers=2")
    study.wait_for_epochs(10)
    first, second = jobs(slurm)
    engine.ask(slurm, "scancel", "--signal=TERM", first)
    wait_for(lambda: set(jobs(slurm)) - {first, second})
    fleet.send_signal(signal.SIGINT)
    out, err = fleet.communicate(timeout=60)
    assert (fleet.returncode, err) == (128 + signal.SIGINT, ""), out + err
    assert "1 worker ended before the study did; replaced" in out
    assert "2 workers go on; to look again: " in out

    def ask(*more: str) -> Ran:
        return golf("fleet", *study.words, "on=slurm", *more)

    looks = study.begin("on=slurm")
    assert looks.stdout is not None
    assert looks.stdout.readline() == "chaos: 2 workers on slurm\n"
    next(line for line in looks.stdout if line.startswith("2 running, 0 queued  "))
    looks.send_signal(signal.SIGINT)
    looks.communicate(timeout=60)
    assert looks.returncode == 128 + signal.SIGINT
    assert "2 workers ended; trials under way wait" in ask("stop=true").out
    assert jobs(slurm) == [] and study.pids() == []
    assert "has no workers on slurm; start some with workers=N" in told(ask())
    refused = ask("workers=1", "on.partition=no")
    assert refused.status == 2 and "Slurm takes no workers: " in refused.err, refused
    study.begin("on=slurm", "workers=2", "+on.options.comment=ours")
    study.wait_for_epochs(1)
    wait_for(lambda: len(jobs(slurm, "--states=RUNNING")) == 2)
    first, second = jobs(slurm)
    engine.ask(slurm, "scancel", "--signal=USR2", first)
    engine.ask(slurm, "scontrol", "requeue", second)
    study.ended()
    for job in (first, second):
        shown = engine.ask(slurm, "scontrol", "show", "job", job)
        assert "Restarts=1" in shown and "Comment=ours" in shown, shown
    assert jobs(slurm) == []


def jobs(conf: Path, *asked: str) -> list[str]:
    """The jobs that wait or run, those that run first."""
    listed = engine.ask(conf, "squeue", "--noheader", "--array", "--format=%T %i", *asked)
    return [line.split()[1] for line in sorted(listed.splitlines(), reverse=True)]


# --- Ray


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A Ray cluster of two nodes with a core each."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(chaos.ROOT))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        made.add_node(num_cpus=1)
        yield made
        made.shutdown()


def test_ray_loses_a_node(
    cluster: Any, begun: Callable[[StorageConfig], Begun], tmp_path: Path
) -> None:
    """Its worker waits for a place; the fleet is left and taken up, and ends with what is there."""
    study = begun(StorageConfig(f"sqlite:///{tmp_path}/golf.db", None))
    where = ("on=ray", f"on.address={cluster.address}")
    fleet = study.begin(*where, "workers=2")
    study.wait_for_epochs(60)
    (other,) = cluster.worker_nodes
    cluster.remove_node(other, allow_graceful=False)
    study.wait_for_epochs(20)
    fleet.send_signal(signal.SIGINT)
    out, err = fleet.communicate(timeout=60)
    assert (fleet.returncode, err) == (128 + signal.SIGINT, ""), out + err
    assert "2 workers go on" in out
    study.begin(*where)
    study.ended()
