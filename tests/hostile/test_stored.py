"""What lies in a database or an export is not believed: it runs nothing, and costs nobody else."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from conftest import Ran, golf_in, told
from evil import SPOILED, TRIAL_1, UUID, make_good, spoil, spoil_everything, spoil_export
from fuzzing import fuzz
from hypothesis import given
from hypothesis import strategies as st

from golf_opt.config.schema import StorageConfig
from golf_opt.manage.listing import study_rows
from golf_opt.storage.checkpoint import DamagedCheckpoint, open_checkpoints
from golf_opt.storage.connect import opened_storage
from golf_opt.storage.studies import mark, marks
from golf_opt.storage.workers import coordination
from golf_opt.study.description import DESCRIPTION

Golf = Callable[..., Ran]
Rows = dict[str, dict[str, Any]]
WORKER = ("worker", "study=bad", "engine=torch", "callbacks.progress.mode=plain")


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the studies `good` and `bad`, and an export of the second."""
    folder = tmp_path_factory.mktemp("made")
    make_good(folder)
    return folder


@pytest.fixture(scope="session")
def before(made: Path) -> Rows:
    """What `ls` tells of that folder."""
    return listed(Ran(0, golf_in(made, "ls", "format=json"), ""))


@pytest.fixture
def here(made: Path, tmp_path: Path) -> Path:
    """A copy of that folder; the command line works in it."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return tmp_path


def database(folder: Path) -> Path:
    return folder / "studies" / "golf.db"


def listed(ran: Ran) -> Rows:
    """The studies that `ls format=json` told, by name, but for who was heard of just now."""
    assert ran.status == 0, ran
    rows = {row["study"]: row for row in json.loads(ran.out)}
    for row in rows.values():
        assert isinstance(row.pop("workers"), list)
    return rows


# --- one bad row


@pytest.mark.parametrize("key", SPOILED)
def test_a_bad_row_is_named_and_costs_no_other(
    golf: Golf, here: Path, before: Rows, key: str
) -> None:
    statement, message = SPOILED[key]
    spoil(database(here), statement)
    ran = golf("ls", "format=json")
    after = listed(ran)
    assert after["good"] == before["good"]
    if message:
        assert len(ran.err.splitlines()) == 1 and message in ran.err
    if key in ("direction", "no direction", "name blob", "name bytes"):
        assert "bad" not in after
    else:
        assert after["bad"]["trials"]["complete"] == (2 if TRIAL_1 in statement else 3)


@pytest.mark.parametrize(
    "key",
    [
        "number text",
        "value",
        "distribution deep",
        "user attribute",
        "lease blob",
        "checkpoint",
        "lease of the future",
    ],
)
def test_a_study_with_a_bad_row_goes_on(golf: Golf, here: Path, key: str) -> None:
    spoil(database(here), SPOILED[key][0])
    change_description(here, trials=4)
    ran = golf(*WORKER)
    assert ran.status == 0 and "4 of 4 trials finished" in ran.out, ran
    assert "Traceback" not in ran.err
    trials = listed(golf("ls", "format=json"))["bad"]["trials"]
    assert trials["complete"] == (4 if key == "checkpoint" else 3)


@pytest.mark.parametrize(
    ("fixed", "message"),
    [
        ({"lr": 1e9}, "its lr is 1000000000.0, but the space holds"),
        ({"lr": "fast"}, "its lr cannot be"),
        ({"step_size": 10**12}, "its step_size is 1000000000000, but the space holds"),
    ],
    ids=str,
)
def test_a_waiting_trial_that_cannot_be_run_fails(
    golf: Golf, here: Path, fixed: dict[str, Any], message: str
) -> None:
    change_description(here, trials=5)
    with opened_storage(StorageConfig(f"sqlite:///{database(here)}", None)) as storage:
        optuna.load_study(study_name="bad", storage=storage).enqueue_trial(fixed)
    ran = golf(*WORKER)
    assert ran.status == 0 and f"trial 3 failed: {message}" in ran.out and ran.err == "", ran
    trials = listed(golf("ls", "format=json"))["bad"]["trials"]
    assert (trials["complete"], trials["fail"]) == (4, 1)


def change_description(folder: Path, **changed: Any) -> None:
    with opened_storage(StorageConfig(f"sqlite:///{database(folder)}", None)) as storage:
        study = optuna.load_study(study_name="bad", storage=storage)
        mark(study, DESCRIPTION, marks(study)[DESCRIPTION] | changed)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"arch": []}, "arch"),
        ({"arch": {"layers": 5}}, "layers is 5"),
        ({"arch": {"layers": [{"kind": "conv", "channels": 10**30, "kernel": 3}]}}, "channels"),
        ({"arch": {"layers": [{"kind": ["conv"]}]}}, "layer 1"),
        ({"sampler": "tpe"}, "sampler"),
        ({"sampler": {"_target_": 5}}, "its _target_ is 5"),
        (
            {"sampler": {"_target_": "optuna.samplers.TPESampler", "gamma": "${oc.env:HOME}"}},
            "a worker resolves nothing",
        ),
        (
            {"sampler": {"_target_": "optuna.samplers.TPESampler", "no": 1}},
            "sampler cannot be built",
        ),
        ({"sampler": {"_target_": "optuna.samplers._cmaes.CmaEsSampler"}}, "only Optuna's own"),
        ({"pruner": None}, "pruner"),
        ({"protocol": "other"}, "protocol"),
        ({"data": "/etc"}, "data"),
        ({"data": ["mnist"]}, "data"),
        ({"space": {"lr": 1}}, "batch_size"),
        ({"space": {"lr": {"type": "int", "low": "a"}, "batch_size": 1}}, "space.lr.low"),
        ({"space": [1]}, "space"),
        ({"seed": -1}, "seed"),
        ({"seed": "7"}, "seed"),
        ({"seed": 2**70}, "seed"),
        ({"epochs": 0}, "epochs"),
        ({"trials": True}, "trials"),
        ({"format": "2"}, "format|not supported"),
        ({"command": None}, "command"),
    ],
    ids=str,
)
def test_a_wrong_description_is_one_line(
    golf: Golf, here: Path, changed: dict[str, Any], message: str
) -> None:
    change_description(here, **changed)
    said = told(golf(*WORKER))
    assert any(part in said for part in message.split("|")), said
    assert listed(golf("ls", "format=json"))["good"]["trials"]["complete"] == 3


def test_a_description_without_names_of_its_parts_is_reported(golf: Golf, here: Path) -> None:
    change_description(here, pruner={}, sampler={"seed": 1})
    ran = golf("report", "study=bad")
    assert ran.status == 0 and ran.err == "", ran


# --- exports


def edit_study(folder: Path, **changed: Any) -> None:
    path = folder / "exported" / "study.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))


@pytest.mark.parametrize(
    "name", ["", " ", "a\nb", "a\0b", "x" * 10_000, "\ud800", "\x1b[2J", None, ["a"]], ids=repr
)
def test_a_name_that_no_study_may_have_is_refused(
    golf: Golf, here: Path, before: Rows, name: Any
) -> None:
    edit_study(here, name=name)
    assert "name" in told(golf("import", "input=exported")) or name == "\ud800"
    assert listed(golf("ls", "format=json")) == before
    if isinstance(name, str):
        assert (
            golf("import", "input=exported", "name=mine").status == 2
        )  # it is damaged all the same


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"directions": []}, "directions"),
        ({"directions": "MAXIMIZE"}, "directions"),
        ({"directions": ["NOT_SET"]}, "directions"),
        ({"directions": ["MAXIMIZE", "MAXIMIZE"]}, ""),
        ({"user_attrs": 3}, "user_attrs"),
        ({"system_attrs": ["a"]}, "system_attrs"),
        ({"trials": 10**400}, "trials"),
        ({"trials": -1}, "trials"),
        ({"format": 10**30}, "format"),
        ({"format": None}, "format"),
        ({"files": {"a": 3}}, "its checksum is not"),
        ({"files": ["a"]}, "files"),
        ({"system_attrs": {"golf_opt:study": "text"}}, "description is damaged"),
        ({"system_attrs": {"golf_opt:recipe": "x", "golf_opt:fingerprint": "y"}}, "damaged"),
    ],
    ids=str,
)
def test_a_wrong_study_json_is_refused(
    golf: Golf, here: Path, before: Rows, changed: dict[str, Any], message: str
) -> None:
    edit_study(here, **changed)
    ran = golf("import", "input=exported", "name=mine")
    if message:
        assert message in told(ran)
        assert listed(golf("ls", "format=json")) == before
    else:  # every trial has a value too few
        assert ran.status == 0 and "trial 0 cannot be read" in ran.err
        assert listed(golf("ls", "format=json"))["mine"]["trials"]["fail"] == 3


@pytest.mark.parametrize(
    "changed",
    [
        {"values": [10**400]},
        {"values": "0.9"},
        {"intermediate_values": {str(10**30): 0.5}},
        {"intermediate_values": {"one": 0.5}},
        {"intermediate_values": [1]},
        {"user_attrs": "none"},
        {"system_attrs": None},
        {"params": {"lr": [1]}},
        {"distributions": {"lr": {"name": "os.system", "attributes": {}}}},
        {"distributions": []},
        {"datetime_start": 5},
        {"datetime_start": "2026-13-45"},
        {"state": {"a": 1}},
        {"number": "1"},
        {"id": [1]},
    ],
    ids=str,
)
def test_a_bad_trial_of_an_export_counts_as_failed(
    golf: Golf, here: Path, changed: dict[str, Any]
) -> None:
    path = here / "exported" / "trials.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[1] |= changed
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    ran = golf("import", "input=exported", "name=mine")
    assert ran.status == 0 and len(ran.err.splitlines()) == 1, ran
    trials = listed(golf("ls", "format=json"))["mine"]["trials"]
    assert (trials["complete"], trials["fail"]) == (2, 1)


def test_a_first_trial_of_another_space_costs_no_other(golf: Golf, here: Path) -> None:
    path = here / "exported" / "trials.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    choices = {
        "name": "CategoricalDistribution",
        "attributes": {"choices": [rows[0]["params"]["lr"]]},
    }
    rows[0]["distributions"]["lr"] = choices
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    ran = golf("import", "input=exported", "name=mine")
    assert "trial 0 cannot be read and counts as failed" in ran.err
    trials = listed(golf("ls", "format=json"))["mine"]["trials"]
    assert (trials["complete"], trials["fail"]) == (2, 1)


@pytest.mark.parametrize("what", ["artifacts", "study.json", "trials.jsonl", "checkpoints"])
def test_no_link_leads_out_of_an_export(golf: Golf, here: Path, before: Rows, what: str) -> None:
    outside = here / "outside"
    shutil.move(here / "exported" / what, outside) if what != "artifacts" else outside.mkdir()
    if what == "artifacts":
        (outside / f"{UUID}0").write_text("a secret")
        edit_study(here, files=None)
        path = here / "exported" / "study.json"
        row = json.loads(path.read_text())
        row["system_attrs"][f"artifacts:{UUID}0"] = json.dumps(
            {"artifact_id": f"{UUID}0", "filename": "f", "mimetype": "a/b", "encoding": None}
        )
        path.write_text(json.dumps(row))
    (here / "exported" / what).symlink_to(outside)
    ran = golf("import", "input=exported", "name=mine")
    assert "leads out of" in ran.err and len(ran.err.splitlines()) == 1
    if what == "artifacts":
        assert ran.status == 0
        assert not any(
            path.read_text() == "a secret" for path in (here / "studies").rglob(f"{UUID}*")
        )
    else:
        assert ran.status == 2 and listed(golf("ls", "format=json")) == before


def test_a_pipe_in_an_export_keeps_nobody_waiting(golf: Golf, here: Path) -> None:
    (here / "exported" / "trials.jsonl").unlink()
    os.mkfifo(here / "exported" / "trials.jsonl")
    assert "no regular file" in told(golf("import", "input=exported", "name=mine"))


# --- everything at once


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_a_hostile_database_and_export_run_nothing_and_cost_no_good_trial(here: Path) -> None:
    secret, canary = here / "elsewhere" / "secret", here / "canary"
    secret.parent.mkdir()
    secret.write_text("what nobody else is to read")
    spoil_export(here / "exported", secret, canary)
    assert spoil_everything(database(here), canary) >= 50
    outside = snapshot(secret.parent) | snapshot(here / "exported")

    def well(*arguments: str) -> Ran:
        command = [sys.executable, "-m", "golf_opt", *arguments]
        ran = subprocess.run(command, cwd=here, capture_output=True, text=True, timeout=250)
        assert ran.returncode == 0 and "Traceback" not in ran.stderr, (arguments, ran)
        return Ran(0, ran.stdout, ran.stderr)

    change_description(here, trials=34)
    well("import", "input=exported", "name=imported")
    well("ls")
    well("report", "study=bad")
    well("report", "study=good")
    well("worker", "study=imported", "engine=torch")
    assert "34 of 34 trials finished" in well(*WORKER).out
    well("study", "data=digits", "engine=torch", "epochs=2", "trials=4", "space.batch_size=32",
         "sampler=cmaes", "pruner=none", "study.name=good")  # fmt: skip
    rows = {name: row["trials"] for name, row in listed(well("ls", "format=json")).items()}
    assert rows["good"]["complete"] == 4 and rows["imported"]["complete"] == 2
    assert rows["bad"]["complete"] >= 2 + 5  # trials 0 and 2, and those that it still lacked
    check_dashboard(here, ["good", "imported", "bad"])
    assert not canary.exists()
    assert snapshot(secret.parent) | snapshot(here / "exported") == outside
    assert not any(
        path.read_bytes() == secret.read_bytes()
        for path in (here / "studies").rglob("*") if path.is_file()
    )  # fmt: skip


def check_dashboard(folder: Path, names: list[str]) -> None:
    """Ask the dashboard for each study: all answer, with trials 0 and 2 and their values."""
    server = subprocess.Popen(
        [sys.executable, "-m", "golf_opt", "dashboard", "dashboard.port=0"],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert server.stdout is not None and server.stderr is not None
        url = server.stdout.readline().split()[1]
        with urllib.request.urlopen(f"{url}api/studies") as answer:
            studies = json.load(answer)["study_summaries"]
        assert {study["study_name"] for study in studies} == set(names)
        for study in studies:
            with urllib.request.urlopen(f"{url}api/studies/{study['study_id']}") as answer:
                trials = {trial["number"]: trial for trial in json.load(answer)["trials"]}
            assert [trials[number]["state"] for number in (0, 2)] == ["Complete", "Complete"]
    finally:
        server.send_signal(signal.SIGTERM)
        _, err = server.communicate(timeout=60)
    assert server.returncode == 0 and "Traceback" not in err


# --- made up

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3)
    ),
    max_leaves=6,
)
CELL = (
    st.none() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False)
    | st.binary(max_size=9) | st.text(st.characters(exclude_categories=["Cs"]), max_size=9)
    | JSON.map(json.dumps)
)  # fmt: skip
COLUMNS = [
    ("trials", "number"), ("trials", "state"), ("trials", "datetime_start"),
    ("trials", "datetime_complete"), ("trial_values", "value"), ("trial_values", "value_type"),
    ("trial_values", "objective"), ("trial_params", "param_name"), ("trial_params", "param_value"),
    ("trial_params", "distribution_json"), ("trial_intermediate_values", "step"),
    ("trial_intermediate_values", "intermediate_value"),
    ("trial_intermediate_values", "intermediate_value_type"), ("trial_user_attributes", "key"),
    ("trial_user_attributes", "value_json"), ("trial_system_attributes", "key"),
    ("trial_system_attributes", "value_json"), ("study_user_attributes", "value_json"),
    ("study_system_attributes", "key"), ("study_system_attributes", "value_json"),
    ("study_directions", "direction"), ("studies", "study_name"),
]  # fmt: skip
OWN = [
    ("golf_leases", "owner"), ("golf_leases", "beat"), ("golf_leases", "deaths"),
    ("golf_reservations", "until"), ("golf_checkpoints", "number"), ("golf_checkpoints", "data"),
]  # fmt: skip


@fuzz(examples=20)
@given(st.lists(st.tuples(st.sampled_from(COLUMNS), CELL), min_size=1, max_size=3))
def test_whatever_stands_in_a_cell_the_other_study_is_listed(
    made: Path, tmp_path_factory: pytest.TempPathFactory, cells: list[tuple[tuple[str, str], Any]]
) -> None:
    folder = tmp_path_factory.mktemp("cells")
    shutil.copy(database(made), folder / "golf.db")
    with contextlib.closing(sqlite3.connect(folder / "golf.db")) as connection:
        for (table, column), cell in cells:
            theirs = "study_id = 2" if table.startswith("stud") else "trial_id IN (4, 5, 6)"
            with contextlib.suppress(sqlite3.IntegrityError):
                where = f"WHERE rowid = (SELECT min(rowid) FROM {table} WHERE {theirs})"
                connection.execute(f"UPDATE {table} SET {column} = ? {where}", (cell,))
        connection.commit()
    with opened_storage(StorageConfig(f"sqlite:///{folder}/golf.db", None)) as storage:
        rows = {row.study: row for row in study_rows(storage)}
        assert rows["good"].trials["complete"] == 3
        for name in rows:
            study = optuna.load_study(study_name=name, storage=storage)
            assert sum(trial.state.is_finished() for trial in study.trials) >= 2
    shutil.rmtree(folder)


@fuzz(examples=15)
@given(st.lists(st.tuples(st.sampled_from(OWN), CELL), min_size=1, max_size=4))
def test_whatever_stands_in_a_table_of_ours_workers_go_on(
    made: Path, tmp_path_factory: pytest.TempPathFactory, cells: list[tuple[tuple[str, str], Any]]
) -> None:
    """A trial runs under a lease that somebody has written to, and has a checkpoint."""
    folder = tmp_path_factory.mktemp("own")
    shutil.copy(database(made), folder / "golf.db")
    running = f"{TRIAL_1}, 'elsewhere:1::x', 0.0, 0"
    spoil(
        folder / "golf.db",
        f"UPDATE trials SET state = 'RUNNING', datetime_complete = NULL WHERE trial_id = {TRIAL_1}",
        f"DELETE FROM trial_values WHERE trial_id = {TRIAL_1}",
        f"INSERT INTO golf_leases VALUES ({running})",
        f"INSERT INTO golf_reservations VALUES ({TRIAL_1}, 2)",
    )
    with contextlib.closing(sqlite3.connect(folder / "golf.db")) as connection:
        for (table, column), cell in cells:
            with contextlib.suppress(sqlite3.IntegrityError):
                connection.execute(f"UPDATE {table} SET {column} = ?", (cell,))
        connection.commit()
    with opened_storage(StorageConfig(f"sqlite:///{folder}/golf.db", None)) as storage:
        workers = coordination(storage)
        assert {row.study: row.trials["complete"] for row in study_rows(storage)} == {
            "good": 3, "bad": 2,
        }  # fmt: skip
        study = optuna.load_study(study_name="bad", storage=storage)
        study_id = study._study_id
        assert workers.epochs_spent(study_id) >= 6
        assert 0 <= workers.reserve(study_id, study.trials[0]._trial_id, 0, 2, 10**6) <= 2
        workers._sync.reachable_since = -1e9  # the storage has answered for a while
        (lease,) = workers.leases(study_id)  # without an owner it is left alone for a while
        requeued = [number for number, _ in workers.requeue_dead(study_id)]
        assert requeued == ([] if lease.owner is None else [1])
        checkpoints = open_checkpoints(study, folder)
        for number in {*checkpoints.numbers(), 0, 1, 2}:
            with contextlib.suppress(DamagedCheckpoint, FileNotFoundError):
                assert checkpoints.load(number).state.epoch == 2
        trial = study.ask()
        study.tell(trial, 0.5)
        workers.flush()
        assert study.trials[trial.number].value == 0.5
    shutil.rmtree(folder)


def replaced(node: Any, path: list[int], value: Any) -> Any:
    """Put a value somewhere into plain data; where is told by numbers, taken modulo."""
    if not path or not isinstance(node, (dict, list)) or not node:
        return value
    if isinstance(node, list):
        at = path[0] % len(node)
        return [*node[:at], replaced(node[at], path[1:], value), *node[at + 1 :]]
    key = list(node)[path[0] % len(node)]
    return node | {key: replaced(node[key], path[1:], value)}


@fuzz(examples=20)
@given(
    st.sampled_from(["study.json", "trials.jsonl"]),
    st.lists(st.integers(0, 30), min_size=1, max_size=5),
    JSON,
)
def test_whatever_an_export_holds_import_takes_it_or_tells_why(
    golf: Golf, made: Path, tmp_path: Path, file: str, path: list[int], value: Any
) -> None:
    shutil.rmtree(tmp_path / "exported", ignore_errors=True)
    shutil.rmtree(tmp_path / "studies", ignore_errors=True)
    shutil.copytree(made / "exported", tmp_path / "exported")
    target = tmp_path / "exported" / file
    lines = target.read_text().split("\n") if file == "trials.jsonl" else [target.read_text()]
    lines[0] = json.dumps(replaced(json.loads(lines[0]), path, value))
    target.write_text("\n".join(lines))
    ran = golf("import", "input=exported", "name=mine")
    assert ran.status in (0, 2) and "Traceback" not in ran.err
    assert len(ran.err.splitlines()) <= 3
    if ran.status == 0:
        row = listed(golf("ls", "format=json"))["mine"]
        assert row["trials"]["complete"] >= 2
    else:
        assert ran.out == ""
