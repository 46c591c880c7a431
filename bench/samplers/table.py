"""A table of recorded trainings, and what it answers for a point that was not recorded."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from bench.samplers.record import read
from golf_opt.study.space import Space, build_space
from golf_opt.task.data import Split, View
from golf_opt.task.family import build_family

NUM_TRAIN = 50_000  # images of MNIST, holdout; a study of the table's is described with it


class Table:
    """Points of a space by seeds: a point asked for is the nearest recorded one.

    Near is measured on each parameter's own scale, from 0 at its least value to 1 at its largest.
    The first half of the seeds is what a study sees, the other half is held back to confirm with.
    Where a point was recorded with fewer seeds, since it is none of the better ones, those that
    there are take turns, and confirm as well.
    """

    def __init__(self, path: Path) -> None:
        self.head, rows = read(path)
        self.points: list[dict[str, Any]] = self.head["points"]
        self.epochs: int = self.head["epochs"]
        family = self.head.get("family")
        nodes = None if family is None else build_family(family).space
        self.space: Space = build_space(self.head["space"], family=nodes)
        self.curves: dict[int, dict[int, list[float]]] = defaultdict(dict)
        self._tests: dict[int, dict[int, float]] = defaultdict(dict)
        for row in rows:
            self.curves[row["point"]][row["seed"]] = row["accuracy"]
            self._tests[row["point"]][row["seed"]] = row.get("test", 0.0)
        self.known = sorted(self.curves)
        seeds = {seed for by_seed in self.curves.values() for seed in by_seed}
        self.num_search_seeds = max(1, (max(seeds) + 1) // 2)
        self._where = np.array([self._place(self.points[point]) for point in self.known])

    def _place(self, params: Mapping[str, Any]) -> list[float]:
        """Return where a point lies; a category has a coordinate for each of its choices."""
        place = []
        for name, dimension in self.space.tuned.items():
            distribution, value = dimension.distribution, params.get(name)
            if isinstance(distribution, CategoricalDistribution):
                place += [0.5 * (choice == value) for choice in distribution.choices]
                continue
            assert isinstance(distribution, (FloatDistribution, IntDistribution))
            low, high = distribution.low, distribution.high
            if value is None:
                place.append(0.5)  # does not matter here, and costs nothing
            elif distribution.log:
                place.append(float(np.log(value / low) / np.log(high / low)))
            else:
                place.append((value - low) / max(high - low, 1e-12))
        return place

    def nearest(self, params: Mapping[str, Any]) -> int:
        """Return the recorded point nearest to these parameters."""
        away = ((self._where - np.array(self._place(params))) ** 2).sum(axis=1)
        return self.known[int(np.argmin(away))]

    def curve(self, point: int, index: int) -> list[float]:
        """Return the accuracies by epoch of one of a study's seeds, of which there are few."""
        there = self.curves[point]
        seeds = [seed for seed in sorted(there) if seed < self.num_search_seeds]
        return there[seeds[index % len(seeds)]]

    def confirmed(self, point: int) -> float:
        """Return the mean test accuracy over the seeds held back."""
        tests = self._tests[point]
        held = [test for seed, test in tests.items() if seed >= self.num_search_seeds]
        return fmean(held or tests.values())

    def is_held_back(self, point: int) -> bool:
        """Return whether seeds of the point are held back."""
        return max(self.curves[point]) >= self.num_search_seeds

    def best(self) -> int:
        """Return the point with the highest confirmed mean, of those with seeds held back."""
        able = [point for point in self.known if self.is_held_back(point)]
        return max(able or self.known, key=self.confirmed)

    def view(self) -> View:
        """Return data as empty as a study of the table needs it: with a name and a size."""
        images = np.zeros((0, 1, 28, 28), dtype=np.uint8)
        train = Split("train", images, np.zeros(NUM_TRAIN, dtype=np.uint8))
        none = Split("none", images, np.zeros(0, dtype=np.uint8))
        return View(
            self.head["data"], self.head["protocol"], train, none, none, self.head["digest"]
        )
