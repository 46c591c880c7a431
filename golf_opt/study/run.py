"""Running a study: here from its configuration, or beside the workers that run it already."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Literal

from optuna.pruners import NopPruner
from optuna.storages import BaseStorage, InMemoryStorage

from golf_opt import __version__
from golf_opt.config import command, schema
from golf_opt.config.errors import UsageError
from golf_opt.config.schema import (
    DataConfig,
    EngineConfig,
    StorageConfig,
    StudyConfig,
    WorkerConfig,
)
from golf_opt.engines import create_engine
from golf_opt.engines.base import Engine
from golf_opt.storage.checkpoint import DamagedCheckpoint
from golf_opt.storage.connect import opened_storage, opened_to_read
from golf_opt.storage.optuna_internals import storage_of
from golf_opt.storage.studies import TEST_READINGS, mark, marks, num_finished
from golf_opt.study.aims import answer
from golf_opt.study.build import Parts, build_parts, check_targets, describe, sampler_maker
from golf_opt.study.callbacks import Say, StudyContext
from golf_opt.study.description import (
    StudyDescription,
    description_of,
    find_study,
    snapshot_of,
)
from golf_opt.study.loop import StudyLoop
from golf_opt.study.note import closing_words, trials_words, write_note
from golf_opt.study.opening import earlier_points, known_points, open_study, say_if_changed
from golf_opt.study.space import Space
from golf_opt.study.stopping import begin_limits, check_stop, limits_of
from golf_opt.study.teaching import find_given, teach_view
from golf_opt.task.data import View, load
from golf_opt.task.data.teacher import taught
from golf_opt.task.goals import show_goals
from golf_opt.task.modules.resolve import provide, resolve
from golf_opt.utils.text import count
from golf_opt.utils.trials import counts

MOST_READ = 50  # nets of a front for which the test set is read
Opened = Callable[[StorageConfig], AbstractContextManager[BaseStorage]]
Verb = Literal["study", "search", "worker"]


@dataclass(frozen=True)
class Outcome:
    """How a run of `golf-opt study` ended."""

    closing: str  # the last words to the user
    signal: int | None  # that ended it early
    study: str | None = None  # its name, of one that was run


def run_study(
    config: StudyConfig,
    typed: str,
    say: Say,
    opened: Opened = opened_storage,
    run: Callable[[StudyContext, Parts, Verb, bool], Outcome] | None = None,
) -> Outcome:
    """Run a study up to its total of trials.

    Everything that a user can get wrong is checked before the storage is opened for writing.

    Args:
        config: what to run.
        typed: the user's command, for the study's note.
        say: prints a line to the user.
        opened: opens the storage.
        run: what is done with the open study; None: its trials are run.

    Raises:
        UsageError: the configuration cannot be run; nothing was written.
    """
    begun = time.monotonic()
    parts = build_parts(config, config.callbacks)
    points = [parts.space.check_point(point) for point in config.study.enqueue]
    view = load_view(config.data, config.protocol, parts.space, say) if config.data else None
    if view is not None and config.arch is not None:
        then = "" if config.engine.name == "torch" else ": trains natively"
        config = replace(config, arch=resolve(config.arch, view.input, say, then))
    if (teacher := find_given(config.teacher, parts.space)) is not None and view is not None:
        view = taught(view, teacher)
    plan = describe(config, view, typed, teacher)
    check_stop(config, plan)
    with (
        contextlib.closing(engine_for(config.engine, plan, config.data, view, say)) as engine,
        opened(config.storage) as storage,
    ):
        description = plan.with_source(getattr(engine, "digest", ""))
        name = config.study.name or description.default_name
        earlier = earlier_points(storage, config.study.warm_start, parts.space)
        study, new = open_study(storage, name, description, say)
        points += [*known_points(config, parts.space), *earlier] if new else []
        if len(description.goals) > 1:
            parts = without_pruner(parts, say)
        for point in points:
            study.enqueue_trial(point, skip_if_exists=True)
        limits = begin_limits(study, config.budget, config.stop is not None, begun)
        context = StudyContext(study, engine, config.folder, description, view, say, limits)
        return (run or run_trials)(context, parts, description.verb, new)


def begin_study(config: StudyConfig, typed: str, say: Say) -> str:
    """Create a study for others to work on, or look whether it is the same; return its name.

    Raises:
        UsageError: the configuration cannot be run; nothing was written.
    """

    def leave(context: StudyContext, parts: Parts, verb: Verb, new: bool) -> Outcome:
        say(f"{context.study.study_name}: {extent(context, new)}")
        return Outcome("", None, context.study.study_name)

    if config.objective is None:  # what trains is chosen where it trains
        config = replace(config, engine=replace(config.engine, name="torch", device="cpu"))
    name = run_study(config, typed, say, run=leave).study
    assert name is not None
    return name


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
        check_same_objective(worker, description)
        parts = build_parts(description, worker.callbacks)
        if description.objective is None:
            provide(worker.arch, description.one_net, f"study {worker.study!r}")
        data = description.data_config(worker.data) if description.data else None
        view = load_view(data, description.protocol, parts.space, say) if data else None
        if view is not None and view.digest != description.digest:
            here = description.model_copy(update={"digest": view.digest}).data_and_digest
            raise UsageError(
                f"study {worker.study!r} is another study: data was {description.data_and_digest} "
                f"and is {here}; give data=, or data.root, with what it was made with."
            )
        if view is not None:
            view = teach_view(view, description, worker.study, worker.teacher, worker.folder, say)
        with contextlib.closing(engine_for(worker.engine, description, data, view, say)) as engine:
            digest = getattr(engine, "digest", "")
            say_if_changed(description.objective, digest, say)
            description = description.with_source(digest)  # its trials are of this one
            if len(description.goals) > 1:
                parts = without_pruner(parts, say)
            limits = limits_of(study)
            context = StudyContext(study, engine, worker.folder, description, view, say, limits)
            return run_trials(context, parts, "worker", new=False)


def engine_for(
    config: EngineConfig,
    plan: StudyDescription,
    data: DataConfig | None,
    view: View | None,
    say: Say,
) -> Engine[Any]:
    """Return the engine that trains a study's net, or runs its objective.

    Args:
        config: what was asked for.
        plan: what it is to run.
        data: where `job.data` of an objective is from, if it has any.
        view: of the data, for a net.
        say: prints a line to the user.

    Raises:
        UsageError: it cannot be had.
    """
    if plan.objective is None:
        assert view is not None
        smallest = None if plan.nets is None else plan.nets.check(plan.input, plan.max_params)
        net = smallest or plan.net
        differ = smallest is not None
        return create_engine(config, view, net, say, nets_differ=differ, trials=plan.trials)
    from golf_opt.engines.python import PythonEngine

    names = [goal.name for goal in plan.goals]
    return PythonEngine(
        plan.objective.name, names, config.lanes, config.threads, data, plan.protocol, say
    )


def check_same_objective(worker: WorkerConfig, description: StudyDescription) -> None:
    """Refuse a worker that was not given the study's objective: it is never taken from there.

    Raises:
        UsageError: it has none, or another, or the study has none.
    """
    theirs = description.objective.name if description.objective else None
    if worker.objective == theirs:
        if theirs is not None:
            schema.check_engine(worker.engine, theirs)
        return
    if theirs is None:
        raise UsageError(
            f"objective is {worker.objective!r}, but study {worker.study!r} trains a net; leave "
            "objective= out."
        )
    given = "missing" if worker.objective is None else repr(worker.objective)
    raise UsageError(
        f"objective is {given}, but must be {theirs}, which study {worker.study!r} is of; a worker "
        f"imports nothing that a database names: give objective={theirs} where that module is."
    )


def without_pruner(parts: Parts, say: Say) -> Parts:
    """Return the parts of a study with several objectives, of which Optuna prunes none."""
    if isinstance(parts.pruner, NopPruner):
        return parts
    say("note: no trial is pruned, since Optuna prunes by one value and here are several")
    return replace(parts, pruner=NopPruner())


def load_view(data: DataConfig, protocol: str, space: Space, say: Say) -> View:
    """Return what trials see of the data; say so where it is not the data that was asked for."""
    dataset = load(data)
    for note in dataset.notes:
        say(note)
    if dataset.fallback:
        say(fallback_banner(dataset.fallback))
    view = dataset.view(protocol)
    if not space.free:
        space.check_batch_size(len(view.train))
    return view


def opening_line(context: StudyContext, new: bool) -> str:
    """Return the line that says what is about to run."""
    plan, engine = context.description, context.engine
    lanes = f"{engine.num_lanes} lane{'s' if engine.num_lanes > 1 else ''}"
    if plan.nets is not None:
        asked = plan.identity()["objective"]
        what = f"family {plan.nets.name}, {asked}, {plan.data}, protocol {plan.protocol}"
    elif plan.objective is None:
        what = f"{plan.net.num_params:,} parameters, {plan.data}, protocol {plan.protocol}"
    else:
        data = f", {plan.data}, protocol {plan.protocol}" if plan.data else ""
        what = f"{plan.subject}, {show_goals(plan.goals)}{data}"
    return (
        f"{context.study.study_name}: {what}, {count(plan.epochs, 'epoch')}, {engine.name} engine "
        f"on {engine.device}, {lanes}; {extent(context, new)}"
    )


def extent(context: StudyContext, new: bool) -> str:
    """Return `new study, 50 trials`, or `going on at 9 trials, 3 min of the budget left`."""
    study, plan = context.study, context.description
    words = [f"going on at {trials_words(num_finished(study), plan)}"]
    if new:
        words = ["new study", *([] if plan.trials is None else [count(plan.trials, "trial")])]
    left = context.limits.words_left(study)
    return ", ".join([*words, *([left] if left else [])])


def fallback_banner(why: str) -> str:
    """Return the banner of a run that is not on MNIST."""
    rule = "!" * 78
    return (
        f"{rule}\n!! NOT MNIST: training on scikit-learn's 1,797 bundled digits instead, because\n"
        f"!! {why}\n!! Accuracies below say nothing about MNIST.\n{rule}"
    )


def run_trials(context: StudyContext, parts: Parts, verb: Verb, new: bool) -> Outcome:
    """Run up to the total; of a whole study with protocol=holdout, read the test set at the end."""
    context.say(opening_line(context, new))
    signal = StudyLoop(context, parts).run()
    readings: dict[int, float] = {}
    plan = context.description
    if plan.protocol == "holdout" and plan.objective is None and signal is None:
        readings = read_test(context)
        write_note(context.study, plan)  # they are in it
    closing = closing_words(context.study, plan, readings)
    words = "\n".join([closing, *next_words(context, verb)])
    return Outcome(words, signal, context.study.study_name)


def next_words(context: StudyContext, verb: Verb) -> list[str]:
    """Say by which commands one goes on, ready to run."""
    study, plan = context.study, context.description
    if isinstance(storage_of(study), InMemoryStorage):
        return []  # it is gone in a moment
    finished = num_finished(study)
    ways = [f"to look: {command.runnable('dashboard')}"]
    if plan.family is not None and snapshot_of(study).complete:
        this = command.override("study", study.study_name)
        ways.insert(0, f"to confirm them: {command.runnable('confirm', this, 'test=true')}")
        net = (answer(study) or snapshot_of(study).front[0]).number
        ways.append(f"for the card of a net: {command.runnable('report', this, f'trial={net}')}")
    is_spent = context.limits.is_spent(study)
    if is_spent and verb == "worker":  # one more would have nothing to draw on
        ways.insert(0, "to go on: the command that began it, with budget=")
    elif is_spent or plan.trials is None or finished + counts(study)["paused"] < plan.trials:
        named = [command.override("study", study.study_name)] if verb == "worker" else []
        again = ", by as much again" if verb != "worker" and context.limits.is_budget else ""
        ways.insert(0, f"to go on{again}: {command.again(verb, *named)}")
    elif verb != "worker" and _may_have(plan, more := max(2 * plan.trials, finished + 1)):
        ways.append(f"more trials: {command.again(verb, f'trials={more}')}")
    first, *others = ways
    first = f"next, {first}".replace("next, to look:", "next:")
    return [first, *(f"or {way}" for way in others)]


def _may_have(plan: StudyDescription, trials: int) -> bool:
    """Return whether the study may have so many trials: a grid has an end."""
    try:
        sampler_maker(plan.model_copy(update={"trials": trials}), plan.search_space)
    except UsageError:
        return False
    return True


def read_test(context: StudyContext) -> dict[int, float]:
    """protocol=holdout: read the test set for the best trial, or the front of a search.

    Every reading is kept, and none made twice.

    Returns:
        Test accuracy in [0, 1] by the trial's number.
    """
    study, view = context.study, context.view
    if view is None:
        return {}
    readings: list[dict[str, Any]] = marks(study).get(TEST_READINGS, [])
    known = {reading["trial"]: reading["test_accuracy"] for reading in readings}
    found: dict[int, float] = {}
    for trial in snapshot_of(study).ranked(MOST_READ):
        if trial.number not in known:
            try:
                state = context.checkpoints.load(trial.number).state
            except (FileNotFoundError, DamagedCheckpoint):
                continue  # made with callbacks.checkpoint taken out, or on another machine
            net = context.description.job(trial).net
            known[trial.number] = context.engine.evaluate(net, state.net, view.test)
            reading = {"trial": trial.number, "test_accuracy": known[trial.number]}
            readings = [*readings, reading | {"after_trials": num_finished(study)}]
            mark(study, TEST_READINGS, readings)
        found[trial.number] = known[trial.number]
        if len(context.description.goals) == 1:
            break  # the best alone
    return found
