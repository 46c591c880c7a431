"""golf-opt confirm: fresh seeds, kept results, statistics that can be checked by hand."""

from __future__ import annotations

import math
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pytest
from conftest import Ran

from golf_opt.config.errors import UsageError
from golf_opt.config.schema import ConfirmConfig, DataConfig, EngineConfig, StorageConfig
from golf_opt.engines import create_engine
from golf_opt.engines.lanes import Run, train
from golf_opt.golf.confirmations import kept_results
from golf_opt.golf.retrain import confirm
from golf_opt.golf.source import study_view
from golf_opt.storage.connect import opened_storage
from golf_opt.storage.studies import CONFIRMED, marks
from golf_opt.study.description import description_of, find_study
from golf_opt.task import rng
from golf_opt.task.data import Split, View
from golf_opt.utils.stats import Spread, points

NAME = "tiny"
QUICK = ("data=digits", "epochs=2", "engine=torch", "space.batch_size=32", "pruner=none")
DIGITS = DataConfig("auto", Path("data"))
TORCH = EngineConfig("torch", "cpu", 2, 1)


STUDY = ("study", "arch=c2-2-2", "trials=3", f"study.name={NAME}", "dir=.", *QUICK)


def config_of(folder: Path, **changes: object) -> ConfirmConfig:
    storage = StorageConfig(f"sqlite:///{folder}/golf.db", None)
    config = ConfirmConfig(folder, storage, NAME, 2, 2, 0.1, DIGITS, TORCH)
    return replace(config, **changes)  # type: ignore[arg-type]


@pytest.fixture
def study(begun: Callable[..., None], tmp_path: Path) -> Iterator[optuna.Study]:
    begun(*STUDY)
    with opened_storage(config_of(tmp_path).storage) as storage:
        yield find_study(storage, NAME)


def test_spread_by_hand() -> None:
    three = Spread([0.97, 0.98, 0.99])
    assert three.mean == pytest.approx(0.98) and three.sd == pytest.approx(0.01)
    half = 4.302653 * 0.01 / math.sqrt(3)  # Student's t for 2 degrees of freedom, 97.5 %
    assert three.interval == pytest.approx((0.98 - half, 0.98 + half), abs=1e-8)
    assert (three.low, three.high, three.reaching(0.98)) == (0.97, 0.99, 2)
    one = Spread([0.97])
    assert math.isnan(one.sd) and points(one.sd) == "-" and points(one.mean) == "97.00"


@pytest.mark.parametrize(
    ("accuracies", "interval"),
    [
        ([0.5], "too few to say"),
        ([0.2, 0.9, 0.5, 0.6], "too few to say"),
        ([0.999, 0.2, 0.999, 0.99, 0.98], "39.37 to 100.00"),
        ([0.001, 0.9, 0.0, 0.02, 0.03], "0.00 to 68.31"),
        ([0.97, 0.98, 0.97, 0.98, 0.975], "96.88 to 98.12"),
    ],
)
def test_an_interval_of_accuracies(accuracies: list[float], interval: str) -> None:
    """It lies within what an accuracy can be, and of few seeds there is none, nor a gap."""
    ours = Spread(accuracies)
    row = confirm.Confirmed(0, 0.99, ours, Spread([]))
    cells = dict(zip(confirm.HEAD, confirm.cells(row, 0.5), strict=True))
    assert cells["95 % interval"] == interval
    assert (cells["gap"] == "-") == (ours.n < 5)


def test_two_seeds_are_too_few_to_say(
    study: optuna.Study, golf: Callable[..., Ran], tmp_path: Path
) -> None:
    arguments = ("confirm", f"study={NAME}", "top=1", f"dir={tmp_path}", "engine=torch")
    ran = golf(*arguments, "seeds=2")
    assert ran.status == 0 and "winner's curse" not in ran.out
    assert "on 2 fresh seeds: too few to say how much of it was luck; seeds=5" in ran.out
    assert "on 1 fresh seed:" not in ran.out
    note = "".join(str(v) for k, v in marks(study).items() if k.startswith("dashboard:note"))
    assert "| too few to say |" in note


def test_what_is_kept_of_a_confirmation_is_not_trusted(
    study: optuna.Study, golf: Callable[..., Ran], tmp_path: Path
) -> None:
    best = str(confirm.complete_trials(study, 1)[0].number)
    good = {"accuracy": 0.5, "train_accuracy": None, "time_s": 1.0}
    bad = [7, None, {}, {"accuracy": "x"}, {"accuracy": float("inf")},
           {"accuracy": 0.5, "train_accuracy": []}, {"accuracy": 2},
           {"accuracy": "x", "error": "y"}]  # fmt: skip
    rows = {str(seed): row for seed, row in enumerate(bad)}
    rows |= {"x": good, "9" * 5000: good, "77": {"accuracy": 0.5}}
    for kept in ([], "x", {best: 3, "y": {}}, {best: rows}):
        study._storage.set_study_system_attr(study._study_id, CONFIRMED, kept)
        assert sum(map(len, kept_results(study).values())) == (kept == {best: rows})
        ran = golf("confirm", f"study={NAME}", "top=1", "seeds=1", f"dir={tmp_path}",
                   "engine=torch")  # fmt: skip
        assert ran.status == 0 and ran.err.count("\n") <= 1, ran


def test_results_are_those_of_the_seeds(study: optuna.Study, tmp_path: Path) -> None:
    """What is kept is what the engine gives for the trial's recipe on the derived seed."""
    config = config_of(tmp_path)
    assert confirm.confirm(config, lambda line: None) is None
    kept = marks(study)[CONFIRMED]
    best = confirm.complete_trials(study, 2)
    assert set(kept) == {str(trial.number) for trial in best}
    seeds = [rng.derive(0, "confirm", index) for index in range(2)]
    assert all(set(map(int, rows)) == {*seeds} for rows in kept.values())
    assert not {*seeds} & {trial.user_attrs["seed"] for trial in study.trials}
    net = description_of(study).net
    view = study_view(study, DIGITS)
    engine = create_engine(TORCH, view, net, print)
    job = description_of(study).job(best[0])
    runs = [Run(seed, replace(job, seed=seed)) for seed in seeds]
    again = {run.key: run.history[-1].accuracy for run, _ in train(engine, runs) if run.over}
    rows = kept[str(best[0].number)]
    assert {int(seed): row["accuracy"] for seed, row in rows.items()} == again


def test_the_table_and_the_note_say_the_same(
    study: optuna.Study, golf: Callable[..., Ran], tmp_path: Path
) -> None:
    ran = golf("confirm", f"study={NAME}", "top=2", "seeds=5", "target=0.1", f"dir={tmp_path}",
               "engine=torch")  # fmt: skip
    assert ran.status == 0, ran.err
    best = confirm.complete_trials(study, 2)
    for row in confirm.confirmed_rows(study, best):
        values = [r["accuracy"] for r in marks(study)[CONFIRMED][str(row.number)].values()]
        assert row.ours.n == 5
        assert row.gap == pytest.approx(row.tuned - np.mean(values))
        head, (cells,) = confirm.columns([row], 0.1)
        assert head == [name for name in confirm.HEAD if name not in ("params", "test")]
        assert cells[2:4] == [f"{100 * np.mean(values):.2f}", f"{100 * np.std(values, ddof=1):.2f}"]
        assert cells[8] == f"{100 * np.mean(np.array(values) >= 0.1):.0f} %"
        assert re.search(r"\s+".join(map(re.escape, cells)), ran.out)
        note = "".join(str(v) for k, v in marks(study).items() if k.startswith("dashboard:note"))
        assert "## Confirmed on fresh seeds" in note and f"| {' | '.join(cells)} |" in note
    assert f"winner's curse of {100 * confirm.confirmed_rows(study, best)[0].gap:+.2f}" in ran.out


def test_more_seeds_extend(study: optuna.Study, tmp_path: Path) -> None:
    said: list[str] = []
    confirm.confirm(config_of(tmp_path, seeds=1), said.append)
    before = marks(study)[CONFIRMED]
    confirm.confirm(config_of(tmp_path, seeds=3), said.append)
    after = marks(study)[CONFIRMED]
    assert "2 to train" in said[0] and any("; 4 to train" in line for line in said)
    for number, rows in before.items():
        assert len(after[number]) == 3
        assert rows.items() <= after[number].items()
    said.clear()
    confirm.confirm(config_of(tmp_path, seeds=3), said.append)
    assert not any("to train" in line for line in said)
    assert marks(study)[CONFIRMED] == after


def test_seeds_of_trials_are_left_out(study: optuna.Study) -> None:
    first = confirm.confirm_seeds(study, 2)
    trial_id = study.get_trials(deepcopy=False)[0]._trial_id
    study._storage.create_new_trial(study._study_id)  # one that happens to have the first seed
    new_id = study.get_trials(deepcopy=False)[-1]._trial_id
    assert new_id != trial_id
    study._storage.set_trial_user_attr(new_id, "seed", first[0])
    assert confirm.confirm_seeds(study, 1) == first[1:]


def test_holdout_measures_on_the_holdout_alone(begun: Callable[..., None], tmp_path: Path) -> None:
    """With a test set of nonsense the results are the same: nothing looks at it."""
    begun(*STUDY, "protocol=holdout")
    config = config_of(tmp_path, top=1, seeds=1)
    with opened_storage(config.storage) as storage:
        study = find_study(storage, NAME)
        view = study_view(study, DIGITS)
        assert view.objective.name == "holdout" and view.objective is not view.test
        trials = confirm.complete_trials(study, 1)
        poisoned = replace(view, test=Split("test", view.test.images[:0], view.test.labels[:0]))
        kept = []
        for seen in (view, poisoned):
            study._storage.set_study_system_attr(study._study_id, CONFIRMED, {})
            confirm.run_missing(config, study, trials, seen, print)
            kept.append(_accuracies(study))
        assert kept[0] == kept[1] and len(kept[0]) == 1
        _assert_same_as_objective(study, view, config, kept[0])


def _accuracies(study: optuna.Study) -> list[float]:
    return [row["accuracy"] for rows in marks(study)[CONFIRMED].values() for row in rows.values()]


def _assert_same_as_objective(
    study: optuna.Study, view: View, config: ConfirmConfig, accuracies: list[float]
) -> None:
    """An accuracy on the holdout is a whole number of its images."""
    images = np.array(accuracies) * len(view.objective)
    assert np.allclose(images, images.round())


def test_interrupted_and_gone_on_with(
    golf: Callable[..., Ran],
    golf_process: Callable[..., subprocess.Popen[str]],
    tmp_path: Path,
) -> None:
    """SIGINT keeps what is finished; the same command trains only the rest."""
    assert golf(*STUDY, "epochs=4").status == 0
    arguments = ("confirm", f"study={NAME}", "top=2", "seeds=3", f"dir={tmp_path}", "engine=torch",
                 "engine.lanes=1")  # fmt: skip
    process = golf_process(*arguments)
    assert process.stdout is not None
    assert "6 to train" in process.stdout.readline()
    assert "seed" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "the same command goes on" in out and "Traceback" not in err
    with opened_storage(config_of(tmp_path).storage) as storage:
        kept = _accuracies(find_study(storage, NAME))
    assert 1 <= len(kept) < 6
    ran = golf(*arguments)
    assert ran.status == 0 and f"; {6 - len(kept)} to train" in ran.out
    with opened_storage(config_of(tmp_path).storage) as storage:
        assert len(_accuracies(find_study(storage, NAME))) == 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "study is missing; give study=NAME"),
        (("study=tinny",), "did you mean 'tiny'"),
        ((f"study={NAME}", "top=0"), "top is 0, but must be at least 1"),
        ((f"study={NAME}", "seeds=no"), "seeds is 'no', but must be a whole number"),
        ((f"study={NAME}", "target=98"), "target is 98, but must be a share"),
    ],
)
def test_mistakes(
    study: optuna.Study,
    golf: Callable[..., Ran],
    tmp_path: Path,
    arguments: tuple[str, ...],
    message: str,
) -> None:
    ran = golf("confirm", f"dir={tmp_path}", *arguments)
    assert ran.status == 2 and message in ran.err
    assert CONFIRMED not in marks(study)


@pytest.mark.mnist
def test_other_data_is_refused(study: optuna.Study, mnist_root: Path, tmp_path: Path) -> None:
    config = config_of(tmp_path, data=DataConfig("mnist", mnist_root))
    with pytest.raises(UsageError, match=r"made on digits .* give data=digits"):
        confirm.confirm(config, print)
