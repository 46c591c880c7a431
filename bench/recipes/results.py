"""What rows say of an idea: which point it was given, and what that came to on fresh seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench import statistics
from bench.recipes.ideas import BASE, Idea, Part, together
from bench.recipes.rows import Key, Rows, Stage, key
from bench.samplers.record import sobol
from golf_opt.study.space import build_space

COST_EPOCHS = 3  # of a training of which the time counts
CHEAP = 0.05  # of the base's time, more or less: not worth trainings of another length


@dataclass(frozen=True)
class Found:
    """One idea at the point that was picked for it, on fresh seeds, [seeds] each."""

    idea: Idea
    params: Mapping[str, Any]
    held_out: statistics.Floats
    test: statistics.Floats
    cost: float | None  # of an epoch, in those of the base; None: not measured
    same_time: int | None  # epochs in the time that the base has
    then: statistics.Floats | None  # test, after so many; None: not trained


def points(idea: Idea, count: int) -> list[dict[str, Any]]:
    """Return the recipes that an idea is tried at: Sobol points of its space."""
    space = build_space(idea.space)
    fixed = dict(space.fixed)
    return [fixed | point for point in (sobol(space, count) if space.tuned else [{}])]


def tuning(idea: Idea, part: Part, epochs: int) -> list[Key]:
    recipes, seeds = points(idea, part.points), range(part.seeds)
    return [key(idea.name, "tune", epochs, recipe, seed) for seed in seeds for recipe in recipes]


def confirming(
    idea: Idea, params: Mapping[str, Any], epochs: int, seeds: int, stage: Stage = "confirm"
) -> list[Key]:
    return [key(idea.name, stage, epochs, params, seed) for seed in range(seeds)]


def picked(rows: Rows, idea: Idea, part: Part, epochs: int) -> dict[str, Any] | None:
    """Return the point with the best mean on held-out images; None before all are trained."""
    wanted = tuning(idea, part, epochs)
    if any(one not in rows for one in wanted):
        return None
    values: dict[str, list[float]] = {}
    for one in wanted:
        values.setdefault(one.params, []).append(rows[one]["holdout"])
    best = max(values, key=lambda params: sum(values[params]))
    return next(one.recipe for one in wanted if one.params == best)


def found(rows: Rows, idea: Idea, part: Part) -> Found | None:
    """Return what an idea came to; None before all of its seeds are trained."""
    params = picked(rows, idea, part, part.epochs)
    if params is None:
        return None
    wanted = confirming(idea, params, part.epochs, part.confirmed)
    if any(one not in rows for one in wanted):
        return None
    held_out, test = (np.array([rows[one][name] for one in wanted]) for name in ("holdout", "test"))
    measured = key(idea.name, "cost", COST_EPOCHS, params)
    cost = rows[measured]["ratio"] if measured in rows else 1.0 if idea.name == BASE else None
    if cost is None:
        return Found(idea, params, held_out, test, None, None, None)
    same = part.epochs if abs(cost - 1) < CHEAP else max(1, round(part.epochs / cost))
    again = confirming(idea, params, same, part.confirmed)
    whole = all(one in rows for one in again)
    then = np.array([rows[one]["test"] for one in again]) if whole else None
    return Found(idea, params, held_out, test, cost, same, then)


def all_found(rows: Rows, ideas: Sequence[Idea], part: Part) -> list[Found]:
    """Return what there is of the base, which comes first, and the ideas; none without the base."""
    there = [one for idea in ideas if (one := found(rows, idea, part)) is not None]
    return there if there and there[0].idea.name == BASE else []


def joint(there: Sequence[Found]) -> Idea | None:
    """Return the ideas that help on held-out images as one; None where fewer than two do."""
    base = there[0].held_out
    gains = {one.idea: one.held_out - base for one in there[1:]}
    helpful = [idea for idea, gain in gains.items() if statistics.interval(gain)[0] > 0]
    helpful.sort(key=lambda idea: -gains[idea].mean())
    return together(helpful) if len(helpful) > 1 else None
