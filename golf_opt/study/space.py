"""The search space: a mapping of parameter to node, as Hydra composed it -> Optuna -> Candidate.

lr: {type: float, low: 1e-5, high: 1e-2, log: true}     tuned
schedule: {type: categorical, choices: [step, cosine]}  tuned
gamma: {..., when: {schedule: step}}                    tuned only where schedule is step
batch_size: 14                                          fixed
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial

from golf_opt.config.schema import UsageError, check_choice, check_int, check_keys, did_you_mean
from golf_opt.storage.optuna_internals import contains, describe_distribution
from golf_opt.task import rng
from golf_opt.task.recipe import PARAMETERS, Candidate

NODE_KEYS = ("type", "low", "high", "log", "step", "choices", "when")
REQUIRED = ("batch_size", "lr")


@dataclass(frozen=True)
class Dimension:
    """One tuned parameter. `when` names the values of another that make this one matter."""

    distribution: BaseDistribution
    when: Mapping[str, tuple[Any, ...]]


@dataclass(frozen=True)
class Space:
    """What is tuned, in the order it is asked for, and what is fixed."""

    tuned: Mapping[str, Dimension]
    fixed: Mapping[str, Any]

    def suggest(self, trial: optuna.Trial) -> Candidate:
        """Ask the sampler for a candidate."""
        values = dict(self.fixed)
        for name, dimension in self.tuned.items():
            if all(values.get(other) in allowed for other, allowed in dimension.when.items()):
                values[name] = _suggest(trial, name, dimension.distribution)
        return Candidate(**values)

    def describe(self) -> dict[str, Any]:
        """Return the space as plain data: what two studies must share to be the same study."""
        rows: dict[str, Any] = dict(self.fixed)
        for name, dimension in self.tuned.items():
            row = {"type": type(dimension.distribution).__name__.removesuffix("Distribution")}
            when = {other: list(allowed) for other, allowed in dimension.when.items()}
            rows[name] = (
                row
                | describe_distribution(dimension.distribution)
                | ({"when": when} if when else {})
            )
        return rows

    def check_point(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """Return the tuned part of a known point; refuse one that the space does not hold."""
        for name, value in point.items():
            if name in self.fixed and value != self.fixed[name]:
                raise UsageError(
                    f"study.enqueue has {name}={value!r}, but the space fixes it at "
                    f"{self.fixed[name]!r}."
                )
            if name not in self.fixed and name not in self.tuned:
                known = did_you_mean(name, [*self.tuned, *self.fixed])
                raise UsageError(f"study.enqueue names {name!r}, but must name {known}")
            if name in self.tuned and not contains(self.tuned[name].distribution, value):
                raise UsageError(
                    f"study.enqueue has {name}={value!r}, but the space holds "
                    f"{show_distribution(self.tuned[name].distribution)}; widen it, or fix the "
                    f"parameter with space.{name}={value!r}."
                )
        return {name: value for name, value in point.items() if name in self.tuned}

    def check_batch_size(self, num_images: int) -> None:
        """Refuse batches that hold more images than there are to train on."""
        largest = self.fixed.get("batch_size", 0)
        if "batch_size" in self.tuned:
            distribution = self.tuned["batch_size"].distribution
            largest = max(_extremes(distribution))
        if largest > num_images:
            raise UsageError(
                f"batch_size goes up to {largest}, but must be at most {num_images}, the number of "
                "training images; set space.batch_size.high."
            )


def build_space(nodes: Mapping[str, Any]) -> Space:
    """Build the space from its nodes; every bound is tried as a candidate's value."""
    check_keys("space", nodes, PARAMETERS)
    tuned: dict[str, Dimension] = {}
    fixed: dict[str, Any] = {}
    for name, node in nodes.items():
        if isinstance(node, Mapping):
            tuned[name] = _dimension(name, node)
        elif node is not None:
            fixed[name] = node
    for name in REQUIRED:
        if name not in tuned and name not in fixed:
            raise UsageError(
                f"space has no {name}; tune it or fix it, for example space.{name}=14."
            )
    _check_bounds(tuned, fixed)
    _check_conditions(tuned, fixed)
    return Space(_by_dependency(tuned), fixed)


def _by_dependency(tuned: Mapping[str, Dimension]) -> dict[str, Dimension]:
    """Put parameters that others depend on first; otherwise keep the order given."""
    return dict(sorted(tuned.items(), key=lambda item: bool(item[1].when)))


def _dimension(name: str, node: Mapping[str, Any]) -> Dimension:
    check_keys(f"space.{name}", node, NODE_KEYS)
    kind = check_choice(f"space.{name}.type", node.get("type"), ("int", "float", "categorical"))
    when = {
        str(other): tuple(allowed) if isinstance(allowed, list) else (allowed,)
        for other, allowed in (node.get("when") or {}).items()
    }
    return Dimension(
        _categorical(name, node) if kind == "categorical" else _range(name, node), when
    )


def _categorical(name: str, node: Mapping[str, Any]) -> BaseDistribution:
    choices = node.get("choices")
    if not isinstance(choices, list) or not choices:
        raise UsageError(f"space.{name}.choices is {choices!r}, but must be a list of values.")
    return CategoricalDistribution(tuple(choices))


def _range(name: str, node: Mapping[str, Any]) -> BaseDistribution:
    whole = node["type"] == "int"
    for bound in ("low", "high"):
        value = node.get(bound)
        right = isinstance(value, int) if whole else isinstance(value, (int, float))
        if not right or isinstance(value, bool) or not math.isfinite(value):  # type: ignore[arg-type]
            kind = "a whole number" if whole else "a number"
            raise UsageError(f"space.{name}.{bound} is {value!r}, but must be {kind}.")
    low, high, log = node["low"], node["high"], bool(node.get("log", False))
    if low > high:
        raise UsageError(
            f"space.{name}.low is {low!r}, but must be at most space.{name}.high, {high!r}."
        )
    if log and low <= 0:
        raise UsageError(f"space.{name}.low is {low!r}, but must be above 0 on a log scale.")
    try:
        if whole:
            return IntDistribution(low, high, log=log, step=node.get("step") or 1)
        return FloatDistribution(float(low), float(high), log=log, step=node.get("step"))
    except ValueError as error:
        raise UsageError(f"space.{name}: {error}") from error


def _check_bounds(tuned: Mapping[str, Dimension], fixed: Mapping[str, Any]) -> None:
    base = {"batch_size": 1, "lr": 1e-3}
    trials = [({name: value}, name) for name, value in fixed.items()]
    for name, dimension in tuned.items():
        trials += [({name: value}, name) for value in _extremes(dimension.distribution)]
    for values, name in trials:
        try:
            Candidate(**{**base, **values})
        except UsageError as error:
            raise UsageError(f"space.{name}: {error}") from error


def _check_conditions(tuned: Mapping[str, Dimension], fixed: Mapping[str, Any]) -> None:
    for name, dimension in tuned.items():
        for other in dimension.when:
            free = [key for key, value in tuned.items() if not value.when]
            check_choice(f"space.{name}.when", other, [*free, *fixed])


def _extremes(distribution: BaseDistribution) -> tuple[Any, ...]:
    if isinstance(distribution, (IntDistribution, FloatDistribution)):
        return (distribution.low, distribution.high)
    assert isinstance(distribution, CategoricalDistribution)
    return distribution.choices


def show_distribution(distribution: BaseDistribution) -> str:
    """Return `4..32`, `1e-05..0.01 (log)` or `step, cosine`."""
    if isinstance(distribution, CategoricalDistribution):
        return ", ".join(map(str, distribution.choices))
    assert isinstance(distribution, (IntDistribution, FloatDistribution))
    return f"{distribution.low}..{distribution.high}{' (log)' if distribution.log else ''}"


def _suggest(trial: optuna.Trial, name: str, distribution: BaseDistribution) -> Any:
    if isinstance(distribution, IntDistribution):
        return trial.suggest_int(
            name, distribution.low, distribution.high, step=distribution.step, log=distribution.log
        )
    if isinstance(distribution, FloatDistribution):
        return trial.suggest_float(
            name, distribution.low, distribution.high, step=distribution.step, log=distribution.log
        )
    assert isinstance(distribution, CategoricalDistribution)
    return trial.suggest_categorical(name, distribution.choices)


class GridSampler(optuna.samplers.GridSampler):
    """Optuna's grid; the study loop, not the sampler, decides when a study is over."""

    def after_trial(self, *args: Any, **kwargs: Any) -> None:
        """Optuna's would stop `Study.optimize`, which is not running."""


class FreshSampler(optuna.samplers.BaseSampler):
    """A new sampler for every trial, made from the trial's number.

    So a study stopped and resumed asks for the same points as one that ran through (with one lane),
    and two workers never ask for the same point.
    """

    def __init__(self, make: Callable[[int], optuna.samplers.BaseSampler]) -> None:
        self._make = make
        self._sampler = make(0)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        self._sampler = self._make(trial.number)
        self._sampler.before_trial(study, trial)

    def infer_relative_search_space(self, *args: Any) -> dict[str, BaseDistribution]:
        return self._sampler.infer_relative_search_space(*args)

    def sample_relative(self, *args: Any) -> dict[str, Any]:
        return self._sampler.sample_relative(*args)

    def sample_independent(self, *args: Any) -> Any:
        return self._sampler.sample_independent(*args)

    def after_trial(self, *args: Any) -> None:
        self._sampler.after_trial(*args)


def grid_sampler(space: Space, seed: int, points: Mapping[str, int] | int) -> GridSampler:
    """Return a grid of `points` values a dimension, evenly spaced on the dimension's own scale."""
    grid = {}
    for name, dimension in space.tuned.items():
        if dimension.when:
            raise UsageError(f"sampler=grid cannot do space.{name}, which has a `when`; use tpe.")
        count = points if isinstance(points, int) else points.get(name, 3)
        check_int(f"sampler.points for {name}", count, 1, 1000)
        grid[name] = _spaced(dimension.distribution, count)
    return GridSampler(grid, seed=seed)


def _spaced(distribution: BaseDistribution, count: int) -> list[Any]:
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    assert isinstance(distribution, (IntDistribution, FloatDistribution))
    low, high = distribution.low, distribution.high
    shares = [index / (count - 1) for index in range(count)] if count > 1 else [0.5]
    if distribution.log:
        values = [low * (high / low) ** share for share in shares]
    else:
        values = [low + (high - low) * share for share in shares]
    values = [min(max(value, low), high) for value in values]
    if isinstance(distribution, IntDistribution):
        return sorted({round(value) for value in values})
    return values


def sampler_seed(seed: int, number: int) -> int:
    """Return the sampler's seed for one trial, so that a resumed study asks what it would have."""
    return rng.derive(seed, "sampler", number)


def trial_seed(seed: int, number: int) -> int:
    """Return the seed of one trial's weights, data order and dropout."""
    return rng.derive(seed, "trial", number)
