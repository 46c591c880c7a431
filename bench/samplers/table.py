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

    Not every point was recorded with every seed, and some seeds are better than others at every
    point: without care a point would gain by the seeds it happens to have. So what a seed gives or
    takes, by the mean of the points that have all of them, is taken out of what confirms; and where
    a study asks for a seed that a point lacks, another one of its seeds stands in, with the
    difference between the two added.
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
        self._effects, self._test_effects = self._seed_effects(sorted(seeds))
        self._where = np.array([self._place(self.points[point]) for point in self.known])

    def _seed_effects(self, seeds: list[int]) -> tuple[list[list[float]], list[float]]:
        """Return by how much each seed is above the mean of all: by epoch, and on the test set."""
        whole = self._whole(seeds)
        if not whole or seeds != list(range(len(seeds))):
            return [[0.0] * self.epochs for _ in range(max(seeds) + 1)], [0.0] * (max(seeds) + 1)
        curves = np.array([[self.curves[point][s] for s in seeds] for point in whole]).mean(axis=0)
        tests = np.array([[self._tests[point][s] for s in seeds] for point in whole]).mean(axis=0)
        return (curves - curves.mean(axis=0)).tolist(), (tests - tests.mean()).tolist()

    def _whole(self, seeds: list[int]) -> list[int]:
        """Return the points that were trained to the end with all of these seeds."""
        return [
            point
            for point in self.known
            if all(len(self.curves[point].get(seed, ())) == self.epochs for seed in seeds)
        ]

    def noise(self) -> tuple[float, float]:
        """Return the standard deviation that seeds have at every point alike, and the rest's."""
        seeds = list(range(len(self._test_effects)))
        tests = np.array([[self._tests[p][s] for s in seeds] for p in self._whole(seeds)])
        if tests.size == 0:
            return 0.0, 0.0
        rest = tests - tests.mean(axis=0) - tests.mean(axis=1, keepdims=True) + tests.mean()
        return float(np.std(self._test_effects)), float(rest.std())

    @property
    def held_back_effect(self) -> float:
        """By how much the mean test accuracy over all seeds held back is above that of all."""
        return fmean(self._test_effects[self.num_search_seeds :])

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

    def rounding(self) -> float:
        """Return by how much a better point and the nearest other one differ: root mean square."""
        held = [point for point in self.known if self.is_held_back(point)]
        places = {point: self._where[self.known.index(point)] for point in held}
        gaps = []
        for point, here in places.items():
            away = ((self._where - here) ** 2).sum(axis=1)
            other = self.known[int(np.argsort(away, kind="stable")[1])]
            gaps.append(self.confirmed(point) - self.confirmed(other))
        return float(np.sqrt(np.mean(np.square(gaps))))

    def curve(self, point: int, index: int) -> list[float]:
        """Return the accuracies by epoch of one of a study's seeds, of which there are few."""
        there, asked = self.curves[point], index % self.num_search_seeds
        if asked in there:
            return there[asked]
        seeds = [seed for seed in sorted(there) if seed < self.num_search_seeds]
        other = seeds[asked % len(seeds)]
        gaps = zip(self._effects[asked], self._effects[other], strict=True)
        curve = zip(there[other], gaps, strict=False)  # one that failed is shorter
        return [min(1.0, max(0.0, float(value + a - b))) for value, (a, b) in curve]

    def confirmed(self, point: int) -> float:
        """Return the mean test accuracy over the seeds held back, less what these seeds give."""
        tests = {s: test - self._test_effects[s] for s, test in self._tests[point].items()}
        held = [test for seed, test in tests.items() if seed >= self.num_search_seeds]
        return fmean(held or tests.values())

    def seeds(self, point: int) -> list[int]:
        """Return the seeds that the point was trained with."""
        return sorted(self._tests[point])

    def test(self, point: int, seed: int | None = None) -> float:
        """Return a seed's test accuracy; without one the mean of all, less what these give."""
        if seed is not None:
            return self._tests[point][seed]
        return fmean(test - self._test_effects[s] for s, test in self._tests[point].items())

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
