"""Figures of studies and pictures of trials: what is in them, and that any text may be."""

from __future__ import annotations

import json
import warnings
from datetime import datetime, timedelta
from xml.etree import ElementTree

import matplotlib
import numpy as np
import optuna
import pytest
from conftest import net
from matplotlib import pyplot
from optuna.distributions import FloatDistribution
from optuna.samplers import RandomSampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from golf_opt.engines.base import initial_weights
from golf_opt.task.data import Split
from golf_opt.task.goals import Goal
from golf_opt.utils.stats import Spread
from golf_opt.utils.trials import best_trials, epoch_losses
from golf_opt.visualization import pictures
from golf_opt.visualization import study_figures as module
from golf_opt.visualization.optuna_plots import optuna_pictures
from golf_opt.visualization.plots import (
    Figure,
    Panel,
    Series,
    plotly_json,
    round_numbers,
    svg,
)
from golf_opt.visualization.size_and_accuracy import KnownNet, parameters_and_accuracy
from golf_opt.visualization.snapshot import (
    SEED_SD,
    Fresh,
    StudySnapshot,
    not_told_apart,
    repeats,
    seed_noise,
)
from golf_opt.visualization.study_figures import (
    best_so_far,
    lanes_over_time,
    learning_curves,
    study_figures,
)

NOON = datetime(2026, 1, 1, 12)


def trial(
    number: int,
    curve: list[float],
    state: TrialState = TrialState.COMPLETE,
    lr: float = 1e-3,
    span: tuple[float, float] | None = None,
) -> FrozenTrial:
    """A trial with this learning curve, in training from one second after noon to another."""
    made = create_trial(
        state=state,
        value=curve[-1] if state == TrialState.COMPLETE else None,
        params={"lr": lr},
        distributions={"lr": FloatDistribution(1e-5, 1e-1, log=True)},
        user_attrs={"num_params": 807},
        intermediate_values=dict(enumerate(curve, 1)),
    )
    begin, end = span or (number, number + 1)
    made.number, made.datetime_start = number, NOON + timedelta(seconds=begin)
    made.datetime_complete = NOON + timedelta(seconds=end) if state.is_finished() else None
    return made


def snapshot(*trials: FrozenTrial, name: str = "s", data: str = "mnist") -> StudySnapshot:
    return StudySnapshot(name, data, "test", (Goal("test accuracy"),), 2, trials)


def test_the_best_curve_stands_out_and_pruned_ones_are_faint() -> None:
    study = snapshot(
        trial(0, [0.8, 0.9]), trial(1, [0.7], TrialState.PRUNED), trial(2, [0.85, 0.95]),
        trial(3, [0.6], TrialState.RUNNING),
    )  # fmt: skip
    figure = learning_curves(study)
    lines = {line.name: line for line in figure.panels[0].series}
    assert list(lines) == ["pruned or failed (1)", "complete (1)", "running (1)", "best: trial 2"]
    assert lines["best: trial 2"].y == [85, 95, None]
    assert lines["pruned or failed (1)"].line < lines["best: trial 2"].line
    assert lines["pruned or failed (1)"].opacity < 1
    low, high = figure.panels[0].y_range
    assert low < 90 and 95 < high <= 100


def test_a_goal_to_minimise_has_the_smallest_value_as_its_best() -> None:
    goal = Goal("cost", "minimize", accuracy=False)
    trials = [trial(0, [9.0, 4.0]), trial(1, [8.0, 2.5]), trial(2, [7.0, 30.0])]
    study = StudySnapshot("s", "", "test", (goal,), 2, trials)
    assert study.best is trials[1] and not_told_apart(study) == 0
    panel = learning_curves(study).panels[0]
    lines = {line.name: line for line in panel.series}
    assert panel.y_title == "cost" and lines["best: trial 1"].y == [8, 2.5, None]
    assert panel.y_range[0] < 2.5 and panel.y_range[1] > 4
    assert best_so_far([study]).panels[0].series[0].y == [4, 2.5, 2.5]
    keys = [figure.key for figure in study_figures(study)]
    assert keys == ["learning-curves", "accuracy-by-parameter", "lanes-over-time"]


def test_several_goals_have_a_front_and_no_best() -> None:
    goals = Goal("loss", "minimize", accuracy=False), Goal("speed", "maximize", accuracy=False)
    trials = []
    for number, values in enumerate([(1.0, 5.0), (2.0, 9.0), (2.0, 8.0), (0.5, 1.0), (1.0, 5.0)]):
        made = create_trial(values=list(values))
        made.number = number
        trials.append(made)
    study = StudySnapshot("s", "", "test", goals, 2, trials)
    assert study.best is None and [t.number for t in study.front] == [3, 0, 4, 1]
    figure = study_figures(study)[0]
    assert figure.key == "front" and svg(figure).startswith("<svg")
    beaten, front = figure.panels[0].series
    assert (beaten.x, beaten.y) == ([2], [8])
    assert (front.x, front.y) == ([0.5, 1, 1, 2], [1, 5, 5, 9])


def test_many_trials_make_no_endless_figure() -> None:
    trials = [trial(0, [0.99]), *(trial(i, [0.9]) for i in range(1, 700))]
    figure = learning_curves(snapshot(*trials))
    assert sum(len(line.y) for line in figure.panels[0].series) == 2 * 500
    assert "the best and the newest 500 of 700" in figure.title


def test_seed_noise_is_measured_where_points_were_repeated() -> None:
    values = [0.970, 0.972, 0.974, 0.976, 0.978]
    sd, source = seed_noise(snapshot(*(trial(i, [v]) for i, v in enumerate(values))))
    assert sd == pytest.approx(np.std(values, ddof=1))
    assert "measured on 5 trials" in source
    once = [trial(i, [v], lr=10 ** -(i + 1)) for i, v in enumerate(values[:3])]
    assert seed_noise(snapshot(*once))[0] == SEED_SD
    assert seed_noise(snapshot(*once, data="digits"))[0] is None
    loss = Goal("loss", "minimize", accuracy=False)
    assert seed_noise(StudySnapshot("s", "mnist", "test", (loss,), 2, once))[0] is None
    assert not_told_apart(snapshot(*once)) == 3
    assert not_told_apart(snapshot(*once, trial(3, [0.99], lr=0.05))) == 1


def test_the_front_has_nobody_who_is_beaten_twice() -> None:
    def other(name: str, count: int, accuracy: float) -> StudySnapshot:
        made = trial(0, [accuracy])
        made.user_attrs["num_params"] = count
        return snapshot(made, name=name)

    studies = [other("mine", 807, 0.97), other("worse", 900, 0.96), other("better", 1000, 0.98)]
    studies.append(snapshot(trial(0, [1.0]), name="digits", data="digits"))
    record = KnownNet("record: tiny", 300, 98.0)
    figure = parameters_and_accuracy(studies, [record])
    lines = {line.name: line for line in figure.panels[0].series}
    assert list(lines["front of the studies"].x) == [807, 1000]
    assert list(lines["best of this study"].y) == [97]
    assert list(lines["records here"].labels) == ["record: tiny"]
    assert 575 in lines["pruned"].x


def test_studies_side_by_side_have_their_names() -> None:
    """None of two peers is `this study`."""
    studies = [snapshot(trial(0, [height]), name=name) for name, height in (("a", 0.9), ("b", 0.8))]
    figure = parameters_and_accuracy(studies, peers=True)
    lines = {line.name: line for line in figure.panels[0].series}
    assert lines["a"].y == [90] and lines["b"].y == [80]
    assert lines["a"].colour != lines["b"].colour
    assert not [name for name in lines if "this" in name or "other studies" in name]


HOSTILE = (
    None, True, "x", "9" * 400, 10**400, -1, 1e308, float("inf"), float("nan"), [], [["x"]], {},
    {"a": {"b": None}},
)  # fmt: skip
ATTRIBUTES = (
    "seed", "epoch_losses", "train_accuracy", "num_params", "versions", "engine", "device",
    "git_commit", "worker",
)  # fmt: skip


@pytest.mark.parametrize("value", HOSTILE, ids=lambda value: str(value)[:9])
def test_attributes_of_any_kind_can_be_drawn(value: object) -> None:
    made = [trial(0, [0.9, 0.95]), trial(1, [0.8], TrialState.RUNNING)]
    for one in made:
        one.user_attrs = dict.fromkeys(ATTRIBUTES, value)
    losses = epoch_losses(made[0])
    assert all(isinstance(loss, float) for loss in losses)
    for figure in study_figures(snapshot(*made)):
        plotly_json(figure)
        svg(figure)
    pictures.learning_curve("t", Goal("accuracy"), [0.9, None], losses)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf"), 1e308, -1.0])
def test_what_is_no_accuracy_is_left_out(bad: float) -> None:
    """Optuna keeps such values; the other points are drawn as if it were not there."""
    good = [trial(0, [0.8, 0.9]), trial(1, [0.85, 0.95], lr=1e-2)]
    odd = [
        trial(2, [0.8, bad], TrialState.RUNNING), trial(3, [bad], TrialState.PRUNED),
        trial(4, [0.7, 0.7]),
    ]  # fmt: skip
    odd[2].value = bad
    study = snapshot(*good, *odd)
    assert study.best is good[1] and study.complete == good
    figures = {figure.key: figure for figure in [*study_figures(study), best_so_far([study])]}
    for figure in figures.values():
        json.loads(plotly_json(figure))
        assert ElementTree.fromstring(svg(figure)).tag.endswith("svg")
    drawn = {line.name: line.y for line in figures["learning-curves"].panels[0].series}
    assert drawn["running (1)"] == [80, None, None] and drawn["best: trial 1"] == [85, 95, None]
    assert figures["best-so-far"].panels[0].series[0].y == [90, 95, 95, 95]
    assert best_trials(study.trials, 9)[0] is not odd[2] or bad == 1e308


def test_of_a_study_without_parameters_the_seeds_are_told() -> None:
    def seeds(*values: float) -> StudySnapshot:
        made = [trial(i, [v]) for i, v in enumerate(values)]
        for one in made:
            one.params, one.distributions = {}, {}
        return snapshot(*made)

    found = repeats(seeds(0.97, 0.98, 0.99, float("inf")))
    assert found is not None
    assert found.words == "mean 98.00 %, sd 1.00 points, 97.00 to 99.00 %, n = 3 seeds"
    assert repeats(seeds(0.97)) is None
    assert repeats(snapshot(trial(0, [0.9]), trial(1, [0.9]))) is None


@pytest.mark.parametrize("panels", range(1, 13))
def test_a_figure_fits_what_the_dashboard_gives_it(panels: int) -> None:
    """450 pixels: words above the panels, legend below them, and panels that are not flat."""
    line = Series("complete trials", [1, 2], [0.5, 0.6], "#000")
    caption = " ".join(["words"] * 30)
    figure = Figure("k", "Title", caption, [Panel("x", "y", [line])] * panels)
    layout = json.loads(plotly_json(figure))["layout"]
    top, foot = layout["margin"]["t"], layout["margin"]["b"]
    words = layout["title"]["text"].count("<br>")
    assert words == 2
    assert layout["height"] == 450
    assert top >= 450 * (1 - layout["title"]["y"]) + 12 + 16 * words
    body = layout["height"] - top - foot
    heights = [
        body * (axis["domain"][1] - axis["domain"][0])
        for key, axis in layout.items()
        if key.startswith("yaxis")
    ]
    assert len(heights) == panels and min(heights) > 110
    assert -layout["legend"]["y"] * body >= 40  # below the words of the axis
    assert foot + layout["legend"]["y"] * body >= 18  # and within the figure


def test_lanes_are_put_together_from_when_trials_ran() -> None:
    spans = [(0, 4), (0, 2), (2, 4), (4, 6), (4, 5)]
    study = snapshot(*(trial(i, [0.9], span=span) for i, span in enumerate(spans)))
    figure = lanes_over_time(study)
    assert figure.title == "Lanes over time: 2, busy 92 % of it"
    assert set(figure.panels[0].series[0].y) == {0, 1, None}
    later = trial(5, [0.9], span=(10_000, 10_001))
    assert lanes_over_time(snapshot(*study.trials, later)).title.startswith("Lanes over time: 1,")


def test_each_trial_has_the_first_lane_of_its_worker_that_is_free() -> None:
    draw, trials, end_of = np.random.default_rng(0), [], dict[int, float]()
    workers, lanes = [], []
    for number in range(300):
        begin, length, worker = number // 2, int(draw.integers(1, 12)), int(draw.integers(3))
        free = (lane for lane, end in end_of.items() if workers[lane] == worker and end <= begin)
        lane = next(free, len(workers))
        workers += [worker] * (lane == len(workers))
        end_of[lane] = begin + length
        lanes.append(lane)
        trials.append(trial(number, [0.9], span=(begin, begin + length)))
        trials[-1].set_user_attr("worker", f"host:{worker}")
    figure = lanes_over_time(snapshot(*trials))
    drawn = [y for y in figure.panels[0].series[0].y if y is not None]
    assert len(end_of) > 10 and sorted(drawn[::2]) == sorted(lanes)
    assert figure.title.startswith(f"Lanes over time: {len(end_of)} of 3 workers")


def test_of_a_long_sitting_the_last_trials_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_BARS", 3)
    trials = [trial(number, [0.9], span=(number, number + 1)) for number in range(5)]
    figure = lanes_over_time(snapshot(*trials))
    assert "its last 3 trials" in figure.caption
    assert len([x for x in figure.panels[0].series[0].x if x is not None]) == 6
    assert "trials" not in lanes_over_time(snapshot(*trials[:3])).caption.split(";")[1]


def test_a_study_without_trials_has_no_figures() -> None:
    assert study_figures(snapshot()) == []
    assert len(study_figures(snapshot(trial(0, [0.5], TrialState.RUNNING)))) == 2


@pytest.mark.parametrize("name", ["a <b> & $x_1$ \\frac", "日本 ☂", "x" * 200])
def test_any_name_can_be_drawn(name: str) -> None:
    failed = trial(2, [0.9, float("nan")], TrialState.FAIL)
    study = snapshot(trial(0, [0.9]), trial(1, [0.91, 0.92], lr=1e-2), failed, name=name)
    for figure in [*study_figures(study), best_so_far([study])]:
        drawn = json.loads(plotly_json(figure))
        assert drawn["data"] and drawn["layout"]["title"]["text"].startswith(figure.title)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a letter that the font lacks is a box
            assert ElementTree.fromstring(svg(figure)).tag.endswith("svg")


def test_pictures_of_a_net_count_its_mistakes() -> None:
    rng = np.random.default_rng(0)
    split = Split(
        "test",
        rng.integers(0, 256, (60, 1, 28, 28), np.uint8),
        np.arange(60) % 10,
    )
    model = net("c4-5-4")
    tensors = initial_weights(model, 3)
    readings = pictures.read(model, tensors, split)
    assert readings.scores.shape == (60, 10)
    assert readings.accuracy == (readings.scores.argmax(1) == np.arange(60) % 10).mean()
    for drawn in (
        pictures.confusion("t", readings),
        pictures.mistakes("t", readings),
        pictures.weights("t", model, tensors),
        pictures.learning_curve("t", Goal("accuracy"), [0.5], []),
    ):
        assert ElementTree.fromstring(drawn).tag.endswith("svg")
        assert "<script" not in drawn and "http-equiv" not in drawn


@pytest.mark.parametrize(
    ("trials", "parameters", "keys"),
    [
        (9, "lr+batch", []),
        (12, "lr+batch", ["importances", "ranks"]),
        (12, "lr", ["importances"]),
        (12, "opt+constant+some", ["importances", "ranks"]),
        (12, "", []),
        (12, "constant", []),
    ],
)
def test_optuna_draws_what_matters(trials: int, parameters: str, keys: list[str]) -> None:
    """Warnings are errors here, so none gets out; the style of other figures stays as it was."""
    study = optuna.create_study(direction="maximize", sampler=RandomSampler(seed=0))
    for number in range(trials):
        made, height = study.ask(), 0.9
        if "lr" in parameters:
            height += made.suggest_float("lr", 1e-5, 1e-1, log=True)
        if "batch" in parameters:
            height -= made.suggest_int("batch", 1, 64) / 1e3
        if "opt" in parameters:
            height += 0.01 * (made.suggest_categorical("opt", ["adam", "sgd"]) == "sgd")
        if "constant" in parameters:
            made.suggest_int("constant", 3, 3)
        if "some" in parameters and number % 2:
            made.suggest_int("some", 1, 3)
        study.tell(made, height)
    pyplot.switch_backend("agg")
    before = matplotlib.rcParams.copy()
    drawn = list(optuna_pictures(study))
    assert [picture.key for picture in drawn] == keys
    assert all(ElementTree.fromstring(picture.data).tag.endswith("svg") for picture in drawn)
    assert matplotlib.rcParams == before and pyplot.get_fignums() == []
    if "lr+batch" in parameters and keys:
        assert drawn == list(optuna_pictures(study))


def test_a_search_is_drawn_net_by_net_with_bars_where_seeds_are_several() -> None:
    goals = Goal("holdout accuracy"), Goal("parameters", "minimize", accuracy=False)
    rows = [
        (0.90, 100, {}),
        (0.95, 200, {}),
        (0.94, 300, {}),
        (0.93, 200, {"point": 1, "seed_index": 1}),
    ]
    trials = []
    for number, (accuracy, size, attrs) in enumerate(rows):
        made = create_trial(values=[accuracy, size], user_attrs={"num_params": size} | attrs)
        made.number = number
        trials.append(made)
    study = StudySnapshot("s", "mnist", "holdout", goals, 2, trials)
    figure = study_figures(study, records=[KnownNet("mine", 150, 97.0)])[0]
    assert figure.key == "front" and figure.panels[0].log_x
    series = {line.name: line for line in figure.panels[0].series}
    assert series["nets (3)"].x == [100, 200, 300]
    assert series["nets (3)"].labels[1] == "trial 1, mean of 2 seeds"
    assert {"published", "records here"} <= set(series) and "confirmed, 95 %" not in series
    bars = series["front, 95 %"]  # of the line and the nets on it the latter
    assert (bars.x, bars.y) == ([100, 200], [90, 94])
    # the sum of squares that the study's noise adds to a point's own, its freedom to its own
    sd = np.std([95, 93], ddof=1)
    halves = [12.706 * sd, 4.3027 * sd / np.sqrt(2)]  # Student's t of 1 and of 2 of freedom
    assert bars.errors == [pytest.approx(half, rel=1e-4) for half in halves]
    drawn = json.loads(plotly_json(figure))["data"][-1]
    assert drawn["error_y"]["array"] == bars.errors
    assert svg(figure).startswith("<svg")


def test_confirmed_means_are_drawn_in_place_of_bars_of_the_search() -> None:
    goals = Goal("holdout accuracy"), Goal("parameters", "minimize", accuracy=False)
    trials = []
    for number, (accuracy, size) in enumerate([(0.60, 50), (0.95, 100), (0.98, 200), (0.99, 300)]):
        made = create_trial(values=[accuracy, size], user_attrs={"num_params": size})
        made.number = number
        trials.append(made)
    fresh = {3: Fresh(Spread((0.97, 0.98, 0.97, 0.98, 0.98)), Spread(()), 60)}
    study = StudySnapshot("s", "digits", "holdout", goals, 2, trials, fresh=fresh)
    figure = study_figures(study)[0]
    panel = figure.panels[0]
    line, nets = (series for series in panel.series if series.name == "confirmed, 95 %")
    assert line.step and not nets.line
    assert (nets.x, nets.y) == ([300], [pytest.approx(97.6)])
    assert nets.labels == ["trial 3, mean of 5 fresh seeds"]
    assert nets.errors == [pytest.approx(100 * (fresh[3].ours.interval[1] - 0.976))]
    assert "Confirmed: mean of 5 fresh seeds, 60 epochs." in figure.caption
    assert "1 net below what is shown." in figure.caption
    assert panel.y_range is not None and 60 < panel.y_range[0] < 95


def test_a_logarithmic_axis_has_round_numbers_and_a_phone_shorter_lines() -> None:
    panel = Panel("parameters", "accuracy (%)", [Series("nets", [230, 1936], [1, 2], "red")])
    assert round_numbers(panel, 9) == [300, 400, 500, 600, 800, 1000, 2000]
    assert round_numbers(panel, 5) == [300, 500, 700, 1000, 2000]
    close = Panel("parameters", "accuracy (%)", [Series("nets", [146, 238], [1, 2], "red")])
    assert round_numbers(close, 5) == [150, 200, 250]
    figure = Figure(
        "front", "Parameters against accuracy on mnist, nets: 13", "word " * 30, [panel]
    )
    lines = {
        phone: json.loads(plotly_json(figure, phone))["layout"]["title"]["text"].split("<br>")
        for phone in (False, True)
    }
    assert len(lines[False]) == 3 and len(lines[True]) == 5
    assert max(map(len, lines[True])) <= 54 + len("<sub></sub>")
