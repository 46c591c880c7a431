"""TPE and percentile pruning, made cheaper, decide as Optuna's; of a long study a part is seen."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner
from optuna.samplers import BaseSampler
from optuna.samplers import TPESampler as Optunas
from optuna.trial import FrozenTrial, TrialState, create_trial

from golf_opt.config.schema import StorageConfig
from golf_opt.storage.connect import opened_storage
from golf_opt.storage.lean_tpe import Memory
from golf_opt.storage.optuna_internals import id_of_study, storage_of
from golf_opt.study import newest as module
from golf_opt.study import pruners
from golf_opt.study.newest import NewestAndBest
from golf_opt.study.samplers import FreshSampler, TPESampler
from golf_opt.study.view import View

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
MAXIMIZE, MINIMIZE = "maximize", "minimize"


def suggest(trial: optuna.Trial) -> None:
    """A space whose parameters depend on one another, of every kind."""
    depth = trial.suggest_int("depth", 1, 3)
    trial.suggest_float("lr", 1e-5, 1e-1, log=True)
    for layer in range(depth):
        trial.suggest_categorical(f"kind{layer}", ["dense", "dw", "sep"])
        trial.suggest_int(f"width{layer}", 2, 64, log=True)
    trial.suggest_float("gamma", 0.1, 0.9, step=0.1)


def walk(sampler: BaseSampler, directions: list[str], trials: int) -> list[dict[str, Any]]:
    """What a sampler asks for in a study whose trials end in every way, some later, some never."""
    study = optuna.create_study(directions=directions, sampler=sampler)
    draw, under_way = np.random.default_rng(7), []
    for _ in range(trials):
        trial = study.ask()
        suggest(trial)
        under_way.append(trial)
        if len(under_way) < 5:
            continue
        trial = under_way.pop(int(draw.integers(5)))
        fate, value = draw.random(), round(-math.log10(trial.params["lr"]) % 3, 1)  # values tie
        if fate < 0.2:
            trial.set_constraint("size", draw.random() - 0.5)
        if len(directions) == 1:
            for step in range(int(draw.integers(3))):
                trial.report(math.nan if fate > 0.9 else round(value * step, 1), step)
        state = TrialState.FAIL if 0.5 < fate < 0.55 else TrialState.COMPLETE
        if fate > 0.7 and len(directions) == 1:
            state = TrialState.PRUNED
        values = [value, float(trial.params["depth"])][: len(directions)]
        study.tell(trial, values if state == TrialState.COMPLETE else None, state)
    return [trial.params for trial in study.trials]


def up_to_rounding(params: dict[str, Any]) -> dict[str, Any]:
    """What equals these parameters, and those that differ in the last digits of a float."""
    return {
        name: pytest.approx(value, rel=1e-12) if isinstance(value, float) else value
        for name, value in params.items()
    }


GROUP = {"multivariate": True, "group": True}


@pytest.mark.parametrize(
    ("directions", "options"),
    [
        ([MAXIMIZE], {}),
        ([MINIMIZE], {}),
        ([MAXIMIZE], GROUP),
        ([MAXIMIZE], {"constant_liar": False}),
        ([MINIMIZE], {"multivariate": False}),
        ([MAXIMIZE, MINIMIZE], {}),
        ([MAXIMIZE, MINIMIZE], GROUP),
    ],
    ids=str,
)
def test_it_asks_what_optunas_asks(directions: list[str], options: dict[str, Any]) -> None:
    def fresh(kind: type[Optunas]) -> BaseSampler:
        return FreshSampler(lambda number: kind(seed=number, n_startup_trials=8, **options))

    ours, theirs = (walk(fresh(kind), directions, 45) for kind in (TPESampler, Optunas))
    assert ours == [up_to_rounding(params) for params in theirs]
    assert len({params["lr"] for params in ours}) == 45, "the draws differ from trial to trial"


def test_it_asks_what_optunas_asks_where_accuracy_and_size_are_weighed() -> None:
    def fresh(kind: type[Optunas]) -> BaseSampler:
        options = {"n_startup_trials": 8, **GROUP}
        return FreshSampler(lambda number: kind(seed=number, **options), View(front=True))

    ours, theirs = (walk(fresh(kind), [MAXIMIZE, MINIMIZE], 45) for kind in (TPESampler, Optunas))
    assert ours == [up_to_rounding(params) for params in theirs]


@pytest.mark.parametrize(
    ("pruner", "looks"), [(MedianPruner(), [20, 24, 25]), (HyperbandPruner(), [*range(20, 26)])]
)
def test_trials_that_are_expected_are_asked_for_from_one_look(
    pruner: BasePruner, looks: list[int]
) -> None:
    """Those of Hyperband are in brackets that look at trials of their own."""
    made: list[int] = []

    def make(number: int) -> BaseSampler:
        made.append(number)
        return TPESampler(seed=number, n_startup_trials=8, **GROUP)

    sampler = FreshSampler(make)
    study = optuna.create_study(sampler=sampler, pruner=pruner)
    study.optimize(lambda trial: abs(trial.suggest_float("x", 0, 1) - 0.3), n_trials=20)
    made.clear()
    sampler.expect(4)
    points = [study.ask().suggest_float("x", 0, 1) for _ in range(6)]
    assert made == looks
    assert len(set(points)) == 6
    assert np.abs(np.array(points) - 0.3).mean() < 0.2, "where it was good, as 0.29 is by chance"


def test_what_is_remembered_of_trials_does_not_grow_with_the_asks() -> None:
    study, memory = optuna.create_study(direction=MAXIMIZE), Memory()
    for turn in range(40):
        trials = [made(number, turn + number) for number in range(100)]  # new objects each time
        rows = memory.rows(study, trials, lambda trial: trial.params)
        assert memory.trials(rows) == trials
        assert len(memory._trials) <= 2 * 100 + 1000 + 100


def made(
    number: int, value: float = 0.0, state: TrialState = TrialState.COMPLETE, **attributes: Any
) -> FrozenTrial:
    trial = create_trial(
        state=state, value=value if state == TrialState.COMPLETE else None, user_attrs=attributes,
        params={"x": number % 7 / 7}, distributions={"x": FloatDistribution(0, 1)},
    )  # fmt: skip
    trial.number = number
    return trial


def grown(trials: int, seed: int = 3) -> list[FrozenTrial]:
    draw = np.random.default_rng(seed)
    states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
    return [
        made(n, draw.random(), states[int(draw.choice(3, p=(0.5, 0.48, 0.02)))])
        for n in range(trials)
    ]


@pytest.fixture
def study() -> optuna.Study:
    return optuna.create_study(direction=MAXIMIZE)


def test_of_a_long_study_the_newest_and_the_best_are_seen(study: optuna.Study) -> None:
    trials = grown(module.MOST + 3 * module.BLOCK + 5)
    whole = trials[: module.MOST + module.BLOCK - 1]
    assert NewestAndBest().of(study, whole) is whole, "all of a study that is not longer"
    seen = NewestAndBest().of(study, trials)
    assert len(seen) < module.MOST + module.BLOCK + module.BEST + 50
    assert seen[-module.MOST :] == trials[-module.MOST :]
    values = sorted((t.value for t in trials if t.value is not None), reverse=True)
    among = sorted((t.value for t in seen if t.value is not None), reverse=True)
    assert values[:25] == among[:25], "TPE's good trials are those of the whole study"
    running = [t.number for t in trials if t.state == TrialState.RUNNING]
    assert set(running) <= {t.number for t in seen}


def test_what_is_seen_does_not_depend_on_earlier_asks(study: optuna.Study) -> None:
    """A run that was stopped and goes on sees what one that ran through does."""
    trials = grown(module.MOST + 4 * module.BLOCK)
    running_through = NewestAndBest()
    for length in range(module.MOST, len(trials) + 1, 150):
        seen = running_through.of(study, trials[:length])
        if length % 4 == 0:
            assert seen == NewestAndBest().of(study, trials[:length])


def test_seeds_of_a_point_are_seen_together(study: optuna.Study) -> None:
    trials = grown(2 * module.MOST)
    best = max(
        (t for t in trials[: module.MOST] if t.value is not None), key=lambda t: t.value or 0
    )
    worst = min(
        (t for t in trials[: module.MOST] if t.value is not None), key=lambda t: t.value or 0
    )
    for index, place in enumerate((module.MOST - 60, module.MOST - 50, 2 * module.MOST - 1), 1):
        trials[place] = made(place, 0.5, point=best.number, seed_index=index)
    trials[module.MOST - 40] = made(module.MOST - 40, 0.99, point=worst.number, seed_index=1)
    seen = {trial.number for trial in NewestAndBest().of(study, trials)}
    of_best = {module.MOST - 60, module.MOST - 50, 2 * module.MOST - 1, best.number}
    assert of_best <= seen
    assert not {worst.number, module.MOST - 40} & seen


# --- pruning ---


@pytest.fixture
def stored(tmp_path: Path) -> Any:
    config = StorageConfig(f"sqlite:///{tmp_path}/golf.db", None)
    with opened_storage(config) as storage:
        yield storage


Kind = Callable[..., optuna.pruners.PercentilePruner]


@pytest.mark.parametrize("direction", [MAXIMIZE, MINIMIZE])
@pytest.mark.parametrize(
    "options", [{"n_warmup_steps": 2, "interval_steps": 2}, {"n_min_trials": 4}], ids=str
)
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (pruners.MedianPruner, optuna.pruners.MedianPruner),
        (
            lambda **given: pruners.PercentilePruner(30.0, **given),
            lambda **given: optuna.pruners.PercentilePruner(30.0, **given),
        ),
    ],
    ids=["median", "percentile"],
)
def test_it_prunes_what_optunas_prunes(
    stored: Any, ours: Kind, theirs: Kind, options: dict[str, int], direction: str
) -> None:
    study = optuna.create_study(storage=stored, direction=direction)
    study.sampler = optuna.samplers.RandomSampler(seed=1)
    mine, other = ours(**options), theirs(**options)
    draw, decided = np.random.default_rng(5), []
    for _ in range(25):
        trial = study.ask()
        for step in range(6):
            rare = step > 0 and draw.random() < 0.05  # of NaN alone Optuna warns
            trial.report(math.nan if rare else round(float(draw.normal()), 1), step)
            known = stored.get_trial(trial._trial_id)
            decision = mine.prune(study, known)
            assert decision == other.prune(study, known)
            decided.append(decision)
        study.tell(trial, 0.5)
    assert 2 < sum(decided) < 60
    assert mine._learned == 24, "it did learn from what the storage tells"


def test_percentiles_are_numpys_to_the_bit() -> None:
    draw = np.random.default_rng(2)
    for _ in range(300):
        values = draw.normal(size=int(draw.integers(1, 30)))
        percent = float(draw.choice([0.0, 25.0, 50.0, 73.3, 100.0]))
        assert pruners.percentile(sorted(values), percent) == np.nanpercentile(values, percent)


def test_a_trial_that_runs_again_has_not_ended(stored: Any) -> None:
    study = optuna.create_study(storage=stored, direction=MAXIMIZE)
    first, second = study.ask(), study.ask()
    study.tell(first, 0.5)
    number = id_of_study(study)
    ended = storage_of(study).ended(number)  # type: ignore[attr-defined]
    assert [trial.number for trial in ended] == [0]
    assert [t.number for t in stored.get_all_trials(number, states=(TrialState.COMPLETE,))] == [0]
    study.tell(second, 0.4)
    assert [trial.number for trial in ended] == [0, 1]
    cached = stored._cache.study(number)
    cached.put(made(0, state=TrialState.RUNNING))  # another worker has it
    assert [trial.number for trial in stored.ended(number)] == [1]
    assert stored.ended(number) is not ended, "whoever has counted them counts anew"
    assert [t.number for t in stored.get_all_trials(number, states=(TrialState.COMPLETE,))] == [1]
    assert [t.number for t in cached.known().open] == [0] and cached.points_ended == 1
