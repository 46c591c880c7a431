"""Paused trials: which are promoted, when a study is over, and that a resume changes nothing."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import optuna
import pytest
from conftest import Ran
from optuna.trial import FrozenTrial, TrialState, create_trial

from golf_opt.config.schema import StorageConfig
from golf_opt.storage.checkpoint import open_checkpoints
from golf_opt.storage.connect import opened_storage
from golf_opt.study.allocation import Allocation, GoOn, New, NewPoints, Queued
from golf_opt.study.curves import extrapolated
from golf_opt.study.promotion import AtLeastOne, Promote, Promotion
from golf_opt.task.goals import Goal
from golf_opt.utils.trials import PAUSED

Golf = Callable[..., Ran]
Start = Callable[..., subprocess.Popen[str]]
ACCURACY = Goal("test accuracy")
SIZE = Goal("parameters", "minimize", accuracy=False)
STUDY = (
    "study", "arch=c4-5-4", "data=digits", "space.batch_size=32", "study.name=s", "sampler=random",
    "~callbacks.note", "epochs=9",
)  # fmt: skip
PROMOTE = ("pruner=promote", "pruner.min_resource=1", "trials=9")


def trial(number: int, *values: float, paused: bool = True, size: int = 0) -> FrozenTrial:
    """A trial that reported these values, paused after the last of them or running."""
    made = create_trial(
        state=TrialState.WAITING if paused else TrialState.RUNNING,
        intermediate_values=dict(enumerate(values, 1)),
        system_attrs={PAUSED: len(values)} if paused else {},
        user_attrs={"num_params": size},
    )
    made.number = number
    return made


def promotion(*goals: Goal, epochs: int = 9, **arguments: str) -> Promotion:
    return Promotion(Promote(1, 3, **arguments), goals or (ACCURACY,), epochs)  # type: ignore[arg-type]


def test_one_in_three_of_those_that_reached_a_rung_goes_on() -> None:
    rule = promotion()
    trials = [trial(0, 0.3), trial(1, 0.5)]
    assert rule.choose(trials) is None
    trials.append(trial(2, 0.4))
    assert rule.choose(trials) == GoOn(1)
    trials[1] = trial(1, 0.5, paused=False)  # is promoted: the next best is none of the best third
    assert rule.choose(trials) is None
    trials += [trial(3, 0.2), trial(4, 0.1), trial(5, 0.45)]
    assert rule.choose(trials) == GoOn(5)


def test_the_highest_rung_comes_first_and_a_trial_looks_up_at_every_rung() -> None:
    rule = promotion()
    higher = [trial(number, 0.0, 0.9, value) for number, value in enumerate((0.7, 0.9, 0.8))]
    lower = [trial(number, 0.1 * number) for number in range(3, 9)]
    assert rule.choose(lower) == GoOn(8)
    assert rule.choose([*higher, *lower]) == GoOn(1)
    assert [rule.until(trial(0, *[0.5] * done), 9) for done in (0, 1, 2, 3, 8)] == [1, 3, 3, 9, 9]


def test_what_is_kept_up_is_what_sorting_all_trials_gives() -> None:
    """Trials come, rest, are promoted and end; at each step the best one with a place goes on."""
    rule, draw, trials = promotion(), np.random.default_rng(4), []
    promoted = 0
    for number in range(120):
        trials = [*trials, trial(number, round(draw.random(), 1), paused=draw.random() < 0.9)]
        expected = None
        for rung in (3, 1):
            reached = [t for t in trials if rung in t.intermediate_values]
            waiting = [t for t in reached if t.system_attrs.get(PAUSED) == rung]
            places = len(reached) // 3
            if len(reached) - len(waiting) < places and expected is None:
                best = sorted(reached, key=lambda t: (-t.intermediate_values[rung], t.number))
                expected = next((t.number for t in best[:places] if t in waiting), None)
        chosen = rule.choose(trials)
        assert chosen == (None if expected is None else GoOn(expected))
        if expected is not None:
            values = list(trials[expected].intermediate_values.values())
            further = [round(draw.random(), 1)] * (2 if len(values) == 1 else 6)
            trials = list(trials)
            trials[expected] = trial(expected, *values, *further, paused=len(values) == 1)
            promoted += 1
    assert promoted > 20


def test_a_study_goes_on_until_one_trial_is_complete() -> None:
    rule = promotion()
    allocation = Allocation([rule, Queued(2), NewPoints(2), AtLeastOne(rule)])
    trials = [trial(0, 0.3)]
    assert allocation.choose(trials) == New()
    trials.append(trial(1, 0.2))
    assert allocation.choose(trials) == GoOn(0)
    assert allocation.goes_on(0, [trial(0, 0.3, paused=False), trials[1]])
    assert not allocation.goes_on(1, [trial(0, 0.3), trial(1, 0.2, paused=False)])
    done = create_trial(state=TrialState.COMPLETE, value=0.5, intermediate_values={1: 0.3})
    assert allocation.choose([done, trials[1]]) is None


def test_what_waits_comes_before_new_points_and_neither_beyond_the_total() -> None:
    waiting = create_trial(state=TrialState.WAITING)
    assert Queued(2).choose([trial(0, 0.1), waiting]) == GoOn(waiting.number)
    assert Queued(1).choose([trial(0, 0.1), waiting]) is None
    assert Queued(None).choose([trial(0, 0.1), waiting]) == GoOn(waiting.number)
    assert NewPoints(1).choose([trial(0, 0.1)]) is None
    assert NewPoints(None).choose([trial(0, 0.1)]) == New()


def test_of_several_goals_the_front_goes_on_first() -> None:
    rule = promotion(ACCURACY, SIZE)
    trials = [
        trial(0, 0.90, size=900), trial(1, 0.80, size=300), trial(2, 0.70, size=800),
        trial(3, 0.60, size=700), trial(4, 0.85, size=500), trial(5, 0.50, size=600),
    ]  # fmt: skip
    assert [found.number for found in rule.ranked(trials, 1, 3)] in ([0, 1, 4], [1, 0, 4])
    assert rule.choose(trials) in (GoOn(0), GoOn(1))


def test_nets_that_err_four_times_as_often_as_the_best_come_after_all_others() -> None:
    """However small: by size alone both would be of the first front."""
    trials = [
        trial(0, 0.90, size=900), trial(1, 0.80, size=300), trial(2, 0.70, size=800),
        trial(3, 0.55, size=10), trial(4, 0.50, size=5), trial(5, 0.65, size=290),
    ]  # fmt: skip
    ranked = [found.number for found in promotion(ACCURACY, SIZE).ranked(trials, 1, len(trials))]
    assert set(ranked[:3]) == {0, 1, 5} and ranked[3:] == [2, 3, 4]
    loss = Goal("loss", "minimize", accuracy=False)
    assert promotion(loss, SIZE).ranked(trials, 1, 1)[0].number == 4, "of losses there is no floor"


def test_beyond_a_target_only_size_goes_on() -> None:
    trials = [
        trial(0, 0.99, size=900), trial(1, 0.96, size=300), trial(2, 0.94, size=400),
        trial(3, 0.97, size=310), trial(4, 0.70, size=10), trial(5, 0.95, size=500),
    ]  # fmt: skip
    rule = Promotion(Promote(1, 3), (ACCURACY, SIZE), 9, target=0.95)
    assert [found.number for found in rule.ranked(trials, 1, len(trials))] == [1, 3, 2, 5, 0, 4]
    assert promotion(ACCURACY, SIZE).ranked(trials, 1, len(trials))[0].number == 0


def test_rising_curves_may_be_ranked_by_where_they_lead() -> None:
    flat, rising = trial(0, 0.80, 0.80, 0.80), trial(1, 0.40, 0.60, 0.79)
    both = [flat, rising, trial(2, 0.1, 0.1, 0.1)]
    assert promotion().choose(both) == GoOn(0)
    assert promotion(rank="extrapolated").choose(both) == GoOn(1)


@pytest.mark.parametrize("power", [0.5, 1.0])
def test_a_power_law_is_continued(power: float) -> None:
    curve = {epoch: 0.98 - 0.5 * epoch**-power for epoch in range(1, 7)}
    assert extrapolated(curve, 18) == pytest.approx(0.98 - 0.5 * 18**-power, abs=1e-6)
    losses = {epoch: -value for epoch, value in curve.items()}
    assert extrapolated(losses, 18, -1) == pytest.approx(-extrapolated(curve, 18))
    assert extrapolated({1: 0.5, 2: 0.6}, 18) == 0.6  # too short to tell
    assert extrapolated({1: 0.9, 2: 0.8, 3: 0.7}, 18) == 0.7  # a falling one does not recover


def kept(folder: Path) -> list[tuple[str, dict[int, float], dict[str, np.ndarray]]]:
    """Each trial's state, its reports, and the weights of its checkpoint."""
    found = []
    with opened_storage(StorageConfig(f"sqlite:///{folder}/studies/golf.db", None)) as storage:
        study = optuna.load_study(study_name="s", storage=storage)
        checkpoints = open_checkpoints(study, folder / "studies")
        for one in study.trials:
            tensors = checkpoints.load(one.number).state.tensors
            weights = {name: t for name, t in tensors.items() if name.startswith("weights/")}
            found.append((one.state.name, one.intermediate_values, weights))
    return found


def test_a_promoted_trial_is_bit_for_bit_one_that_was_never_paused(
    golf: Golf, golf_process: Start, tmp_path: Path
) -> None:
    """In further runs, of which one is killed; with one lane every promotion is a resume."""
    command = (*STUDY, "engine.lanes=1")
    whole = golf(*command, "trials=9", "pruner=none", "dir=whole/studies")
    assert whole.status == 0, whole.err
    parts = (*command, "pruner=promote", "pruner.min_resource=1", "dir=parts/studies")
    for trials in (3, 6):
        assert golf(*parts, f"trials={trials}").status == 0
    killed = golf_process(*parts, "trials=9")
    assert killed.stdout is not None
    killed.stdout.readline()  # what is about to run
    time.sleep(0.1)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    ended = golf(*parts, "trials=9")
    assert ended.status == 0, ended.err
    rows, twins = kept(tmp_path / "parts"), kept(tmp_path / "whole")
    states = [state for state, *_ in rows]
    assert len(rows) == 9 and 1 <= states.count("COMPLETE") <= 3
    assert states.count("WAITING") == 9 - states.count("COMPLETE")
    assert f"{states.count('WAITING')} paused" in ended.out
    resumed = 0
    with opened_storage(StorageConfig(f"sqlite:///{tmp_path}/parts/studies/golf.db")) as storage:
        for one in optuna.load_study(study_name="s", storage=storage).trials:
            losses = one.user_attrs["epoch_losses"]
            assert len(losses) == len(one.intermediate_values), "an epoch was trained again"
    for (state, values, weights), (_, others, same) in zip(rows, twins, strict=True):
        assert values == {epoch: others[epoch] for epoch in values}
        if state == "COMPLETE":
            resumed += 1
            for name, tensor in weights.items():
                np.testing.assert_array_equal(tensor, same[name])
        else:
            assert max(values) in (1, 3)
    assert resumed >= 1


@pytest.mark.parametrize("storage", ["memory", "journal"])
def test_other_storages_pause_too(golf: Golf, tmp_path: Path, storage: str) -> None:
    ran = golf(*STUDY, *PROMOTE, f"storage={storage}")
    assert ran.status == 0, ran.err
    assert "1 of 9 trials finished (0 pruned), 8 paused" in ran.out


def test_points_beyond_the_total_stay_in_the_queue(golf: Golf, tmp_path: Path) -> None:
    points = "study.enqueue=[{lr: 0.001}, {lr: 0.002}, {lr: 0.003}]"
    ran = golf(*STUDY[:4], "study.name=s", "epochs=1", "trials=2", points)
    assert ran.status == 0, ran.err
    assert "2 of 2 trials finished (0 pruned), 1 waiting" in ran.out
