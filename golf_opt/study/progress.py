"""The terminal: a live table of lanes and trials, or plain lines where there is no terminal."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Literal

from optuna.trial import FrozenTrial, Trial, TrialState
from rich.console import Console
from rich.text import Text

from golf_opt.engines.base import EpochResult, Slice
from golf_opt.storage.studies import num_finished
from golf_opt.study.callbacks import Callback, TrialRun
from golf_opt.task.goals import show_values
from golf_opt.utils.live import LiveLines, may_move
from golf_opt.utils.pace import Pace
from golf_opt.utils.points import best_trial
from golf_opt.utils.text import count, show_duration, show_params
from golf_opt.utils.trials import counts

Mode = Literal["auto", "live", "plain", "quiet"]
MOST = 1e9  # of a value that a bar stands for; the difference of two is a number, too
BARS = "▁▂▃▄▅▆▇█"
REFRESH_PER_S = 4
PLAIN_LINE_EVERY_S = 10.0  # in a long trial; every finished trial has a line anyway
HEAD = ("lane", "trial", "  epoch", "accuracy", "parameters")
WORDS = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}


class Progress(Callback):
    """Shows what every lane does, the best so far and the time left.

    Args:
        mode: `auto` (live in a terminal), `live`, `plain` or `quiet`.
    """

    def __init__(self, mode: Mode = "auto", console: Console | None = None) -> None:
        self._console = console or Console(highlight=False)
        self._mode = mode
        self._live: LiveLines | None = None
        self._runs: dict[int, TrialRun] = {}
        self._said = 0.0  # when the last plain line was printed
        self._best: FrozenTrial | None = None
        self._heights: list[float] = []  # the best so far, after each complete trial
        self._tally: dict[str, int] = {}
        self._finished = 0
        self._pace = Pace(1 / REFRESH_PER_S)  # of counting these
        self._epochs_done = 0.0  # in this session, fractions included
        self._epochs_saved = 0.0  # by pruning
        self._trials_ended = 0
        self._paused = 0
        self._started = time.monotonic()

    def on_study_start(self) -> None:
        self._started = time.monotonic()
        if self._mode == "auto":
            self._mode = "live" if may_move(self._console, self.context.say) else "plain"
        self._count()
        for trial in self.context.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
            self._climb(trial.values)
        if self._mode == "live":
            self._live = LiveLines(self._lines, self._console, REFRESH_PER_S)
            self._live.start()

    def on_trial_start(self, run: TrialRun) -> None:
        self._runs[run.lane] = run

    def on_slice(self, run: TrialRun, done: Slice) -> None:
        self._epochs_done += max(0.0, done.epoch - 1 + done.progress - run.epochs_done)
        long_ago = time.monotonic() - self._said > PLAIN_LINE_EVERY_S
        if self._mode == "plain" and done.result and done.epoch < run.job.epochs and long_ago:
            self._say(f"{self._head(run, done.epoch)}  {self._show(done.result):>8}")

    def on_trial_end(self, run: TrialRun, state: TrialState) -> None:
        self._trials_ended += 1
        if state == TrialState.COMPLETE:
            self._climb(run.history[-1].values)
        self._epochs_saved += run.job.epochs - len(run.history)
        if self._mode in ("plain", "live"):
            last = self._show(run.history[-1]) if run.history else "-"
            line = f"{self._head(run, len(run.history))}  {last:>8}  {WORDS[state]:<8}"
            self._say(f"{line}  {self._what(run.trial)}")
            if state == TrialState.FAIL:
                self._say(f"trial {run.number:>4}  {run.trial.user_attrs['fail_reason']}")

    def on_pause(self, run: TrialRun) -> None:
        self._paused += 1
        self._runs.pop(run.lane, None)

    def on_trial_finished(self, run: TrialRun) -> None:
        if self._runs.get(run.lane) is run:
            del self._runs[run.lane]
        if self._live is not None and self._pace.is_due:
            self._count()  # of all trials: not for each of the many that end between two looks

    def on_study_end(self) -> None:
        if self._live is not None:
            self._count()
            self._live.stop()
            self._live = None

    def _say(self, line: str) -> None:
        self._said = time.monotonic()
        if self._live is None:
            self.context.say(line)
        else:
            self._console.print(Text(line), soft_wrap=True)

    def _what(self, trial: Trial | FrozenTrial) -> str:
        """Return a trial's parameters; of a family they are more than a line holds: the size."""
        if self.context.description.nets is None:
            return show_params(trial.params)
        return count(trial.user_attrs.get("num_params", 0), "parameter")

    def _head(self, run: TrialRun, epoch: int) -> str:
        return f"trial {run.number:>4}  epoch {epoch:>3}/{run.job.epochs}"

    def _count(self) -> None:
        study = self.context.study
        with self._pace:
            self._finished = num_finished(study)
            self._tally = counts(study)
            self._best = best_trial(study, self.context.description.by_seed.worth)

    def _climb(self, values: Sequence[float]) -> None:
        """Note the best value so far, if there is such a thing."""
        goals = self.context.description.goals
        if len(goals) == 1:
            best = max if goals[0].sign > 0 else min
            self._heights.append(best([values[0], *self._heights[-1:]]))

    def _show(self, result: EpochResult) -> str:
        goals = self.context.description.goals[: len(result.values)]  # not what a net's size is
        return show_values(goals, result.values)

    def _lines(self) -> list[Text]:
        """Return what the terminal shows of this moment."""
        goals = self.context.description.goals
        rows = [HEAD if goals[0].accuracy else (*HEAD[:3], goals[0].name, HEAD[4])]
        if len(goals) > 1:
            rows = [(*HEAD[:3], "values", HEAD[4])]
        for lane, run in sorted(self._runs.items()):
            value = self._show(run.history[-1]) if run.history else "-"
            epochs = f"{run.epochs_done:.1f}/{run.job.epochs}"
            params = self._what(run.trial)
            rows.append((str(lane), str(run.number), epochs, value, params))
        widths = [max(map(len, column)) for column in list(zip(*rows, strict=True))[:4]]
        lines = [Text(words) for words in self._status()]
        for *cells, params in rows:
            aligned = [cell.rjust(width) for cell, width in zip(cells, widths, strict=True)]
            lines.append(Text("  ".join([*aligned, params]).rstrip()))
        for bold in (lines[0], lines[len(lines) - len(rows)]):
            bold.stylize("bold")
        return lines

    def _status(self) -> list[str]:
        """Return what stands above the table: how far the study is, and the best so far."""
        elapsed_min = (time.monotonic() - self._started) / 60
        rate = f"{self._trials_ended / elapsed_min:.1f}/min" if self._trials_ended else "-/min"
        pruned = self._tally.get("pruned", 0) / max(1, self._finished)
        total = self.context.description.trials
        of_total = "" if total is None else f"/{total}"
        first = (
            f"{self._finished}{of_total} trials  {rate}  "
            f"pruned {100 * pruned:.0f} %  {self._time_left()}"
        )
        best = self._best
        if len(self.context.description.goals) > 1:
            return [first, f"front of {count(self._tally.get('complete', 0), 'complete trial')}"]
        if best is None or best.value is None:
            return [first, "best: none yet"]
        shown = show_values(self.context.description.goals, best.values)
        line = f"{sparkline(self._heights)}  " if self._console.encoding.startswith("utf") else ""
        return [
            first,
            f"best {shown}  {line}trial {best.number}  {self._what(best)}",
        ]

    def _time_left(self) -> str:
        """Return what is left of the budget, or an estimate by this session's epochs a second."""
        total = self.context.description.trials
        if (left := self.context.limits.words_left(self.context.study)) is not None:
            return left
        if total is None:
            return "without end"
        elapsed_s = time.monotonic() - self._started
        if self._epochs_done < 0.5:
            return "time left unknown"
        epochs = float(self.context.description.epochs)
        if self._trials_ended:
            epochs = max(1.0, epochs - self._epochs_saved / self._trials_ended)
        under_way = sum(run.epochs_done for run in self._runs.values())
        ahead = (total - self._finished) * epochs - under_way
        return f"{show_duration(max(0.0, ahead) * elapsed_s / self._epochs_done)} left"


def sparkline(values: Sequence[float], width: int = 16) -> str:
    """Return the values as a row of bars, evenly picked where there are more than fit."""
    finite = [max(-MOST, min(value, MOST)) for value in values if math.isfinite(value)]
    if not finite:
        return ""
    count = min(width, len(finite))
    picked = [finite[(i + 1) * len(finite) // count - 1] for i in range(count)]
    low, high = min(picked), max(picked)
    steps = [round((value - low) / (high - low) * 7) if high > low else 7 for value in picked]
    return "".join(BARS[step] for step in steps)
