"""The verb `prune`: from a trained net to a folder with its pruned form, and back after a stop."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, TextColumn, TimeElapsedColumn

from golf_opt.config.command import again, override, runnable
from golf_opt.config.errors import UsageError
from golf_opt.config.schema import PruneConfig, PruneOptions
from golf_opt.engines import create_engine, provenance
from golf_opt.golf.batch_norm import folded
from golf_opt.golf.progress import Bar
from golf_opt.golf.pruning.folder import PruningFolder, folder_name
from golf_opt.golf.pruning.search import PruningState
from golf_opt.golf.pruning.weight_pruner import WeightPruner
from golf_opt.golf.source import TrainedNet, load_data, load_source
from golf_opt.study.run import Outcome, fallback_banner
from golf_opt.task.data import View
from golf_opt.utils.signals import stop_on_signals
from golf_opt.utils.text import percent

SAVE_EVERY_S = 2.0
PLAIN_LINE_EVERY_S = 10.0
Say = Callable[[str], None]


def run_prune(config: PruneConfig, command: str, say: Say) -> Outcome:
    """Prune a net, or go on with that.

    Raises:
        UsageError: the net or its data cannot be had, or it misses the target to begin with.
    """
    return prune_trained(load_source(config, say), config, command, say)[0]


def prune_trained(
    trained: TrainedNet,
    config: PruneConfig,
    command: str,
    say: Say,
    until: float | None = None,
) -> tuple[Outcome, PruningFolder]:
    """Prune a net, wherever it is from; return the last words, and where it is kept.

    Batch norm is folded first: the deployed net need not have its scales and shifts, and once a net
    is sparse the brain surgeon's cuts ruin one that has them.

    Args:
        trained: the net.
        config: how; its source is not looked at.
        command: what the user typed.
        say: tells the user a line.
        until: when to stop as after a signal, by `time.monotonic`; None: at the end.

    Raises:
        UsageError: its data cannot be had, or it misses the target to begin with.
    """
    options = config.options
    warnings = _warnings(trained, options)
    trained = folded(trained)
    for note in (*trained.notes, *warnings):
        say(note)
    dataset = load_data(config.data, trained)
    if dataset.fallback:
        say(fallback_banner(dataset.fallback))
    view = dataset.view(options.rule)
    name = folder_name(trained.label, trained.tensors, options)
    folder = PruningFolder(config.folder / "pruned" / name)
    if (summary := folder.finished()) is not None:
        return Outcome(f"done already\n{closing_words(summary, folder.path)}", None), folder
    with contextlib.closing(create_engine(config.engine, view, trained.net, say)) as engine:
        state = folder.load(trained.net)
        pruner = WeightPruner(engine, trained.net, trained.tensors, view, options, state)
        say(_opening_line(trained, pruner, state is not None, options.target is None))
        facts = _facts(trained, pruner.options, view, command) | provenance(engine)
        signal = _work(pruner, folder, facts, say, until)
        if not pruner.state.finished:
            left = pruner.state
            stopped = (
                f"stopped at {left.nz} non-zero parameters, {percent(left.accuracy)} of the guide "
                f"at the last count; kept in {folder.path}\nnext: the same command goes on: "
                f"{again('prune')}"
            )
            return Outcome(stopped, signal), folder
        summary = folder.finish(pruner.result(), facts)
        return Outcome(closing_words(summary, folder.path), None), folder


def _work(
    pruner: WeightPruner,
    folder: PruningFolder,
    facts: dict[str, Any],
    say: Say,
    until: float | None,
) -> int | None:
    """Prune to the end, showing and saving; return the signal that ended it earlier, or None."""
    saved = -SAVE_EVERY_S  # the first candidate is saved: whoever looks finds a folder
    steps = pruner.run()
    with stop_on_signals() as stop, PruningProgress(say) as shown, contextlib.closing(steps):
        for state in steps:
            shown.show(state)
            over = stop.signal is not None or (until is not None and time.monotonic() >= until)
            if over or time.monotonic() - saved >= SAVE_EVERY_S:
                folder.save(pruner.net, state, facts)
                saved = time.monotonic()
            if over and not state.finished:
                return stop.signal
    return None


def _warnings(trained: TrainedNet, options: PruneOptions) -> list[str]:
    """Return what to say about a guide that may have been trained on; refuse one that was.

    Raises:
        UsageError: rule=holdout, and the study held nothing out.
    """
    if options.rule != "holdout":
        return []
    if trained.description is None:
        return [
            "rule=holdout: nobody knows whether these weights were trained on the held-out images"
        ]
    if trained.description.protocol != "holdout":
        arch = override("arch", trained.net.name)
        raise UsageError(
            f"rule is 'holdout', but must be 'test' for {trained.label}, which was trained on all "
            "training images; for a net that was not: "
            + runnable("study", "protocol=holdout", f"data={trained.description.data}", arch)
        )
    return []


def _facts(trained: TrainedNet, options: PruneOptions, view: View, command: str) -> dict[str, Any]:
    trial = None if trained.trial is None else trained.trial.number
    return {
        "arch": trained.net.name,
        "net": trained.net.arch,
        "input": trained.net.input.to_dict(),
        "source": trained.label,
        "trial": trial,
        "trained_with": trained.job and trained.job.candidate.to_dict(),
        "trained_epochs": trained.job and trained.job.epochs,
        "trained_protocol": trained.description and trained.description.protocol,
        "seed_of_training": trained.job and trained.job.seed,
        "data": view.dataset,
        "data_digest": view.digest,
        "options": asdict(options),
        "command": command,
    }


def _opening_line(trained: TrainedNet, pruner: WeightPruner, resumed: bool, by_itself: bool) -> str:
    options, state = pruner.options, pruner.state
    begin = f"going on at {state.nz}" if resumed else f"{state.nz}"
    return (
        f"{trained.label}: {begin} of {trained.net.num_params} parameters, "
        f"{percent(state.accuracy)} of {len(pruner.view.objective):,} "
        f"{pruner.view.objective.name} images; {options.method} down to "
        f"{percent(options.aim)}{', its own accuracy less half a point' if by_itself else ''}, "
        f"scope {options.scope}"
    )


def closing_words(summary: dict[str, Any], folder: Path) -> str:
    """Return the last lines of `golf-opt prune`."""
    guide = summary["guide"]
    rate = summary["evaluations"] / max(summary["time_s"], 1e-9)
    lines = [
        f"{summary['nz']} non-zero parameters of {summary['parameters']} "
        f"({summary['removed']} removed, {summary['dead']} of the rest dead), "
        f"{summary['options']['method']}",
        f"  {guide} accuracy {percent(summary['guide_accuracy'])} (n = 1 net, "
        f"{summary['num_guide']:,} images that guided the pruning)",
    ]
    if guide != "test":
        lines.append(f"  test accuracy {percent(summary['test_accuracy'])}, read once")
    lines.append(
        f"  train accuracy {percent(summary['train_accuracy'])} ({summary['num_train']:,} images)"
    )
    if summary["smaller"]:
        small = summary["smaller"]
        lines.append(f"  structurally smaller: {small['arch']}, {small['parameters']} parameters")
    lines += [
        f"  {summary['evaluations']:,} evaluations, {summary['time_s']:.1f} s"
        + (f", {rate:,.0f} a second" if summary["options"]["method"] != "rounds" else ""),
        f"in {folder}/: weights.safetensors, prune.json",
    ]
    return "\n".join(lines)


class PruningProgress(Bar):
    """The pass or round under way, and a line for each that ended; without a terminal, lines."""

    def __init__(self, say: Say) -> None:
        super().__init__(say, TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
        self._rows = 0  # of the log, shown
        self._said = time.monotonic()

    def show(self, state: PruningState) -> None:
        """Show how far the pruning is; called after every candidate."""
        for row in state.log[self._rows :]:
            self.say(_log_line(row))
        self._rows = len(state.log)
        if not self.disable:
            total = len(state.order) or None
            self.update(self._task, description=_now(state), completed=state.at, total=total)
        elif time.monotonic() - self._said > PLAIN_LINE_EVERY_S:
            self.say(_now(state))

    def say(self, line: str) -> None:
        self._said = time.monotonic()
        super().say(line)


def _now(state: PruningState) -> str:
    if state.stage != "passes":
        return f"round {state.turn + 1:>3}  under way  {state.nz:>6} non-zero"
    tried = f"{state.at}/{len(state.order)}"
    return f"pass {state.turn:>4}  {tried:>9}  {state.nz:>6} non-zero"


def _log_line(row: dict[str, Any]) -> str:
    if "pass" in row:
        head = f"pass {row['pass']:>4}  {row['removed']:>4} removed"
    else:
        tried = " ".join(f"{nz}:{100 * accuracy:.2f}" for nz, accuracy in row["tried"])
        head = f"round {row['round']:>3}  tried {tried}"
    return f"{head}  {row['nz']:>6} non-zero  {percent(row['accuracy'])}"
