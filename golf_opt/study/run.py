"""The study loop: ask -> lane -> step -> report and prune -> tell. Only this module steers Optuna.

run_study   checks everything, opens the storage, and runs the loop
join_study  does so for a study that was begun elsewhere
StudyLoop   keeps the lanes full until the study has its total of trials
"""

from __future__ import annotations

import contextlib
import inspect
import platform
import subprocess
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import optuna
from hydra.utils import get_object, instantiate
from optuna.samplers import BaseSampler
from optuna.trial import TrialState

from golf_opt import __version__
from golf_opt.config.schema import (
    DEFAULT_EPOCHS,
    DataConfig,
    StudyConfig,
    UsageError,
    WorkerConfig,
    check_int,
)
from golf_opt.engines import create_engine
from golf_opt.engines.base import Engine, Job, Slice
from golf_opt.engines.scheduler import Scheduler
from golf_opt.storage.connect import opened_storage
from golf_opt.storage.failures import StorageUnreachable
from golf_opt.storage.optuna_internals import (
    id_of_study,
    id_of_trial,
    num_grid_points,
    reported,
    storage_of,
)
from golf_opt.storage.studies import (
    FACTS,
    OBJECTIVES,
    RECIPE,
    find_study,
    mark,
    marks,
    num_finished,
    open_study,
)
from golf_opt.storage.workers import WORKER, coordination, requeue
from golf_opt.storage.write_behind import BudgetSpent
from golf_opt.study.callbacks import Callback, StudyContext, TrialRun
from golf_opt.study.note import best_trial, closing_words
from golf_opt.study.space import (
    FreshSampler,
    GridSampler,
    Space,
    build_space,
    sampler_seed,
    trial_seed,
)
from golf_opt.task.arch import Net, build_net
from golf_opt.task.data import Dataset, View, load
from golf_opt.utils.processes import worker_id
from golf_opt.utils.signals import stop_on_signals

IDLE_S = 0.2  # between two looks at trials that other workers run
WAITING_SHARE, WAITING_S = 0.1, 10.0  # of lane time spent without a trial: worth a word
TEND_S = 1.0  # between two looks at the workers themselves
TEST_READINGS = "golf_opt:test_readings"
RENAMED = {"golf_opt.space.grid_sampler": "golf_opt.study.space.grid_sampler"}  # 0.1
Say = Callable[[str], None]


@dataclass(frozen=True)
class Outcome:
    """How a run of `golf-opt study` ended."""

    closing: str  # the last words to the user
    signal: int | None  # that ended it early


def run_study(config: StudyConfig, command: str, say: Say) -> Outcome:
    """Run a study up to its total of trials.

    Everything that a user can get wrong is checked before the storage is opened for writing.

    Args:
        config: what to run.
        command: what the user typed, for the study's note.
        say: prints a line to the user.

    Raises:
        UsageError: the configuration cannot be run; nothing was written.
    """
    net = build_net(config.arch)
    space = build_space(config.space)
    points = [space.check_point(point) for point in config.enqueue]
    sampler = FreshSampler(sampler_maker(config, space))
    pruner = _build("pruner", config.pruner)
    callbacks = [_build(f"callbacks.{name}", node) for name, node in config.callbacks.items()]
    dataset = load(config.data)
    if dataset.fallback:
        say(fallback_banner(dataset.fallback))
    view = dataset.view(config.protocol)
    space.check_batch_size(len(view.train))
    with (
        contextlib.closing(create_engine(config.engine, view, net, say)) as engine,
        opened_storage(config.storage) as storage,
    ):
        name = config.name or study_name(config, net, dataset)
        study, new = open_study(storage, name, fingerprint(config, net, space, view))
        mark(study, RECIPE, recipe(config, view, command))
        coordination(storage).set_total(id_of_study(study), config.trials)
        study.sampler, study.pruner = sampler, pruner
        say(opening_line(study, new, config, net, view, engine))
        for point in points:
            study.enqueue_trial(point, skip_if_exists=True)
        told = facts(config, net, space, view, command)
        mark(study, FACTS, told)
        context = StudyContext(study, engine, config.folder, config.trials, config.epochs, told)
        loop = StudyLoop(context, config, net, space, view, callbacks, say)
        ended_by = loop.run()
        reading = None
        if config.protocol == "holdout" and ended_by is None:
            reading = read_test(loop)
        closing = closing_words(study, num_finished(study), config.trials, reading)
    return Outcome(closing, ended_by)


def join_study(worker: WorkerConfig, say: Say) -> Outcome:
    """Run trials of a study that was begun elsewhere, until it has its total.

    Raises:
        UsageError: there is no such study, its data is not the worker's, or another version of
            golf-opt made it.
    """
    with opened_storage(worker.storage) as storage:
        kept = marks(find_study(storage, worker.study))[RECIPE]
    check_version(kept["version"], say)
    for part in ("sampler", "pruner"):
        kept[part] = renamed(kept[part])
        check_targets(part, kept[part])
    config = StudyConfig(
        name=worker.study,
        folder=worker.folder,
        enqueue=(),
        **{key: kept[key] for key in ("trials", "epochs", "seed", "protocol")},
        **{key: kept[key] for key in ("arch", "space", "sampler", "pruner")},
        callbacks=worker.callbacks,
        storage=worker.storage,
        data=DataConfig(kept["data"], worker.data_root),
        engine=worker.engine,
    )
    return run_study(config, kept["command"], say)


def check_version(made_by: str, say: Say) -> None:
    """Refuse a study of another minor version; a patch is only worth a line."""
    if made_by.split(".")[:2] != __version__.split(".")[:2]:
        raise UsageError(
            f"the study was begun by golf-opt {made_by}, but this is {__version__}; "
            f"install golf-opt=={made_by} here, or go on with it from `golf-opt study` there."
        )
    if made_by != __version__:
        say(f"note: the study was begun by golf-opt {made_by}, this is {__version__}")


def renamed(node: Any) -> Any:
    """Return a stored node with today's names of classes that older versions stored."""
    if not isinstance(node, Mapping):
        return node
    return {
        key: RENAMED.get(value, value) if key == "_target_" else renamed(value)
        for key, value in node.items()
    }


def check_targets(part: str, node: Any) -> None:
    """Let a database name only classes of Optuna and of ours: it must not run what it likes."""
    for key, value in node.items():
        if key == "_target_" and not str(value).startswith(("optuna.", "golf_opt.")):
            raise UsageError(f"the study's {part} is {value}; a worker takes only Optuna's own.")
        if isinstance(value, Mapping):
            check_targets(part, value)


class StudyLoop:
    """Keeps every lane of the engine full until the study has `total` finished trials."""

    def __init__(
        self,
        context: StudyContext,
        config: StudyConfig,
        net: Net,
        space: Space,
        view: View,
        callbacks: Sequence[Callback],
        say: Say,
    ) -> None:
        self.context = context
        self._study, self._engine = context.study, context.engine
        self._workers = coordination(storage_of(context.study))
        self._config, self._space = config, space
        self.net, self.view = net, view
        self.callbacks = callbacks
        self._say = say
        self._scheduler: Scheduler[TrialRun] = Scheduler(context.engine.num_lanes)
        self._told: list[TrialRun] = []  # finished, and callbacks not yet told so
        self._asking_s: list[float] = []  # for each trial: ask and suggest
        self._tended = -1e9  # when other workers were last looked after
        self._reachable = True
        self._provenance = provenance(context.engine) | {
            "protocol": config.protocol,
            "num_params": net.num_params,
        }
        for callback in callbacks:
            callback.context = context

    def run(self) -> int | None:
        """Run until the total is reached; return the signal that ended it earlier, or None."""
        with stop_on_signals() as stop:
            self._tend()
            self._call("on_study_start")
            try:
                while stop.signal is None and self._fill():
                    for run in self._told:  # after the lanes are full again: it can wait
                        self._call("on_trial_told", run)
                    self._told.clear()
                    for done in self._step():
                        self._advance(done)
                    self._tend()
                self._tell_of_waiting()
                if stop.signal is None:
                    with contextlib.suppress(StorageUnreachable):  # the end of a study waits for it
                        self._workers.flush(lambda: stop.signal is not None)
            finally:
                self._requeue_all()
                for run in self._told:
                    self._call("on_trial_told", run)
                self._call("on_study_end")
        return stop.signal

    def _fill(self) -> bool:
        """Give every free lane a trial; return whether there is anything left to do or to await."""
        placed = True
        while placed:
            placed = False
            for lane, run in self._scheduler.fill(self._take):
                placed = True
                self._engine.start(lane, run.job, run.resume)  # and on with the next free lane
                if len(run.history) == run.job.epochs:  # killed between its last epoch and its tell
                    self._report(run)
        if self._scheduler.busy:
            return True
        return self._workers.shared and num_finished(self._study) < self.context.total

    def _step(self) -> list[Slice]:
        """Let the lanes work; where none has a trial, wait for those of other workers."""
        if self._scheduler.busy:
            return self._engine.step()
        time.sleep(IDLE_S)
        return []

    def _tend(self) -> None:
        """Requeue trials of dead workers, and leave those that were taken from this one."""
        if time.monotonic() - self._tended < TEND_S:
            return
        self._tended = time.monotonic()
        with contextlib.suppress(StorageUnreachable):
            for number, state in self._workers.requeue_dead(id_of_study(self._study)):
                what = "failed" if state == TrialState.FAIL else "goes on from its checkpoint"
                self._say(f"trial {number} was left by a worker that died; it {what}")
        lost = self._workers.lost_trials()
        for lane, run in self._scheduler.busy:
            if id_of_trial(run.trial) in lost:
                self._leave(lane)
                self._say(f"trial {run.number} was taken over by another worker")
        if self._reachable != self._workers.reachable:
            self._reachable = not self._reachable
            self._say(
                "storage answers again; what was kept is written"
                if self._reachable
                else "storage does not answer; trials go on and what they report is kept"
            )

    def _take(self, lane: int) -> TrialRun | None:
        """Ask for the next trial, or None when the total is under way."""
        trials = self._study.get_trials(deepcopy=False)
        if sum(trial.state != TrialState.WAITING for trial in trials) >= self.context.total:
            return None
        begun = time.monotonic()
        try:
            trial = self._study.ask()
        except (BudgetSpent, StorageUnreachable):
            return None
        seed = trial_seed(self._config.seed, trial.number)
        attributes = {WORKER: worker_id(), "seed": seed} | self._provenance
        for key, value in attributes.items():
            trial.set_user_attr(key, value)
        candidate = self._space.suggest(trial)
        self._asking_s.append(time.monotonic() - begun)
        job = Job(self.net, candidate, seed, self._config.epochs)
        run = TrialRun(trial, job, lane)
        self._call("on_trial_start", run)
        known = reported(trial)
        for result in run.history:  # of a worker that died between its checkpoint and its report
            if result.epoch not in known:
                trial.report(result.accuracy, result.epoch)
        return run

    def _advance(self, done: Slice) -> None:
        """Handle what one lane did: report its epoch, and end its trial if it is over."""
        run = self._scheduler[done.lane]
        self._call("on_slice", run, done)
        run.epoch, run.progress = done.epoch, done.progress
        if done.error is not None:
            run.trial.set_user_attr("fail_reason", done.error)
            self._finish(run, TrialState.FAIL)
        elif done.result is not None:
            run.history.append(done.result)
            self._report(run)

    def _report(self, run: TrialRun) -> None:
        result = run.history[-1]
        if result.epoch not in reported(run.trial):
            run.trial.report(result.accuracy, result.epoch)  # not again after a resume
        try:
            self._call("on_epoch_end", run)
        except optuna.TrialPruned:
            self._finish(run, TrialState.PRUNED)
        else:
            if result.epoch == run.job.epochs:
                self._finish(run, TrialState.COMPLETE)

    def _finish(self, run: TrialRun, state: TrialState) -> None:
        for key, measure in self._measures(run, state).items():
            run.trial.set_user_attr(key, measure)
        self._call("on_trial_end", run, state)
        value = run.history[-1].accuracy if state == TrialState.COMPLETE else None
        self._study.tell(run.trial, value, state, skip_if_finished=True)
        self._leave(run.lane)
        self._told.append(run)

    def _leave(self, lane: int) -> None:
        self._engine.stop(lane)
        self._scheduler.release(lane)

    def _measures(self, run: TrialRun, state: TrialState) -> dict[str, Any]:
        """Return what a finished trial stores beside its parameters and its objective."""
        accuracies = [result.accuracy for result in run.history]
        rows: dict[str, Any] = {
            "epoch_accuracies": accuracies,
            "epoch_losses": [result.loss for result in run.history],
            "time_s": round(sum(result.time_s for result in run.history), 3),
        }
        if accuracies:
            rows |= {"final_accuracy": accuracies[-1], "best_accuracy": max(accuracies)}
        if state == TrialState.COMPLETE:
            rows["train_accuracy"] = run.history[-1].train_accuracy
        return rows

    def _tell_of_waiting(self) -> None:
        """Say so where asking for trials, not training them, took the time."""
        share, seconds = self._scheduler.waiting
        if share > WAITING_SHARE and seconds > WAITING_S:
            each_ms = 1e3 * sum(self._asking_s) / len(self._asking_s)
            self._say(
                f"note: lanes stood idle {share:.0%} of the time, since asking for a trial took "
                f"{each_ms:.0f} ms; sampler=random and sampler=qmc ask for next to nothing, and "
                "fewer engine.lanes wait less"
            )

    def _requeue_all(self) -> None:
        """Return the trials in flight to the queue; the next run goes on with them."""
        for lane, run in self._scheduler.busy:
            self._call("on_interrupt", run)
            self._leave(lane)
            with contextlib.suppress(StorageUnreachable):  # `close` tries once more
                requeue(self._study, id_of_trial(run.trial))

    def _call(self, event: str, *args: Any) -> None:
        for callback in self.callbacks:
            getattr(callback, event)(*args)


def study_name(config: StudyConfig, net: Net, dataset: Dataset) -> str:
    """Return `c4-5-4`, or `c4-5-4@digits-holdout-2epochs`: what is not default is in the name."""
    marks = [
        "" if dataset.name == "mnist" else dataset.name,
        "" if config.protocol == "test" else config.protocol,
        "" if config.epochs == DEFAULT_EPOCHS else f"{config.epochs}epochs",
    ]
    suffix = "-".join(mark for mark in marks if mark)
    return f"{net.name}@{suffix}" if suffix else net.name


def fingerprint(config: StudyConfig, net: Net, space: Space, view: View) -> dict[str, Any]:
    """Return what makes two runs the same study."""
    layers = [
        "{kind}({rest})".format(
            kind=row["kind"],
            rest=", ".join(f"{key}={value}" for key, value in row.items() if key != "kind"),
        )
        for row in net.describe()
    ]
    return {
        "arch": net.name,
        "layers": layers,
        "space": space.describe(),
        "data": f"{view.dataset} ({view.digest})",
        "protocol": config.protocol,
        "epochs": config.epochs,
        "objective": OBJECTIVES[config.protocol],
        "direction": "maximize",
    }


def recipe(config: StudyConfig, view: View, command: str) -> dict[str, Any]:
    """Return what it takes to run the study elsewhere, data and storage aside."""
    return {
        "arch": config.arch,
        "space": config.space,
        "sampler": config.sampler,
        "pruner": config.pruner,
        "protocol": config.protocol,
        "epochs": config.epochs,
        "trials": config.trials,
        "seed": config.seed,
        "data": view.dataset,
        "command": command,
        "version": __version__,
    }


def facts(config: StudyConfig, net: Net, space: Space, view: View, command: str) -> dict[str, Any]:
    """Return what the study's note tells a reader."""
    return {
        "arch": net.name,
        "num_params": net.num_params,
        "objective": OBJECTIVES[config.protocol],
        "epochs": config.epochs,
        "trials": config.trials,
        "data": view.dataset,
        "num_train": len(view.train),
        "protocol": config.protocol,
        "tuned": list(space.tuned),
        "fixed": dict(space.fixed),
        "command": command,
    }


def opening_line(
    study: optuna.Study, new: bool, config: StudyConfig, net: Net, view: View, engine: Engine
) -> str:
    """Return the line that says what is about to run."""
    done = num_finished(study)
    how = "new study" if new else f"going on at {done} of"
    lanes = f"{engine.num_lanes} lane{'s' if engine.num_lanes > 1 else ''}"
    return (
        f"{study.study_name}: {net.num_params} parameters, {view.dataset}, "
        f"protocol {config.protocol}, {config.epochs} epochs, {engine.name} engine on "
        f"{engine.device}, {lanes}; {how + ', ' if new else how + ' '}{config.trials} trials"
    )


def fallback_banner(why: str) -> str:
    """Return the banner of a run that is not on MNIST."""
    rule = "!" * 78
    return (
        f"{rule}\n!! NOT MNIST: training on scikit-learn's 1,797 bundled digits instead, because\n"
        f"!! {why}\n!! Accuracies below say nothing about MNIST.\n{rule}"
    )


def sampler_maker(config: StudyConfig, space: Space) -> Callable[[int], BaseSampler]:
    """Return a function from a trial's number to its sampler, seeded by it.

    Samplers that follow a plan over the whole study, grid and quasi-Monte Carlo, keep the study's
    seed.
    """
    build = _builder("sampler", config.sampler)
    target = str(config.sampler["_target_"])
    planned = "grid" in target or "QMC" in target

    def make(number: int) -> BaseSampler:
        seed = sampler_seed(config.seed, 0 if planned else number)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = build(seed=seed, space=space)
        assert isinstance(sampler, BaseSampler)
        return sampler

    first = make(0)
    if isinstance(first, GridSampler):
        points = num_grid_points(first)
        check_int(f"trials of a grid of {points} points", config.trials, 1, points)
    return make


def _build(name: str, node: Any, **offered: Any) -> Any:
    """Instantiate a configuration node that names its class; offer it what its signature takes."""
    return _builder(name, node)(**offered)


def _builder(name: str, node: Any) -> Callable[..., Any]:
    """Return what `_build` does with a node, to do many times."""
    if not isinstance(node, Mapping) or "_target_" not in node:
        raise UsageError(f"{name} is {node!r}, but must be a mapping with a _target_.")
    begin: Callable[[], Any] = partial(instantiate, dict(node), _convert_="all", _partial_=True)
    if not any(isinstance(value, Mapping | list) for value in node.values()):
        begin = cache(begin)  # milliseconds; with parts of its own a node is made anew each time

    def build(**offered: Any) -> Any:
        try:
            takes = inspect.signature(get_object(node["_target_"])).parameters
            return begin()(**{key: value for key, value in offered.items() if key in takes})
        except UsageError:
            raise
        except Exception as error:
            cause = error.__cause__ or error
            if isinstance(cause, UsageError):
                raise cause from error
            raise UsageError(f"{name} cannot be built: {str(cause).splitlines()[0]}") from error

    return build


def read_test(loop: StudyLoop) -> Mapping[str, Any] | None:
    """protocol=holdout: read the test set for the best trial, and keep every reading made."""
    study, best = loop.context.study, best_trial(loop.context.study)
    if best is None:
        return None
    readings: list[dict[str, Any]] = marks(study).get(TEST_READINGS, [])
    for reading in readings:
        if reading["trial"] == best.number:
            return reading
    try:
        state = loop.context.checkpoints.load(best.number).state
    except FileNotFoundError:
        return None  # made with callbacks.checkpoint taken out, or on another machine
    accuracy = loop.context.engine.evaluate(loop.net, state.tensors, loop.view.test)
    reading = {
        "trial": best.number,
        "test_accuracy": accuracy,
        "after_trials": num_finished(study),
    }
    mark(study, TEST_READINGS, [*readings, reading])
    return reading


@cache
def git_commit() -> str | None:
    """Return the commit of the source tree, with `+` if it has changes; None outside of git."""
    folder = Path(__file__).parents[2]
    if not (folder / ".git").exists():
        return None
    try:
        head = subprocess.run(
            ["git", "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return head.stdout.strip() or None


def provenance(engine: Engine) -> dict[str, Any]:
    """Return what produced a trial: versions, commit, engine, device, host."""
    packages = ("torch", "optuna", "numpy")
    return {
        "engine": engine.name,
        "device": engine.device,
        "versions": {"golf_opt": __version__, "python": platform.python_version()}
        | {package: version(package) for package in packages},
        "git_commit": git_commit(),
    }
