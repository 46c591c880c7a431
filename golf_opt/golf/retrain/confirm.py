"""Retraining the best trials of a study on fresh seeds: what is the tuned value worth?

The best of many trials is lucky as well as good. Its mean on seeds that had no part in choosing it
is what the recipe gives; what is missing from the tuned value is the winner's curse.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import optuna
from optuna.trial import FrozenTrial
from rich.console import Console
from rich.table import Table

from golf_opt.config.command import again
from golf_opt.config.errors import UsageError
from golf_opt.config.schema import ConfirmConfig
from golf_opt.engines import create_engine
from golf_opt.engines.lanes import Run, train
from golf_opt.golf.confirmations import kept_results
from golf_opt.golf.progress import TrainingProgress
from golf_opt.golf.source import find_net_study, require_net, study_view
from golf_opt.storage.connect import opened_storage
from golf_opt.storage.studies import CONFIRMED, mark
from golf_opt.study.description import description_of
from golf_opt.study.note import add_section
from golf_opt.task import rng
from golf_opt.task.data import View
from golf_opt.task.modules.resolve import provide
from golf_opt.utils.signals import stop_on_signals
from golf_opt.utils.stats import ENOUGH, Spread, points
from golf_opt.utils.text import count, markdown_table
from golf_opt.utils.trials import attribute, best_trials

Say = Callable[[str], None]
Key = tuple[int, int]  # trial number, seed


@dataclass(frozen=True)
class Confirmed:
    """A trial's tuned value, and what fresh seeds gave."""

    number: int
    tuned: float
    ours: Spread
    train: Spread

    @property
    def gap(self) -> float:
        """The winner's curse: tuned value minus confirmed mean."""
        return self.tuned - self.ours.mean


@dataclass(frozen=True)
class Confirmation:
    """What a confirmation came to: a row for each trial, on which images, and what ended it."""

    rows: list[Confirmed]
    split: str
    signal: int | None


def confirm(config: ConfirmConfig, say: Say) -> int | None:
    """Run `golf-opt confirm`; return the signal that ended it early, if one did.

    Raises:
        UsageError: there is no such study, it has no complete trial, or the data is not its own.
    """
    with opened_storage(config.storage) as storage:
        study = find_net_study(storage, config.study)
        config = replace(config, study=study.study_name)  # it may have been given in short
        done = confirm_study(study, config, say)
    Console(highlight=False).print(show(done.rows, config, done.split))
    for line in closing(done.rows, config, done.signal):
        say(line)
    return done.signal


def confirm_study(study: optuna.Study, config: ConfirmConfig, say: Say) -> Confirmation:
    """Train what is missing, and put the table into the study's note.

    Raises:
        UsageError: as `confirm`.
    """
    require_net(study)
    trials = complete_trials(study, config.top)
    provide(config.arch, description_of(study).one_net, f"study {config.study!r}")
    view = study_view(study, config.data)
    signal = run_missing(config, study, trials, view, say)
    rows = confirmed_rows(study, trials)
    add_section(study, "Confirmed on fresh seeds", in_markdown(study, config.target))
    return Confirmation(rows, view.objective.name, signal)


def complete_trials(study: optuna.Study, top: int | None = None) -> list[FrozenTrial]:
    """Return the complete trials, the best first."""
    trials = study.get_trials(deepcopy=False)
    best = best_trials(trials, top or len(trials))
    if not best:
        raise UsageError(f"study {study.study_name!r} has no complete trial yet.")
    return best


def confirm_seeds(study: optuna.Study, n: int) -> list[int]:
    """Return the first n seeds of the study's confirmation; none is a trial's."""
    taken = {attribute(trial, "seed", int) for trial in study.get_trials(deepcopy=False)}
    seeds: list[int] = []
    index, base = 0, description_of(study).seed
    while len(seeds) < n:
        seed = rng.derive(base, "confirm", index)
        if seed not in taken and seed not in seeds:
            seeds.append(seed)
        index += 1
    return seeds


def run_missing(
    config: ConfirmConfig,
    study: optuna.Study,
    trials: Sequence[FrozenTrial],
    view: View,
    say: Say,
) -> int | None:
    """Train what has no result yet, keeping each as it comes; return the signal, if one came."""
    plan = description_of(study)
    known = kept_results(study)
    runs = [
        Run((trial.number, seed), replace(plan.job(trial), seed=seed))
        for seed in confirm_seeds(study, config.seeds)  # seed by seed: stopped early, all have some
        for trial in trials
        if str(seed) not in known.get(str(trial.number), {})
    ]
    if not runs:
        return None
    say(
        f"{study.study_name}: {count(len(trials), 'trial')} on "
        f"{count(config.seeds, 'fresh seed')}, {count(plan.epochs, 'epoch')}; {len(runs)} to train"
    )
    with (
        contextlib.closing(create_engine(config.engine, view, runs[0].job.net, say)) as engine,
        stop_on_signals() as stop,
        TrainingProgress(sum(run.job.epochs for run in runs), say) as progress,
    ):
        for run, _ in train(engine, runs, lambda: stop.signal is not None):
            progress.show(run)
            if run.over:
                keep(study, run)
                progress.say(line_of(run))
        return stop.signal


def keep(study: optuna.Study, run: Run[Key]) -> None:
    """Add one result to what the study keeps: `{trial: {seed: result}}`."""
    number, seed = run.key
    known = kept_results(study)
    rows = dict(known.get(str(number), {}))
    if run.error is not None:
        rows[str(seed)] = {"error": run.error}
    else:
        last = run.history[-1]
        rows[str(seed)] = {
            "accuracy": last.accuracy,
            "train_accuracy": last.train_accuracy,
            "time_s": round(sum(result.time_s for result in run.history), 3),
        }
    mark(study, CONFIRMED, known | {str(number): rows})


def line_of(run: Run[Key]) -> str:
    number, seed = run.key
    if run.error is not None:
        return f"trial {number:>4}  seed {seed:<10}  failed: {run.error}"
    return f"trial {number:>4}  seed {seed:<10}  {points(run.history[-1].accuracy)} %"


def confirmed_rows(study: optuna.Study, trials: Sequence[FrozenTrial]) -> list[Confirmed]:
    """Return what fresh seeds gave, for the trials that have any, in their order."""
    known = kept_results(study)
    rows = [confirmed(trial, known.get(str(trial.number), {})) for trial in trials]
    return [row for row in rows if row.ours.n]


def confirmed(trial: FrozenTrial, results: Mapping[str, Mapping[str, Any]]) -> Confirmed:
    done = [row for row in results.values() if "accuracy" in row]
    return Confirmed(
        trial.number,
        trial.values[0],
        Spread([row["accuracy"] for row in done]),
        Spread([row["train_accuracy"] for row in done if row.get("train_accuracy") is not None]),
    )


HEAD = ("trial", "tuned", "mean", "sd", "95 % interval", "min", "max", "n", "over", "train", "gap")


def cells(row: Confirmed, target: float) -> list[str]:
    """Return a row of the table: accuracies in percent, the gap in points."""
    return [
        str(row.number),
        points(row.tuned),
        points(row.ours.mean),
        points(row.ours.sd),
        interval_words(row.ours),
        points(row.ours.low),
        points(row.ours.high),
        str(row.ours.n),
        f"{100 * row.ours.reaching(target) / row.ours.n:.0f} %",
        points(row.train.mean) if row.train.n else "-",
        f"{100 * row.gap:+.2f}" if row.ours.n >= ENOUGH else "-",
    ]


def interval_words(ours: Spread) -> str:
    """Return the interval of a mean accuracy, in percent, within what an accuracy can be."""
    if ours.n < ENOUGH:
        return "too few to say"
    low, high = ours.interval
    return f"{points(max(0.0, low))} to {points(min(1.0, high))}"


def show(rows: Sequence[Confirmed], config: ConfirmConfig, split: str) -> Table:
    """Return the table for the terminal."""
    title = f"{config.study}: accuracy on {split} in %, target {points(config.target)}"
    table = Table(title=title, box=None, padding=(0, 1, 0, 0), title_justify="left")
    for name in HEAD:
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*cells(row, config.target))
    return table


def in_markdown(study: optuna.Study, target: float) -> str:
    """Return the table for the study's note, of every trial that was ever confirmed."""
    rows = confirmed_rows(study, complete_trials(study))
    return (
        "Accuracy in % of the best trials' recipes on seeds that no trial had; `over` is the share "
        f"of seeds that reach {points(target)} %, `gap` the winner's curse: tuned minus mean.\n\n"
        + markdown_table(HEAD, [cells(row, target) for row in rows], "r" * len(HEAD))
    )


def closing(rows: Sequence[Confirmed], config: ConfirmConfig, signal: int | None) -> list[str]:
    """Return the last lines: the best trial's gap, the best by mean, and how to go on."""
    lines = []
    if rows:
        tuned, ours = rows[0], max(rows, key=lambda row: row.ours.mean)
        curse = f"a winner's curse of {100 * tuned.gap:+.2f} points"
        if tuned.ours.n < ENOUGH:
            curse = f"too few to say how much of it was luck; seeds={ENOUGH} or more do"
        lines.append(
            f"the best trial, {tuned.number}, was tuned to {points(tuned.tuned)} % and gives "
            f"{points(tuned.ours.mean)} % on {tuned.ours.n} fresh seed"
            f"{'s' * (tuned.ours.n > 1)}: {curse}"
        )
        lines.append(
            f"best by mean: trial {ours.number}, {points(ours.ours.mean)} % "
            f"(n = {ours.ours.n}, sd {points(ours.ours.sd)})"
        )
    if signal is not None:
        lines.append(f"stopped; the same command goes on: {again('confirm')}")
    return lines
