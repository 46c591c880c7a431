"""What a study is, stored with it under one key: `open_study` writes it, everything else reads it.

Who goes on with the study must agree with its `identity`; the rest says how to run it elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from golf_opt import __version__
from golf_opt.config import defaults, types
from golf_opt.config.check import check
from golf_opt.config.errors import UsageError
from golf_opt.config.schema import DataConfig
from golf_opt.engines.base import Job
from golf_opt.storage import gate
from golf_opt.storage.studies import find_any_study, marks
from golf_opt.study.fresh import fresh_of
from golf_opt.study.parts import Objective, Part, Short, Taught
from golf_opt.study.seeds import Seeds
from golf_opt.study.space import Space, build_space
from golf_opt.task.arch import Net, build_net
from golf_opt.task.family import Family, build_family
from golf_opt.task.goals import Goal, show_goals
from golf_opt.task.inputs import MNIST, InputSpec
from golf_opt.task.recipe import PARAMETERS, Candidate
from golf_opt.utils.text import slug
from golf_opt.visualization.snapshot import StudySnapshot

DESCRIPTION = "golf_opt:study"
# Of the description: the first that can say what a study is. 0.1 kept three parts under own keys.
FORMAT, FORMAT_OF_A_FAMILY, FORMAT_OF_A_TEACHER = 2, 3, 4
RECIPE_0_1, FINGERPRINT_0_1, FACTS_0_1 = (
    f"golf_opt:{part}" for part in ("recipe", "fingerprint", "facts")
)
KEYS = (DESCRIPTION, RECIPE_0_1, FINGERPRINT_0_1)  # a study without them is not run or golfed with
ONE_VALUE: types.Directions = {"value": "maximize"}  # of an objective that says nothing else
SIZE = Goal("parameters", "minimize", accuracy=False)  # of a family's nets
OBJECTIVES = {"test": "test accuracy", "holdout": "holdout accuracy"}  # by protocol


def _made_by(build: Callable[[Any, Mapping[str, Any]], object]) -> AfterValidator:
    """Return the check that something can be made of a stored mapping.

    Args:
        build: is given the mapping, and those fields of the description that stand before it.
    """

    def check_made(node: Any, info: ValidationInfo) -> Any:
        try:
            build(node, info.data)
        except gate.UNREADABLE as error:
            raise ValueError(gate.reason(error)) from error
        return node

    return AfterValidator(check_made)


def _space(space: dict[str, Any], before: Mapping[str, Any]) -> None:
    family = before.get("family")
    nodes = None if family is None else build_family(family).space
    build_space(space, free=before.get("objective") is not None, family=nodes)


Goalpost = Annotated[float, Field(gt=0, lt=1)] | None


class StudyDescription(BaseModel):
    """One study, wherever it runs: data by name and hash, nothing of storage, engine or folder."""

    model_config = ConfigDict(frozen=True, strict=True)

    format: types.Positive = FORMAT
    version: Short  # of golf_opt, which stored this
    objective: Objective | None = None  # of the user's; None: the accuracy of a net of ours
    arch: dict[str, Any] | None  # name and layers; an objective has none
    family: Annotated[dict[str, Any], _made_by(lambda node, _: build_family(node))] | None = None
    target: Goalpost = None  # accuracy that a net of a family is to reach, and small
    max_params: types.Positive | None = None  # that a net of a family may have
    space: Annotated[dict[str, Any], _made_by(_space)]
    sampler: Part  # _target_ and arguments
    pruner: Part  # likewise
    data: Annotated[str, Field(max_length=4096)]  # a name, or a path as typed; or nothing at all
    size: types.PictureSize = None  # that the data's pictures were scaled to
    grey: bool = False  # whether they were made grey
    fold: types.Fold = 0  # which sixth of the training images was held out
    input: InputSpec = MNIST  # what the data has nets take and give
    digest: Short  # of what a trial sees of the data, see `View.digest`
    num_train: Annotated[int, Field(ge=0)]  # images
    teacher: Taught | None = None
    protocol: Literal["test", "holdout"]
    epochs: types.Epochs  # of each trial
    trials: types.Trials  # in all; None: a budget alone says when it is over
    seed: types.Seed
    seeds: types.Seeds = 1  # of each point
    statistic: types.Statistic = "mean"  # what a point is worth by them
    command: str  # what the user typed

    @model_validator(mode="after")
    def _arch_is_a_net(self) -> Self:
        if [self.arch, self.family, self.objective].count(None) != 2:
            raise ValueError("a study has either an arch or a family or an objective")
        try:
            _ = self.arch and self.net
        except gate.UNREADABLE as error:
            raise ValueError(gate.reason(error)) from error
        return self

    @cached_property
    def net(self) -> Net:
        """The net that the study trains.

        Raises:
            UsageError: it is a study of an objective, or of many nets.
        """
        if self.family is not None:
            raise UsageError(f"{self.subject} is a family of nets: each trial has its own.")
        if self.arch is None:
            raise UsageError(f"{self.subject} is a function of yours, and no net of ours.")
        return build_net(self.arch, self.input)

    @property
    def one_net(self) -> Net | None:
        """The net of every trial; None of an objective, and of a family."""
        return None if self.arch is None else self.net

    @cached_property
    def nets(self) -> Family | None:
        """The family that the study searches."""
        return None if self.family is None else build_family(self.family)

    @property
    def verb(self) -> Literal["study", "search"]:
        """What one goes on with the study by."""
        return "study" if self.family is None else "search"

    def net_of(self, params: Mapping[str, Any]) -> Net:
        """Return the net of a trial's parameters.

        Raises:
            UsageError: they make none.
        """
        return self.net if self.nets is None else self.nets.net(params, self.input)

    @property
    def subject(self) -> str:
        """What is trained: a net's name, or `my_module:train`."""
        if self.objective is not None:
            return self.objective.name
        return self.net.name if self.nets is None else self.nets.name

    @property
    def search_space(self) -> Space:
        nodes = None if self.nets is None else self.nets.space
        return build_space(self.space, free=self.objective is not None, family=nodes)

    @property
    def goals(self) -> tuple[Goal, ...]:
        """What the study optimises, in the order of its trials' values."""
        if self.objective is None:
            accuracy = Goal(OBJECTIVES[self.protocol])
            both = self.family is not None and self.max_params is None
            return (accuracy, SIZE) if both else (accuracy,)
        rows = self.objective.directions.items()
        return tuple(Goal(name, direction, accuracy=False) for name, direction in rows)

    @property
    def by_seed(self) -> Seeds:
        """How many seeds points get, and what they are worth by them."""
        return Seeds(self.seeds, self.statistic, self.seed)

    def data_config(self, given: DataConfig) -> DataConfig:
        """Return where the study's data is to be had: where `given` says, or as it was typed.

        Pictures are read as the study reads them, unless `given` says otherwise.
        """
        name = self.data if given.name == "auto" else given.name
        own = {key: getattr(given, key) or getattr(self, key) for key in ("size", "grey", "fold")}
        return replace(given, name=name, **own)

    @property
    def data_and_digest(self) -> str:
        return f"{self.data} ({self.digest})" if self.data else ""

    def with_source(self, digest: str) -> StudyDescription:
        """Return the description with the hash of the objective's source file, if it has one."""
        if self.objective is None:
            return self
        known = self.objective.model_copy(update={"digest": digest})
        return self.model_copy(update={"objective": known})

    @property
    def provenance(self) -> dict[str, Any]:
        """What every trial says of what was trained."""
        if self.objective is not None:
            return {"objective": self.objective.name, "objective_digest": self.objective.digest}
        return {"protocol": self.protocol}

    @property
    def default_name(self) -> str:
        """`c4-5-4`, or `c4-5-4@digits-holdout-2epochs`: what is not default is in the name."""
        usual, standing = "mnist" if self.objective is None else "", defaults(self.verb)
        marks = [
            "" if self.data == usual else slug(Path(self.data).stem),
            "" if self.protocol == standing["protocol"] else self.protocol,
            "" if self.epochs == standing["epochs"] else f"{self.epochs}epochs",
            f"target{self.target:g}" if self.target else "",
            f"max{self.max_params}" if self.max_params else "",
            "" if self.seeds == 1 or self.family is not None else "seeds",
            f"teacher{self.teacher.digest[:6]}" if self.teacher else "",
        ]
        suffix = "-".join(mark for mark in marks if mark)
        name = self.subject.replace(":", ".")
        return f"{name}@{suffix}" if suffix else name

    def job(self, trial: FrozenTrial) -> Job:
        """Return what a lane trains for a trial: what was tuned, and what the space fixes.

        Raises:
            UsageError: the trial's parameters or its seed are none.
        """
        values = dict(self.search_space.fixed) | trial.params
        net = self.net_of(values)
        try:
            candidate = check(Candidate, recipe_of(values))
            seed: int = check(types.Seed, trial.user_attrs.get("seed"), "its seed")
        except UsageError as error:
            raise UsageError(f"trial {trial.number} cannot be read: {error}") from error
        return Job(net, candidate, seed, self.epochs)

    def job_of(self, values: Mapping[str, Any], seed: int) -> Job:
        """Return what a lane trains for values of all parameters, the fixed ones included.

        Raises:
            UsageError: they make no net.
        """
        return Job(self.net_of(values), Candidate(**recipe_of(values)), seed, self.epochs)

    def snapshot(
        self, name: str, trials: Sequence[FrozenTrial], attributes: Mapping[str, Any] | None = None
    ) -> StudySnapshot:
        """Return the study as figures and reports read it, with some of its trials.

        What was confirmed on fresh seeds is in its system attributes.
        """
        goals, epochs, worth = self.goals, self.epochs, self.by_seed.worth
        fresh = fresh_of(attributes or {}, epochs)
        return StudySnapshot(name, self.data, self.protocol, goals, epochs, trials, worth, fresh)

    def identity(self) -> dict[str, Any]:
        """Return what makes two runs the same study."""
        own: dict[str, Any]
        if self.nets is not None:
            asked = [show_goals(self.goals)]
            asked += [f"target={self.target:g}"] if self.target else []
            asked += [f"max_params={self.max_params}"] if self.max_params else []
            own = {"family": self.nets.name, "layers": self.nets.describe()}
            own |= {"objective": ", ".join(asked)}
        elif self.objective is None:
            layers = [_show_layer(row) for row in self.net.describe()]
            own = {"arch": self.net.name, "layers": layers, "objective": self.goals[0].name}
        else:
            own = {"function": self.objective.name, "objective": show_goals(self.goals)}
        return own | {
            "space": self.search_space.describe(),
            "data": self.data_and_digest,
            "protocol": self.protocol,
            "epochs": self.epochs,
            "seeds": self.by_seed.identity,
            **({"teacher": self.teacher.digest} if self.teacher else {}),
        }


def recipe_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a net's parameters that says how it is trained."""
    return {name: value for name, value in values.items() if name in PARAMETERS}


def _show_layer(row: Mapping[str, Any]) -> str:
    left_out = ("kind", "trained", "kept")  # the hash of a module is of its tensors' shapes too
    options = ", ".join(f"{key}={value}" for key, value in row.items() if key not in left_out)
    return f"{row['kind']}({options})"


def read(attributes: Mapping[str, Any]) -> StudyDescription | None:
    """Return the description among a study's system attributes; None of a study not ours.

    Raises:
        UsageError: a newer golf-opt stored it, or it is damaged.
    """
    try:
        stored = attributes.get(DESCRIPTION, _stored_by_0_1(attributes))
        if stored is None:
            return None
        if stored["format"] > FORMAT_OF_A_TEACHER:
            raise UsageError(
                f"the study's format is {stored['format']}, but must be at most "
                f"{FORMAT_OF_A_TEACHER} for "
                f"golf-opt {__version__}; install golf-opt=={stored['version']}, which stored it."
            )
        return StudyDescription.model_validate(stored)
    except ValidationError as error:
        first = error.errors()[0]
        reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    except (KeyError, TypeError, AttributeError) as error:
        reason = gate.reason(error)
    raise UsageError(f"the study's description is damaged: {reason}.")


def _stored_by_0_1(attributes: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what version 0.1 kept in three parts as today's one."""
    if RECIPE_0_1 not in attributes or FINGERPRINT_0_1 not in attributes:
        return None
    recipe: dict[str, Any] = attributes[RECIPE_0_1]
    data = attributes[FINGERPRINT_0_1]["data"]
    return recipe | {
        "format": FORMAT,
        "digest": data.partition(" ")[2].strip("()"),
        "num_train": attributes.get(FACTS_0_1, {}).get("num_train", 0),
    }


def readable(name: str, attributes: Mapping[str, Any]) -> StudyDescription | None:
    """Return what `read` does; where that raises, tell it and return None.

    For a list that shows other studies, too.
    """
    try:
        return read(attributes)
    except UsageError as error:
        gate.tell(f"study {name!r}", [str(error)])
    return None


def description_of(study: optuna.Study) -> StudyDescription:
    """Return the description of a study of ours.

    Raises:
        UsageError: golf-opt did not make the study, or what it stored cannot be read.
    """
    description = read(marks(study))
    if description is None:
        raise UsageError(
            f"study {study.study_name!r} was not made by this golf-opt; it keeps no description."
        )
    return description


def snapshot_of(study: optuna.Study) -> StudySnapshot:
    """Return a study of ours with all its trials."""
    trials = study.get_trials(deepcopy=False)
    return description_of(study).snapshot(study.study_name, trials, marks(study))


def find_study(storage: BaseStorage, name: str) -> optuna.Study:
    """Return a study of ours by its name.

    Raises:
        UsageError: there is none of that name, or golf-opt did not make it.
    """
    study = find_any_study(storage, name)
    description_of(study)
    return study
