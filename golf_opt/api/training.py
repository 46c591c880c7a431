"""Training one recipe on many seeds, without a study."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from golf_opt.api.asked import Arch, asking, configured, given_of, speaker
from golf_opt.api.nets import Net
from golf_opt.api.shown import table, titled
from golf_opt.config import CONF_DIR, load_yaml, types
from golf_opt.config.check import check
from golf_opt.config.errors import UsageError, check_choice, short
from golf_opt.config.schema import StudyConfig
from golf_opt.engines import create_engine
from golf_opt.engines.base import Job
from golf_opt.engines.lanes import Run
from golf_opt.engines.lanes import train as train_in_lanes
from golf_opt.golf.progress import TrainingProgress
from golf_opt.golf.source import TrainedNet
from golf_opt.study.run import load_view
from golf_opt.study.space import Space
from golf_opt.study.teaching import find_given
from golf_opt.task import rng
from golf_opt.task.arch import build_net
from golf_opt.task.data.teacher import taught
from golf_opt.task.modules.resolve import resolve
from golf_opt.task.recipe import Candidate
from golf_opt.utils.said import Say, tell
from golf_opt.utils.signals import stop_on_signals
from golf_opt.utils.stats import Spread
from golf_opt.utils.text import count, percent, show_params

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Training:
    """What a recipe gave on some seeds, in the order of the seeds. Accuracies are in [0, 1]."""

    objective: str  # test accuracy, holdout accuracy
    recipe: Mapping[str, Any]
    seeds: tuple[int, ...]
    accuracies: Array  # [n], after the last epoch
    train_accuracies: Array  # [n], on all training images
    curves: Array  # [n, epochs], the objective after each epoch
    nets: list[Net]
    failures: Mapping[int, str]  # seed -> why; these have no place in the others

    @property
    def mean(self) -> float:
        return Spread(self.accuracies.tolist()).mean

    @property
    def sd(self) -> float:
        """The sample standard deviation; NaN of one seed."""
        return Spread(self.accuracies.tolist()).sd

    @property
    def best(self) -> Net:
        """The net of the highest accuracy: the luckiest seed."""
        if not self.nets:
            raise UsageError("no seed was trained to its end, so there is no net.")
        return self.nets[int(self.accuracies.argmax())]

    def __repr__(self) -> str:
        return f"<Training {self.objective}: {Spread(self.accuracies.tolist()).words}>"

    def _repr_html_(self) -> str:
        rows = [
            (seed, percent(accuracy), percent(train))
            for seed, accuracy, train in zip(
                self.seeds, self.accuracies, self.train_accuracies, strict=True
            )
        ]
        head = ("seed", self.objective, "train accuracy")
        return titled(repr(self).strip("<>"), show_params(self.recipe), table(head, rows))


def train(
    arch: Arch,
    recipe: str | Mapping[str, Any],
    seeds: int | Sequence[int] = 24,
    *,
    epochs: int | None = None,
    data: str | Path | Mapping[str, Any] | None = None,
    say: Say | None = tell,
    **overrides: Any,
) -> Training:
    """Train one recipe on many seeds side by side; return accuracies and nets.

    Ctrl-C ends it; the seeds that are trained by then are returned.

    Args:
        arch: as `golf.study` has it.
        recipe: the name of a point of conf/points, as `article`, or a mapping such as
            `{"batch_size": 14, "lr": 8e-4}`, with any of a space's parameters.
        seeds: how many, or which.
        epochs: of each; 18 if not given.
        data: as `golf.study` has it.
        say: told every line; None is nobody.
        **overrides: `protocol`, `teacher`, and the keys of `engine` and `data`.

    Raises:
        UsageError: something of it cannot be.

    >>> import golf_opt as golf
    >>> recipe = {"batch_size": 32, "lr": 2e-3}
    >>> trained = golf.train("c2-2", recipe, seeds=2, epochs=1, data="digits", say=None)
    >>> trained.accuracies.shape, trained.curves.shape
    ((2,), (2, 1))
    >>> bool(trained.mean == trained.accuracies.mean())
    True
    """
    named = {"arch": arch, "epochs": epochs, "data": data}
    given = given_of(named, overrides)
    with asking("train", given):
        wrong = [key for key in given if key.partition(".")[0] not in KEYS]
        if wrong:
            raise UsageError(f"{wrong[0]} is no key of golf.train; it takes {', '.join(KEYS)}.")
        config = configured(StudyConfig, "study", given)
        candidate = _candidate(recipe)
        return _train(config, candidate, _seeds(seeds), speaker(say))


KEYS = ("arch", "epochs", "data", "protocol", "teacher", "engine")


def _candidate(recipe: str | Mapping[str, Any]) -> Candidate:
    if isinstance(recipe, str):
        folder = CONF_DIR / "points"
        names = [path.stem for path in folder.glob("*.yaml")]
        (recipe,) = load_yaml(folder / f"{check_choice('recipe', recipe, names)}.yaml")
    if not isinstance(recipe, Mapping):
        fix = "a name such as article, or a mapping such as {'batch_size': 14, 'lr': 8e-4}"
        raise UsageError(f"recipe is {short(recipe)}, but must be {fix}.")
    checked: Candidate = check(Candidate, dict(recipe), "recipe")
    return checked


def _seeds(seeds: int | Sequence[int]) -> tuple[int, ...]:
    if isinstance(seeds, int):
        many: int = check(types.Epochs, seeds, "seeds")
        return tuple(rng.derive("train", index) for index in range(many))
    chosen = tuple(check(types.Seed, seed, "seeds") for seed in seeds)
    if not chosen or len(set(chosen)) < len(chosen):
        raise UsageError(f"seeds is {short(seeds)}, but must be some, each once.")
    return chosen


def _train(config: StudyConfig, candidate: Candidate, seeds: Sequence[int], say: Say) -> Training:
    if config.data is None or config.arch is None:
        raise UsageError(
            "objective is given, but golf.train trains a net; golf.study(objective=...) runs it."
        )
    space = Space({}, candidate.to_dict())
    view = load_view(config.data, config.protocol, space, say)
    if (teacher := find_given(config.teacher, space)) is not None:
        view = taught(view, teacher)
    net = build_net(resolve(config.arch, view.input, say), view.input)
    runs = [Run(seed, Job(net, candidate, seed, config.epochs)) for seed in seeds]
    say(
        f"{net.name}: {net.num_params:,} parameters, {view.dataset}, {count(len(seeds), 'seed')}, "
        f"{count(config.epochs, 'epoch')}; {show_params(candidate.to_dict())}"
    )
    done: dict[int, TrainedNet] = {}
    with (
        contextlib.closing(
            create_engine(config.engine, view, net, say, trials=len(runs))
        ) as engine,
        stop_on_signals() as stop,
        TrainingProgress(len(runs) * config.epochs, say) as progress,
    ):
        for run, part in train_in_lanes(engine, runs, lambda: stop.signal is not None):
            progress.show(run)
            if not run.over:
                continue
            if run.error is None:
                tensors = engine.state(part.lane).net
                done[run.key] = TrainedNet(f"{net.name}, seed {run.key}", net, tensors, run.job)
            progress.say(_line(run))
    if stop.signal is not None:
        say(f"stopped; {len(done)} of {count(len(runs), 'seed')} are trained")
    return _training(config, view.objective.name, candidate, runs, done)


def _line(run: Run[int]) -> str:
    if run.error is not None:
        return f"seed {run.key:<10}  failed: {run.error}"
    return f"seed {run.key:<10}  {percent(run.history[-1].accuracy):>8}"


def _training(
    config: StudyConfig,
    split: str,
    candidate: Candidate,
    runs: Sequence[Run[int]],
    nets: Mapping[int, TrainedNet],
) -> Training:
    done = [run for run in runs if run.key in nets]
    last = [run.history[-1] for run in done]
    accuracies = np.array([result.accuracy for result in last])
    rows = zip(done, accuracies.tolist(), strict=True)
    return Training(
        objective=f"{split} accuracy",
        recipe=candidate.to_dict(),
        seeds=tuple(run.key for run in done),
        accuracies=accuracies,
        train_accuracies=np.array([result.train_accuracy for result in last], dtype=np.float64),
        curves=np.array([[r.accuracy for r in run.history] for run in done]).reshape(
            len(done), config.epochs
        ),
        nets=[Net(nets[run.key], accuracy, config.data) for run, accuracy in rows],
        failures={run.key: run.error for run in runs if run.error is not None},
    )
