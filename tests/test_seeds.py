"""Seeds of a point: what they are worth, which points get more, and how a study keeps them."""

from __future__ import annotations

import contextlib
import math
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from conftest import Ran, told
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from golf_opt.storage.optuna_internals import id_of_study, storage_of
from golf_opt.storage.write_behind import BudgetSpent, WriteBehindStorage
from golf_opt.study import loop
from golf_opt.study.allocation import Allocation, Choice, NewPoints, Repeat, Rule, Trials
from golf_opt.study.racing import Racing
from golf_opt.study.samplers import FreshSampler
from golf_opt.study.space import build_space
from golf_opt.study.view import View
from golf_opt.utils.points import (
    MEAN,
    POINT,
    SEED_INDEX,
    Noise,
    Statistic,
    as_trials,
    best_points,
    further_seed,
    points_of,
    seed_noise_of,
    seeds_of,
)
from golf_opt.utils.trials import PAUSED
from golf_opt.visualization.optuna_plots import importances_of, of_points, optuna_pictures

Golf = Callable[..., Ran]
Start = Callable[..., subprocess.Popen[str]]
SD = 0.0028  # of seeds, as of c4-5-4
X = {"x": FloatDistribution(0, 1)}


def trial(
    number: int,
    *values: float,
    of: tuple[int, int] | None = None,
    state: TrialState = TrialState.COMPLETE,
    x: float = 0.5,
    reports: dict[int, float] | None = None,
) -> FrozenTrial:
    """A trial; `of` is the point and the index of the seed that it is of."""
    made = create_trial(
        state=state,
        values=values if state == TrialState.COMPLETE else None,
        params={"x": x},
        distributions=X,
        user_attrs={} if of is None else {POINT: of[0], SEED_INDEX: of[1]},
        intermediate_values=reports,
    )
    made.number = number
    return made


def values_of(trials: Sequence[FrozenTrial]) -> list[float]:
    return [trial.values[0] for trial in trials]


# --- what a point is worth ---


def test_seeds_of_a_point_are_one_trial_with_their_mean() -> None:
    first, other = trial(0, 0.5, x=0.1), trial(1, 0.75, x=0.2)
    again = trial(2, 0.75, of=(0, 1), x=0.1)
    runs = trial(3, of=(0, 2), x=0.1, state=TrialState.RUNNING)
    made = as_trials([first, other, again, runs])
    assert [t.number for t in made] == [0, 1] and values_of(made) == [0.625, 0.75]
    assert [seeds_of(t) for t in made] == [2, 1]
    assert made[1] is other and first.values == [0.5], "what is stored was changed"


@pytest.mark.parametrize("of", [(9, 1), (0, 0), (0, -1), ("0", 1), (0, 1.0), (True, 1)])
def test_who_claims_to_be_a_seed_of_what_is_not_there_is_a_point(of: tuple[int, int]) -> None:
    assert len(points_of([trial(0, 0.5), trial(1, 0.75, of=of)])) == 2


def test_a_seed_that_a_point_has_already_is_a_point() -> None:
    first, again = trial(0, 0.5), trial(1, 0.5, of=(0, 1))
    assert len(points_of([first, again])) == 1
    assert len(points_of([first, again, trial(2, 0.5, of=(0, 1))])) == 2


def test_statistics_of_five_seeds() -> None:
    five = [0.97, 0.98, 0.99, 0.96, 0.975]
    assert Statistic.parse("mean").of(five) == pytest.approx(0.975)
    assert Statistic.parse("best").of(five) == 0.99
    assert Statistic.parse("best").of(five, sign=-1) == 0.96
    assert Statistic.parse("share:0.975").of(five) == 0.6
    assert Statistic.parse("share:0.975").of(five, sign=-1) == 0.6
    half = 2.7764451 * np.std(five, ddof=1) / math.sqrt(5)  # t of 4 degrees of freedom
    assert Statistic.parse("lower").of(five) == pytest.approx(0.975 - half)
    assert Statistic.parse("lower").of(five, sign=-1) == pytest.approx(0.975 + half)
    for wrong in ("", "median", "share", "share:", "share:nan", "best:2"):
        with pytest.raises(ValueError, match=r"statistic|float"):
            Statistic.parse(wrong)


def test_the_noise_of_seeds_is_that_of_the_better_half() -> None:
    good = [trial(0, 0.98), trial(1, 0.97, of=(0, 1)), trial(2, 0.975, of=(0, 2))]
    bad = [trial(3, 0.1), trial(4, 0.9, of=(3, 1))]
    noise = seed_noise_of(points_of([*good, *bad, trial(5, 0.5)]))
    assert noise is not None and noise.freedom == 2 and noise.sd == pytest.approx(0.005)
    assert seed_noise_of(points_of([trial(0, 0.98), trial(1, 0.97)])) is None


def test_a_lucky_single_seed_does_not_beat_the_mean_of_three() -> None:
    three = [trial(0, 0.981), trial(1, 0.979, of=(0, 1)), trial(2, 0.980, of=(0, 2))]
    lucky = trial(3, 0.9815, x=0.2)
    assert [t.number for t in best_points([*three, lucky], 9)] == [0, 3]
    far_better = trial(3, 0.9999, x=0.2)
    assert [t.number for t in best_points([*three, far_better], 9)] == [3, 0]
    by_best = best_points([*three, lucky], 9, statistic=Statistic("best"))
    assert [t.number for t in by_best] == [3, 0], "of the best of n, luck is what counts"


def test_with_as_many_seeds_each_the_order_is_that_of_the_means() -> None:
    rng = np.random.default_rng(0)
    trials = []
    for point in range(20):
        rows = 0.9 + 0.01 * rng.random() + SD * rng.normal(size=3)
        for index, value in enumerate(rows):
            of = (3 * point, index) if index else None
            trials.append(trial(3 * point + index, float(value), of=of))
    ranked = best_points(trials, 99)
    assert len(ranked) == 20
    assert values_of(ranked) == sorted(values_of(as_trials(trials)), reverse=True)


# --- what samplers see ---


def test_without_seeds_and_pauses_a_sampler_sees_the_very_trials() -> None:
    trials = [trial(0, 0.5), trial(1, state=TrialState.RUNNING), trial(2, state=TrialState.FAIL)]
    made = View(epochs=5).of(trials)
    assert len(made) == 3 and all(a is b for a, b in zip(made, trials, strict=True))


def test_a_paused_trial_is_seen_with_a_value_and_a_waiting_one_without() -> None:
    paused = trial(0, state=TrialState.WAITING, reports={1: 0.5, 2: 0.75})
    paused.system_attrs = {PAUSED: 2}
    requeued = trial(1, state=TrialState.WAITING, reports={1: 0.5})
    made = View(epochs=4).of([paused, requeued])
    assert [t.state for t in made] == [TrialState.COMPLETE, TrialState.WAITING]
    assert 0.75 <= made[0].values[0] <= 1 and paused.state == TrialState.WAITING


def test_a_promoted_trial_is_seen_with_a_value_too() -> None:
    promoted = trial(0, state=TrialState.RUNNING, reports={1: 0.5, 2: 0.75})
    promoted.system_attrs = {PAUSED: None}
    assert View(epochs=4).of([promoted])[0].state == TrialState.COMPLETE
    new = trial(0, state=TrialState.RUNNING, reports={1: 0.5, 2: 0.75})
    assert View(epochs=4).of([new])[0] is new


def test_of_a_front_each_ask_has_one_goal_and_a_limit_to_size_of_its_own() -> None:
    trials = [trial(0, 0.97, 200.0), trial(1, 0.98, 800.0), trial(2, 0.979, 900.0)]
    limits = []
    for number in range(5):
        made = View(front=True).below_a_size(trials, number)
        assert values_of(made) == [0.97, 0.98, 0.979] and all(len(t.values) == 1 for t in made)
        limits.append(800 - made[1].constraints["parameters"])
        assert made[2].constraints["parameters"] == pytest.approx(900 - limits[-1])
    assert limits[0] == 200, "from the front's smallest net"
    assert all(200 <= limit < 800 for limit in limits) and len(set(limits)) == 5
    assert sum(limit < 400 for limit in limits) in (2, 3), "as many below half of it, by ratio"


def test_a_sampler_learns_which_nets_of_a_front_are_of_no_interest() -> None:
    """Those miss a constraint that err four times as often as the best: here below 92 %."""
    trials = [
        trial(0, 0.98, 900.0), trial(1, 0.91, 10.0), trial(2, 0.95, 300.0),
        trial(3, state=TrialState.RUNNING),
    ]  # fmt: skip
    both = (StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE)
    made = View(front=True).of(trials, both)
    found = [t.constraints.get("accuracy") for t in made]
    assert found[:3] == pytest.approx([-0.06, 0.01, -0.03]) and found[3] is None
    assert [t.values for t in made[:3]] == [t.values for t in trials[:3]]
    assert not any(t.constraints for t in trials), "what is stored was changed"
    assert not any(t.constraints for t in View().of(trials, both))


def asks(study: optuna.Study, sampler: optuna.samplers.BaseSampler) -> float:
    """What a sampler asks for next."""
    study.sampler = sampler
    return study.ask().suggest_float("x", 0, 1)


def test_tpe_learns_from_means_and_not_from_lucky_seeds() -> None:
    """A study with seeds asks as one that was told the means: bit for bit."""
    rng = np.random.default_rng(1)
    single, several = (optuna.create_study(direction="maximize") for _ in range(2))
    for _ in range(12):
        x, rows = rng.random(), rng.random(3)
        single.add_trial(trial(0, float(np.mean(rows)), x=x))
        first = len(several.trials)
        for index, value in enumerate(rows):
            several.add_trial(trial(0, float(value), x=x, of=(first, index) if index else None))

    def make(_: int) -> optuna.samplers.BaseSampler:
        return optuna.samplers.TPESampler(seed=5, n_startup_trials=5)

    assert asks(several, FreshSampler(make)) == asks(single, FreshSampler(make))
    assert asks(several, make(0)) != asks(single, make(0)), "Optuna's own sees every seed"


class Stubborn(optuna.samplers.RandomSampler):
    """Asks for the same of nine nets in nine cases of ten, as a model that is sure of itself."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self._draw = np.random.default_rng(seed)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> Any:
        return {"first": IntDistribution(0, 2), "second": IntDistribution(0, 2)}

    def sample_relative(self, *_: Any) -> dict[str, Any]:
        sure = self._draw.random() < 0.9
        return {name: 0 if sure else int(self._draw.integers(3)) for name in ("first", "second")}


def test_a_search_draws_again_where_a_net_was_looked_at() -> None:
    node = {"type": "int", "low": 0, "high": 2}
    recipe = {"batch_size": 8, "lr": {"type": "float", "low": 0.1, "high": 1.0}}
    space = build_space(recipe, family={"first": node, "second": node})
    found = []
    for sampler in (FreshSampler(Stubborn), FreshSampler(Stubborn, space=space)):
        study = optuna.create_study(direction="maximize", sampler=sampler)
        for _ in range(30):
            asked = study.ask()
            space.values(asked)
            study.tell(asked, 0.5)
        found.append(len({space.net_of(one.params) for one in study.trials}))
    alone, again = found
    assert alone == 2 and again >= 5, "of nine"


def test_what_does_not_matter_to_a_net_does_not_tell_it_apart() -> None:
    width = {"type": "int", "low": 1, "high": 3}
    depth = {"type": "int", "low": 1, "high": 2}
    family = {"depth": depth, "first": width, "second": {**width, "when": {"depth": 2}}}
    space = build_space({"batch_size": 8, "lr": {"type": "float", "low": 0.1, "high": 1.0}},
                        family=family)  # fmt: skip
    shallow = {"depth": 1, "first": 3, "lr": 0.1}
    assert space.net_of({**shallow, "second": 1}) == space.net_of({**shallow, "lr": 0.2})
    deep = {"depth": 2, "first": 3, "lr": 0.1}
    assert space.net_of({**deep, "second": 1}) != space.net_of({**deep, "second": 2})


# --- racing ---


def recipe(rng: np.random.Generator) -> float:
    """The true mean of a random recipe: as of c4-5-4, few at the top, many below."""
    return 0.977 - 0.003 * rng.chisquare(2)


def picked(seed: int, trainings: int, how: int | Racing) -> float:
    """Search at random with so many trainings; return the true mean of what is best then."""
    rng, trials, means = np.random.default_rng(seed), [], dict[int, float]()
    while (number := len(trials)) < trainings:
        points, choice = points_of(trials), None
        if isinstance(how, Racing):
            choice = how.choose(points, MEAN)
        elif points and len(points[-1].trials) < how:
            choice = points[-1].number, len(points[-1].trials)
        if choice is None:
            means[number] = recipe(rng)
        point = number if choice is None else choice[0]
        trials.append(trial(number, means[point] + SD * rng.normal(), of=choice))
    return means[best_points(trials, 1)[0].number]


def test_racing_finds_better_points_than_one_seed_or_ten() -> None:
    """60 trainings, 40 times: the true mean of what was picked, in points of accuracy."""
    found = {
        name: 100 * np.array([picked(seed, 60, how) for seed in range(40)])
        for name, how in (("one", 1), ("ten", 10), ("race", Racing(most=10)))
    }
    for name in ("one", "ten"):
        gain = found["race"] - found[name]
        assert gain.mean() > 0.02, (name, gain.mean())
        assert gain.mean() > 1.5 * gain.std(ddof=1) / math.sqrt(len(gain)), name


def raced(trials: Sequence[FrozenTrial], last: bool = False, most: int = 5) -> tuple | None:
    return Racing(most, share=1.0).choose(points_of(trials), MEAN, last=last)


def test_the_race_goes_to_the_one_with_fewer_seeds_until_it_is_decided() -> None:
    two = [trial(0, 0.98), trial(1, 0.979, x=0.2)]
    assert raced(two) == (0, 1), "of equals the one ahead"
    two.append(trial(2, 0.978, of=(0, 1)))
    assert raced(two) == (1, 1)
    two.append(trial(3, 0.99, x=0.2, of=(1, 1)))  # now the other is ahead
    assert raced(two) == (1, 2)
    two.append(trial(4, 0.985, x=0.2, of=(1, 2)))
    assert raced(two) == (0, 2)
    hopeless = [*two, trial(5, 0.5, x=0.3)]
    assert raced(hopeless) == (0, 2), "one seed was enough to drop it"


def test_no_seed_goes_to_small_nets_that_err_four_times_as_often_as_the_best() -> None:
    def raced_by_both(front: bool) -> tuple | None:
        return Racing(5, share=1.0, front=front).choose(points_of(trials), MEAN, (1, -1))

    trials = [trial(0, 0.98, 900.0), trial(1, 0.91, 10.0), trial(2, 0.909, 10.0, x=0.2)]
    assert raced_by_both(front=False) == (1, 1)
    assert raced_by_both(front=True) is None
    trials += [trial(3, 0.93, 50.0, x=0.3), trial(4, 0.929, 50.0, x=0.4)]
    assert raced_by_both(front=True) == (3, 1), "three and a half times as often is near enough"


def test_the_race_ends_at_the_most_seeds_and_where_all_is_decided() -> None:
    same = [
        trial(index, 0.98 + SD * (index % 2), of=(0, index) if index else None)
        for index in range(4)
    ]
    rival = [
        trial(4 + index, 0.98 + SD * (index % 3), x=0.2, of=(4, index) if index else None)
        for index in range(4)
    ]
    assert raced([*same, *rival], last=True, most=4) is None
    assert raced([*same, *rival], last=True, most=5) is not None
    decided = [
        *same,
        *(trial(4 + i, 0.5 + SD * i, x=0.2, of=(4, i) if i else None) for i in range(2)),
    ]
    assert raced(decided, last=True) is None


def test_a_point_waits_for_the_seed_it_runs_unless_nothing_else_is_left() -> None:
    trials = [
        trial(0, 0.98), trial(1, 0.979, of=(0, 1)), trial(2, 0.979, x=0.2),
        trial(3, of=(2, 1), x=0.2, state=TrialState.RUNNING),
    ]  # fmt: skip
    assert raced(trials) is None
    assert raced(trials, last=True) == (0, 2)


def test_further_seeds_take_no_more_than_their_share() -> None:
    rng, trials = np.random.default_rng(0), []
    for number in range(200):
        choice = Racing(50).choose(points_of(trials), MEAN)
        trials.append(trial(number, 0.98 + SD * rng.normal(), of=choice))  # all are the same
    repeats = sum(SEED_INDEX in t.user_attrs for t in trials)
    assert 95 <= repeats <= 100  # half of all epochs; all trainings are as long


def test_of_several_goals_a_point_races_with_those_no_larger_alone() -> None:
    """Accuracy and size: the largest is best, but a smaller one does not have to beat it."""
    rows = [(0.99, 900), (0.98, 500), (0.9795, 600), (0.95, 550)]
    trials = [trial(n, *row, x=n / 9) for n, row in enumerate(rows)]
    trials += [trial(4, 0.981, 500, x=1 / 9, of=(1, 1)), trial(5, 0.991, 900, x=0, of=(0, 1))]
    signs = (1, -1)
    chosen = Racing(5, share=1.0).choose(points_of(trials), MEAN, signs)
    assert chosen == (2, 1), "600 parameters may be better than 500; 550 surely are not"


# --- how a study keeps them ---


@pytest.fixture(params=["memory", "sqlite"])
def study(request: pytest.FixtureRequest, tmp_path: Path) -> optuna.Study:
    if request.param == "memory":
        return optuna.create_study(direction="maximize")
    storage = WriteBehindStorage(RDBStorage(f"sqlite:///{tmp_path}/x.db"), "me")
    request.addfinalizer(storage.workers.close)
    return optuna.create_study(storage=storage, direction="maximize")


def begin_seed(study: optuna.Study, of: FrozenTrial, index: int) -> optuna.Trial:
    made = storage_of(study).create_new_trial(id_of_study(study), further_seed(of, index))
    return optuna.Trial(study, made)


def test_a_further_seed_has_the_parameters_of_its_point(study: optuna.Study) -> None:
    study.ask().suggest_float("x", 0, 1)
    study.tell(0, 0.5)
    again = begin_seed(study, study.trials[0], 1)
    assert again.suggest_float("x", 0, 1) == study.trials[0].params["x"]
    study.tell(again, 0.75)
    (point,) = points_of(study.trials)
    assert sorted(point.results.items()) == [(0, [0.5]), (1, [0.75])]
    (best,) = best_points(study.trials, 9, StudyDirection.MAXIMIZE)
    assert (best.number, best.value, seeds_of(best)) == (0, 0.625, 2)


def test_no_seed_is_begun_twice_and_none_counts_against_the_total(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/x.db"
    storages = [WriteBehindStorage(RDBStorage(url), owner) for owner in ("one", "two")]
    try:
        here, there = (
            optuna.create_study(study_name="s", storage=storage, load_if_exists=True)
            for storage in storages
        )
        for storage in storages:
            storage.workers.set_plan(id_of_study(here), 2)
        here.ask().suggest_float("x", 0, 1)
        storages[0].workers.flush()
        first = here.trials[0]
        begin_seed(here, first, 1)
        with pytest.raises(BudgetSpent):
            begin_seed(there, first, 1)
        assert begin_seed(there, first, 2).number == 2
        assert there.ask().number == 3, "seeds are no points"
        with pytest.raises(BudgetSpent):
            here.ask()
        assert begin_seed(here, first, 3).number == 4
    finally:
        for storage in storages:
            storage.workers.close()


def test_noise_of_no_seeds_drops_nobody() -> None:
    assert raced([trial(0, 0.98)]) is None
    assert raced([trial(0, 0.98), trial(1, 0.1, x=0.2)]) == (0, 1)
    assert Noise(SD, 3).freedom == 3


def test_importances_average_over_seeds_unlike_those_of_single_trainings() -> None:
    """Parameter `x` decides; by single trainings the noise of seeds hides some of it."""
    rng, study = np.random.default_rng(2), optuna.create_study(direction="maximize")
    for point in range(40):
        params = {"x": float(rng.random()), "y": float(rng.random())}
        for index in range(4):
            study.add_trial(
                create_trial(
                    values=[params["x"] + rng.normal()],
                    params=params,
                    distributions={"x": FloatDistribution(0, 1), "y": FloatDistribution(0, 1)},
                    user_attrs={POINT: 4 * point, SEED_INDEX: index} if index else {},
                )
            )
    averaged = of_points(study, MEAN)
    assert len(study.trials) == 160 and len(averaged.trials) == 40
    alone, together = importances_of(study), importances_of(averaged)
    assert together["x"] > 2 * alone["x"]
    drawn = next(optuna_pictures(study))
    assert drawn.key == "importances"
    assert f"x {alone['x']:.3f}" in drawn.caption


@pytest.mark.slow
def test_workers_that_are_killed_train_no_seed_twice(
    golf: Golf, golf_process: Start, tmp_path: Path
) -> None:
    """Three processes at one study, one killed in the middle; then whoever comes finishes it."""
    command = (
        "study", "data=digits", "engine=native", "engine.lanes=2", "study.name=s", "trials=4",
        "epochs=25", "seeds=3", "pruner=none", "space.batch_size=8", "~callbacks.note",
    )  # fmt: skip
    processes = [golf_process(*command) for _ in range(3)]
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and num_reports(tmp_path) < 30:
        time.sleep(0.05)
    processes[0].send_signal(signal.SIGKILL)
    for process in processes:
        process.communicate(timeout=240)
    assert golf(*command).status == 0
    trials = optuna.load_study(
        study_name="s", storage=f"sqlite:///{tmp_path}/studies/golf.db"
    ).trials
    assert [t.state for t in trials] == [TrialState.COMPLETE] * 12
    points = points_of(trials)
    assert [sorted(point.results) for point in points] == [[0, 1, 2]] * 4
    seeds = [[point.trials[index].user_attrs["seed"] for index in range(3)] for point in points]
    assert len(set(map(tuple, seeds))) == 1 and len(set(seeds[0])) == 3


def num_reports(folder: Path) -> int:
    """How many epochs the trials of a study have reported, 0 as long as it is not there."""
    database = f"file:{folder}/studies/golf.db?mode=ro"  # a reader that creates no tables
    count = "SELECT count(*) FROM trial_intermediate_values"
    with (
        contextlib.suppress(sqlite3.OperationalError),  # not there yet
        contextlib.closing(sqlite3.connect(database, uri=True)) as connection,
    ):
        return connection.execute(count).fetchone()[0]
    return 0


RACE = (
    "study", "data=digits", "engine=torch", "epochs=1", "seeds=race:3", "space.batch_size=32",
    "study.name=s",
)  # fmt: skip


def test_a_race_goes_on_to_more_points_and_says_what_it_found(golf: Golf, tmp_path: Path) -> None:
    """4, then 5 points; the best is the mean of several seeds, in all that names it."""
    assert golf(*RACE, "trials=4").status == 0
    ran = golf(*RACE, "trials=5")
    study = optuna.load_study(study_name="s", storage=f"sqlite:///{tmp_path}/studies/golf.db")
    points = points_of(study.trials)
    assert len(points) == 5 and len(study.trials) > 5
    assert max(len(point.trials) for point in points) <= 3
    assert len({point.first.user_attrs["seed"] for point in points}) == 1
    for point in points:
        assert len({tuple(t.params.items()) for t in point.trials.values()}) == 1
    (best,) = best_points(study.trials, 1)
    assert seeds_of(best) > 1
    words = (
        f"best mean test accuracy of up to 3 seeds {100 * best.value:.2f} % (trial {best.number}"
    )
    assert words in ran.out and f"n = {seeds_of(best)} seeds" in ran.out
    assert f"5 of 5 trials finished (0 pruned), {len(study.trials) - 5} further seeds" in ran.out


class OldNews(Rule):
    """Asks again and again for a seed that is there, as a worker does that cannot know of it."""

    asked = 0

    def choose(self, trials: Trials) -> Choice | None:
        self.asked += 1
        if self.asked == 3:
            signal.raise_signal(signal.SIGINT)
        return Repeat(0, 1) if self.asked < 50 else None


def test_a_seed_that_others_have_begun_is_not_asked_for_for_ever(
    golf: Golf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop has its turn in between: it can be stopped."""
    command = (*RACE, "seeds=2", "engine.lanes=1", "~callbacks.note")
    assert golf(*command, "trials=1").status == 0
    rule = OldNews()
    monkeypatch.setattr(loop, "allocation", lambda *_: Allocation([rule, NewPoints(2)]))
    assert golf(*command, "trials=2").status == 130
    assert 3 <= rule.asked < 9


def test_what_seeds_and_statistic_may_be_is_said(golf: Golf) -> None:
    assert "seeds is 0" in told(golf(*RACE, "seeds=0"))
    assert "race:N" in told(golf(*RACE, "seeds=race:1"))
    assert "share:TARGET" in told(golf(*RACE, "statistic=median"))
    assert "seeds is 1" in told(golf(*RACE, "seeds=1", "statistic=best"))
