"""What the sources published, trained again: `golf-opt reproduce`.

conf/reproduce.yaml lists trainings and the published rows that each answers for. Results are kept
as they come, so a run that was stopped goes on; `reproduce_page` makes the page from them.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from golf_opt.config.check import check
from golf_opt.config.command import again
from golf_opt.config.errors import UsageError, check_choice
from golf_opt.config.reproduce import PruningRow, ReproduceConfig, TrainingRow
from golf_opt.config.schema import PruneOptions, prune_options
from golf_opt.engines import create_engine
from golf_opt.engines.base import Job
from golf_opt.engines.lanes import Run, train
from golf_opt.golf.progress import TrainingProgress
from golf_opt.golf.pruning.weight_pruner import PruningResult, WeightPruner
from golf_opt.golf.retrain.page import check_page, write_page
from golf_opt.task import rng
from golf_opt.task.arch import Net
from golf_opt.task.data import Split, View, load
from golf_opt.task.grammar import load_arch
from golf_opt.task.inputs import MNIST
from golf_opt.task.recipe import Candidate
from golf_opt.utils.files import replace_text
from golf_opt.utils.signals import stop_on_signals
from golf_opt.utils.stats import points

RESULTS = "results.json"
FORMAT = 1
Say = Callable[[str], None]


@dataclass(frozen=True)
class Training:
    """One recipe on n seeds."""

    name: str
    net: Net
    candidate: Candidate
    row: TrainingRow

    def signature(self, digest: str) -> dict[str, Any]:
        """Return what a result depends on, seed and engine aside."""
        return {
            "arch": self.net.name,
            "layers": self.net.describe(),
            "candidate": self.candidate.to_dict(),
            "epochs": self.row.epochs,
            "train_images": self.row.train_images,
            "raw": self.row.raw,
            "data": digest,
        }


@dataclass(frozen=True)
class Cut:
    """The pruning of every net of a training that reaches the target."""

    name: str
    of: Training
    options: PruneOptions

    def signature(self, digest: str) -> dict[str, Any]:
        options = self.options
        return {
            "of": self.of.signature(digest),
            "method": options.method,
            "target": options.aim,
            "scope": options.scope,
        }


class Results:
    """results.json: by training or pruning, its signature and what each seed gave."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.content: dict[str, Any] = {"format": FORMAT, "data": None, "trainings": {}}
        if path.is_file():
            try:
                self.content = json.loads(path.read_text())
            except (OSError, json.JSONDecodeError) as error:
                raise UsageError(f"{path} cannot be read: {error}") from error

    def check_data(self, name: str) -> None:
        """Refuse to mix data sets in one folder."""
        if self.content["data"] not in (None, name):
            raise UsageError(
                f"data is {name!r}, but {self.path.parent} holds results on "
                f"{self.content['data']!r}; give another folder with dir=..."
            )
        self.content["data"] = name

    def seeds(self, training: str) -> dict[str, Any]:
        """Return `{seed: result}` of a training, as far as there are any."""
        row = self.content["trainings"].get(training)
        return row["seeds"] if row else {}

    def expect(self, training: str, signature: Mapping[str, Any]) -> None:
        """Drop what was made with another recipe under the same name."""
        row = self.content["trainings"].get(training)
        plain = json.loads(json.dumps(signature))
        if row is None or row["signature"] != plain:
            self.content["trainings"][training] = {"signature": plain, "seeds": {}}

    def add(self, training: str, seed: int, result: Mapping[str, Any]) -> None:
        """Keep one seed's result, on disk too."""
        self.seeds(training)[str(seed)] = dict(result)
        self.save()

    def save(self) -> None:
        replace_text(self.path, json.dumps(self.content, indent=1) + "\n")


def parse_training(name: str, row: TrainingRow) -> Training:
    """Make what one row of `trainings` asks for.

    Raises:
        UsageError: an unknown net or hyperparameter.
    """
    candidate: Candidate = check(Candidate, row.recipe, f"trainings.{name}.recipe")
    return Training(name, load_arch(row.arch), candidate, row)


def parse_cut(name: str, row: PruningRow, trainings: Mapping[str, Training]) -> Cut:
    """Make what one row of `prunings` asks for.

    Raises:
        UsageError: an unknown training.
    """
    of = trainings[check_choice(f"prunings.{name}.of", row.of, trainings)]
    return Cut(name, of, prune_options(method=row.method, target=row.target, scope=row.scope))


def seed_of(index: int) -> int:
    """Return the seed of run `index`, the same for every training."""
    return rng.derive("reproduce", index)


def reproduce(config: ReproduceConfig, say: Say) -> int | None:
    """Train what `part` asks for and is not there yet, then write and print the tables.

    Returns the signal that ended it early, if one did.

    Raises:
        UsageError: the table of rows has a mistake, or the data cannot be had.
    """
    trainings = [parse_training(name, row) for name, row in config.trainings.items()]
    by_name = {training.name: training for training in trainings}
    cuts = [parse_cut(name, row, by_name) for name, row in config.prunings.items()]
    check_page(config)
    results = Results(config.output / RESULTS)
    signal = None
    if config.part != "tables":
        signal = run_part(config, trainings, cuts, results, say)
    nets = {training.name: training.net for training in trainings}
    nets |= {cut.name: cut.of.net for cut in cuts}
    say(write_page(config, results.content, nets))
    closing = f"written: {config.output}/README.md, {RESULTS}, figures/"
    if signal is not None:
        closing += f"; stopped; the same command goes on: {again('reproduce')}"
    say(closing)
    return signal


def run_part(
    config: ReproduceConfig,
    trainings: Sequence[Training],
    cuts: Sequence[Cut],
    results: Results,
    say: Say,
) -> int | None:
    """Train and prune what the part asks for and has no result; return the signal that ended it."""
    dataset = load(config.data)
    view = dataset.view("test")
    results.check_data(dataset.name)
    for training in trainings:
        results.expect(training.name, training.signature(view.digest))
    for cut in cuts:
        results.expect(cut.name, cut.signature(view.digest))
    missing = {row.name: missing_runs(row, config.part, results) for row in trainings}
    epochs = sum(run.job.epochs for runs in missing.values() for run in runs)
    number = sum(map(len, missing.values()))
    say(f"part {config.part}: {number} trainings to run, {epochs} epochs")
    with stop_on_signals() as stop, TrainingProgress(epochs, say) as progress:
        for group in by_engine(trainings):
            wanted = [run for training in group for run in missing[training.name]]
            if not wanted or stop.signal is not None:
                continue
            first = group[0]
            seen = variant(view, first.row.train_images, first.row.raw)
            choice = replace(config.engine, name=first.row.engine or config.engine.name)
            with contextlib.closing(create_engine(choice, seen, first.net, progress.say)) as engine:
                by = f"{engine.name} on {engine.device}"
                for run, _ in train(engine, wanted, lambda: stop.signal is not None):
                    progress.show(run)
                    if run.over:
                        results.add(run.key[0], run.job.seed, result_of(run) | {"engine": by})
                        progress.say(line_of(run))
        for cut in cuts:
            run_cut(config, cut, view, results, progress.say, lambda: stop.signal is not None)
        return stop.signal


def run_cut(
    config: ReproduceConfig,
    cut: Cut,
    view: View,
    results: Results,
    say: Say,
    stopped: Callable[[], bool],
) -> None:
    """Train again the seeds of a training that reached the target, and prune each."""
    trained, known = results.seeds(cut.of.name), results.seeds(cut.name)
    runs = [
        Run(cut.name, Job(cut.of.net, cut.of.candidate, int(seed), cut.of.row.epochs))
        for seed, row in trained.items()
        if seed not in known and row.get("accuracies", [0.0])[-1] >= cut.options.aim
    ]
    if not runs or stopped():
        return
    with contextlib.closing(create_engine(config.engine, view, cut.of.net, say)) as engine:
        trained_again = [
            (run, engine.state(part.lane).net)
            for run, part in train(engine, runs, stopped)
            if run.over
        ]
        for run, tensors in trained_again:  # in lanes that are free: rounds train in them
            pruner = WeightPruner(engine, cut.of.net, tensors, view, cut.options)
            if any(stopped() for _ in pruner.run()):
                return
            result = pruner.result()
            results.add(cut.name, run.job.seed, result_of_cut(run, result))
            say(
                f"{cut.name:<28} {result.nz} of {result.count.size}, "
                f"test {points(result.test_accuracy)}"
            )


def result_of_cut(run: Run[Any], pruned: PruningResult) -> dict[str, Any]:
    return {
        "nz": pruned.nz,
        "before": run.history[-1].accuracy,
        "test_accuracy": pruned.test_accuracy,
        "train_accuracy": pruned.train_accuracy,
        "evaluations": pruned.state.evaluations,
        "time_s": round(pruned.state.time_s, 2),
    }


def missing_runs(training: Training, part: str, results: Results) -> list[Run[tuple[str, int]]]:
    """Return the runs of a training that have no result yet, keyed by training and index."""
    known = results.seeds(training.name)
    return [
        Run(
            (training.name, index),
            Job(training.net, training.candidate, seed_of(index), training.row.epochs),
        )
        for index in range(getattr(training.row.seeds, part))
        if str(seed_of(index)) not in known
    ]


def by_engine(trainings: Iterable[Training]) -> list[list[Training]]:
    """Group the trainings that one engine does: those that see the same images."""
    groups: dict[tuple[int | None, bool, str | None], list[Training]] = {}
    for training in trainings:
        key = (training.row.train_images, training.row.raw, training.row.engine)
        groups.setdefault(key, []).append(training)
    return list(groups.values())


def variant(view: View, train_images: int | None, raw: bool) -> View:
    """Return the view with fewer training images, or with pixels that are not normalised.

    Engines normalise what they are given, so `raw` gives them pixels that come out in [0, 1] again,
    rounded to 79 steps: bytes hold no more.
    """

    def change(split: Split, n: int | None) -> Split:
        images, labels = split.images[:n], split.labels[:n]
        if raw:
            images = np.round(images * MNIST.std[0] + MNIST.mean[0] * 255).astype(np.uint8)
        return Split(split.name, images, labels)

    test = change(view.test, None)
    return replace(view, train=change(view.train, train_images), objective=test, test=test)


def result_of(run: Run[Any]) -> dict[str, Any]:
    if run.error is not None:
        return {"error": run.error}
    last = run.history[-1]
    return {
        "accuracies": [round(result.accuracy, 6) for result in run.history],
        "train_accuracy": last.train_accuracy,
        "loss": last.loss,
        "time_s": round(sum(result.time_s for result in run.history), 2),
    }


def line_of(run: Run[tuple[str, int]]) -> str:
    name, index = run.key
    if run.error is not None:
        return f"{name:<28} seed {index:>2}  failed: {run.error}"
    last = run.history[-1]
    return (
        f"{name:<28} seed {index:>2}  test {points(last.accuracy)}  "
        f"train {points(last.train_accuracy or math.nan)}"
    )
