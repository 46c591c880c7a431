"""The search space: a mapping of parameter to node, as Hydra composed it -> Optuna -> Candidate.

A node that is a value fixes the parameter, one that is a mapping tunes it, and `when` makes it
matter only where another parameter has a certain value:

>>> space = build_space(
...     {
...         "batch_size": 14,
...         "lr": {"type": "float", "low": 1e-5, "high": 1e-2, "log": True},
...         "schedule": {"type": "categorical", "choices": ["step", "cosine"]},
...         "gamma": {"type": "float", "low": 0.1, "high": 0.9, "when": {"schedule": "step"}},
...     }
... )
>>> point = optuna.trial.FixedTrial({"lr": 1e-3, "schedule": "cosine"})
>>> space.suggest(point).lr  # gamma is not asked for
0.001
"""

from __future__ import annotations

import math
import warnings
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

from golf_opt.config.errors import UsageError, check_choice, check_keys, did_you_mean, short
from golf_opt.storage.optuna_internals import contains, describe_distribution
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
    free: bool = False  # of an objective, whose parameters are its own
    of_net: tuple[str, ...] = ()  # the parameters of a family, which a net is made of

    def suggest(self, trial: optuna.Trial) -> Candidate:
        """Ask the sampler for a candidate.

        Raises:
            UsageError: the trial was stored with a value that the space does not hold.
        """
        return Candidate(**self.values(trial))

    def values(self, trial: optuna.Trial) -> dict[str, Any]:
        """Ask the sampler for a value of each parameter that matters, the fixed ones included.

        Raises:
            UsageError: the trial was stored with a value that the space does not hold.
        """
        return self._walk(lambda name: _suggest(trial, name, self.tuned[name].distribution))

    def net_of(self, values: Mapping[str, Any]) -> tuple[Any, ...]:
        """Return what tells the net of a family apart from others that these values may stand for.

        Args:
            values: of tuned parameters, those that do not matter perhaps among them.
        """
        active = self._walk(values.get)
        return tuple(active.get(name) for name in self.of_net)

    def _walk(self, value_of: Callable[[str], Any]) -> dict[str, Any]:
        """Return a value of each parameter that matters, the fixed ones included."""
        values = dict(self.fixed)
        for name, dimension in self.tuned.items():
            if all(values.get(other) in allowed for other, allowed in dimension.when.items()):
                values[name] = value_of(name)
        return values

    def describe(self) -> dict[str, Any]:
        """Return the space as plain data: what two studies must share to be the same study."""
        rows: dict[str, Any] = dict(self.fixed)
        for name, dimension in self.tuned.items():
            row = {"type": type(dimension.distribution).__name__.removesuffix("Distribution")}
            rows[name] = row | describe_distribution(dimension.distribution)
            if when := {other: list(allowed) for other, allowed in dimension.when.items()}:
                rows[name]["when"] = when
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

    def held_of(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """Return those parameters of a point of elsewhere that this space tunes and holds."""
        return {
            name: value
            for name, value in point.items()
            if name in self.tuned and contains(self.tuned[name].distribution, value)
        }

    def check_batch_size(self, num_images: int) -> None:
        """Refuse batches that hold more images than there are to train on."""
        largest = self.fixed.get("batch_size", 0)
        if "batch_size" in self.tuned:
            largest = max(_extremes(self.tuned["batch_size"].distribution))
        if largest > num_images:
            raise UsageError(
                f"batch_size goes up to {largest}, but must be at most {num_images}, the number of "
                "training images; set space.batch_size.high."
            )


def build_space(
    nodes: Mapping[str, Any], free: bool = False, family: Mapping[str, Any] | None = None
) -> Space:
    """Build the space from its nodes; every bound is tried as a candidate's value.

    Args:
        nodes: by parameter.
        free: the parameters are an objective's own, and may be any.
        family: nodes of the parameters of a family of nets, which come before the recipe's.
    """
    if free:
        _check_names(nodes)
    else:
        check_keys("space", nodes, PARAMETERS)
    for name in family or {}:
        if name in PARAMETERS:
            raise UsageError(f"family.space has {name}, which is the recipe's; take another name.")
    nodes = {**(family or {}), **nodes}
    tuned: dict[str, Dimension] = {}
    fixed: dict[str, Any] = {}
    for name, node in nodes.items():
        if isinstance(node, Mapping):
            tuned[name] = _dimension(name, node)
        elif node is not None:
            fixed[name] = node
    if not free:
        for name in REQUIRED:
            if name not in tuned and name not in fixed:
                raise UsageError(
                    f"space has no {name}; tune it or fix it, for example space.{name}=14."
                )
        _check_bounds(tuned, fixed)
    _check_conditions(tuned, fixed)
    # parameters that others depend on come first; otherwise the order given is kept
    in_order = dict(sorted(tuned.items(), key=lambda item: bool(item[1].when)))
    return Space(in_order, fixed, free, tuple(family or ()))


def _check_names(nodes: Mapping[str, Any]) -> None:
    """Refuse a parameter that a database cannot keep, or that is neither a value nor a node."""
    for name, node in nodes.items():
        if not isinstance(name, str) or not name or len(name) > 200 or not name.isprintable():
            must = "1 to 200 printable characters"
            raise UsageError(f"space has a parameter {short(name)}, but its name must be {must}.")
        plain = isinstance(node, (str, int)) or (isinstance(node, float) and math.isfinite(node))
        if node is not None and not plain and not isinstance(node, Mapping):
            raise UsageError(
                f"space.{name} is {short(node)}, but must be a value that fixes it, or a mapping "
                "such as {type: float, low: 0.1, high: 1.0}, {type: categorical, choices: [a, b]}."
            )


def _dimension(name: str, node: Mapping[str, Any]) -> Dimension:
    check_keys(f"space.{name}", node, NODE_KEYS)
    kind = check_choice(f"space.{name}.type", node.get("type"), ("int", "float", "categorical"))
    conditions = node.get("when") or {}
    if not isinstance(conditions, Mapping):
        must = "a mapping such as {schedule: step}"
        raise UsageError(f"space.{name}.when is {short(conditions)}, but must be {must}.")
    when = {
        str(other): tuple(allowed) if isinstance(allowed, list) else (allowed,)
        for other, allowed in conditions.items()
    }
    distribution = _categorical(name, node) if kind == "categorical" else _range(name, node)
    return Dimension(distribution, when)


def _categorical(name: str, node: Mapping[str, Any]) -> BaseDistribution:
    choices = node.get("choices")
    listed = choices if isinstance(choices, list) else []
    if not listed or not all(isinstance(choice, str | int | float) for choice in listed):
        raise UsageError(f"space.{name}.choices is {short(choices)}, but must be a list of values.")
    return CategoricalDistribution(tuple(listed))


def _range(name: str, node: Mapping[str, Any]) -> BaseDistribution:
    whole = node["type"] == "int"
    for bound in ("low", "high"):
        value = node.get(bound)
        right = isinstance(value, int) if whole else isinstance(value, (int, float))
        if not right or isinstance(value, bool) or not math.isfinite(value):  # type: ignore[arg-type]
            kind = "a whole number" if whole else "a number"
            raise UsageError(f"space.{name}.{bound} is {value!r}, but must be {kind}.")
    low, high, log = node["low"], node["high"], node.get("log", False)
    if not isinstance(log, bool):
        raise UsageError(f"space.{name}.log is {short(log)}, but must be true or false.")
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
    except (ValueError, TypeError) as error:
        raise UsageError(f"space.{name}: {error}") from error


def _check_bounds(tuned: Mapping[str, Dimension], fixed: Mapping[str, Any]) -> None:
    base = {"batch_size": 1, "lr": 1e-3}
    trials = [({name: value}, name) for name, value in fixed.items()]
    for name, dimension in tuned.items():
        trials += [({name: value}, name) for value in _extremes(dimension.distribution)]
    for values, name in trials:
        if name not in PARAMETERS:
            continue  # a family's own
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
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # Optuna warns of what is refused below
        try:
            value = _ask(trial, name, distribution)
        except (ValueError, TypeError) as error:
            raise UsageError(f"its {name} cannot be: {error}") from error
    if not contains(distribution, value):
        held = show_distribution(distribution)
        raise UsageError(f"its {name} is {value!r}, but the space holds {held}.")
    return value


def _ask(trial: optuna.Trial, name: str, distribution: BaseDistribution) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return trial.suggest_categorical(name, distribution.choices)
    assert isinstance(distribution, (IntDistribution, FloatDistribution))
    whole = isinstance(distribution, IntDistribution)
    ask: Any = trial.suggest_int if whole else trial.suggest_float
    options = {"step": distribution.step, "log": distribution.log}
    return ask(name, distribution.low, distribution.high, **options)
