"""The hunt: parents are trained, the best is pruned until the budget ends, and a record follows."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from conftest import Ran, told

from golf_opt.engines.native import compiler
from golf_opt.golf.records import verify as records
from golf_opt.golf.records.facts import facts_of
from golf_opt.golf.records.verify import load_record

native = pytest.mark.skipif(compiler() is None, reason="no C++ compiler")
HUNT = (
    "hunt", "board=article", "data=digits", "engine=native", "engine.lanes=1", "target=0.8",
    "parents=[c4-5-4-prelu]", "seeds=2", "epochs=10", "rounds.epochs=1", "rounds.variants=2",
    "rounds.share=0.2",
)  # fmt: skip
Golf = Callable[..., Ran]


def trainings(tmp_path: Path) -> list[Any]:
    storage = f"sqlite:///{tmp_path / 'studies' / 'golf.db'}"
    (name,) = optuna.get_all_study_names(storage)
    return optuna.load_study(study_name=name, storage=storage).get_trials(deepcopy=False)


def summary(tmp_path: Path) -> dict[str, Any]:
    (path,) = tmp_path.glob("studies/pruned/*/prune.json")
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def kept(tmp_path: Path) -> list[dict[str, Any]]:
    """The rows that hunts left for the log, in their order."""
    return [json.loads(path.read_text()) for path in sorted(tmp_path.glob("studies/hunts/*.json"))]


@native
@pytest.mark.slow
def test_a_hunt_that_was_stopped_goes_on_and_ends_with_the_command_of_a_record(
    golf: Golf,
    golf_process: Callable[..., subprocess.Popen[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Stopped while it prunes: the trainings are not made again, and the same pruning goes on."""

    def stopped_in(turn: int) -> dict[str, Any]:
        process = golf_process(*HUNT, "budget=10m")
        assert process.stdout is not None
        for line in process.stdout:
            if re.match(f"round +{turn} +tried ", line):
                process.send_signal(signal.SIGINT)
                break
        out, err = process.communicate(timeout=60)
        assert process.returncode == 130, err
        assert "stopped; the same command goes on: " in out
        return summary(tmp_path)

    before, made = stopped_in(2), trainings(tmp_path)
    best = max(made, key=lambda trial: trial.values[0])
    assert len(made) == 2 and before["trial"] == best.number
    assert not before["finished"] and before["options"]["target"] == 0.8
    after = stopped_in(4)
    assert [trial.datetime_start for trial in trainings(tmp_path)] == [
        trial.datetime_start for trial in made
    ]
    assert after["log"][:2] == before["log"][:2] and len(after["log"]) > 3

    ran = golf(*HUNT, "budget=1s")
    assert ran.status == 0, ran.err
    left = summary(tmp_path)
    assert left["nz"] <= after["nz"] < 820 and left["guide_accuracy"] >= 0.8
    assert f"{left['nz']} non-zero parameters of 820" in ran.out
    rows = kept(tmp_path)
    assert [row["ended"] for row in rows] == ["stopped", "stopped", "its budget ended"]
    assert [row["nz"] for row in rows] == [before["nz"], after["nz"], left["nz"]]
    assert {row["n"] for row in rows} == {2} and rows[-1]["accuracy"] == left["guide_accuracy"]
    assert rows[0]["what"].startswith("golf-opt hunt board=article ")

    monkeypatch.setitem(records.TARGETS, "article", 0.8)  # no net of small data is good enough
    (line,) = re.findall(r"to make a record of it: (.*)", ran.out)
    made_it = golf(*shlex.split(line)[1:])
    assert made_it.status == 0, made_it.err
    claim = load_record(Path(made_it.out.split("record: ")[1].strip())).claim
    assert claim.params.nz <= left["nz"] and claim.protocol.seeds == 2
    assert (claim.board, claim.name) == ("article", "c4-5-4-prelu-hunt")
    again = golf(*HUNT, "budget=1s")
    assert f"the smallest on board article has {claim.params.nz}" in again.out


@pytest.mark.slow
def test_a_hunt_for_dense_nets_ends_by_epochs_with_the_command_of_a_record(
    golf: Golf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From nothing to a record with nothing zeroed, in as many epochs as were given."""
    hunt = ("hunt", "board=dense", "data=digits", "engine=torch", "target=0.05", "epochs=1")
    ran = golf(*hunt, "budget=3epochs")
    assert ran.status == 0, ran.err
    made = trainings(tmp_path)
    assert sum(len(trial.intermediate_values) for trial in made) == 3
    able = [trial.values for trial in made if trial.values and trial.values[0] >= 0.05]
    size = int(min(values[1] for values in able))
    assert f"{size} parameters, none of them zeroed" in ran.out
    (row,) = kept(tmp_path)
    assert (row["nz"], row["ended"], row["began"]) == (size, "its budget ended", "separable")
    monkeypatch.setitem(records.TARGETS, "dense", 0.05)
    (line,) = re.findall(r"to make a record of it: (.*)", ran.out)
    made_it = golf(*shlex.split(line)[1:])
    assert made_it.status == 0, made_it.err
    record = load_record(Path(made_it.out.split("record: ")[1].strip()))
    assert record.claim.params.nz == record.claim.params.dense == size
    assert facts_of(record).commands == [f"golf-opt {' '.join((*hunt, 'budget=3epochs'))}"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("board=silver",), "board is 'silver', but must be one of 99, article, dense"),
        (("board=article", "budget=20epochs"), "budget is '20epochs', but must be a time such as"),
        (("board=dense", "parents=[c4-5-4]"), "parents are given, but board dense takes"),
        (("board=article", "rounds.share=2"), "rounds.share is 2, but must be a share"),
        (("board=article", "data=digits", "parents=[c4-5-4-x]"), "arch is 'c4-5-4-x', but must be"),
    ],
)
def test_mistakes(golf: Golf, tmp_path: Path, given: tuple[str, ...], message: str) -> None:
    assert message in told(golf("hunt", *given))
    assert not list(tmp_path.rglob("*.db")) and not kept(tmp_path)


@native
def test_trainings_that_miss_the_target_are_told(golf: Golf, tmp_path: Path) -> None:
    given = ("board=article", "data=digits", "engine=native", "seeds=1", "epochs=1")
    ran = golf("hunt", *given, "target=0.999", "parents=[c4-5-4-prelu]", "budget=1m")
    assert ran.status == 2
    assert "the best of 1 training has" in ran.err and "asks for 99.90 %" in ran.err
    (row,) = kept(tmp_path)
    (training,) = trainings(tmp_path)
    assert row["ended"].startswith("the best of 1 training has") and "nz" not in row
    assert (row["n"], row["accuracy"]) == (1, training.values[0])
