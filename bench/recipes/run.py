"""Trainings of ideas that are missing among the rows of a net."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

from bench.recipes.ideas import Idea, Part
from bench.recipes.results import (
    COST_EPOCHS,
    Found,
    all_found,
    confirming,
    found,
    joint,
    picked,
    tuning,
)
from bench.recipes.rows import Key, Rows, key
from golf_opt.cli.compose import compose
from golf_opt.config.check import load
from golf_opt.config.schema import StudyConfig, TeachConfig
from golf_opt.engines import create_engine
from golf_opt.engines.base import Engine, Job
from golf_opt.engines.lanes import Run, train
from golf_opt.golf.teach import teach
from golf_opt.task import data as data_sets
from golf_opt.task import rng
from golf_opt.task.arch import Net, build_net
from golf_opt.task.data import View
from golf_opt.task.data.teacher import FACTS, read_teacher, taught
from golf_opt.task.recipe import Candidate
from golf_opt.utils.said import Say

PAIRS = 5  # of trainings whose time is compared
STRONG = "recipe=strong"


def strong_idea(net: str) -> tuple[Idea, int]:
    """Return what `recipe=strong` is for a net, and its epochs."""
    config = compose("study", [f"arch={net}", STRONG])
    space = load(StudyConfig, config).space
    assert space is not None
    return Idea(STRONG, {"schedule": "cosine"} | dict(space)), config.epochs


@dataclass(frozen=True)
class Place:
    """Where rows and the teacher are, and what data is trained on."""

    folder: Path
    data: str  # its name
    root: str  # of the data sets
    say: Say

    def keys(self) -> list[str]:
        return [f"data={self.data}", f"data.root={self.root}"]

    def teacher(self, part: Part) -> Path:
        """Return the folder of the teacher, which is trained where it is not there."""
        name = "-".join(key.partition("=")[2] for key in part.teacher)
        path = self.folder / "teachers" / name
        if not path.exists():
            asked = [f"name={name}", "protocol=holdout", *self.keys(), *part.teacher]
            config = compose("teach", asked)
            config.dir = str(self.folder)
            if teach(load(TeachConfig, config), "make recipes", self.say) is not None:
                raise KeyboardInterrupt
        shutil.copy(path / FACTS, self.folder / FACTS)
        return path


class Subject:
    """One net and its rows.

    Args:
        name: of the net.
        part: how much is trained.
        place: where.
    """

    def __init__(self, name: str, part: Part, place: Place) -> None:
        keys = [f"arch={name}", "protocol=holdout", "storage=memory", *place.keys()]
        self._config = load(StudyConfig, compose("study", keys))
        self.name, self.part, self.place = name, part.of(name), place
        self.rows = Rows(place.folder / f"{name}.jsonl")

    @cached_property
    def _views(self) -> tuple[View, View]:
        """What is held out from, and all training images. The latter are measured on some of them,
        so that nobody looks at the test set before the end."""
        assert self._config.data is not None
        whole = data_sets.load(self._config.data)
        held_out = whole.view("holdout")
        return held_out, replace(whole.view("test"), objective=held_out.objective)

    @cached_property
    def net(self) -> Net:
        assert self._config.arch is not None
        return build_net(self._config.arch, self._views[0].input)

    def compare(self, ideas: list[Idea]) -> list[Found]:
        """Tune each idea, train its pick on fresh seeds, measure its cost; the base comes first."""
        for idea in ideas:
            self._confirm(idea)
        base = found(self.rows, ideas[0], self.part)
        assert base is not None
        for idea in ideas[1:]:
            self._at_equal_time(idea, base)
        return all_found(self.rows, ideas, self.part)

    def together(self, ideas: list[Idea]) -> None:
        """Compare the ideas that help on held-out images as one, tuned jointly."""
        there = all_found(self.rows, ideas, self.part)
        best = joint(there) if there else None
        if best is not None:
            self.compare([ideas[0], best])

    def strong(self) -> None:
        """Train `recipe=strong` on all training images, its point picked on held-out ones."""
        idea, epochs = strong_idea(self.name)
        self._train(idea, tuning(idea, self.part, epochs), held_out=True)
        params = picked(self.rows, idea, self.part, epochs)
        assert params is not None
        wanted = confirming(idea, params, epochs, self.part.strong, "strong")
        self._train(idea, wanted, held_out=False)

    def _confirm(self, idea: Idea) -> None:
        epochs = self.part.epochs
        self._train(idea, tuning(idea, self.part, epochs), held_out=True)
        params = picked(self.rows, idea, self.part, epochs)
        assert params is not None
        wanted = confirming(idea, params, epochs, self.part.confirmed)
        self._train(idea, wanted, held_out=True)

    def _at_equal_time(self, idea: Idea, base: Found) -> None:
        """Measure an idea's cost; where it might help, train it for as long as the base takes."""
        params = picked(self.rows, idea, self.part, self.part.epochs)
        assert params is not None
        self._measure(idea, key(idea.name, "cost", COST_EPOCHS, params))
        one = found(self.rows, idea, self.part)
        assert one is not None and one.cost is not None and one.same_time is not None
        if one.cost < 1 or one.held_out.mean() > base.held_out.mean():
            wanted = confirming(idea, params, one.same_time, self.part.confirmed)
            self._train(idea, wanted, held_out=True)

    def _measure(self, idea: Idea, wanted: Key) -> None:
        """Train the idea and the base at its batch size and rate in turns, in one lane."""
        if wanted in self.rows:
            return
        same = {name: wanted.recipe[name] for name in ("batch_size", "lr")}
        recipes = [{"schedule": "cosine"} | same, wanted.recipe] * PAIRS
        times: list[float] = []
        with self._engine(idea, held_out=True, lanes=1) as engine:
            runs = (
                self._run(place, recipe, 0, COST_EPOCHS) for place, recipe in enumerate(recipes)
            )
            for run, _ in train(engine, runs):
                if run.over:
                    times.append(sum(result.time_s for result in run.history))
        ratios = [mine / base for base, mine in zip(times[::2], times[1::2], strict=True)]
        self.rows.add(wanted, ratio=round(median(ratios), 3), ratios=[round(r, 3) for r in ratios])
        self.place.say(
            f"{self.name}, {idea.name}: an epoch costs {median(ratios):.2f} of the base's"
        )

    def _train(self, idea: Idea, wanted: Iterable[Key], held_out: bool) -> None:
        """Train what is missing, and append a row for each; the test set is read at the end."""
        missing = [one for one in wanted if one not in self.rows]
        if not missing:
            return
        view = self._views[0 if held_out else 1]
        with self._engine(idea, held_out) as engine:
            runs = (self._run(one, one.recipe, _seed(one), one.epochs) for one in missing)
            for run, part in train(engine, runs):
                if run.over:
                    row = {"holdout": 0.0} if run.error else {"holdout": run.history[-1].accuracy}
                    row = row if held_out else {}
                    if run.key.stage != "tune":
                        tensors = engine.state(part.lane).net
                        right = engine.evaluate(self.net, tensors, view.test)
                        row["test"] = 0.0 if run.error else right
                    self.rows.add(run.key, **{name: round(v, 6) for name, v in row.items()})
        self.place.say(f"{self.name}, {idea.name}: {len(missing)} trainings {missing[0].stage}")

    def _run(self, name: Any, recipe: dict[str, Any], seed: int, epochs: int) -> Run[Any]:
        return Run(name, Job(self.net, Candidate(**recipe), seed, epochs))

    @contextlib.contextmanager
    def _engine(self, idea: Idea, held_out: bool, lanes: int | None = None) -> Iterator[Engine]:
        view = self._views[0 if held_out else 1]
        if idea.taught:
            view = taught(view, read_teacher(self.place.teacher(self.part)))
        config = replace(self._config.engine, lanes=lanes or self._config.engine.lanes)
        with contextlib.closing(create_engine(config, view, self.net, self.place.say)) as engine:
            yield engine


def _seed(wanted: Key) -> int:
    """Return the seed of a training: by its index the same for every idea and net."""
    return rng.derive("recipes", wanted.stage, wanted.seed)
