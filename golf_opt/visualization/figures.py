"""What a study looks like in figures, as plain data: plots.py draws them for a browser or on paper.

Nothing here is made while a study trains: the dashboard and the report make them of what the
storage holds when somebody looks, so they cost the study nothing and are never out of date.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from optuna.distributions import CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState

from golf_opt.utils.trials import best_trials
from golf_opt.visualization.published import PUBLISHED, SEED_SD, Published

# Okabe and Ito's palette, told apart by colour-blind readers too
BLUE, ORANGE, GREEN, PINK, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#888888"
PALETTE = (BLUE, ORANGE, GREEN, PINK, "#56B4E9", "#E69F00", "#000000")
MOST_CURVES = 500
PAUSE = timedelta(minutes=10)  # longer, and the lanes' figure starts anew
NOISE_SDS = 2.0  # wide is the band in which a trial cannot be told from the best


@dataclass(frozen=True)
class Series:
    """Points, or a line with gaps where y is None."""

    name: str
    x: Sequence[Any]
    y: Sequence[float | None]
    colour: str
    line: float = 0.0  # width in pixels; 0: points
    opacity: float = 1.0
    symbol: str = "circle"  # circle, square, diamond, star, x
    labels: Sequence[str] = ()  # of each point, told on hovering
    step: bool = False  # a line that goes sideways, then up


@dataclass(frozen=True)
class Panel:
    x_title: str
    y_title: str
    series: Sequence[Series]
    log_x: bool = False
    y_range: tuple[float, float] | None = None
    band: tuple[float, float] | None = None  # of y, shaded
    y_ticks: Sequence[tuple[float, str]] = ()


@dataclass(frozen=True)
class Figure:
    key: str  # letters and hyphens: the figure's id in a page
    title: str
    caption: str
    panels: Sequence[Panel]


@dataclass(frozen=True)
class StudyView:
    """One study as figures need it."""

    name: str
    data: str  # mnist, fashion, digits
    protocol: str
    objective: str  # test accuracy, holdout accuracy
    epochs: int
    trials: Sequence[FrozenTrial]

    @property
    def complete(self) -> list[FrozenTrial]:
        return [trial for trial in self.trials if trial.state == TrialState.COMPLETE]

    @property
    def best(self) -> FrozenTrial | None:
        return next(iter(best_trials(self.trials, 1)), None)

    @property
    def num_params(self) -> int | None:
        known = (trial.user_attrs.get("num_params") for trial in self.trials)
        return next((count for count in known if count), None)


def study_figures(
    study: StudyView, others: Sequence[StudyView] = (), records: Sequence[Published] = ()
) -> list[Figure]:
    """Return the figures of one study; others and records are in the one of all studies."""
    makers: tuple[Callable[[], Figure | None], ...] = (
        lambda: learning_curves(study),
        lambda: accuracy_by_parameter(study),
        lambda: parameters_and_accuracy([study, *others], records),
        lambda: lanes_over_time(study),
    )
    return [figure for make in makers if (figure := make()) is not None]


def learning_curves(study: StudyView) -> Figure | None:
    """Every trial's accuracy by epoch: the best in front, the pruned ones faint."""
    shown = _shown([trial for trial in study.trials if trial.intermediate_values], study.best)
    if not shown:
        return None
    groups = (
        ("pruned or failed", GREY, 1.0, 0.6, (TrialState.PRUNED, TrialState.FAIL)),
        ("complete", BLUE, 1.5, 0.5, (TrialState.COMPLETE,)),
        ("running", GREEN, 2.0, 0.9, (TrialState.RUNNING, TrialState.WAITING)),
    )
    series = []
    for name, colour, width, opacity, states in groups:
        trials = [t for t in shown if t.state in states and t is not study.best]
        if trials:
            series.append(_curves(f"{name} ({len(trials)})", trials, colour, width, opacity))
    best = study.best
    if best is not None and best.intermediate_values:
        series.append(_curves(f"best: trial {best.number}", [best], ORANGE, 3.0, 1.0))
    total = sum(1 for trial in study.trials if trial.intermediate_values)
    part = "" if len(shown) == total else f", the best and the newest {len(shown)} of {total:,}"
    ends = [100 * trial.intermediate_values[max(trial.intermediate_values)] for trial in shown]
    low, top = sorted(ends)[len(ends) // 5], max(ends)  # most lines end within, the best apart
    margin = max(0.05 * (top - low), 0.1)
    span = max(low, top - 10.0) - margin, min(100.0, top + margin)
    panel = Panel("epoch", f"{study.objective} (%)", series, y_range=span)
    return Figure(
        "learning-curves",
        f"Learning curves of {len(shown):,} trials{part}",
        "One line a trial, one seed each.",
        [panel],
    )


def accuracy_by_parameter(study: StudyView) -> Figure | None:
    """The objective of complete trials against each tuned parameter, and the noise of seeds."""
    complete, best = study.complete, study.best
    names = list(dict.fromkeys(name for trial in complete for name in trial.distributions))
    if best is None or len(complete) < 2 or not names:
        return None
    sd, source = seed_noise(study)
    top = 100 * _value(best)
    band = (top - 100 * NOISE_SDS * sd, top) if sd is not None else None
    panels = []
    for name in names:
        trials = [trial for trial in complete if name in trial.params and trial is not best]
        distribution = next(t.distributions[name] for t in complete if name in t.distributions)
        values = [trial.params[name] for trial in trials]
        if isinstance(distribution, CategoricalDistribution):
            values = [str(value) for value in values]
        points = [100 * _value(trial) for trial in trials]
        labels = [f"trial {trial.number}" for trial in trials]
        series = [Series("complete trials", values, points, BLUE, opacity=0.6, labels=labels)]
        if name in best.params:
            at: Any = best.params[name]
            at = str(at) if isinstance(distribution, CategoricalDistribution) else at
            label = f"best: trial {best.number}"
            series.append(Series(label, [at], [top], ORANGE, symbol="star", labels=[label]))
        panels.append(
            Panel(
                name,
                f"{study.objective} (%)",
                series,
                log_x=bool(getattr(distribution, "log", False)),
                y_range=_upper_part([*points, top]),
                band=band,
            )
        )
    words = f"Shaded: {NOISE_SDS:g} sd of seed noise below the best ({source})." if band else source
    return Figure(
        "accuracy-by-parameter",
        f"Accuracy against each parameter, n = {len(complete):,} complete trials",
        words,
        panels,
    )


def seed_noise(study: StudyView) -> tuple[float | None, str]:
    """Return the standard deviation of the objective among seeds, a share, and where it is from.

    Trials that were given the same parameters tell it. Without them it is what was measured once
    on c4-5-4, where that is the same task; otherwise None.
    """
    repeats: dict[tuple[Any, ...], list[float]] = defaultdict(list)
    for trial in study.complete:
        repeats[tuple(trial.params.items())].append(_value(trial))
    groups = [values for values in repeats.values() if len(values) > 1]
    freedom = sum(len(values) - 1 for values in groups)
    if freedom >= 4:
        squares = sum(statistics.variance(values) * (len(values) - 1) for values in groups)
        count = sum(map(len, groups))
        sd = math.sqrt(squares / freedom)
        return sd, f"sd {100 * sd:.2f} points, measured on {count} trials with equal parameters"
    if study.data == "mnist":
        return SEED_SD, f"sd {100 * SEED_SD:.2f} points, 24 seeds of c4-5-4 on MNIST, 18 epochs"
    return None, "The noise of seeds is not known here; repeat a point with other seeds to see it."


def not_told_apart(study: StudyView) -> int:
    """Return how many complete trials, the best among them, lie within the noise of the best."""
    sd, best = seed_noise(study)[0], study.best
    if sd is None or best is None:
        return 0
    return sum(_value(trial) >= _value(best) - NOISE_SDS * sd for trial in study.complete)


def parameters_and_accuracy(
    studies: Sequence[StudyView], records: Sequence[Published] = ()
) -> Figure | None:
    """Each study's best against its number of parameters, on one data set; what others published.

    The line is the front: no study here has both fewer parameters and a higher accuracy.
    """
    first = studies[0]
    rows = sorted(
        (
            _Point(study.num_params, 100 * _value(study.best), study)
            for study in studies
            if study.best is not None and study.num_params and study.data == first.data
        ),
        key=lambda point: (point.count, -point.accuracy),
    )
    if not rows:
        return None
    front: list[_Point] = []
    for point in rows:
        if not front or point.accuracy > front[-1].accuracy:
            front.append(point)
    mine = [point for point in rows if point.study is first]
    others = [point for point in rows if point.study is not first]
    steps = [point.count for point in front], [point.accuracy for point in front]
    series = [Series("front of the studies", *steps, BLUE, line=2.0, step=True)]
    if others:
        series.append(_points("best of other studies", others, BLUE, "circle"))
    if first.data == "mnist":
        dense = [point for point in PUBLISHED if not point.pruned]
        pruned = [point for point in PUBLISHED if point.pruned]
        series.append(_points("published", dense, GREY, "square"))
        series.append(_points("published, pruned: non-zero", pruned, PINK, "diamond"))
        if records:
            series.append(_points("records kept here: non-zero", records, GREEN, "diamond"))
    if mine:
        series.append(_points("best of this study", mine, ORANGE, "star"))
    best = max(point.accuracy for point in rows)
    low = min(point.accuracy for point in rows)
    panel = Panel(
        "parameters",
        "accuracy (%)",
        series,
        log_x=True,
        y_range=(max(low, best - 10.0) - 0.5, min(100.0, max(best, 99.2) + 0.3)),
    )
    return Figure(
        "parameters-and-accuracy",
        f"Parameters against accuracy on {first.data}, {len(rows)} stud{_y(len(rows))}",
        "The best trial of each study, n = 1 seed: the luck of many trials is in it. "
        "Squares and diamonds: what others published, and records.",
        [panel],
    )


def best_so_far(studies: Sequence[StudyView]) -> Figure:
    """The best objective after so many finished trials, a line a study."""
    series = []
    for index, study in enumerate(studies):
        best, heights = 0.0, []
        finished = [trial for trial in study.trials if trial.state.is_finished()]
        for trial in finished:
            if trial.state == TrialState.COMPLETE:
                best = max(best, 100 * _value(trial))
            heights.append(best or None)
        colour = PALETTE[index % len(PALETTE)]
        line = list(range(1, len(finished) + 1))
        series.append(Series(study.name, line, heights, colour, line=2.5, step=True))
    ends = [height for line in series for height in line.y if height is not None]
    panel = Panel("finished trials", "best so far (%)", series, y_range=_upper_part(ends))
    return Figure("best-so-far", "Best so far", "One seed a trial.", [panel])


def lanes_over_time(study: StudyView) -> Figure | None:
    """Which lane trained when: a bar a trial, and the share of the time that lanes were busy."""
    spans = _last_sitting(
        [
            (trial.datetime_start, trial.datetime_complete or datetime.now(), trial)
            for trial in study.trials
            if trial.datetime_start is not None
            and (trial.datetime_complete is not None or trial.state == TrialState.RUNNING)
        ]
    )
    if not spans:
        return None
    start = min(begin for begin, _, _ in spans)
    length_s = max((end - start).total_seconds() for _, end, _ in spans)
    unit, unit_s = ("minutes", 60.0) if length_s > 300 else ("seconds", 1.0)
    lanes = _pack(spans)
    colours = {TrialState.COMPLETE: BLUE, TrialState.PRUNED: GREY, TrialState.FAIL: ORANGE}
    groups: dict[str, tuple[str, list[float | None], list[float | None], list[str]]] = {}
    busy_s = 0.0
    for row, (_, lane) in enumerate(lanes):
        for begin, end, trial in lane:
            name = trial.state.name.lower()
            group = groups.setdefault(name, (colours.get(trial.state, GREEN), [], [], []))
            from_s, to_s = (begin - start).total_seconds(), (end - start).total_seconds()
            busy_s += to_s - from_s
            gap = min(0.15, 0.02 * length_s / max(1, len(lane)))  # so that neighbours stay apart
            group[1].extend([from_s / unit_s, max(from_s, to_s - gap) / unit_s, None])
            group[2].extend([row, row, None])
            group[3].extend([f"trial {trial.number}"] * 3)
    series = [
        Series(name, x, y, colour, line=14.0, labels=labels)
        for name, (colour, x, y, labels) in groups.items()
    ]
    share = busy_s / (len(lanes) * length_s) if length_s else 1.0
    workers = len({worker for worker, _ in lanes})
    where = "" if workers == 1 else f" of {workers} workers"
    ticks = [(float(row), f"{row}") for row in range(len(lanes))]
    panel = Panel(
        f"{unit} since {start:%Y-%m-%d %H:%M}",
        "lane",
        series,
        y_ticks=ticks,
        y_range=(-0.6, len(lanes) - 0.4),
    )
    return Figure(
        "lanes-over-time",
        f"Lanes over time: {len(lanes)}{where}, busy {100 * share:.0f} % of it",
        "One bar a trial, from its start to its end; the last sitting only.",
        [panel],
    )


@dataclass(frozen=True)
class _Point:
    """The best trial of a study."""

    count: int
    accuracy: float
    study: StudyView

    @property
    def label(self) -> str:
        return f"{self.study.name}: {self.study.objective}, {self.study.epochs} epochs"


def _points(name: str, points: Sequence[_Point | Published], colour: str, symbol: str) -> Series:
    return Series(
        name,
        [point.count for point in points],
        [point.accuracy for point in points],
        colour,
        symbol=symbol,
        labels=[point.label for point in points],
    )


def _y(count: int) -> str:
    return "y" if count == 1 else "ies"


Span = tuple[datetime, datetime, FrozenTrial]


def _last_sitting(spans: list[Span]) -> list[Span]:
    """Return the spans after the last pause of more than ten minutes."""
    spans.sort(key=lambda span: span[0])
    begin, latest = 0, None
    for index, (start, end, _) in enumerate(spans):
        if latest is not None and start - latest > PAUSE:
            begin = index
        latest = end if latest is None else max(latest, end)
    return spans[begin:]


def _pack(spans: Sequence[Span]) -> list[tuple[str, list[Span]]]:
    """Return lanes with their worker: a trial goes to the first lane of its worker that is free."""
    lanes: list[tuple[str, list[Span]]] = []
    for span in spans:
        name = str(span[2].user_attrs.get("worker"))
        for owner, lane in lanes:
            if owner == name and lane[-1][1] <= span[0]:
                lane.append(span)
                break
        else:
            lanes.append((name, [span]))
    return lanes


def _shown(trials: list[FrozenTrial], best: FrozenTrial | None) -> list[FrozenTrial]:
    newest = trials[-MOST_CURVES:]
    return newest if best is None or best in newest else [best, *newest[1:]]


def _curves(
    name: str, trials: Sequence[FrozenTrial], colour: str, width: float, opacity: float
) -> Series:
    """One line for all of them, with a gap between two trials."""
    x: list[float | None] = []
    y: list[float | None] = []
    labels: list[str] = []
    for trial in trials:
        for epoch, accuracy in sorted(trial.intermediate_values.items()):
            x.append(epoch)
            y.append(100 * accuracy if math.isfinite(accuracy) else None)
        x.append(None)
        y.append(None)
        labels += [f"trial {trial.number}"] * (len(trial.intermediate_values) + 1)
    return Series(name, x, y, colour, width, opacity, labels=labels)


def _upper_part(percents: Sequence[float]) -> tuple[float, float]:
    """Return a range of accuracies that shows the best half well; the worst may be below it."""
    finite = [value for value in percents if math.isfinite(value)]
    if not finite:
        return 0.0, 100.0
    top, middle = max(finite), statistics.median(finite)
    low = max(min(finite), top - max(2.5 * (top - middle), 1.0))
    margin = max(0.05 * (top - low), 0.1)
    return low - margin, min(100.0, top + 2 * margin)


def _value(trial: FrozenTrial | None) -> float:
    return (trial.value if trial is not None else None) or 0.0
