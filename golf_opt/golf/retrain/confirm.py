"""Retraining the best trials of a study on fresh seeds: what is the tuned value worth?

The best of many trials is lucky as well as good. Its mean on seeds that had no part in choosing it
is what the recipe gives; what is missing from the tuned value is the winner's curse.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import optuna
from optuna.trial import FrozenTrial
from rich.console import Console
from rich.table import Table

from golf_opt.config.command import again
from golf_opt.config.errors import UsageError
from golf_opt.config.schema import ConfirmConfig
from golf_opt.engines import create_engine
from golf_opt.engines.lanes import Run, train
from golf_opt.golf.confirmations import kept_results, key_of_results
from golf_opt.golf.progress import TrainingProgress
from golf_opt.golf.source import find_net_study, require_net, study_view
from golf_opt.storage.connect import opened_storage
from golf_opt.storage.studies import mark
from golf_opt.study.description import description_of, snapshot_of
from golf_opt.study.note import add_section
from golf_opt.study.teaching import teach_view
from golf_opt.task import rng
from golf_opt.task.data import View
from golf_opt.task.modules.resolve import provide
from golf_opt.utils.signals import stop_on_signals
from golf_opt.utils.stats import ENOUGH, Spread, points
from golf_opt.utils.text import count, markdown_table
from golf_opt.utils.trials import attribute

Item = TypeVar("Item")

Say = Callable[[str], None]
Key = tuple[int, int]  # trial number, seed
UNREAD = Spread(())


@dataclass(frozen=True)
class Confirmed:
    """A trial's tuned value, and what fresh seeds gave."""

    number: int
    tuned: float
    ours: Spread
    train: Spread
    test: Spread = UNREAD  # of the same nets on the test set, if it was read
    num_params: int | None = None  # of the trial's net

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
    trials = chosen_trials(study, config.top, config.sizes)
    provide(config.arch, description_of(study).one_net, f"study {config.study!r}")
    view = study_view(study, config.data)
    signal = run_missing(config, study, trials, view, say)
    epochs = config.epochs or description_of(study).epochs
    rows = confirmed_rows(study, trials, epochs)
    longer = f", {count(epochs, 'epoch')}" if epochs != description_of(study).epochs else ""
    text = in_markdown(study, config.target, epochs)
    add_section(study, f"Confirmed on fresh seeds{longer}", text)
    return Confirmation(rows, view.objective.name, signal)


def complete_trials(study: optuna.Study, top: int | None = None) -> list[FrozenTrial]:
    """Return the complete points, each as one trial, the best first."""
    points = snapshot_of(study).points
    if not points:
        raise UsageError(f"study {study.study_name!r} has no complete trial yet.")
    best_first = sorted(points, key=lambda row: (-row.rank, row.trial.number))
    return [row.trial for row in best_first[:top]]


def chosen_trials(
    study: optuna.Study, top: int, sizes: Sequence[int] | None = None
) -> list[FrozenTrial]:
    """Return the trials to confirm, those of the highest accuracy first.

    Args:
        study: whose trials they are.
        top: how many; of a search's front, evenly spaced by size.
        sizes: numbers of parameters; of each, the `top` best trials that have no more.

    Raises:
        UsageError: there is none.
    """
    trials, snapshot = complete_trials(study), snapshot_of(study)
    if sizes is None and len(snapshot.goals) == 1:
        return trials[:top]
    if sizes is None:
        return evenly(snapshot.front, top)
    found: dict[int, FrozenTrial] = {}
    for size in sizes:
        small = [trial for trial in trials if (attribute(trial, "num_params", int) or 0) <= size]
        if not small:
            raise UsageError(f"no trial of {study.study_name!r} has at most {size} parameters.")
        found |= {trial.number: trial for trial in small[:top]}
    return [trial for trial in trials if trial.number in found]


def evenly(front: Sequence[Item], top: int) -> list[Item]:
    """Return the first, the last and others between them, `top` in all, evenly spaced."""
    last = max(1, min(top, len(front)) - 1)
    places = {round(index * (len(front) - 1) / last) for index in range(last + 1)}
    return [front[place] for place in sorted(places)][:top]


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
    epochs = config.epochs or plan.epochs
    known = kept_results(study, epochs)
    runs = [
        Run((trial.number, seed), replace(plan.job(trial), seed=seed, epochs=epochs))
        for seed in confirm_seeds(study, config.seeds)  # seed by seed: stopped early, all have some
        for trial in trials
        if str(seed) not in known.get(str(trial.number), {})
    ]
    if not runs:
        return None
    view = teach_view(view, plan, study.study_name, config.teacher, config.folder, say)
    say(
        f"{study.study_name}: {count(len(trials), 'trial')} on "
        f"{count(config.seeds, 'fresh seed')}, {count(epochs, 'epoch')}; {len(runs)} to train"
    )
    side_by_side = len(runs) if plan.one_net is not None else 1
    with (
        contextlib.closing(
            create_engine(config.engine, view, runs[0].job.net, say, trials=side_by_side)
        ) as engine,
        stop_on_signals() as stop,
        TrainingProgress(sum(run.job.epochs for run in runs), say) as progress,
    ):
        for run, part in train(engine, runs, lambda: stop.signal is not None):
            progress.show(run)
            if run.over:
                test = None
                if config.test and run.error is None:
                    tensors = engine.state(part.lane).net
                    test = engine.evaluate(run.job.net, tensors, view.test)
                keep(study, run, test)
                progress.say(line_of(run))
        return stop.signal


def keep(study: optuna.Study, run: Run[Key], test: float | None = None) -> None:
    """Add one result to what the study keeps: `{trial: {seed: result}}`.

    Results of other epochs than the study's are kept for themselves.
    """
    number, seed = run.key
    epochs = run.job.epochs
    known = kept_results(study, epochs)
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
        if test is not None:
            rows[str(seed)]["test_accuracy"] = test
    mark(study, key_of_results(study, epochs), known | {str(number): rows})


def line_of(run: Run[Key]) -> str:
    number, seed = run.key
    if run.error is not None:
        return f"trial {number:>4}  seed {seed:<10}  failed: {run.error}"
    return f"trial {number:>4}  seed {seed:<10}  {points(run.history[-1].accuracy)} %"


def confirmed_rows(
    study: optuna.Study, trials: Sequence[FrozenTrial], epochs: int | None = None
) -> list[Confirmed]:
    """Return what fresh seeds gave, for the trials that have any, in their order."""
    known = kept_results(study, epochs)
    rows = [confirmed(trial, known.get(str(trial.number), {})) for trial in trials]
    return [row for row in rows if row.ours.n]


def confirmed(trial: FrozenTrial, results: Mapping[str, Mapping[str, Any]]) -> Confirmed:
    done = [row for row in results.values() if "accuracy" in row]

    def spread(name: str) -> Spread:
        return Spread([row[name] for row in done if row.get(name) is not None])

    return Confirmed(
        trial.number,
        trial.values[0],
        spread("accuracy"),
        spread("train_accuracy"),
        spread("test_accuracy"),
        attribute(trial, "num_params", int),
    )


HEAD = (
    "trial", "params", "tuned", "mean", "sd", "95 % interval", "min", "max", "n", "over", "train",
    "test", "gap",
)  # fmt: skip


def cells(row: Confirmed, target: float) -> list[str]:
    """Return a row of the table: accuracies in percent, the gap in points."""
    return [
        str(row.number),
        f"{row.num_params:,}" if row.num_params else "-",
        points(row.tuned),
        points(row.ours.mean),
        points(row.ours.sd),
        interval_words(row.ours),
        points(row.ours.low),
        points(row.ours.high),
        str(row.ours.n),
        f"{100 * row.ours.reaching(target) / row.ours.n:.0f} %",
        points(row.train.mean) if row.train.n else "-",
        points(row.test.mean) if row.test.n else "-",
        f"{100 * row.gap:+.2f}" if row.ours.n >= ENOUGH else "-",
    ]


def columns(rows: Sequence[Confirmed], target: float) -> tuple[list[str], list[list[str]]]:
    """Return head and rows of the table, without sizes that are all one and tests that none has."""
    told = [cells(row, target) for row in rows]
    some = {"params": len({row.num_params for row in rows}) > 1}
    some["test"] = any(row.test.n for row in rows)
    kept = [index for index, name in enumerate(HEAD) if some.get(name, True)]
    return [HEAD[index] for index in kept], [[row[index] for index in kept] for row in told]


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
    head, told = columns(rows, config.target)
    for name in head:
        table.add_column(name, justify="right", no_wrap=True)
    for row in told:
        table.add_row(*row)
    return table


def in_markdown(study: optuna.Study, target: float, epochs: int | None = None) -> str:
    """Return the table for the study's note, of every trial that was ever confirmed."""
    head, rows = columns(confirmed_rows(study, complete_trials(study), epochs), target)
    return (
        "Accuracy in % of the best trials' recipes on seeds that no trial had; `over` is the share "
        f"of seeds that reach {points(target)} %, `gap` the winner's curse: tuned minus mean. "
        "`test` is the mean of the same nets on the test set, where it was read.\n\n"
        + markdown_table(head, rows, "r" * len(head))
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
