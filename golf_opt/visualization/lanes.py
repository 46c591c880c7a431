"""The figure of lanes over time, put together from when trials began and ended."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from optuna.trial import FrozenTrial, TrialState

from golf_opt.visualization.figures import BLUE, GREEN, GREY, ORANGE, Figure, Panel, Series
from golf_opt.visualization.snapshot import StudySnapshot

PAUSE = timedelta(minutes=10)  # longer, and the figure starts anew
COLOURS = {TrialState.COMPLETE: BLUE, TrialState.PRUNED: GREY, TrialState.FAIL: ORANGE}


class Span(NamedTuple):
    begin: datetime
    end: datetime
    trial: FrozenTrial

    @property
    def length_s(self) -> float:
        return (self.end - self.begin).total_seconds()


Lane = list[Span]


def lanes_over_time(study: StudySnapshot) -> Figure | None:
    """Which lane trained when: a bar a trial, and the fraction of the time that lanes were busy."""
    spans = _last_sitting(_spans(study.trials))
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
        "One bar a trial, from its start to its end; the last sitting only.",
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
    first, latest = 0, datetime.max - PAUSE
    for index, span in enumerate(spans):
        if span.begin > latest + PAUSE:
            first = index
        latest = span.end if index == 0 else max(latest, span.end)
    return spans[first:]


def _pack(spans: Sequence[Span]) -> list[Lane]:
    """Return the lanes: a trial goes to the first lane of its worker that is free."""
    lanes: list[Lane] = []
    for span in spans:
        for lane in lanes:
            if _worker(lane[0]) == _worker(span) and lane[-1].end <= span.begin:
                lane.append(span)
                break
        else:
            lanes.append([span])
    return lanes


def _worker(span: Span) -> str:
    return str(span.trial.user_attrs.get("worker"))


def _bars(state: TrialState, lanes: Sequence[Lane], sitting: Span, unit_s: float) -> Series:
    """Return the bars of all trials in one state, each a little short so that neighbours part."""
    x: list[float | None] = []
    y: list[float | None] = []
    labels: list[str] = []
    for row, lane in enumerate(lanes):
        gap_s = min(0.15, 0.02 * sitting.length_s / len(lane))
        for span in lane:
            if span.trial.state == state:
                from_s = (span.begin - sitting.begin).total_seconds()
                to_s = max(from_s, (span.end - sitting.begin).total_seconds() - gap_s)
                x += [from_s / unit_s, to_s / unit_s, None]
                y += [row, row, None]
                labels += [f"trial {span.trial.number}"] * 3
    return Series(state.name.lower(), x, y, COLOURS.get(state, GREEN), line=14.0, labels=labels)
