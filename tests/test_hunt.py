"""The hunt: parents are trained, the best is pruned until the budget ends, and a record follows."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from conftest import Ran, told

from golf_opt.engines.native import compiler
from golf_opt.golf.records import verify as records
from golf_opt.golf.records.verify import load_record

native = pytest.mark.skipif(compiler() is None, reason="no C++ compiler")
HUNT = (
    "hunt", "board=article", "data=digits", "engine=native", "engine.lanes=1", "target=0.9",
    "parents=[c4-5-4-prelu]", "seeds=2", "epochs=20", "rounds.epochs=2", "rounds.variants=2",
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


@native
@pytest.mark.slow
def test_a_hunt_that_was_stopped_goes_on_and_ends_with_the_command_of_a_record(
    golf: Golf,
    golf_process: Callable[..., subprocess.Popen[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Stopped while it prunes: the trainings are not made again, and the net gets smaller."""
    process = golf_process(*HUNT, "budget=10m")
    assert process.stdout is not None
    for line in process.stdout:
        if re.match(r"round +2 ", line):
            process.send_signal(signal.SIGINT)
            break
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "stopped; the same command goes on: " in out
    made, before = trainings(tmp_path), summary(tmp_path)
    assert len(made) == 2 and not before["finished"] and before["nz"] < 820
    best = max(made, key=lambda trial: trial.values[0])
    assert before["trial"] == best.number and before["options"]["target"] == 0.9

    begun = time.monotonic()
    ran = golf(*HUNT, "budget=4s")
    assert ran.status == 0, ran.err
    assert time.monotonic() - begun >= 4
    assert [trial.number for trial in trainings(tmp_path)] == [0, 1]
    after = summary(tmp_path)
    assert after["nz"] < before["nz"] and after["guide_accuracy"] >= 0.9
    assert after["log"][:2] == before["log"][:2]
    assert f"{after['nz']} non-zero parameters of 820" in ran.out

    monkeypatch.setitem(records.TARGETS, "article", 0.9)  # no net of small data is good enough
    (line,) = re.findall(r"to make a record of it: (.*)", ran.out)
    made_it = golf(*shlex.split(line)[1:])
    assert made_it.status == 0, made_it.err
    claim = load_record(Path(made_it.out.split("record: ")[1].strip())).claim
    assert claim.params.nz <= after["nz"] and claim.protocol.seeds == 2
    assert (claim.board, claim.name) == ("article", "c4-5-4-prelu-hunt")
    again = golf(*HUNT, "budget=1s")
    assert f"the smallest on board article has {claim.params.nz}" in again.out


@native
def test_a_family_is_searched_for_what_has_nothing_zeroed(golf: Golf, tmp_path: Path) -> None:
    ran = golf("hunt", "board=dense", "data=digits", "engine=torch", "target=0.1", "budget=3s")
    assert ran.status == 0, ran.err
    assert "parameters, none of them zeroed" in ran.out
    assert "trial=" in ran.out.split("to make a record of it: ")[1]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("board=silver",), "board is 'silver', but must be one of article, holdout, 99, dense"),
        (("board=article", "budget=20epochs"), "budget is '20epochs', but must be a time such as"),
        (("board=dense", "parents=[c4-5-4]"), "parents are given, but board dense takes"),
        (("board=article", "+rounds.shares=1"), "rounds.shares is not a key"),
        (("board=article", "data=digits", "parents=[c4-5]"), "has 49 channels"),
    ],
)
def test_mistakes(golf: Golf, tmp_path: Path, given: tuple[str, ...], message: str) -> None:
    assert message in told(golf("hunt", *given))
    assert not list(tmp_path.rglob("*.db"))


@native
def test_trainings_that_miss_the_target_are_told(golf: Golf) -> None:
    given = ("board=article", "data=digits", "engine=torch", "seeds=1", "epochs=1")
    ran = golf("hunt", *given, "target=0.999", "parents=[c2-2]", "budget=1m")
    assert ran.status == 2
    assert "the best of 1 training has" in ran.err and "asks for 99.90 %" in ran.err
