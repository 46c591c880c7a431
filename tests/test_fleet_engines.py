"""golf-opt fleet on this machine and on a real Slurm: workers are lost, replaced, left, ended.

Each study ends with the checks of the chaos tests: exactly the total, every value once.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar

import optuna
import pytest
from conftest import Ran, told
from serving import wait_for

from golf_opt.cli.compose import compose
from golf_opt.config.check import load
from golf_opt.config.schema import StorageConfig, StudyConfig
from golf_opt.engines.native import compiler
from golf_opt.fleet.local import shares
from golf_opt.storage.connect import opened_storage
from golf_opt.study.run import begin_study
from tests import chaos, kube
from tests import slurm as engine
from tests.fleets import Begun

pytest_plugins = ["postgres", "slurm", "fleets", "kube"]
pytestmark = pytest.mark.skipif(compiler() is None, reason="no C++ compiler")

# Ray forks its servers; JAX warns of it where a test of this process has imported that
FORKS = pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")

Golf = Callable[..., Ran]
QUICK = ("data=digits", "engine=torch", "space.batch_size=32", "epochs=1", "trials=1")


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


# --- this machine


def test_a_worker_of_this_machine_that_is_killed_is_replaced(
    left_study: Callable[[StorageConfig], Begun], tmp_path: Path, told_to: str
) -> None:
    """Then the fleet is ended and begun again: its workers end with it, nothing is lost."""
    study = left_study(StorageConfig(f"sqlite:///{tmp_path}/golf.db", None))
    fleet = study.begin("workers=2", f"notify='{told_to}'")
    study.wait_for_epochs(10)
    os.kill(study.pids()[0], signal.SIGKILL)
    study.wait_for_epochs(40)
    fleet.send_signal(signal.SIGINT)
    out, err = fleet.communicate(timeout=chaos.PATIENCE_S)
    assert (fleet.returncode, err) == (128 + signal.SIGINT, ""), out + err
    assert "2 running, 0 queued  " in out and "1 worker ended before the study did" in out
    assert "the workers ended, trials under way wait" in out
    assert ["chaos: 1 worker ended before" in body for body in Told.bodies] == [True]
    assert study.pids() == []
    study.begin("workers=1")
    study.ended()


def test_a_study_with_workers_is_begun_and_watched(golf: Golf, tmp_path: Path) -> None:
    """Its workers get what is theirs of what was typed; the same command goes on."""
    words = (
        "study", "arch=c2-2", *QUICK[:-1], "study.name=a", "sampler=random", "+space.shift=1.0",
        "~callbacks.note", "engine.lanes=1",
    )  # fmt: skip
    assert "; new study, 1 trial\n" in golf(*words, "trials=1").out
    ran = golf(*words, "trials=3", "workers=1")
    assert (ran.status, ran.err) == (0, ""), ran
    begun, watched, *_, done, _ = ran.out.splitlines()
    assert (begun, watched) == ("a: going on at 1 of 3 trials", "a: 1 worker on local")
    assert done == "study a: 3 of 3 trials finished"
    log = (tmp_path / "studies" / "fleet" / "a" / "worker-1.log").read_text()
    assert "torch engine on cpu, 1 lane; going on at 1 of 3 trials" in log
    refused = golf(*words, "trials=4", "workers=1", "epochs=2")
    assert "epochs" in told(refused)


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
    left_study: Callable[[StorageConfig], Begun],
    on_postgres: StorageConfig,
    monkeypatch: pytest.MonkeyPatch,
    golf: Golf,
) -> None:
    """By SIGTERM, a time limit, SIGUSR2 and requeue; left, looked at, ended, begun again."""
    monkeypatch.setenv("SLURM_CONF", str(slurm))
    study = left_study(on_postgres)
    study.slow_down()
    fleet = study.begin("on=slurm", "workers=2")
    study.wait_for_epochs(10)
    first, second = jobs(slurm)
    # a minute is the shortest limit that there is; Slurm looks at limits every 30 seconds
    engine.ask(slurm, "scontrol", "update", f"JobId={first}", "TimeLimit=1")
    engine.ask(slurm, "scancel", "--signal=TERM", second)
    wait_for(lambda: set(jobs(slurm)) - {first, second})
    fleet.send_signal(signal.SIGINT)
    out, err = fleet.communicate(timeout=chaos.PATIENCE_S)
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
    looks.communicate(timeout=chaos.PATIENCE_S)
    assert looks.returncode == 128 + signal.SIGINT
    wait_for(lambda: "Restarts=1" in engine.ask(slurm, "scontrol", "show", "job", first))
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
        # Ray's processes give way to all others, and would wait here for all other tests
        patch.setenv("RAY_worker_niceness", "0")
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        made.add_node(num_cpus=1)
        yield made
        made.shutdown()


@FORKS
def test_ray_loses_a_node(
    cluster: Any, left_study: Callable[[StorageConfig], Begun], tmp_path: Path
) -> None:
    """Its worker waits for a place; the fleet is left and taken up, and ends with what is there."""
    study = left_study(StorageConfig(f"sqlite:///{tmp_path}/golf.db", None))
    where = ("on=ray", f"on.address={cluster.address}")
    fleet = study.begin(*where, "workers=2")
    study.wait_for_epochs(60)
    (other,) = cluster.worker_nodes
    cluster.remove_node(other, allow_graceful=False)
    study.wait_for_epochs(20)
    fleet.send_signal(signal.SIGINT)
    out, err = fleet.communicate(timeout=chaos.PATIENCE_S)
    assert (fleet.returncode, err) == (128 + signal.SIGINT, ""), out + err
    assert "2 workers go on" in out
    study.begin(*where)
    study.ended()


# --- all of them


@FORKS
@pytest.mark.postgres
def test_a_study_moves_from_a_laptop_to_clusters(
    slurm: Path,
    cluster: Any,
    kubernetes: kube.Cluster,
    golf: Golf,
    golf_process: Callable[..., subprocess.Popen[str]],
    on_postgres: StorageConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By the commands of docs/fleet.md one after the other, each with two more trials to do."""
    monkeypatch.setenv("SLURM_CONF", str(slurm))
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    monkeypatch.setenv("PYTHONPATH", str(chaos.ROOT))
    page = (chaos.ROOT / "docs" / "fleet.md").read_text()
    commands = [
        shlex.split(line)[2:] for line in page.splitlines() if line.startswith("$ golf-opt")
    ]
    begin, total, there = commands[0][1:], 0, list[str]()
    for verb, *given in commands:
        dry = "on.dry_run=true" in given
        works = not dry and (verb == "study" or "workers=2" in given)
        total += 2 * works
        trials = f"trials={total}"
        words = [trials if word == "trials=2000" else word for word in given]
        if works and verb == "fleet":
            more = compose("study", [*begin, trials, *there])
            begin_study(load(StudyConfig, more), "", lambda line: None)
        if "on=ray" in words:  # it is this process's once and for all
            process = golf_process(verb, *words)
            out, err = process.communicate(timeout=chaos.PATIENCE_S)
            ran = Ran(process.returncode, out, err)
        else:
            ran = golf(verb, *words)
        if verb == "fleet" and not works and not dry and "stop=true" not in words:
            assert "study 'mine' has no workers on slurm" in told(ran)
            continue
        assert (ran.status, ran.err) == (0, ""), (words, ran)
        if works:
            assert f"study mine: {total} of {total} trials finished" in ran.out, (words, ran)
        if verb == "import":
            there = ["storage=postgres"]
    with opened_storage(on_postgres) as opened:
        trials_there = optuna.load_study(study_name="mine", storage=opened).trials
    assert [trial.number for trial in trials_there] == list(range(total)) and total == 12
    for trial in trials_there:
        reports = trial.intermediate_values
        assert trial.state.is_finished() and trial.value == reports[max(reports)]
