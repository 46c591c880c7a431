"""Running a study: here from its configuration, or beside the workers that run it already."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Literal

from optuna.storages import BaseStorage, InMemoryStorage

from golf_opt import __version__
from golf_opt.config import command
from golf_opt.config.errors import UsageError
from golf_opt.config.schema import DataConfig, StorageConfig, StudyConfig, WorkerConfig
from golf_opt.engines import create_engine
from golf_opt.storage.checkpoint import DamagedCheckpoint
from golf_opt.storage.connect import opened_storage, opened_to_read
from golf_opt.storage.optuna_internals import storage_of
from golf_opt.storage.studies import mark, marks, num_finished
from golf_opt.study.build import Parts, build_parts, check_targets, sampler_maker
from golf_opt.study.callbacks import Say, StudyContext
from golf_opt.study.description import (
    StudyDescription,
    describe,
    description_of,
    find_study,
    open_study,
)
from golf_opt.study.loop import StudyLoop
from golf_opt.study.note import closing_words
from golf_opt.study.space import Space
from golf_opt.task.data import View, load
from golf_opt.task.modules.resolve import provide, resolve
from golf_opt.utils.text import count
from golf_opt.utils.trials import best_trial

TEST_READINGS = "golf_opt:test_readings"
Opened = Callable[[StorageConfig], AbstractContextManager[BaseStorage]]


@dataclass(frozen=True)
class Outcome:
    """How a run of `golf-opt study` ended."""

    closing: str  # the last words to the user
    signal: int | None  # that ended it early
    study: str | None = None  # its name, of one that was run


def run_study(
    config: StudyConfig, typed: str, say: Say, opened: Opened = opened_storage
) -> Outcome:
    """Run a study up to its total of trials.

    Everything that a user can get wrong is checked before the storage is opened for writing.

    Args:
        config: what to run.
        typed: the user's command, for the study's note.
        say: prints a line to the user.
        opened: opens the storage.

    Raises:
        UsageError: the configuration cannot be run; nothing was written.
    """
    parts = build_parts(config, config.callbacks)
    points = [parts.space.check_point(point) for point in config.study.enqueue]
    view = load_view(config.data, config.protocol, parts.space, say)
    then = "" if config.engine.name == "torch" else ": trains natively"
    config = replace(config, arch=resolve(config.arch, view.input, say, then))
    description = describe(config, view, typed)
    with (
        contextlib.closing(create_engine(config.engine, view, description.net, say)) as engine,
        opened(config.storage) as storage,
    ):
        name = config.study.name or description.default_name
        study, new = open_study(storage, name, description)
        for point in points:
            study.enqueue_trial(point, skip_if_exists=True)
        context = StudyContext(study, engine, config.folder, description, view, say)
        return run_trials(context, parts, "study", new)


def join_study(worker: WorkerConfig, say: Say) -> Outcome:
    """Run trials of a study that was begun elsewhere, until it has its total.

    Raises:
        UsageError: there is no such study, its data is not the worker's, or a newer golf-opt
            stored it.
    """
    with opened_to_read(worker.storage) as storage:  # it makes no database
        study = find_study(storage, worker.study)
        description = description_of(study)
        if description.version != __version__:
            say(
                f"note: the study was stored by golf-opt {description.version}, "
                f"this is {__version__}"
            )
        for part in ("sampler", "pruner"):
            check_targets(part, getattr(description, part))
        parts = build_parts(description, worker.callbacks)
        provide(worker.arch, description.net, f"study {worker.study!r}")
        view = load_view(
            description.data_config(worker.data), description.protocol, parts.space, say
        )
        if view.digest != description.digest:
            here = description.model_copy(update={"digest": view.digest}).data_and_digest
            raise UsageError(
                f"study {worker.study!r} is another study: data was {description.data_and_digest} "
                f"and is {here}; give data=, or data.root, with what it was made with."
            )
        with contextlib.closing(create_engine(worker.engine, view, description.net, say)) as engine:
            context = StudyContext(study, engine, worker.folder, description, view, say)
            return run_trials(context, parts, "worker", new=False)


def load_view(data: DataConfig, protocol: str, space: Space, say: Say) -> View:
    """Return what trials see of the data; say so where it is not the data that was asked for."""
    dataset = load(data)
    for note in dataset.notes:
        say(note)
    if dataset.fallback:
        say(fallback_banner(dataset.fallback))
    view = dataset.view(protocol)
    space.check_batch_size(len(view.train))
    return view


def opening_line(context: StudyContext, new: bool) -> str:
    """Return the line that says what is about to run."""
    plan, engine = context.description, context.engine
    how = "new study, " if new else f"going on at {num_finished(context.study)} of "
    lanes = f"{engine.num_lanes} lane{'s' if engine.num_lanes > 1 else ''}"
    return (
        f"{context.study.study_name}: {plan.net.num_params:,} parameters, {plan.data}, "
        f"protocol {plan.protocol}, {count(plan.epochs, 'epoch')}, {engine.name} engine on "
        f"{engine.device}, {lanes}; {how}{count(plan.trials, 'trial')}"
    )


def fallback_banner(why: str) -> str:
    """Return the banner of a run that is not on MNIST."""
    rule = "!" * 78
    return (
        f"{rule}\n!! NOT MNIST: training on scikit-learn's 1,797 bundled digits instead, because\n"
        f"!! {why}\n!! Accuracies below say nothing about MNIST.\n{rule}"
    )


def run_trials(
    context: StudyContext, parts: Parts, verb: Literal["study", "worker"], new: bool
) -> Outcome:
    """Run up to the total; of a whole study with protocol=holdout, read the test set at the end."""
    context.say(opening_line(context, new))
    signal = StudyLoop(context, parts).run()
    reading = None
    if context.description.protocol == "holdout" and signal is None:
        reading = read_test(context)
    closing = closing_words(context.study, context.description, reading)
    words = "\n".join([closing, *next_words(context, verb)])
    return Outcome(words, signal, context.study.study_name)


def next_words(context: StudyContext, verb: Literal["study", "worker"]) -> list[str]:
    """Say by which commands one goes on, ready to run."""
    study, plan = context.study, context.description
    if isinstance(storage_of(study), InMemoryStorage):
        return []  # it is gone in a moment
    look = command.runnable("dashboard")
    finished = num_finished(study)
    if finished < plan.trials:
        named = [command.override("study", study.study_name)] if verb == "worker" else []
        return [f"next, to go on: {command.again(verb, *named)}", f"or to look: {look}"]
    more = max(2 * plan.trials, finished + 1)
    if verb == "worker" or not _may_have(plan, more):
        return [f"next: {look}"]
    return [f"next: {look}", f"or more trials: {command.again(verb, f'trials={more}')}"]


def _may_have(plan: StudyDescription, trials: int) -> bool:
    """Return whether the study may have so many trials: a grid has an end."""
    try:
        sampler_maker(plan.model_copy(update={"trials": trials}), plan.search_space)
    except UsageError:
        return False
    return True


def read_test(context: StudyContext) -> Mapping[str, Any] | None:
    """protocol=holdout: read the test set for the best trial, and keep every reading made."""
    study, best = context.study, best_trial(context.study)
    if best is None:
        return None
    readings: list[dict[str, Any]] = marks(study).get(TEST_READINGS, [])
    for reading in readings:
        if reading["trial"] == best.number:
            return reading
    try:
        state = context.checkpoints.load(best.number).state
    except (FileNotFoundError, DamagedCheckpoint):
        return None  # made with callbacks.checkpoint taken out, or on another machine
    net, test = context.description.net, context.view.test
    reading = {
        "trial": best.number,
        "test_accuracy": context.engine.evaluate(net, state.tensors, test),
        "after_trials": num_finished(study),
    }
    mark(study, TEST_READINGS, [*readings, reading])
    return reading
