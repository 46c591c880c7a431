"""Objectives: functions of the user's, run by processes that die in every way a process can."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import sqlite3
import subprocess
from collections import Counter
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import optuna
import pytest
from conftest import ROOT, Ran, told
from serving import ask, served, text, wait_for

from golf_opt.config.schema import StorageConfig
from golf_opt.engines.python import ObjectiveJob
from golf_opt.engines.python.engine import PythonEngine
from golf_opt.engines.python.files import TrialFiles
from golf_opt.engines.python.job import Call
from golf_opt.engines.python.lane import Refused, values_of
from golf_opt.storage.checkpoint import DamagedCheckpoint
from golf_opt.storage.connect import opened_storage
from golf_opt.storage.objective_files import ObjectiveFiles
from golf_opt.storage.studies import mark, marks
from golf_opt.study.description import DESCRIPTION, description_of

pytest_plugins = ["postgres"]

Golf = Callable[..., Ran]
Start = Callable[..., subprocess.Popen[str]]
EXAMPLES = ROOT / "docs" / "examples"
TWO = "directions={loss: minimize, seconds: minimize}"

# What the tests run: `how` says what becomes of a trial.
TOY = """
import ctypes, os, signal, time
from pathlib import Path

NUMBER = 3

def train(job):
    how = job.params.get("how", "well")
    start = int(job.checkpoint.read_text()) if job.done else 0
    assert start == job.done
    with Path("epochs.log").open("a") as log:
        print(job.number, os.getpid(), start, file=log)
    for epoch in range(start, job.epochs):
        if how == "raise":
            raise ValueError(f"no such thing as {job.params['x']:.1f}")
        if how == "exit":
            os._exit(3)
        if how == "crash":
            ctypes.string_at(0)
        if how == "sys.exit":
            raise SystemExit("enough")
        if how == "end":
            return
        if how == "slow":
            time.sleep(0.05)
        if how == "hang" and epoch == 1:
            time.sleep(600)
        if how == "orphan":
            if os.fork() == 0:
                time.sleep(600)
            os.kill(os.getpid(), signal.SIGKILL)
        job.checkpoint.write_text(str(epoch + 1))
        yield float("inf") if how == "infinite" else job.params["x"] - epoch

def pair(job):
    for epoch in range(job.epochs):
        yield {"seconds": job.params["x"], "loss": 1 / job.params["x"]}

def images(job):
    yield len(job.data.train) + len(job.data.objective)

def quiet(job):
    return 0.5

def nothing():
    yield 1
"""
SPACE = "x: {type: float, low: 1.0, high: 9.0}\n"


@pytest.fixture
def here(golf: Golf, tmp_path: Path) -> Path:
    """A folder with an objective and its space."""
    (tmp_path / "toy.py").write_text(TOY)
    (tmp_path / "space.yaml").write_text(SPACE)
    return tmp_path


def study_of(folder: Path, name: str) -> optuna.Study:
    return optuna.load_study(study_name=name, storage=f"sqlite:///{folder}/studies/golf.db")


def test_a_lane_rests_and_goes_on(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(here)
    engine = PythonEngine("toy:train", ["value"], 1, 1, None, "paper", print)
    engine.start(0, Call({"x": 9.0}, 1, 4, 0, here), until=2)
    found: list[float] = []

    def train(epochs: int) -> None:
        while len(found) < epochs:
            found.extend(part.result.accuracy for part in engine.step() if part.result)

    try:
        train(2)
        assert [engine.step() for _ in range(3)] == [[], [], []]
        assert engine.state(0).epoch == 2
        engine.extend(0, 4)
        train(4)
    finally:
        engine.close()
    assert found == [9.0, 8.0, 7.0, 6.0]
    assert len((here / "epochs.log").read_text().splitlines()) == 1  # it was never called again


def toy(how: str = "well", *more: str) -> tuple[str, ...]:
    return (
        "study", "objective=toy:train", "space=space.yaml", f"+space.how={how}", "study.name=s",
        "engine.lanes=1", "epochs=3", *more,
    )  # fmt: skip


def logged(folder: Path) -> list[list[int]]:
    """Each start of a trial: its number, its process, and how many epochs were done."""
    lines = (folder / "epochs.log").read_text().splitlines()
    return [[int(word) for word in line.split()] for line in lines]


# --- studies ---


def test_a_study_of_an_objective(golf: Golf, here: Path) -> None:
    ran = golf(*toy("well", "trials=4"))
    assert ran.status == 0, ran.err
    assert "s: toy:train, value (maximize), 3 epochs, python engine on cpu, 1 lane; new" in ran.out
    study = study_of(here, "s")
    for trial in study.trials:
        assert trial.state.name == "COMPLETE"
        assert list(trial.intermediate_values.items()) == [
            (e, trial.params["x"] - e + 1) for e in (1, 2, 3)
        ]
        assert trial.value == trial.params["x"] - 2
        assert trial.user_attrs["objective"] == "toy:train"
        assert len(trial.user_attrs["objective_digest"]) == 16
        assert "epoch_losses" not in trial.user_attrs and "num_params" not in trial.user_attrs
    assert study.metric_names == ["value"] and study.direction.name == "MAXIMIZE"
    assert len({process for _, process, _ in logged(here)}) == 1, "a lane keeps its process"
    kept = ObjectiveFiles(next((here / "studies" / "checkpoints").iterdir())).load(0)
    assert kept.state.epoch == 3 and kept.history[2].values == (study.trials[0].value,)
    other = told(golf(*toy("well", "trials=4", "directions={value: minimize}")))
    assert "directions: value (maximize) before, value (minimize) now" in other
    other = told(golf("study", "objective=toy:pair", *toy()[2:], TWO))
    assert "objective: toy:train before, toy:pair now" in other
    assert "arch: nothing before, c4-5-4 now; objective: toy:train before, nothing now" in told(
        golf("study", "data=digits", "study.name=s", "engine=torch")
    )
    more = golf(*toy("well", "trials=5"))
    assert "going on at 4 of 5 trials" in more.out and len(study_of(here, "s").trials) == 5


def test_what_shows_studies_shows_it_and_what_needs_a_net_says_so(golf: Golf, here: Path) -> None:
    golf(*toy("well", "trials=3", "directions={cost: minimize}"))
    best = min(trial.value for trial in study_of(here, "s").trials)
    (line,) = golf("ls").out.splitlines()[1:]
    assert line.split("\t")[:6] == ["s", "toy:train", "-", "-", "-", "3"]
    assert line.split("\t")[11] == f"{best:.6g}"
    assert golf("report", "study=s").status == 0
    report = (here / "studies" / "reports" / "s.md").read_text()
    assert f"Best cost {best:.6g} (trial " in report and "The function toy:train (source " in report
    golf("study", "objective=toy:train", "space=space.yaml", "study.name=t", "trials=2", "epochs=3",
         "engine.lanes=1", "directions={cost: minimize}")  # fmt: skip
    compared = golf("compare", "studies=[s,t]")
    assert compared.status == 0, compared.err
    page = (here / "studies" / "reports" / "compare-s-t.md").read_text()
    assert "space.how: well" in page and f"{best:.6g} (trial" in page
    for verb in ("confirm", "prune", "interpret", "deploy"):
        assert told(golf(verb, "study=s")) == (
            "study 's' is of toy:train, but must be of a net of ours; golf-opt report, compare, "
            "export and the dashboard are for both."
        )
    refused = told(golf("record", "study=s", "board=article", "slug=x"))
    assert "must be of a net of ours" in refused
    assert golf("export", "study=s", "output=out").status == 0
    assert golf("import", "input=out", "name=again").status == 0
    more = golf("study", *toy()[1:4], "study.name=again", "epochs=3", "trials=4", "engine.lanes=1",
                "directions={cost: minimize}")  # fmt: skip
    assert "going on at 3 of 4 trials" in more.out, more.err
    assert golf("rm", "study=again", "yes=true").status == 0
    assert "differs" not in more.out


def test_several_objectives_are_kept_and_not_pruned(golf: Golf, here: Path) -> None:
    ran = golf("study", "objective=toy:pair", "space=space.yaml", "study.name=s", "epochs=2",
               "trials=6", "engine.lanes=1", TWO)  # fmt: skip
    assert ran.status == 0, ran.err
    assert ran.out.count("no trial is pruned") == 1
    study = study_of(here, "s")
    assert study.metric_names == ["loss", "seconds"]
    for trial in study.trials:
        x = trial.params["x"]
        assert trial.values == [1 / x, x], "in the order of directions"
        assert trial.user_attrs["epoch_values"] == {"loss": [1 / x] * 2, "seconds": [x] * 2}
    assert "front of loss (minimize), seconds (minimize): 6 trials" in ran.out
    assert golf("report", "study=s").status == 0
    report = (here / "studies" / "reports" / "s.md").read_text()
    assert "one of the front, of 6 trials" in report and "front.svg" in report
    golf(*toy("well", "trials=1")[:-1], "study.name=one", "trials=1")
    refused = told(golf("compare", "studies=[s,one]"))
    assert refused.startswith("study 's' optimises loss (minimize), seconds (minimize), but must")
    refused = told(golf("study", "objective=toy:pair", "space=space.yaml", TWO, "sampler=cmaes"))
    assert refused.startswith("sampler is cmaes, which optimises one value alone")


def test_the_pruner_ends_trials_and_their_files(golf: Golf, here: Path) -> None:
    points = "study.enqueue=[{x: 8.0}, {x: 2.0}]"
    ran = golf(*toy("well", "trials=2", points, "pruner.n_startup_trials=1",
                    "pruner.n_warmup_steps=0"))  # fmt: skip
    assert [trial.state.name for trial in study_of(here, "s").trials] == ["COMPLETE", "PRUNED"]
    assert "(1 pruned)" in ran.out
    (kept,) = (here / "studies" / "checkpoints").iterdir()
    assert [path.name for path in kept.iterdir()] == ["0"]


def test_an_objective_may_ask_for_data(golf: Golf, here: Path) -> None:
    ran = golf("study", "objective=toy:images", "space=space.yaml", "data=digits", "epochs=1",
               "trials=1", "protocol=holdout", "engine.lanes=1", "study.name=s")  # fmt: skip
    assert ran.status == 0, ran.err
    study = study_of(here, "s")
    assert study.trials[0].value == 1438, "what is held out is of the training images"
    assert description_of(study).data == "digits" and "digits, protocol holdout" in ran.out


def test_python_runs_an_objective(here: Path) -> None:
    import golf_opt

    asked: dict[str, Any] = {"space": "space.yaml", "epochs": 2, "trials": 3, "say": None}
    asked |= {"engine": {"lanes": 1}}
    one = golf_opt.study(objective="toy:train", **asked)
    assert one.best.value == max(one.all[n].value for n in range(3)) == one.best.params["x"] - 1
    assert repr(one) == (
        f"<Study toy.train@2epochs: 3 of 3 trials, best value {one.best.value:.6g} "
        f"(trial {one.best.number})>"
    )
    for needs_a_net in (one.net, lambda: golf_opt.confirm(one, top=1, seeds=1, say=None)):
        with pytest.raises(golf_opt.UsageError, match="must be of a net of ours"):
            needs_a_net()
    two = golf_opt.study(
        objective="toy:pair", directions={"loss": "minimize", "seconds": "minimize"}, **asked
    )
    assert two.best is None and [len(trial.values) for trial in two.all] == [2, 2, 2]
    assert repr(two).endswith("3 of 3 trials, front of 3>") and "front" in two._repr_html_()
    assert "svg" in two.plot("front").markup
    with pytest.raises(golf_opt.UsageError, match="space is missing"):
        golf_opt.study(objective="toy:train", say=None)


# --- failures ---


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("raise", "ValueError: no such thing as 5.0 (toy.py, line 15)"),
        ("exit", "its process ended with exit status 3"),
        ("crash", "its process ended with SIGSEGV"),
        ("orphan", "its process ended with SIGKILL"),
        ("sys.exit", "SystemExit: enough (toy.py, line 21)"),
        ("end", "it ended after 0 of its 3 epochs: it must yield one value for each"),
        ("infinite", "epoch 1 gave inf for value, but must give a finite number"),
    ],
)
def test_a_failure_costs_its_trial_and_says_why(
    golf: Golf, here: Path, how: str, reason: str
) -> None:
    (here / "space.yaml").write_text(f"{SPACE}how: {{type: categorical, choices: [{how}, well]}}")
    points = f"study.enqueue=[{{x: 5.0, how: {how}}}, {{x: 5.0, how: well}}]"
    ran = golf("study", "objective=toy:train", "space=space.yaml", "study.name=s", "epochs=3",
               "engine.lanes=1", "trials=2", points)  # fmt: skip
    assert ran.status == 0, ran.err
    failed, good = study_of(here, "s").trials
    assert (failed.state.name, good.state.name) == ("FAIL", "COMPLETE")
    assert failed.user_attrs["fail_reason"] == reason and f"trial    0  {reason}\n" in ran.out
    first, second = (process for _, process, _ in logged(here))
    died = how in ("exit", "crash", "orphan")
    assert (first != second) == died, "a process that died is replaced"


def test_three_failures_in_a_row_end_the_study(golf: Golf, here: Path) -> None:
    ran = golf(*toy("raise", "trials=9"))
    assert ran.status == 2
    (line,) = ran.err.splitlines()
    assert line.startswith("golf-opt: 3 trials in a row failed, the last with: ValueError: no such")
    assert line.endswith("mend the objective and give the same command again.")
    assert [trial.state.name for trial in study_of(here, "s").trials] == ["FAIL"] * 3


def test_a_trial_of_a_worker_names_the_source_that_the_worker_has(golf: Golf, here: Path) -> None:
    golf(*toy("raise", "trials=4"))
    mended = TOY.replace("raise ValueError", "print")
    (here / "toy.py").write_text(mended)
    assert golf("worker", "study=s", "objective=toy:train", "engine.lanes=1").status == 0
    found = [trial.user_attrs["objective_digest"] for trial in study_of(here, "s").trials]
    then, now = (sha256(source.encode()).hexdigest()[:16] for source in (TOY, mended))
    assert found == [then, then, then, now]


# --- interrupts ---


def alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        return fields[0] != "Z"
    return False


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_lane_ends_with_its_engine_and_its_trial_goes_on(
    golf: Golf, golf_process: Start, here: Path, how: signal.Signals
) -> None:
    """Stopped in the middle of an epoch that would never end."""
    process = golf_process(*toy("hang", "trials=1"))
    log = here / "epochs.log"
    wait_for(lambda: log.exists() and log.read_text().endswith("\n"))
    wait_for(lambda: list((here / "studies" / "checkpoints").glob("*/0/epoch-1")))
    ((_, lane, _),) = logged(here)
    assert alive(lane)
    process.send_signal(how)
    _, err = process.communicate(timeout=60)
    assert process.returncode == (-how if how is signal.SIGKILL else 128 + how), err
    wait_for(lambda: not alive(lane))
    (here / "toy.py").write_text(TOY.replace("sleep(600)", "sleep(0)"))
    ran = golf(*toy("hang", "trials=1"))
    assert ran.status == 0, ran.err
    assert "note: the file of toy:train is not the one that the study was run with last" in ran.out
    assert [start[2] for start in logged(here)] == [0, 1], "it went on after its first epoch"
    (trial,) = study_of(here, "s").trials
    x = trial.params["x"]
    assert trial.intermediate_values == {1: x, 2: x - 1, 3: x - 2}


def example(folder: Path, name: str) -> None:
    for kind in ("py", "yaml"):
        shutil.copy(EXAMPLES / f"{name}.{kind}", folder)


def reported_epochs(folder: Path) -> int:
    database = f"file:{folder}/studies/golf.db?mode=ro"
    with (
        contextlib.suppress(sqlite3.OperationalError),
        contextlib.closing(sqlite3.connect(database, uri=True)) as connection,
    ):
        query = "SELECT count(*) FROM trial_intermediate_values"
        return int(connection.execute(query).fetchone()[0])
    return 0


def test_a_transformer_killed_twice_ends_as_if_it_had_not_been(
    golf: Golf, golf_process: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exact totals, and the very losses that its generator gives undisturbed."""
    import torch

    example(tmp_path, "reverse")
    command = (
        "study", "objective=reverse:train", "space=reverse.yaml", "study.name=s", "epochs=4",
        "trials=2", "engine.lanes=1", "sampler=random", "space.width.high=16",
        "directions={loss: minimize, parameters: minimize}",
    )  # fmt: skip
    for epochs in (2, 5):
        process = golf_process(*command)
        wait_for(lambda epochs=epochs: reported_epochs(tmp_path) >= epochs)
        process.kill()
        process.communicate()
    ran = golf(*command)
    assert ran.status == 0 and "2 of 2 trials finished" in ran.out, ran.err
    monkeypatch.syspath_prepend(tmp_path)
    import reverse

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for trial in study_of(tmp_path, "s").trials:
            job = ObjectiveJob(
                {"layers": 1} | trial.params, trial.user_attrs["seed"], 4, trial.number,
                tmp_path / "checkpoint", 0,
            )  # fmt: skip
            losses = [row["loss"] for row in reverse.train(job)]
            assert trial.user_attrs["epoch_values"]["loss"] == losses
            assert trial.values[0] == losses[-1] and trial.state.name == "COMPLETE"
    finally:
        torch.set_num_threads(threads)


@pytest.mark.postgres
def test_two_workers_share_a_logistic_regression_on_postgres(
    golf: Golf, golf_process: Start, on_postgres: StorageConfig, tmp_path: Path
) -> None:
    example(tmp_path, "wine")
    (tmp_path / "patient.py").write_text(
        "import os\nimport time\nfrom pathlib import Path\n\nimport wine\n\n"
        "HERE = Path(__file__).parent / 'begun'\n\n"
        "def train(job):\n    HERE.mkdir(exist_ok=True)\n    (HERE / str(os.getpid())).touch()\n"
        "    for value in wine.train(job):\n"
        "        while len(list(HERE.iterdir())) < 2:  # till the other worker has a trial\n"
        "            time.sleep(0.05)\n"
        "        yield value\n"
    )
    where, common = f"storage.url={on_postgres.url}", ("engine.lanes=1", "~callbacks.note")
    first = golf_process(
        "study", "objective=patient:train", "space=wine.yaml", "study.name=s", "epochs=5",
        "trials=6", "pruner=none", where, *common,
    )  # fmt: skip
    first.stdout.readline()  # the study is there
    second = golf_process(
        "worker", "study=s", "objective=patient:train", where, *common, "dir=elsewhere"
    )
    for process in (first, second):
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        assert "6 of 6 trials finished" in out
    with opened_storage(on_postgres) as storage:
        trials = optuna.load_study(study_name="s", storage=storage).trials
    assert Counter(trial.state.name for trial in trials) == {"COMPLETE": 6}
    assert len({trial.user_attrs["worker"] for trial in trials}) == 2
    for trial in trials:
        assert list(trial.intermediate_values) == [1, 2, 3, 4, 5] and trial.value > 0.3


def test_a_worker_takes_no_objective_from_a_database(golf: Golf, here: Path) -> None:
    golf(*toy("well", "trials=1"))
    assert told(golf("worker", "study=s")) == (
        "objective is missing, but must be toy:train, which study 's' is of; a worker imports "
        "nothing that a database names: give objective=toy:train where that module is."
    )
    other = told(golf("worker", "study=s", "objective=toy:pair"))
    assert other.startswith("objective is 'toy:pair', but must be toy:train")
    (here / "toy.py").write_text(TOY + "# changed\n")
    assert (
        "note: the file of toy:train is not the one"
        in golf("worker", "study=s", "objective=toy:train", "engine.lanes=1").out
    )
    (here / "toy.py").unlink()
    assert "there is no module 'toy'" in told(golf("worker", "study=s", "objective=toy:train"))


def test_what_a_database_says_of_an_objective_is_imported_by_nobody(golf: Golf, here: Path) -> None:
    golf(*toy("well", "trials=1"))
    config = StorageConfig(f"sqlite:///{here}/studies/golf.db", None)
    for named, told_by_ls in (("os:system", "os:system"), ("os.system('x')", "-")):
        with opened_storage(config) as storage:
            study = optuna.load_study(study_name="s", storage=storage)
            stored = json.loads(json.dumps(marks(study)[DESCRIPTION]))
            mark(study, DESCRIPTION, stored | {"objective": stored["objective"] | {"name": named}})
        for verb in ("ls", "report", "worker"):
            ran = golf(verb, *([] if verb == "ls" else ["study=s"]))
            assert "Traceback" not in ran.err
            if verb == "ls":
                assert ran.out.splitlines()[1].split("\t")[1] == told_by_ls
            if verb == "worker":
                assert ran.status == 2 and ("is missing" in ran.err or "damaged" in ran.err)


# --- users' mistakes ---

SPACED = "space=space.yaml"
ASKED = ("objective=toy:train", SPACED)
MISTAKES = [
    (
        ("objective=toy", SPACED),
        "objective is 'toy', but must be MODULE:FUNCTION, such as my_module:train.",
    ),
    (
        ("objective=toy.py:train", SPACED),
        "objective is 'toy.py:train', but there is no module 'toy.py'; it must be a module in this",
    ),
    (
        ("objective=toy:trian", SPACED),
        "objective is 'toy:trian', but must be one of images, nothing, pair, quiet, train; did you "
        "mean 'train'?",
    ),
    (
        ("objective=toy:zzz", SPACED),
        "objective is 'toy:zzz', but must be one of images, nothing, pair, quiet, train.\n",
    ),
    (
        ("objective=toy:quiet", SPACED),
        "objective toy:quiet is no generator: it must yield one value an epoch.",
    ),
    (("objective=toy:NUMBER", SPACED), "objective toy:NUMBER is 3, but must be a function."),
    (
        ("objective=toy:nothing", SPACED),
        "objective toy:nothing must take one argument, the job: too many positional arguments.",
    ),
    (
        ("objective=broken:train", SPACED),
        "cannot be imported: ZeroDivisionError: division by zero (broken.py, line 1).",
    ),
    (
        ("objective=lacks:train", SPACED),
        "cannot be imported: ModuleNotFoundError: No module named 'nowhere' (lacks.py, line 1).",
    ),
    (
        ("objective=toy:train",),
        "space is missing; objective=toy:train needs space=FILE.yaml, which declares its ",
    ),
    (
        (*ASKED, "arch=c4-5-4"),
        "arch and objective are both given, but a study trains one thing; take arch= away, or ",
    ),
    (
        (*ASKED, "engine=native"),
        "engine is 'native', but must be python, which it is with objective=toy:train unless ",
    ),
    (
        ("engine=python",),
        "engine is 'python', which runs a function of yours; give it as objective=MODULE:FUNCTION.",
    ),
    (
        ("directions={loss: minimize}",),
        "directions are given, but only objective=MODULE:FUNCTION has them; a net of ours is ",
    ),
    (
        (*ASKED, "directions={loss: down}"),
        "directions.loss is 'down', but must be one of maximize, minimize.",
    ),
    (
        (*ASKED, "protocol=holdout"),
        "protocol is 'holdout', but there is no data to split; give data=NAME.",
    ),
    (
        ("objective=toy:train", "space=nosuch.yaml"),
        "nosuch.yaml cannot be read as YAML: No such file or directory.",
    ),
    (
        ("objective=toy:train", "space=list.yaml"),
        "list.yaml is a list, but must be a mapping of parameters.",
    ),
    (
        ("objective=toy:train", "space=clever.yaml"),
        "clever.yaml has ${...} in it, but must have values alone.",
    ),
    (
        (*ASKED, "+space.y=[1,2]"),
        "space.y is [1, 2], but must be a value that fixes it, or a mapping such as {type: float",
    ),
    (
        (*ASKED, "space.x.low=10"),
        "space.x.low is 10, but must be at most space.x.high, 9.0.",
    ),
    ((*ASKED, "+space.x.when=5"), "space.x.when is 5, but must be a mapping such as"),
    ((*ASKED, "+space.x.step=a"), "space.x: "),
    (
        (*ASKED, "study.enqueue=[{z: 1}]"),
        "study.enqueue names 'z', but must name one of x.",
    ),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES)
def test_a_mistake_is_one_line_before_anything_begins(
    golf: Golf, here: Path, arguments: tuple[str, ...], message: str
) -> None:
    (here / "broken.py").write_text("1 / 0\n")
    (here / "lacks.py").write_text("import nowhere\n")
    (here / "list.yaml").write_text("- 1\n")
    (here / "clever.yaml").write_text("x: ${oc.env:HOME}\n")
    assert message in f"{told(golf('study', *arguments))}\n"
    assert not (here / "studies" / "golf.db").exists()


# --- parts ---


@pytest.mark.parametrize(
    ("given", "names", "values"),
    [
        (0.5, ["a"], [0.5]), (3, ["a"], [3.0]), ({"a": 1}, ["a"], [1.0]), ([2], ["a"], [2.0]),
        ({"b": 1, "a": 2}, ["a", "b"], [2.0, 1.0]), ((1, 2), ["a", "b"], [1.0, 2.0]),
        (1, ["a", "b"], "epoch 7 gave 1, but must give a and b"),
        ({"a": 1}, ["a", "b"], "epoch 7 gave {'a': 1}, but must give a and b"),
        (None, ["a"], "epoch 7 gave None for a, but must give a finite number"),
        ((1, float("inf")), ["a", "b"], "epoch 7 gave inf for b, but must give a finite number"),
        ("0.5", ["a"], "epoch 7 gave '0.5' for a, but must give a finite number"),
    ],
)  # fmt: skip
def test_what_is_yielded_is_values_or_says_why_not(
    given: Any, names: list[str], values: Any
) -> None:
    if isinstance(values, str):
        with pytest.raises(Refused) as refused:
            values_of(given, names, 7)
        assert str(refused.value) == values
    else:
        assert values_of(given, names, 7) == values


def test_files_are_those_of_the_last_whole_checkpoint(tmp_path: Path) -> None:
    files = TrialFiles(tmp_path / "3")
    files.begin(0)
    for epoch, written in enumerate(["one", None, "three"], 1):
        if written:
            files.checkpoint.write_text(written)
        files.commit(epoch, [epoch / 10], 0.5)
    files.checkpoint.write_text("half of the fou")  # and then it was killed
    with (tmp_path / "3" / "values.jsonl").open("a") as file:
        file.write('{"epoch": 4, "val')
    kept = ObjectiveFiles(tmp_path).load(3)
    assert [result.values for result in kept.history] == [(0.1,), (0.2,), (0.3,)]
    files.begin(3)
    assert files.checkpoint.read_text() == "three" and files.kept() == 3
    files.checkpoint.unlink()
    files.checkpoint.mkdir()  # a folder will do as well
    (files.checkpoint / "model").write_text("five")
    files.commit(4, [0.4], 0.5)
    assert sorted(path.name for path in files.folder.iterdir()) == ["epoch-4", "values.jsonl"]
    files.begin(4)
    assert (files.checkpoint / "model").read_text() == "five"
    (files.folder / "values.jsonl").write_text('{"epoch": 2}\n')
    with pytest.raises(DamagedCheckpoint, match="3 cannot be read"):
        ObjectiveFiles(tmp_path).load(3)
    files.begin(0)
    with pytest.raises(FileNotFoundError):
        ObjectiveFiles(tmp_path).load(3)


# --- the dashboard ---


@pytest.mark.browser
def test_the_dashboard_shows_two_objectives_as_a_front(
    browser: Any, golf: Golf, here: Path
) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    golf("study", "objective=toy:pair", "space=space.yaml", "study.name=s", "epochs=2", "trials=6",
         "engine.lanes=1", TWO)  # fmt: skip
    expected = sorted((1 / t.params["x"], t.params["x"]) for t in study_of(here, "s").trials)

    def drawn(plot: str) -> list[tuple[float, float]]:
        script = (
            "return (document.getElementById(arguments[0])?.data ?? [])"
            ".flatMap(t => [...t.x].map((x, i) => [x, t.y[i]]))"
        )
        return sorted(map(tuple, browser.execute_script(script, plot)))

    with served(here) as url:
        browser.get(f"{url}dashboard/studies/1")
        wait = WebDriverWait(browser, 60)
        wait.until(lambda _: drawn("user-defined-plot:front"))
        ours = drawn("user-defined-plot:front")
        assert ours == [pytest.approx(point, abs=1e-3) for point in expected]
        native = wait.until(lambda _: drawn("graph-pareto-front"))
        assert native == [pytest.approx(point) for point in expected]
        trial = json.loads(ask(url, "/api/studies/1").body)["trials"][0]
        kinds = {row["filename"]: row["artifact_id"] for row in trial["artifacts"]}
        assert list(kinds) == ["learning-curve.svg", "log.txt"]
        log, curve = (
            ask(url, f"/artifacts/1/{trial['trial_id']}/{kinds[name]}").body.decode()
            for name in ("log.txt", "learning-curve.svg")
        )
        assert "after the last epoch: loss=" in log and curve.startswith("<svg")
        assert "Pareto Front" in text(browser)
        assert "front (6)" in text(browser)
