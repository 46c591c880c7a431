"""From a configuration, or a stored description, to the parts of a study that run."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Annotated, Any

import optuna
from hydra.utils import get_object, instantiate
from optuna.pruners import BasePruner, NopPruner
from optuna.samplers import BaseSampler
from pydantic import Field, StrictInt

from golf_opt import __version__
from golf_opt.config.check import check
from golf_opt.config.errors import UsageError, short
from golf_opt.config.schema import StudyConfig
from golf_opt.storage.optuna_internals import num_grid_points
from golf_opt.study.allocation import Allocation, NewPoints, Queued, Rule
from golf_opt.study.arguments import check_arguments
from golf_opt.study.callbacks import Callback
from golf_opt.study.description import (
    FORMAT,
    FORMAT_OF_A_FAMILY,
    FORMAT_OF_A_TEACHER,
    ONE_VALUE,
    StudyDescription,
)
from golf_opt.study.promotion import AtLeastOne, Promote, Promotion
from golf_opt.study.racing import FurtherSeeds, Raced, Racing
from golf_opt.study.samplers import CmaEsSampler, FreshSampler, GridSampler, grid_sampler
from golf_opt.study.space import Space, build_space
from golf_opt.study.view import View as Seen
from golf_opt.task import rng
from golf_opt.task.arch import build_net
from golf_opt.task.data import View
from golf_opt.task.data.teacher import Teacher
from golf_opt.task.family import build_family
from golf_opt.utils.points import Statistic
from golf_opt.utils.text import one_line

Plan = StudyConfig | StudyDescription


@dataclass(frozen=True)
class Parts:
    """What runs a study, net, data, engine and storage aside."""

    space: Space
    sampler: FreshSampler
    pruner: BasePruner
    callbacks: list[Callback]


def build_parts(plan: Plan, callbacks: Mapping[str, Any]) -> Parts:
    """Build what a plan asks for, with these callbacks.

    Raises:
        UsageError: a part of it cannot be built; it is named.
    """
    assert plan.space is not None
    nodes = None if plan.family is None else build_family(plan.family).space
    space = build_space(plan.space, free=plan.objective is not None, family=nodes)
    make = sampler_maker(plan, space)
    worth = Statistic.parse(plan.statistic)
    view = Seen(worth, plan.epochs, plan.target, plan.max_params, is_front(plan))
    check_goals(plan, make(0))
    return Parts(
        space=space,
        sampler=FreshSampler(make, view, space if plan.family is not None else None),
        pruner=_builder("pruner", plan.pruner, BasePruner)(),
        callbacks=[
            _builder(f"callbacks.{name}", node, Callback)() for name, node in callbacks.items()
        ],
    )


def allocation(plan: StudyDescription, pruner: BasePruner) -> Allocation:
    """Return what decides what a free lane does next."""
    rules: list[Rule] = [Queued(plan.trials), *further_seeds(plan, pruner), NewPoints(plan.trials)]
    if isinstance(pruner, Promote):
        promotion = Promotion(pruner, plan.goals, plan.epochs, plan.target)
        rules = [promotion, *rules, AtLeastOne(promotion)]
    return Allocation(rules)


def further_seeds(plan: StudyDescription, pruner: BasePruner) -> list[Rule]:
    """Return the rule by which points get more than one seed, if they do."""
    seeds = plan.by_seed
    if seeds.most == 1:
        return []
    if not seeds.race:
        return [FurtherSeeds(seeds.most, at_once=type(pruner) is NopPruner)]
    signs = [goal.sign for goal in plan.goals]
    racing = Racing(seeds.most, front=is_front(plan))
    return [Raced(racing, seeds.worth, signs, plan.trials)]


def is_front(plan: Plan) -> bool:
    """Return whether a search weighs accuracy and size."""
    return plan.family is not None and plan.target is None and plan.max_params is None


def check_goals(plan: Plan, sampler: BaseSampler) -> None:
    """Refuse a sampler that can optimise one thing alone, where several are to be.

    Raises:
        UsageError: it is such a one.
    """
    if plan.family is not None:
        count, which = 1 if plan.max_params else 2, "a search without max_params"
    elif isinstance(plan, StudyConfig):
        count, which = len(plan.directions or {}), "directions"
    else:
        count, which = len(plan.objective.directions if plan.objective else {}), "directions"
    if count > 1 and isinstance(sampler, optuna.samplers.CmaEsSampler):
        raise UsageError(
            f"sampler is cmaes, which optimises one value alone, but {which} has "
            f"{count}; take sampler=tpe, gp, qmc or random."
        )


def check_targets(part: str, node: Any) -> None:
    """Let a database name only samplers and pruners: it must not run what it likes."""
    if isinstance(node, Mapping):
        if "_target_" in node and not _is_known(str(node["_target_"])):
            raise UsageError(
                f"the study's {part} is {node['_target_']}; a worker takes only Optuna's own."
            )
        node = list(node.values())
    if isinstance(node, list):
        for child in node:
            check_targets(part, child)
    if isinstance(node, str) and "${" in node:
        raise UsageError(f"the study's {part} has {node!r}; a worker resolves nothing stored.")


def _is_known(target: str) -> bool:
    """Whether a dotted name is of one of Optuna's samplers or pruners, or of our grid."""
    if not target.startswith(("optuna.", "golf_opt.")):
        return False  # without importing it
    try:
        named = get_object(target)
    except Exception:  # whatever Hydra finds wrong with a name
        return False
    if not inspect.isclass(named):
        return named is grid_sampler
    if issubclass(named, optuna.samplers.CmaEsSampler) and named is not CmaEsSampler:
        return False  # it would unpickle what lies in the database
    return issubclass(named, (BaseSampler, BasePruner))


def sampler_maker(plan: Plan, space: Space) -> Callable[[int], BaseSampler]:
    """Return a function from a trial's number to its sampler, seeded by it.

    Samplers that follow a plan over the whole study, grid and quasi-Monte Carlo, keep the study's
    seed.
    """
    build = _builder("sampler", plan.sampler, BaseSampler)
    target = str(plan.sampler["_target_"])
    planned = "grid" in target or "QMC" in target

    def make(number: int) -> BaseSampler:
        seed = rng.derive(plan.seed, "sampler", 0 if planned else number)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler: BaseSampler = build(seed=seed, space=space)
        return sampler

    first = make(0)
    if isinstance(first, GridSampler):
        points = num_grid_points(first)
        fits = Annotated[StrictInt, Field(ge=1, le=points)]
        total = plan.total if isinstance(plan, StudyConfig) else plan.trials
        check(fits, total, f"trials of a grid of {points} points")
    return make


def _builder(name: str, node: Any, kind: type[Any]) -> Callable[..., Any]:
    """Return a function that instantiates a node, with those keywords that its class takes."""
    if not isinstance(node, Mapping) or not isinstance(node.get("_target_"), str):
        raise UsageError(f"{name} is {short(node)}, but must be a mapping with a _target_.")
    begin: Callable[[], Any] = partial(instantiate, dict(node), _convert_="all", _partial_=True)
    if not any(isinstance(value, Mapping | list) for value in node.values()):
        begin = cache(begin)  # milliseconds; with parts of its own a node is made anew each time

    checked = cache(lambda: check_arguments(name, node, counts=kind is not Callback))
    takes = cache(lambda: inspect.signature(get_object(node["_target_"])).parameters)

    def build(**offered: Any) -> Any:
        try:
            known = takes()  # of every trial's sampler the same, and milliseconds
            checked()
            made = begin()(**{key: value for key, value in offered.items() if key in known})
        except UsageError:
            raise
        except Exception as error:
            cause = error.__cause__ or error
            if isinstance(cause, UsageError):
                raise cause from error
            reason = one_line(str(cause)) or type(cause).__name__
            raise UsageError(f"{name} cannot be built: {reason}") from error
        if not isinstance(made, kind):
            target = short(node["_target_"])
            raise UsageError(f"{name}._target_ is {target}, but must make a {kind.__name__}.")
        return made

    return build


def describe(
    config: StudyConfig, view: View | None, command: str, teacher: Teacher | None = None
) -> StudyDescription:
    """Return the description of the study that a user asks for.

    Args:
        config: what they ask for.
        view: of the data; None: an objective that asks for none.
        command: what they typed.
        teacher: that nets learn from.

    Raises:
        UsageError: the architecture is none, or does not fit the data.
    """
    if config.arch is not None and view is not None:
        build_net(config.arch, view.input)
    if config.family is not None and view is not None:
        build_family(config.family).check(view.input, config.max_params)
    asked = (
        "arch", "family", "target", "max_params", "space", "sampler", "pruner", "protocol",
        "epochs", "seed", "seeds", "statistic",
    )  # fmt: skip
    data: dict[str, Any] = {"data": "", "digest": "", "num_train": 0}
    if view is not None and config.data is not None:
        data = {key: getattr(config.data, key) for key in ("size", "grey", "fold")}
        data |= {"data": view.dataset, "digest": view.digest}
        data |= {"num_train": len(view.train), "input": view.input}
    objective = None
    if config.objective is not None:
        directions = config.directions or ONE_VALUE
        objective = {"name": config.objective, "digest": "", "directions": directions}
    format_ = FORMAT if config.family is None else FORMAT_OF_A_FAMILY
    if teacher is not None:
        format_ = FORMAT_OF_A_TEACHER
        told = {"digest": teacher.digest, "path": str(teacher.path), "words": teacher.words}
        data |= {"teacher": told}
    return StudyDescription.model_validate(
        {key: getattr(config, key) for key in asked}
        | {"trials": config.total}
        | data
        | {"version": __version__, "command": command, "objective": objective}
        | {"format": format_}
    )
