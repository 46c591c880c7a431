"""The verb `prune`: from a trained net to a folder with its pruned form, and back after a stop."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from golf_opt.config.schema import PruneConfig, PruneOptions, UsageError
from golf_opt.engines import create_engine
from golf_opt.golf.pruning.folder import PrunedFolder, slug
from golf_opt.golf.pruning.prune import Pruning
from golf_opt.golf.pruning.search import Standing
from golf_opt.golf.source import TrainedNet, load_data, load_source
from golf_opt.study.provenance import provenance
from golf_opt.study.run import fallback_banner
from golf_opt.task.data import View
from golf_opt.utils.signals import stop_on_signals
from golf_opt.utils.text import percent

SAVE_EVERY_S = 2.0
PLAIN_LINE_EVERY_S = 10.0
Say = Callable[[str], None]


@dataclass(frozen=True)
class Outcome:
    """How a run of `golf-opt prune` ended."""

    closing: str
    signal: int | None  # that ended it early


def run_prune(config: PruneConfig, command: str, say: Say) -> Outcome:
    """Prune a net, or go on with that.

    Raises:
        UsageError: the net or its data cannot be had, or it misses the target to begin with.
    """
    options = config.options
    trained = load_source(config.source, config.storage, config.folder)
    for note in (*trained.notes, *_warnings(trained, options)):
        say(note)
    dataset = load_data(config.data, trained.description)
    if dataset.fallback:
        say(fallback_banner(dataset.fallback))
    view = dataset.view(options.rule)
    name = slug(trained.label, trained.tensors, options)
    folder = PrunedFolder(config.folder / "pruned" / name)
    if (summary := folder.finished()) is not None:
        return Outcome(f"done already\n{closing_words(summary, folder.path)}", None)
    with contextlib.closing(create_engine(config.engine, view, trained.net, say)) as engine:
        standing = folder.load(trained.net)
        pruning = Pruning(engine, trained.net, trained.tensors, view, options, standing)
        say(_opening_line(trained, pruning, standing is not None))
        facts = _facts(trained, options, view, command) | provenance(engine)
        if (signal := _work(pruning, folder, facts)) is not None:
            left = pruning.standing
            return Outcome(
                f"stopped at {left.nz} non-zero parameters, {percent(left.accuracy)} of the guide "
                f"at the last count; kept in {folder.path}\nnext: the same command goes on",
                signal,
            )
        return Outcome(closing_words(folder.finish(pruning.result(), facts), folder.path), None)


def _work(pruning: Pruning, folder: PrunedFolder, facts: dict[str, Any]) -> int | None:
    """Prune to the end, showing and saving; return the signal that ended it earlier, or None."""
    saved = -SAVE_EVERY_S  # the first candidate is saved: whoever looks finds a folder
    steps = pruning.run()
    with stop_on_signals() as stop, PruneProgress() as shown, contextlib.closing(steps):
        for standing in steps:
            shown.show(standing)
            if stop.signal is not None or time.monotonic() - saved >= SAVE_EVERY_S:
                folder.save(pruning.net, standing, facts)
                saved = time.monotonic()
            if stop.signal is not None and not standing.finished:
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
        raise UsageError(
            f"rule is 'holdout', but must be 'test' for {trained.label}, which was trained on all "
            "training images; for a net that was not: golf-opt study protocol=holdout ..."
        )
    return []


def _facts(trained: TrainedNet, options: PruneOptions, view: View, command: str) -> dict[str, Any]:
    trial = None if trained.trial is None else trained.trial.number
    return {
        "arch": trained.net.name,
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


def _opening_line(trained: TrainedNet, pruning: Pruning, resumed: bool) -> str:
    options, standing = pruning.options, pruning.standing
    begin = f"going on at {standing.nz}" if resumed else f"{standing.nz}"
    return (
        f"{trained.label}: {begin} of {trained.net.num_params} parameters, "
        f"{percent(standing.accuracy)} of {len(pruning.view.objective):,} "
        f"{pruning.view.objective.name} images; {options.method} down to "
        f"{percent(options.target)}, scope {options.scope}"
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


class PruneProgress:
    """A bar in a terminal, a line now and then elsewhere."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False)
        self._bar: Progress | None = None
        self._rows = 0  # of the log, shown
        self._said = time.monotonic()

    def __enter__(self) -> PruneProgress:
        if self._console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
            self._bar = Progress(*columns, console=self._console, transient=True)
            self._bar.start()
            self._bar.add_task("", total=None)
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, standing: Standing) -> None:
        """Show where the pruning stands; called after every candidate."""
        for row in standing.log[self._rows :]:
            self._say(_log_line(row))
        self._rows = len(standing.log)
        if self._bar is not None:
            total = len(standing.order) or None
            task = self._bar.task_ids[0]
            self._bar.update(task, description=_now(standing), completed=standing.at, total=total)
        elif time.monotonic() - self._said > PLAIN_LINE_EVERY_S:
            self._say(_now(standing))

    def _say(self, line: str) -> None:
        self._said = time.monotonic()
        self._console.print(line, soft_wrap=True)


def _now(standing: Standing) -> str:
    if standing.stage == "rounds":
        return f"round {standing.turn + 1:>3}  under way  {standing.nz:>6} non-zero"
    share = f"{standing.at}/{len(standing.order)}"
    return f"pass {standing.turn:>4}  {share:>9}  {standing.nz:>6} non-zero"


def _log_line(row: dict[str, Any]) -> str:
    if "pass" in row:
        head = f"pass {row['pass']:>4}  {row['removed']:>4} removed"
    else:
        tried = " ".join(f"{nz}:{100 * accuracy:.2f}" for nz, accuracy in row["tried"])
        head = f"round {row['round']:>3}  tried {tried}"
    return f"{head}  {row['nz']:>6} non-zero  {percent(row['accuracy'])}"
