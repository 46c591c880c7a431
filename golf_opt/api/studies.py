"""Studies: run or gone on with, opened, looked at."""

from __future__ import annotations

import contextlib
import importlib.util
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.trial import FrozenTrial, TrialState

from golf_opt.api.asked import Arch, asking, configured, given_of, module_of, speaker
from golf_opt.api.nets import Net
from golf_opt.api.shown import Plot, table, titled
from golf_opt.config import command
from golf_opt.config.errors import UsageError, check_choice
from golf_opt.config.schema import DataConfig, ReportConfig, StorageConfig, StudyConfig
from golf_opt.golf.source import load_trained
from golf_opt.reports.report import picture
from golf_opt.storage.connect import opened_storage, opened_to_read
from golf_opt.storage.optuna_internals import storage_of
from golf_opt.study.aims import answer, best_of_all
from golf_opt.study.description import (
    StudyDescription,
    description_of,
    find_study,
    snapshot_of,
)
from golf_opt.study.note import trials_words
from golf_opt.study.run import run_study
from golf_opt.task.goals import show_values
from golf_opt.task.modules.resolve import provide
from golf_opt.utils.said import Say, tell
from golf_opt.utils.text import show_params
from golf_opt.utils.trials import attribute, counts, state_words
from golf_opt.visualization.document import Picture
from golf_opt.visualization.optuna_plots import optuna_pictures
from golf_opt.visualization.size_and_accuracy import kept_records
from golf_opt.visualization.study_figures import best_so_far, front, study_figures

SHOWN = 5  # trials of a study's table in a notebook
BY_OPTUNA = ("importances", "ranks")
KINDS = (
    "best-so-far", "learning-curves", "accuracy-by-parameter", "parameters-and-accuracy",
    "lanes-over-time", "front", *BY_OPTUNA,
)  # fmt: skip


@dataclass(frozen=True)
class Trial:
    """A trial as it was at one moment. Accuracies are shares in [0, 1]."""

    number: int
    state: str  # complete, pruned, fail, running, waiting, or paused at epoch N
    value: float | None  # the objective, of a complete trial; of several there is none
    values: tuple[float, ...]  # each objective's, of a complete trial
    params: Mapping[str, Any]  # what was tuned
    seed: int | None
    train_accuracy: float | None
    history: tuple[float, ...] = field(repr=False)  # the objective after each epoch
    time_s: float | None  # of training and evaluation
    user_attrs: Mapping[str, Any] = field(repr=False)  # all that was noted of it

    @property
    def row(self) -> dict[str, Any]:
        """The trial as one row of a table."""
        facts = {name: getattr(self, name) for name in COLUMNS}
        return facts | {f"params_{name}": value for name, value in self.params.items()}


COLUMNS = ("number", "state", "value", "train_accuracy", "seed", "time_s")


@dataclass(frozen=True)
class Place:
    """Where a study is kept; one in memory lives as long as this does."""

    storage: StorageConfig
    folder: Path
    data: DataConfig | None  # None: of an objective that asks for none
    memory: BaseStorage | None = None

    @classmethod
    def of(cls, config: StudyConfig | ReportConfig) -> Place:
        in_memory = config.storage.url is None and config.storage.url_env is None
        memory = InMemoryStorage() if in_memory else None
        return cls(config.storage, config.folder, config.data, memory)

    @contextlib.contextmanager
    def opened(self, config: StorageConfig | None = None) -> Iterator[BaseStorage]:
        """Open the storage; `config`, where a study is run, is its own."""
        if self.memory is not None:
            yield self.memory
            return
        opened = opened_storage(config) if config else opened_to_read(self.storage)
        with opened as storage:
            yield storage


class Study:
    """A study in its storage; every look at it reads what is there by then.

    `golf.study` and `golf.load` make one.
    """

    def __init__(self, name: str, place: Place) -> None:
        self.name = name
        self._place = place

    @contextlib.contextmanager
    def opened(self) -> Iterator[optuna.Study]:
        """The study as Optuna has it, for a block."""
        with self._place.opened() as storage:
            yield find_study(storage, self.name)

    @property
    def place(self) -> Place:
        """The storage and the folder of checkpoints."""
        return self._place

    @property
    def description(self) -> StudyDescription:
        """What the study is: net, space, data, protocol, epochs, total of trials."""
        with self.opened() as study:
            return description_of(study)

    @property
    def best(self) -> Trial | None:
        """The best complete trial; None where there is none yet."""
        with self.opened() as study:
            found = answer(study)
        return None if found is None else _trial(found)

    @property
    def front(self) -> list[Trial]:
        """The complete trials that no other beats in every objective; of one, the best."""
        with self.opened() as study:
            return [_trial(trial) for trial in snapshot_of(study).best_or_front]

    @property
    def all(self) -> list[Trial]:
        """Every trial, by number."""
        with self.opened() as study:
            return [_trial(trial) for trial in study.get_trials(deepcopy=False)]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Every trial as a mapping: number, state, value, ..., and `params_<name>`."""
        return [trial.row for trial in self.all]

    @property
    def trials(self) -> Any:
        """`rows` as a pandas.DataFrame where pandas is installed, otherwise as they are."""
        if importlib.util.find_spec("pandas") is None:
            return self.rows
        import pandas

        return pandas.DataFrame(self.rows)

    def net(self, trial: int | str = "best") -> Net:
        """Return the trained net of a complete trial.

        Args:
            trial: its number, or `best`.

        Raises:
            UsageError: there is no such trial, or its weights were not kept.
        """
        with self.opened() as study:
            trained = load_trained(study, self._place.folder, trial)
        accuracy = None if trained.trial is None else trained.trial.values[0]
        assert self._place.data is not None  # a study that trains a net has data
        return Net(trained, accuracy, self._place.data)

    def plot(self, kind: str = "best-so-far") -> Plot:
        """Return a figure, as the report and the dashboard have it.

        Args:
            kind: best-so-far, learning-curves, accuracy-by-parameter, parameters-and-accuracy,
                lanes-over-time, importances or ranks; front, of several objectives.

        Raises:
            UsageError: there is no such figure, or not yet.
        """
        check_choice("kind", kind, KINDS)
        with self.opened() as study:
            drawn = _drawn(study, self._place.folder, kind)
        if drawn is None:
            raise UsageError(f"study {self.name!r} has too few trials for {kind}.")
        return Plot(drawn)

    def __repr__(self) -> str:
        with self.opened() as study:
            plan, best = description_of(study), answer(study)
            done = _done(counts(study))
            size = len(snapshot_of(study).front) if len(plan.goals) > 1 else 0
        result = "none complete" if best is None else f"best {_result(plan, best)}"
        result = f"front of {size}" if size and best is None else result
        return f"<Study {self.name}: {trials_words(done, plan)}, {result}>"

    def _repr_html_(self) -> str:
        with self.opened() as study:
            snapshot = snapshot_of(study)
        best, goals = snapshot.ranked(SHOWN), snapshot.goals
        figure = (best_so_far([snapshot]) if len(goals) == 1 else front(snapshot)) if best else None
        rows = [(t.number, show_values(goals, t.values), show_params(t.params)) for t in best]
        parts = []
        if figure is not None:
            parts = [table(("trial", "value", "parameters"), rows), Plot(picture(figure)).markup]
        return titled(repr(self).strip("<>"), *parts)


def study(
    arch: Arch | None = None,
    trials: int | None = None,
    *,
    epochs: int | None = None,
    data: str | Path | Mapping[str, Any] | None = None,
    space: str | Path | Mapping[str, Any] | None = None,
    storage: str | Path | Mapping[str, Any] | None = None,
    say: Say | None = tell,
    **overrides: Any,
) -> Study:
    """Run a study up to its total of trials, or go on with it; return it.

    It is `golf-opt study` with keywords: what is not given is as in conf/study.yaml, and both see
    the same studies. Ctrl-C ends it: what was trained is returned, what was in training waits, and
    the same call goes on.

    Args:
        arch: a name such as `c4-5-4` or `c4-5-4-prelu`, a mapping of name and layers, or a class or
            function of yours that gives a torch module for (shape, classes), itself or by its
            name, as `my_nets:Tiny`.
        trials: the total; a study that has as many is only opened.
        epochs: of each trial.
        data: auto, mnist, fashion, digits, or the path of your own.
        space: what is tuned: a choice, or a mapping of what differs from the article's.
        storage: sqlite (a file in `dir`), memory, postgres, journal, or a URL.
        say: told every line; None is nobody.
        **overrides: any other key of the command line, such as `protocol="holdout"`,
            `engine={"lanes": 4}`, `dir="elsewhere"` or `**{"study.name": "mine"}`.

    Raises:
        UsageError: something of it cannot be; nothing was written.

    >>> import golf_opt as golf
    >>> found = golf.study("c2-2", trials=2, epochs=1, data="digits", storage="memory",
    ...                    space={"batch_size": 32}, sampler="random", say=None)
    >>> found
    <Study c2-2@digits-1epochs: 2 of 2 trials, best test accuracy ...>
    >>> sorted(found.best.params)
    ['gamma', 'lr', 'step_size']
    >>> found.net().num_params
    2082
    """
    named = {
        "arch": arch, "trials": trials, "epochs": epochs, "data": data, "space": space,
        "storage": storage,
    }  # fmt: skip
    return _run("study", given_of(named, overrides), say)


def search(
    family: str | Path | Mapping[str, Any] | None = None,
    trials: int | None = None,
    *,
    target: float | None = None,
    max_params: int | None = None,
    epochs: int | None = None,
    data: str | Path | Mapping[str, Any] | None = None,
    space: str | Path | Mapping[str, Any] | None = None,
    storage: str | Path | Mapping[str, Any] | None = None,
    say: Say | None = tell,
    **overrides: Any,
) -> Study:
    """Search a family of nets for small and accurate ones, or go on with it; return the study.

    It is `golf-opt search` with keywords: what is not given is as in conf/search.yaml.

    Args:
        family: separable, chain, residual, the path of a file, or a mapping of name, space and
            layers as a file has them.
        trials: the total; a search that has as many is only opened.
        target: accuracy in (0, 1) that is to be reached, with the fewest parameters.
        max_params: parameters that a net may have, for the best accuracy.
        epochs: of each trial.
        data: as `golf.study` has it.
        space: the recipe that is tuned beside the family's own parameters.
        storage: as `golf.study` has it.
        say: told every line; None is nobody.
        **overrides: any other key of the command line.

    Raises:
        UsageError: something of it cannot be; nothing was written.
    """
    named = {
        "family": family, "trials": trials, "target": target, "max_params": max_params,
        "epochs": epochs, "data": data, "space": space, "storage": storage,
    }  # fmt: skip
    return _run("search", given_of(named, overrides), say)


def _run(verb: str, given: Mapping[str, Any], say: Say | None) -> Study:
    with asking(verb, given):
        config = configured(StudyConfig, verb, given)
        if config.workers is not None:
            raise UsageError(f"workers= is for a shell: golf-opt {verb} ... workers=N.")
        place = Place.of(config)
        ran = run_study(config, command.this_call(), speaker(say), place.opened)
        speaker(say)(ran.closing)
    assert ran.study is not None
    if ran.signal not in (None, signal.SIGINT):  # it was meant for the whole program
        signal.raise_signal(ran.signal)
    return Study(ran.study, place)


def load(
    name: str,
    storage: str | Path | None = None,
    *,
    arch: Arch | None = None,
    **overrides: Any,
) -> Study:
    """Open a study that is there already; nothing is written.

    Args:
        name: of the study, as `golf-opt ls` lists them.
        storage: as `golf.study` has it.
        arch: of a study whose net is a module of yours: that module, which no database names to us.
        **overrides: such as `dir="elsewhere"`.

    Raises:
        UsageError: there is no such study.
    """
    given = given_of({"study": name, "storage": storage}, overrides)
    with asking("load", given):
        config = configured(ReportConfig, "report", given)
        place = Place.of(config)
        with place.opened() as opened:
            found = find_study(opened, config.study)
            if arch is not None:
                provide(
                    module_of(arch), description_of(found).one_net, f"study {found.study_name!r}"
                )
            return Study(found.study_name, place)


def _trial(trial: FrozenTrial) -> Trial:
    values = tuple(trial.values) if trial.state == TrialState.COMPLETE else ()
    return Trial(
        number=trial.number,
        state=state_words(trial),
        value=values[0] if len(values) == 1 else None,
        values=values,
        params=dict(trial.params),
        seed=attribute(trial, "seed", int),
        train_accuracy=attribute(trial, "train_accuracy", float),
        history=tuple(value for _, value in sorted(trial.intermediate_values.items())),
        time_s=attribute(trial, "time_s", float),
        user_attrs=dict(trial.user_attrs),
    )


def _drawn(study: optuna.Study, folder: Path, kind: str) -> Picture | None:
    """Return a figure of a study, None where there is nothing to draw yet."""
    snapshot = snapshot_of(study)
    if not snapshot.complete:
        return None
    if len(snapshot.goals) > 1 and kind in ("best-so-far", *BY_OPTUNA):
        return None
    if kind in BY_OPTUNA:
        return next(
            (
                drawn
                for drawn in optuna_pictures(study, description_of(study).by_seed.worth)
                if drawn.key == kind
            ),
            None,
        )
    others = best_of_all(storage_of(study), but=study.study_name)
    figures = study_figures(snapshot, others, kept_records(folder / "records"))
    if len(snapshot.goals) == 1:
        figures.append(best_so_far([snapshot]))
    chosen = [figure for figure in figures if figure.key == kind]
    return picture(chosen[0]) if chosen else None


def _done(tally: Mapping[str, int]) -> int:
    return sum(tally[state] for state in ("complete", "pruned", "fail"))


def _result(plan: StudyDescription, best: FrozenTrial) -> str:
    shown = show_values(plan.goals, best.values)
    return f"{plan.goals[0].name} {shown} (trial {best.number})"
