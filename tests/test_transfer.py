"""Studies are listed, removed, and taken from SQLite to PostgreSQL and back as they were."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
import pytest
from conftest import Ran, golf_in, told
from optuna.artifacts import FileSystemArtifactStore, upload_artifact
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console
from sqlalchemy import insert, text

from golf_opt.config.schema import ExportConfig, StorageConfig
from golf_opt.golf.source import load_trained
from golf_opt.manage import archive, listing, removal, transfer
from golf_opt.storage.connect import opened_storage
from golf_opt.storage.studies import STUDY_ID, attached, mark, marks
from golf_opt.storage.studies import attach as attach_files
from golf_opt.storage.tables import LEASES
from golf_opt.storage.workers import coordination
from golf_opt.study.description import DESCRIPTION, find_study
from golf_opt.utils.processes import WORKER

if TYPE_CHECKING:
    from postgres import Server

pytest_plugins = ["postgres"]

Golf = Callable[..., Ran]
QUICK = (
    "study", "data=digits", "engine=torch", "epochs=2", "space.batch_size=32",
    "callbacks.progress.mode=quiet",
)  # fmt: skip
START = datetime(2025, 3, 9, 1, 59, 59, 123456)
SPACE = {
    "lr": FloatDistribution(1e-5, 1e-2, log=True),
    "step": FloatDistribution(0.0, 1.0, step=0.1),
    "batch_size": IntDistribution(4, 32),
    "optimizer": CategoricalDistribution(["adam", None, True, 3, 0.5]),
}
PARAMS = {"lr": 0.1 + 0.2 - 0.299, "step": 0.30000000000000004, "batch_size": 32}


def trial_of(number: int, state: TrialState, **rest: Any) -> FrozenTrial:
    """A trial with something in every field that its state allows."""
    ended = START + timedelta(hours=number, microseconds=1)
    fields: dict[str, Any] = {
        "values": [0.9 + number / 3] if state in (TrialState.COMPLETE, TrialState.PRUNED) else None,
        "datetime_start": START,
        "datetime_complete": ended if state.is_finished() else None,
        "params": PARAMS | {"optimizer": ["adam", None, True, 3, 0.5][number % 5]},
        "distributions": SPACE,
        "user_attrs": {"tab\tkey": "naïve \u2028 \n line", "nested": [1, {"a": None}], "x": 1 / 3},
        "system_attrs": {"fixed_params": {"lr": 1e-3}, "retry": [1, 2]},
        "intermediate_values": {1: 0.1, 2: 1 / 3, 7: math.inf},
    } | rest
    return FrozenTrial(number=number, trial_id=-1, state=state, value=None, **fields)


EVERY_STATE = [
    trial_of(0, TrialState.COMPLETE),
    trial_of(1, TrialState.PRUNED, intermediate_values={1: 0.5, 3: -math.inf}),
    trial_of(2, TrialState.FAIL, intermediate_values={1: math.nan}),
    trial_of(3, TrialState.WAITING, params={}, distributions={}, datetime_start=None),
    trial_of(4, TrialState.WAITING),
    trial_of(5, TrialState.COMPLETE, values=[5e-324]),
]


def as_rows(study: optuna.Study) -> list[str]:
    """Every field of every trial, exactly; the id is the storage's own business."""
    rows = [archive.describe_trial(trial) for trial in study.get_trials(deepcopy=False)]
    return [repr({key: value for key, value in row.items() if key != "id"}) for row in rows]


def make_study(url: str, name: str, trials: list[FrozenTrial]) -> None:
    with opened(url) as storage:
        study = optuna.create_study(study_name=name, storage=storage, direction="maximize")
        study.add_trials(trials)
        study.set_user_attr("who", ["a", 1.5])
        note = study.get_trials(deepcopy=False)[0]._trial_id
        mark(study, f"dashboard:{note}:note_str:0", "on the first trial")
        mark(study, f"dashboard:{note}:note_ver", 1)
        mark(study, "dashboard:note_str:0", "on the study")


def attach(url: str, name: str, folder: Path, *texts: str) -> None:
    """Give the study files of its own, as the dashboard does."""
    (folder / "artifacts").mkdir(parents=True, exist_ok=True)
    store = FileSystemArtifactStore(folder / "artifacts")
    with opened(url) as storage:
        study = optuna.load_study(study_name=name, storage=storage)
        for text in texts:
            (folder / "file").write_text(text)
            upload_artifact(
                artifact_store=store, file_path=str(folder / "file"), study_or_trial=study
            )
            (folder / "file").unlink()


@contextmanager
def opened(url: str) -> Iterator[optuna.storages.BaseStorage]:
    with opened_storage(StorageConfig(url, None)) as storage:
        yield storage


def rows_of(url: str, name: str) -> list[str]:
    with opened(url) as storage:
        return as_rows(optuna.load_study(study_name=name, storage=storage))


def rows_in(url: str, table: str) -> int:
    with opened(url) as storage, coordination(storage).ledger.engine.connect() as connection:
        return int(connection.execute(text(f"SELECT count(*) FROM {table}")).scalar())


@pytest.fixture
def here(tmp_path: Path) -> str:
    """The storage that `golf` uses by default."""
    (tmp_path / "studies").mkdir()
    return f"sqlite:///{tmp_path}/studies/golf.db"


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The export of a finished study, `mine`: two trials of c4-5-4 on digits."""
    folder = tmp_path_factory.mktemp("trained")
    url = f"sqlite:///{folder}/studies/golf.db"
    golf_in(folder, *QUICK, "trials=2", "study.name=mine")
    attach(url, "mine", folder / "studies", "a picture", "another")
    golf_in(folder, "export", "study=mine", "output=exported")
    return folder


# --- export and import


@pytest.mark.postgres
def test_from_sqlite_to_postgres_and_back_trials_are_identical(
    golf: Golf, tmp_path: Path, here: str, postgres: Server
) -> None:
    make_study(here, "s", EVERY_STATE)
    before = rows_of(here, "s")
    server = postgres.url(postgres.create_database())
    for command in (
        ["export", "study=s", "output=one"],
        ["import", "input=one", f"storage.url={server}"],
        ["export", "study=s", "output=two", f"storage.url={server}"],
        ["import", "input=two", "name=back"],
    ):
        ran = golf(*command)
        assert (ran.status, ran.err) == (0, "")
    assert len(before) == 6 and "5e-324" in before[5] and "inf" in before[0]
    assert rows_of(server, "s") == before
    assert rows_of(here, "back") == before
    with opened(here) as storage:
        back = optuna.load_study(study_name="back", storage=storage)
        first = back.get_trials(deepcopy=False)[0]._trial_id
        kept = marks(back)
        assert back.user_attrs == {"who": ["a", 1.5]}
        assert back.direction == optuna.study.StudyDirection.MAXIMIZE
    assert kept[f"dashboard:{first}:note_str:0"] == "on the first trial"
    assert kept[f"dashboard:{first}:note_ver"] == 1
    assert kept["dashboard:note_str:0"] == "on the study"
    one, two = ((tmp_path / f / "trials.csv").read_bytes() for f in ("one", "two"))
    assert one == two


def test_a_finished_study_moves_with_its_weights_and_pictures(
    golf: Golf, tmp_path: Path, trained: Path, here: str
) -> None:
    assert golf("import", f"input={trained}/exported").out == "imported mine: 2 trials\n"
    source = f"sqlite:///{trained}/studies/golf.db"
    assert rows_of(here, "mine") == rows_of(source, "mine")
    with opened(here) as storage, opened(source) as other:
        moved, original = find_study(storage, "mine"), find_study(other, "mine")
        same = {k: v for k, v in marks(original).items() if k != STUDY_ID}
        assert {k: marks(moved)[k] for k in same} == same and DESCRIPTION in same
        assert marks(moved)[STUDY_ID] != marks(original)[STUDY_ID]
        for number in (0, 1):
            one = load_trained(moved, tmp_path / "studies", number).tensors
            two = load_trained(original, trained / "studies", number).tensors
            assert {k: v.tobytes() for k, v in one.items()} == {
                k: v.tobytes() for k, v in two.items()
            }
    pictures = sorted(p.read_text() for p in (tmp_path / "studies" / "artifacts").iterdir())
    assert pictures == sorted(p.read_text() for p in (trained / "studies/artifacts").iterdir())
    assert len(pictures) == 2
    ran = golf(*QUICK, "trials=3", "study.name=mine")
    assert ran.status == 0 and "going on at 2 of 3 trials" in ran.out


def test_a_spreadsheet_reads_the_csv(trained: Path) -> None:
    with (trained / "exported" / "trials.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    source = f"sqlite:///{trained}/studies/golf.db"
    with opened(source) as storage:
        trials = optuna.load_study(study_name="mine", storage=storage).trials
    assert [float(row["value"]) for row in rows] == [trial.value for trial in trials]
    assert [float(row["params.lr"]) for row in rows] == [t.params["lr"] for t in trials]
    assert {row["state"] for row in rows} == {"COMPLETE"}
    assert {row["user_attrs.num_params"] for row in rows} == {"807"}


def test_what_was_running_waits(golf: Golf, here: str) -> None:
    running = trial_of(1, TrialState.RUNNING, user_attrs={WORKER: "x:1::0"})
    make_study(here, "s", [EVERY_STATE[0], running])
    golf("export", "study=s", "output=one")
    ran = golf("import", "input=one", "name=t")
    assert ran.out == "imported t: 2 trials; 1 that were running wait to go on\n"
    before, after = rows_of(here, "s"), rows_of(here, "t")
    assert after == [before[0], before[1].replace("'RUNNING'", "'WAITING'")] != before


def test_without_checkpoints_there_are_none(golf: Golf, tmp_path: Path, trained: Path) -> None:
    where = (f"dir={trained}/studies", "output=light")
    assert golf("export", "study=mine", "checkpoints=false", *where).status == 0
    assert sorted(p.name for p in (tmp_path / "light").iterdir()) == [
        "artifacts", "study.json", "trials.csv", "trials.jsonl",
    ]  # fmt: skip


def test_a_damaged_checkpoint_is_left_out_and_said(golf: Golf, trained: Path, here: str) -> None:
    golf("import", f"input={trained}/exported")
    with opened(here) as storage:
        own_id = marks(find_study(storage, "mine"))[STUDY_ID]
        whole = coordination(storage).ledger.load_checkpoint(own_id, 1)
        coordination(storage).ledger.put_checkpoint(own_id, 1, whole[:99])
    ran = golf("export", "study=mine", "output=out")
    assert ran.status == 0
    assert "left out: " in ran.out and "cannot be read as a checkpoint" in ran.out
    assert "2 trials, 1 checkpoint" in ran.out


def edited(folder: Path, file: str, change: Callable[[str], str]) -> None:
    path = folder / file
    path.write_text(change(path.read_text()))


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("trials.jsonl", lambda s: s[: s.index("\n") + 1], "it has 1 lines, but must have 2"),
        ("study.json", lambda s: s.replace('"format": 1', '"format": 9'), "has format 9, but"),
        ("study.json", lambda s: s[:-9], "study.json is damaged"),
        ("study.json", lambda s: "[]", "study.json is damaged"),
        ("study.json", lambda s: s.replace('"name"', '"nom"'), "name is missing"),
        ("study.json", lambda s: s.replace("MAXIMIZE", "UP"), "'UP', but must be one of MAX"),
    ],
)
def test_a_damaged_export_is_refused_before_anything_is_written(
    golf: Golf, tmp_path: Path, trained: Path, file: str, change: Callable[[str], str], message: str
) -> None:
    subprocess.run(["cp", "-r", trained / "exported", tmp_path / "bad"], check=True)
    edited(tmp_path / "bad", file, change)
    assert message in told(golf("import", "input=bad"))
    assert not (tmp_path / "studies").exists()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda s: s[:-20] + "\n", "trial 1 cannot be read and counts as failed: Expecting"),
        (lambda s: s.replace('"values"', '"value"'), "; trial 1 cannot be read and"),
        (lambda s: s.replace("COMPLETE", "DONE"), "; trial 1 cannot be read and"),
        (lambda s: s.replace('"number": 1', '"number": 7'), "trial 7 stands where trial 1 must"),
        (lambda s: s.replace('"lr": 0.', '"lr": 7.'), "isn't contained"),
    ],
)
def test_a_damaged_trial_of_an_export_counts_as_failed(
    golf: Golf, tmp_path: Path, trained: Path, change: Callable[[str], str], reason: str, here: str
) -> None:
    subprocess.run(["cp", "-r", trained / "exported", tmp_path / "bad"], check=True)
    edited(tmp_path / "bad", "trials.jsonl", change)
    ran = golf("import", "input=bad")
    assert ran.status == 0 and ran.out == "imported mine: 2 trials\n"
    assert reason in ran.err and len(ran.err.splitlines()) == 1
    with opened(here) as storage:
        trials = optuna.load_study(study_name="mine", storage=storage).trials
    lost = [trial for trial in trials if trial.state == TrialState.FAIL]
    assert len(trials) == 2 and len(lost) == (2 if reason[0] == ";" or "isn't" in reason else 1)
    assert all("cannot be read" in trial.user_attrs["fail_reason"] for trial in lost)


def test_another_nets_checkpoint_undoes_the_import(
    golf: Golf, tmp_path: Path, trained: Path, here: str
) -> None:
    subprocess.run(["cp", "-r", trained / "exported", tmp_path / "bad"], check=True)
    checkpoints = tmp_path / "bad" / "checkpoints"
    (checkpoints / "0.safetensors").replace(checkpoints / "1.safetensors")
    assert "1.safetensors is damaged: its checksum is not" in told(golf("import", "input=bad"))
    edited(tmp_path / "bad", "study.json", lambda s: s.replace('"files"', '"user_attrs"'))
    assert "1.safetensors is of another trial" in told(golf("import", "input=bad"))
    assert golf("ls", "format=json").out == "[]\n"
    files = [path for path in (tmp_path / "studies").rglob("*") if path.is_file()]
    assert [path for path in files if not path.name.startswith("golf.db")] == []
    assert rows_in(here, "golf_checkpoints") == rows_in(here, "trials") == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["export", "output=x"], "study is missing; give study=NAME"),
        (["export", "study=s"], "output is None, but must be a folder to make"),
        (["export", "study=s", "output=x"], "study 's' is not in the storage; there are none yet"),
        (["export", "study=s", "output=file"], "output is 'file', but must be a folder that is"),
        (["export", "study=s", "output=x", "checkpoints=1"], "checkpoints is 1, but must be true"),
        (["import"], "input is None, but must be a folder that golf-opt export wrote"),
        (["import", "input=x"], "'x', but must be a folder that golf-opt export wrote"),
        (["import", "input=file"], "'file', but must be a folder that golf-opt export wrote"),
        (["rm", "study=s"], "study 's' is not in the storage; there are none yet"),
        (["rm", "study=s", "yes=maybe"], "yes is 'maybe', but must be true or false."),
        (["ls", "format=jsn"], "format is 'jsn', but must be one of auto, json, plain, table; did"),
        (["ls", "storage.url=nonsense"], "storage.url is not a URL"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_line(
    golf: Golf, tmp_path: Path, arguments: list[str], message: str
) -> None:
    (tmp_path / "file").touch()
    assert message in told(golf(*arguments))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_name_that_exists_is_refused(golf: Golf, trained: Path, here: str) -> None:
    make_study(here, "mine", EVERY_STATE)
    before = rows_of(here, "mine")
    said = told(golf("import", f"input={trained}/exported"))
    assert said.startswith("study 'mine' is there already; give another name=")
    assert rows_of(here, "mine") == before
    assert golf("import", f"input={trained}/exported", "name=other").status == 0


def test_an_output_that_cannot_be_written_is_named(golf: Golf, here: str) -> None:
    make_study(here, "s", EVERY_STATE)
    said = told(golf("export", "study=s", "output=/proc/nowhere/out"))
    assert said.startswith("output '/proc/nowhere/out' cannot be written: ")


@pytest.fixture(scope="session")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The export of a study of 300 trials: seconds of importing."""
    folder = tmp_path_factory.mktemp("many")
    url = f"sqlite:///{folder}/golf.db"
    make_study(url, "s", [trial_of(number, TrialState.COMPLETE) for number in range(300)])
    config = ExportConfig(folder, StorageConfig(url, None), "s", folder / "out", True)
    transfer.export_study(config, lambda line: None)
    return folder


def wait_for_rows(url: str, process: subprocess.Popen[str]) -> None:
    """Wait until the import is in the midst of the trials."""
    path = url.removeprefix("sqlite:///")
    while process.poll() is None:
        with suppress(sqlite3.OperationalError), closing(sqlite3.connect(path)) as database:
            if database.execute("SELECT count(*) FROM trials").fetchone()[0] > 3:
                return
        time.sleep(0.01)
    raise AssertionError("the import was over too soon")


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_an_import_cut_short_leaves_nothing_that_counts(
    golf: Golf, golf_process: Callable[..., Any], many: Path, here: str, how: signal.Signals
) -> None:
    process = golf_process("import", f"input={many}/out", "name=t")
    wait_for_rows(here, process)
    process.send_signal(how)
    _, err = process.communicate(timeout=120)
    assert "Traceback" not in err
    if how is not signal.SIGKILL:
        assert process.returncode == 128 + how
        assert golf("ls", "format=json").out == "[]\n"
    else:
        assert "its import is under way or was cut" in told(
            golf("export", "study=t", "output=half")
        )
        assert "is there already and was not made by golf-opt" in told(
            golf(*QUICK, "study.name=t", "trials=1")
        )
    assert golf("import", f"input={many}/out", "name=t").out == "imported t: 300 trials\n"
    assert rows_of(here, "t") == rows_of(f"sqlite:///{many}/golf.db", "s")


# --- rm


def test_rm_takes_the_study_and_its_files_and_no_others(
    golf: Golf, tmp_path: Path, trained: Path, here: str
) -> None:
    for name in ("mine", "other"):
        golf("import", f"input={trained}/exported", f"name={name}")
    (tmp_path / "studies" / "artifacts" / "unrelated").touch()
    shared = sorted(path.name for path in (tmp_path / "studies" / "artifacts").iterdir())
    assert golf("rm", "study=other", "yes=true").out == "removed study 'other' with 2 trials\n"
    left = sorted(path.name for path in (tmp_path / "studies" / "artifacts").iterdir())
    assert left == shared and len(left) == 3, "a picture of the study that stays was removed"
    assert rows_in(here, "golf_checkpoints") == rows_in(here, "trials") == 2
    assert golf("rm", "study=mine", "yes=true").status == 0
    assert [p.name for p in (tmp_path / "studies" / "artifacts").iterdir()] == ["unrelated"]
    assert rows_in(here, "golf_checkpoints") == rows_in(here, "trials") == 0
    assert golf("ls", "format=json").out == "[]\n"


def test_files_of_a_finished_trial_are_exported_imported_and_removed(
    golf: Golf, tmp_path: Path, here: str
) -> None:
    """As `interpret` attaches them, under keys of the study that name the trial by its id."""
    make_study(here, "first", EVERY_STATE)
    make_study(here, "s", EVERY_STATE)
    with opened(here) as storage:
        study = optuna.load_study(study_name="s", storage=storage)
        attach_files(
            study, tmp_path / "studies", study.trials[5], {"page.html": b"<p>", "a.png": b"b"}
        )
    golf("export", "study=s", "output=out")
    assert len(list((tmp_path / "out" / "artifacts").iterdir())) == 2
    golf("import", "input=out", "name=t", "dir=other")
    with opened(f"sqlite:///{tmp_path}/other/golf.db") as storage:
        study = optuna.load_study(study_name="t", storage=storage)
        assert attached(study, study.trials[5]).keys() == {"page.html", "a.png"}
        assert attached(study, study.trials[4]) == {}
    assert len(list((tmp_path / "other" / "artifacts").iterdir())) == 2
    assert golf("rm", "study=t", "yes=true", "artifacts=true", "dir=other").status == 0
    assert list((tmp_path / "other" / "artifacts").iterdir()) == []


def test_rm_can_leave_the_pictures(golf: Golf, tmp_path: Path, trained: Path) -> None:
    golf("import", f"input={trained}/exported")
    golf("rm", "study=mine", "yes=true", "artifacts=false")
    assert len(list((tmp_path / "studies" / "artifacts").iterdir())) == 2


def test_rm_asks_on_a_terminal_and_demands_yes_without_one(
    golf: Golf, here: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_study(here, "s", EVERY_STATE)
    assert "yes is False, but must be true where there is no terminal" in told(
        golf("rm", "study=s")
    )
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    for answer, status, words in (
        ("n", 1, "nothing was removed\n"),
        ("", 1, "nothing was removed\n"),
        ("y", 0, "removed study 's' with 6 trials\n"),
    ):
        asked: list[str] = []
        monkeypatch.setattr("builtins.input", lambda q, a=answer, to=asked: (to.append(q), a)[1])
        ran = golf("rm", "study=s")
        assert (ran.status, ran.out) == (status, words)
        assert asked == ["remove study 's' with 6 trials? [y/N] "]


def test_rm_on_a_real_terminal(tmp_path: Path, here: str) -> None:
    make_study(here, "s", EVERY_STATE)
    main, child = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "golf_opt", "rm", "study=s"], cwd=tmp_path,
        stdin=child, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    os.write(main, b"\x04")  # Ctrl-D
    out, err = process.communicate(timeout=120)
    os.close(main)
    os.close(child)
    assert process.returncode == 1 and "nothing was removed" in out and "Traceback" not in err
    assert len(rows_of(here, "s")) == 6


WORKER_PROGRAM = """
import sys, optuna
from golf_opt.config.schema import StorageConfig
from golf_opt.storage.connect import opened_storage
from golf_opt.storage.workers import coordination
from golf_opt.utils.processes import show_worker, worker_id
with opened_storage(StorageConfig(sys.argv[1], None)) as storage:
    optuna.load_study(study_name="s", storage=storage).ask()
    coordination(storage).flush()
    print(show_worker(worker_id()), flush=True)
    sys.stdin.read()
"""


@contextmanager
def at_work(url: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process that runs a trial of the study `s`, and its name."""
    command = [sys.executable, "-W", "ignore", "-c", WORKER_PROGRAM, url]
    process = subprocess.Popen(command, stdin=-1, stdout=-1, text=True)
    try:
        assert process.stdout is not None
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.communicate()


def test_rm_refuses_while_a_worker_lives(golf: Golf, here: str) -> None:
    make_study(here, "s", EVERY_STATE)
    with at_work(here) as (process, worker):
        assert f"study 's' is at work: trial 3 on {worker}. End" in told(
            golf("rm", "study=s", "yes=true", "force=true")
        )
        process.kill()
        process.wait()
        assert golf("rm", "study=s", "yes=true").status == 0
    assert rows_in(here, "golf_leases") == rows_in(here, "trials") == 0


def test_rm_believes_a_machine_that_was_silent_for_a_minute(golf: Golf, here: str) -> None:
    make_study(here, "s", [trial_of(0, TrialState.RUNNING)])
    with opened(here) as storage, coordination(storage).ledger._begin() as connection:
        row = {"trial_id": 1, "owner": "elsewhere:1:1:a", "beat": time.time(), "deaths": 0}
        connection.execute(insert(LEASES), row)
    assert "trial 0 on elsewhere:1. End" in told(golf("rm", "study=s", "yes=true"))
    with opened(here) as storage, coordination(storage).ledger._begin() as connection:
        connection.execute(text(f"UPDATE golf_leases SET beat = {time.time() - 61}"))
    assert golf("rm", "study=s", "yes=true").status == 0


def test_rm_asks_for_force_where_another_program_may_run(golf: Golf, here: str) -> None:
    make_study(here, "s", [trial_of(0, TrialState.RUNNING)])
    assert "a program that keeps no lease" in told(golf("rm", "study=s", "yes=true"))
    assert golf("rm", "study=s", "yes=true", "force=true").status == 0
    assert golf("ls", "format=json").out == "[]\n"


def test_rm_touches_no_file_outside_its_folders(golf: Golf, tmp_path: Path, here: str) -> None:
    """Attributes of a study are what somebody wrote into a database."""
    (tmp_path / "precious").touch()
    attrs = {"artifacts:../../precious": "{}"}
    make_study(here, "s", [trial_of(0, TrialState.COMPLETE, system_attrs=attrs)])
    with opened(here) as storage:
        mark(optuna.load_study(study_name="s", storage=storage), STUDY_ID, "../..")
    assert golf("rm", "study=s", "yes=true").status == 0
    assert (tmp_path / "precious").exists() and (tmp_path / "studies" / "golf.db").exists()


# --- ls


def test_ls_of_nothing_makes_nothing(golf: Golf, tmp_path: Path) -> None:
    assert golf("ls").out.count("\n") == 1
    assert golf("ls", "format=table").out == "no studies yet\n"
    assert golf("ls", "format=json").out == "[]\n"
    assert list(tmp_path.iterdir()) == []


def test_ls_tells_a_study_in_every_format(golf: Golf, trained: Path) -> None:
    where = f"dir={trained}/studies"
    (row,) = json.loads(golf("ls", where, "format=json").out)
    with opened(f"sqlite:///{trained}/studies/golf.db") as storage:
        study = optuna.load_study(study_name="mine", storage=storage)
        best, last = study.best_trial, study.trials[-1]
    assert (row["study"], row["arch"], row["parameters"], row["data"], row["protocol"]) == (
        "mine", "c4-5-4", 807, "digits", "test",
    )  # fmt: skip
    assert (row["total"], row["best"], row["best_trial"]) == (2, best.value, best.number)
    assert row["trials"]["complete"] == 2 and sum(row["trials"].values()) == 2
    assert row["last_activity"] == str(last.datetime_complete)
    ran = golf("ls", where)  # capsys is no terminal
    names, cells = (line.split("\t") for line in ran.out.splitlines())
    plain = dict(zip(names, cells, strict=True))
    assert plain["study"] == "mine" and plain["complete"] == "2" and plain["running"] == "0"
    assert plain["best"] == f"{best.value:.4f}" and "\x1b" not in ran.out
    drawn = golf("ls", where, "format=table").out
    assert "mine" in drawn and "2 of 2" in drawn and f"{100 * best.value:.2f} %" in drawn


def test_ls_counts_states_and_workers_and_knows_foreign_studies(golf: Golf, here: str) -> None:
    lately = datetime.now() - timedelta(seconds=30)
    make_study(here, "s", [
        trial_of(0, TrialState.COMPLETE, datetime_complete=lately, user_attrs={WORKER: "a:1:2:b"}),
        trial_of(1, TrialState.PRUNED, user_attrs={WORKER: "long-ago:1:2:b"}),
        trial_of(2, TrialState.WAITING, user_attrs={WORKER: "c:1:2:b"}),
    ])  # fmt: skip
    with opened(here) as storage:
        optuna.create_study(study_name="[red]\tx", storage=storage, directions=["minimize"] * 2)
    with at_work(here) as (_, worker):  # takes the one that waits
        foreign, row = json.loads(golf("ls", "format=json").out)
    assert (row["study"], row["arch"], row["workers"]) == ("s", None, sorted(["a:1", worker]))
    assert row["trials"] == {
        "running": 1, "complete": 1, "pruned": 1, "fail": 0, "waiting": 0, "paused": 0,
    }  # fmt: skip
    assert row["best_trial"] == 0 and row["last_activity"] > str(lately)
    assert (foreign["study"], foreign["best"]) == ("[red]\tx", None)
    lines = golf("ls", "format=plain").out.splitlines()
    assert [line.count("\t") for line in lines] == [len(listing.COLUMNS) - 1] * 3
    assert lines[1].startswith("[red]?x\t-\t")
    assert "[red]?x" in golf("ls", "format=table").out


def test_a_table_tells_the_time_of_a_box_whose_clock_is_ahead(here: str) -> None:
    ahead = datetime.now() + timedelta(minutes=5)
    make_study(here, "s", [trial_of(0, TrialState.COMPLETE, datetime_complete=ahead)])
    with opened(here) as storage:
        drawn = listing.table(listing.study_rows(storage))
    console = Console(width=100, file=io.StringIO())
    console.print(drawn)
    assert console.file.getvalue().rstrip().endswith(" 0 s")


@pytest.mark.postgres
def test_the_verbs_work_on_postgres(
    golf: Golf, tmp_path: Path, trained: Path, postgres: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOLF_STORAGE_URL", postgres.url(postgres.create_database()))
    assert golf("ls", "storage=postgres", "format=json").out == "[]\n"
    golf("import", f"input={trained}/exported", "storage=postgres")
    (row,) = json.loads(golf("ls", "storage=postgres", "format=json").out)
    assert (row["study"], row["parameters"], row["trials"]["complete"]) == ("mine", 807, 2)
    assert golf("rm", "study=mine", "yes=true", "storage=postgres").status == 0
    assert golf("ls", "storage=postgres", "format=json").out == "[]\n"
    assert not (tmp_path / "studies" / "golf.db").exists()


def test_artifact_ids_are_those_of_optuna() -> None:
    good = "0b8a5a1e-3c2b-4a0f-9a52-6f7a1e6d9d10"
    attrs = {f"artifacts:{good}": "", "artifacts:../x": "", "artifacts": "", "a": ""}
    assert removal.artifact_ids(attrs) == {good}
