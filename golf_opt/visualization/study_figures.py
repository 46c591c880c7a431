"""The figures of studies: learning curves, accuracy by parameter, best so far, lanes.

Nothing here is made while a study trains: the dashboard and the report make them of what the
storage holds when somebody looks, so they cost the study nothing and are never out of date.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from functools import partial
from heapq import heappop, heappush
from typing import NamedTuple

from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState

from golf_opt.task.goals import Goal
from golf_opt.visualization.plots import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PALETTE,
    PINK,
    Figure,
    Panel,
    Series,
)
from golf_opt.visualization.size_and_accuracy import (
    KnownNet,
    front_of_nets,
    parameters_and_accuracy,
)
from golf_opt.visualization.snapshot import (
    NOISE_SDS,
    StudySnapshot,
    seed_noise,
    value_of,
    values_by_epoch,
)

MOST_CURVES, MOST_BARS = 500, 5000
PAUSE = timedelta(minutes=10)  # longer, and the figure starts anew
COLOURS = {TrialState.COMPLETE: BLUE, TrialState.PRUNED: GREY, TrialState.FAIL: ORANGE}
Part = tuple[FrozenTrial, Sequence[float], Sequence[float | None]]  # of a line: x and y of a trial


def study_figures(
    study: StudySnapshot, others: Sequence[StudySnapshot] = (), records: Sequence[KnownNet] = ()
) -> list[Figure]:
    """Return the figures of one study; others and records are in the one of all studies."""
    figures = (
        front_of_nets(study, records) or front(study),
        learning_curves(study),
        value_by_parameter(study),
        parameters_and_accuracy([study, *others], records),
        lanes_over_time(study),
    )
    return [figure for figure in figures if figure is not None]


def learning_curves(study: StudySnapshot) -> Figure | None:
    """Every trial's values by epoch: the best in front, the pruned ones faint."""
    goal, curve = study.goal, partial(_curve, goal=study.goal)
    curves = [trial for trial in study.trials if _reached(trial, goal) is not None]
    shown = _shown(curves, study.best)
    if not shown:
        return None
    groups = (
        ("pruned or failed", GREY, 1.0, 0.6, (TrialState.PRUNED, TrialState.FAIL)),
        ("complete", BLUE, 1.5, 0.5, (TrialState.COMPLETE,)),
        ("paused or waiting", PINK, 1.0, 0.6, (TrialState.WAITING,)),
        ("running", GREEN, 2.0, 0.9, (TrialState.RUNNING,)),
    )
    series = []
    for name, colour, width, opacity, states in groups:
        trials = [t for t in shown if t.state in states and t is not study.best]
        if trials:
            series.append(
                _broken_line(f"{name} ({len(trials)})", map(curve, trials), colour, width, opacity)
            )
    best = study.best
    if best is not None and best in shown:
        series.append(_broken_line(f"best: trial {best.number}", [curve(best)], ORANGE, 3.0))
    total = len(curves)
    part = "" if len(shown) == total else f", the best and the newest {len(shown)} of {total:,}"
    ends = [end for trial in shown if (end := _reached(trial, goal)) is not None]
    panel = Panel("epoch", goal.axis, series, y_range=_where_lines_end(ends, goal))
    return Figure(
        "learning-curves",
        f"Learning curves of {len(shown):,} trials{part}",
        "One line a trial, one seed each.",
        [panel],
    )


def _where_lines_end(ends: Sequence[float], goal: Goal) -> tuple[float, float]:
    """Return a range in which most lines end, the best apart."""
    signed = sorted(goal.sign * end for end in ends)
    low, top = signed[len(signed) // 5], signed[-1]
    margin = max(0.05 * (top - low), 0.1 if goal.accuracy else 1e-9 + 1e-3 * abs(top))
    if goal.accuracy:
        return max(low, top - 10.0) - margin, min(100.0, top + margin)
    span = goal.sign * (low - margin), goal.sign * (top + margin)
    return min(span), max(span)


def value_by_parameter(study: StudySnapshot) -> Figure | None:
    """The objective of complete trials against each tuned parameter, and the noise of seeds."""
    complete, best = study.complete, study.best
    distributions = {k: v for trial in reversed(complete) for k, v in trial.distributions.items()}
    names = list(dict.fromkeys(name for trial in complete for name in trial.distributions))
    if best is None or len(complete) < 2 or not names:
        return None
    sd, source = seed_noise(study)
    goal = study.goal
    top = goal.scaled(value_of(best))
    band = (top - goal.scaled(goal.sign * NOISE_SDS * sd), top) if sd is not None else None
    words = f"Shaded: {NOISE_SDS:g} sd of seed noise below the best ({source})." if band else source
    what = "Accuracy" if goal.accuracy else goal.name
    return Figure(
        "accuracy-by-parameter",
        f"{what} against each parameter, n = {len(complete):,} complete trials",
        words,
        [_against(name, distributions[name], study, best, band) for name in names],
    )


def _against(
    name: str,
    distribution: BaseDistribution,
    study: StudySnapshot,
    best: FrozenTrial,
    band: tuple[float, float] | None,
) -> Panel:
    """The objective against one parameter; the best trial is a star."""
    show = str if isinstance(distribution, CategoricalDistribution) else lambda value: value
    trials = [t for t in study.complete if name in t.params and t is not best]
    scaled = study.goal.scaled
    points, top = [scaled(value_of(trial)) for trial in trials], scaled(value_of(best))
    values = [show(trial.params[name]) for trial in trials]
    labels = [f"trial {trial.number}" for trial in trials]
    series = [Series("complete trials", values, points, BLUE, opacity=0.6, labels=labels)]
    if name in best.params:
        label = f"best: trial {best.number}"
        at = [show(best.params[name])]
        series.append(Series(label, at, [top], ORANGE, symbol="star", labels=[label]))
    return Panel(
        name,
        study.goal.axis,
        series,
        log_x=bool(getattr(distribution, "log", False)),
        y_range=_better_part([*points, top], study.goal),
        band=band,
    )


def best_so_far(studies: Sequence[StudySnapshot]) -> Figure:
    """The best objective after so many finished trials, a line a study."""
    series = []
    for index, study in enumerate(studies):
        goal, complete, heights = study.goal, set(map(id, study.complete)), []
        best: float | None = None
        finished = [trial for trial in study.trials if trial.state.is_finished()]
        for trial in finished:
            if id(trial) in complete:
                value = goal.scaled(value_of(trial))
                better = max if goal.sign > 0 else min
                best = value if best is None else better(best, value)
            heights.append(best)
        colour = PALETTE[index % len(PALETTE)]
        line = list(range(1, len(finished) + 1))
        series.append(Series(study.name, line, heights, colour, line=2.5, step=True))
    ends = [height for line in series for height in line.y if height is not None]
    goal = studies[0].goal
    title = "best so far (%)" if goal.accuracy else f"best {goal.name} so far"
    panel = Panel("finished trials", title, series, y_range=_better_part(ends, goal))
    return Figure("best-so-far", "Best so far", "One seed a trial.", [panel])


def _shown(trials: list[FrozenTrial], best: FrozenTrial | None) -> list[FrozenTrial]:
    newest = trials[-MOST_CURVES:]
    return newest if best not in trials or best in newest else [best, *newest[1:]]


def front(study: StudySnapshot) -> Figure | None:
    """Two goals against each other: the complete trials, and the front of those none beats."""
    if len(study.goals) < 2 or not study.front:
        return None
    across, up = study.goals[:2]
    first = set(map(id, study.front))
    groups = (
        ("complete trials", [t for t in study.complete if id(t) not in first], BLUE, 0.5),
        (f"front ({len(study.front)})", study.front, ORANGE, 1.0),
    )
    series = [
        Series(
            name,
            [across.scaled(trial.values[0]) for trial in trials],
            [up.scaled(trial.values[1]) for trial in trials],
            colour,
            opacity=opacity,
            labels=[f"trial {trial.number}" for trial in trials],
        )
        for name, trials, colour, opacity in groups
        if trials
    ]
    return Figure(
        "front",
        f"{up.name} against {across.name}, n = {len(study.complete):,} complete trials",
        f"No trial beats one of the front in {'both' if len(study.goals) == 2 else 'every one'}.",
        [Panel(across.axis, up.axis, series)],
    )


def _reached(trial: FrozenTrial, goal: Goal) -> float | None:
    """Return the last value that a trial reported, scaled; None where it reported none."""
    known = [value for value in values_by_epoch(trial, goal).values() if value is not None]
    return goal.scaled(known[-1]) if known else None


def _curve(trial: FrozenTrial, goal: Goal) -> Part:
    epochs, values = zip(*values_by_epoch(trial, goal).items(), strict=True)
    return trial, epochs, [None if value is None else goal.scaled(value) for value in values]


def _broken_line(
    name: str, parts: Iterable[Part], colour: str, width: float, opacity: float = 1.0
) -> Series:
    """Return one line for all parts, with a gap after each."""
    x: list[float | None] = []
    y: list[float | None] = []
    labels: list[str] = []
    for trial, across, up in parts:
        x += [*across, None]
        y += [*up, None]
        labels += [f"trial {trial.number}"] * (len(across) + 1)
    return Series(name, x, y, colour, width, opacity, labels=labels)


def _better_part(values: Sequence[float], goal: Goal) -> tuple[float, float]:
    """Return a range of scaled values that shows the best half well; the worst may be beyond it."""
    finite = [goal.sign * value for value in values if math.isfinite(value)]
    if not finite:
        return 0.0, 100.0
    top, middle = max(finite), statistics.median(finite)
    least = (1.0, 0.1) if goal.accuracy else (1e-9, 1e-9 + 1e-3 * abs(top))
    low = max(min(finite), top - max(2.5 * (top - middle), least[0]))
    margin = max(0.05 * (top - low), least[1])
    high = min(100.0, top + 2 * margin) if goal.accuracy else top + 2 * margin
    span = goal.sign * (low - margin), goal.sign * high
    return min(span), max(span)


class Span(NamedTuple):
    begin: datetime
    end: datetime
    trial: FrozenTrial

    @property
    def length_s(self) -> float:
        return (self.end - self.begin).total_seconds()


def lanes_over_time(study: StudySnapshot) -> Figure | None:
    """Which lane trained when: a bar a trial, and the fraction of the time that lanes were busy."""
    spans = _last_sitting(_spans(study.trials))
    which, spans = f", its last {MOST_BARS:,} trials" * (len(spans) > MOST_BARS), spans[-MOST_BARS:]
    if not spans:
        return None
    sitting = Span(spans[0].begin, max(span.end for span in spans), spans[0].trial)
    unit, unit_s = ("minutes", 60.0) if sitting.length_s > 300 else ("seconds", 1.0)
    lanes = _pack(spans)
    states = dict.fromkeys(span.trial.state for lane in lanes for span in lane)
    busy_s = sum(span.length_s for span in spans)
    fraction = busy_s / (len(lanes) * sitting.length_s) if sitting.length_s else 1.0
    workers = len({_worker(lane[0]) for lane in lanes})
    where = "" if workers == 1 else f" of {workers} workers"
    panel = Panel(
        f"{unit} since {sitting.begin:%Y-%m-%d %H:%M}",
        "lane",
        [_bars(state, lanes, sitting, unit_s) for state in states],
        y_ticks=[(float(row), f"{row}") for row in range(len(lanes))],
        y_range=(-0.6, len(lanes) - 0.4),
    )
    return Figure(
        "lanes-over-time",
        f"Lanes over time: {len(lanes)}{where}, busy {100 * fraction:.0f} % of it",
        f"One bar a trial, from its start to its end; the last sitting only{which}.",
        [panel],
    )


def _spans(trials: Sequence[FrozenTrial]) -> list[Span]:
    """Return when trials ran, the first to begin first; a running one ends now."""
    spans = [
        Span(trial.datetime_start, trial.datetime_complete or datetime.now(), trial)
        for trial in trials
        if trial.datetime_start is not None
        and (trial.datetime_complete is not None or trial.state == TrialState.RUNNING)
    ]
    return sorted(spans, key=lambda span: span.begin)


def _last_sitting(spans: Sequence[Span]) -> Sequence[Span]:
    """Return the spans after the last pause of more than ten minutes."""
    first, latest = 0, datetime.max
    for index, span in enumerate(spans):
        if span.begin - latest > PAUSE:
            first = index
        latest = span.end if index == 0 else max(latest, span.end)
    return spans[first:]


def _pack(spans: Sequence[Span]) -> list[list[Span]]:
    """Return the lanes: a trial goes to the first lane of its worker that is free."""
    lanes: list[list[Span]] = []
    busy: dict[str, list[tuple[datetime, int]]] = defaultdict(list)  # heaps, by worker
    free: dict[str, list[int]] = defaultdict(list)
    for span in spans:
        ends, idle = busy[_worker(span)], free[_worker(span)]
        while ends and ends[0][0] <= span.begin:
            heappush(idle, heappop(ends)[1])
        if not idle:
            idle.append(len(lanes))
            lanes.append([])
        lane = heappop(idle)
        lanes[lane].append(span)
        heappush(ends, (span.end, lane))
    return lanes


def _worker(span: Span) -> str:
    return str(span.trial.user_attrs.get("worker"))


def _bars(state: TrialState, lanes: Sequence[list[Span]], sitting: Span, unit_s: float) -> Series:
    """Return the bars of all trials in one state, each a little short so that neighbours part."""
    parts: list[Part] = []
    for row, lane in enumerate(lanes):
        gap_s = min(0.15, 0.02 * sitting.length_s / len(lane))
        for span in lane:
            if span.trial.state == state:
                from_s = (span.begin - sitting.begin).total_seconds()
                to_s = max(from_s, (span.end - sitting.begin).total_seconds() - gap_s)
                parts.append((span.trial, (from_s / unit_s, to_s / unit_s), (row, row)))
    return _broken_line(state.name.lower(), parts, COLOURS.get(state, GREEN), 14.0)
