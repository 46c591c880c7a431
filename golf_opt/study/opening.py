"""Opening a study: a new one, or one that is there and must be the same."""

from __future__ import annotations

import uuid
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import optuna
from optuna.storages import BaseStorage

from golf_opt.config import command
from golf_opt.config.errors import UsageError
from golf_opt.config.schema import StudyConfig
from golf_opt.storage.optuna_internals import storage_of
from golf_opt.storage.studies import STUDY_ID, mark, marks
from golf_opt.storage.workers import flush
from golf_opt.study.description import (
    DESCRIPTION,
    StudyDescription,
    description_of,
    find_study,
    read,
    readable,
    snapshot_of,
)
from golf_opt.study.differences import differences, name_for, told
from golf_opt.study.parts import Objective
from golf_opt.study.space import Space
from golf_opt.task.family import build_family

MOST_TAKEN = 10  # points of each study that another one begins with


def open_study(
    storage: BaseStorage,
    name: str,
    description: StudyDescription,
    say: Callable[[str], None] = lambda _: None,
) -> tuple[optuna.Study, bool]:
    """Create the study, or open it if it is the same one; return it and whether it is new.

    Args:
        storage: that it is, or is to be, in.
        name: of the study.
        description: of what the user asks for.
        say: is given a line where an objective's source has changed since.

    Raises:
        UsageError: the name belongs to a study with another identity, or to a foreign study.
    """
    known = name in optuna.get_all_study_names(storage)
    if known:
        there = optuna.load_study(study_name=name, storage=storage)
        check_identity(there, description)
        if description.objective is not None:
            say_if_changed(description_of(there).objective, description.objective.digest, say)
    goals = description.goals
    study = optuna.create_study(
        study_name=name,
        storage=storage,
        directions=[goal.direction for goal in goals],
        load_if_exists=True,
    )
    if not known:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.set_metric_names([goal.name for goal in goals])
        mark(study, STUDY_ID, uuid.uuid4().hex)
    mark(study, DESCRIPTION, description.model_dump())
    if not known:
        flush(study)
    return study, not known


def earlier_points(
    storage: BaseStorage, names: Sequence[str], space: Space
) -> list[dict[str, Any]]:
    """Return the best points of other studies, those parts of each that a space holds.

    What is missing of a point the sampler is asked for.

    Raises:
        UsageError: there is no such study.
    """
    found = [
        space.held_of(trial.params)
        for name in names
        for trial in snapshot_of(find_study(storage, name)).ranked(MOST_TAKEN)
    ]
    return [point for point in found if point]


def known_points(config: StudyConfig, space: Space) -> list[dict[str, Any]]:
    """Return the points that a family's file begins with, those parts that the space holds."""
    known = [] if config.family is None else build_family(config.family).points
    return [point for each in known if (point := space.held_of(each))]


def say_if_changed(objective: Objective | None, digest: str, say: Callable[[str], None]) -> None:
    """Say so where the source of an objective is not what the study was run with last."""
    if objective is not None and objective.digest != digest:
        say(
            f"note: the file of {objective.name} is not the one that the study was run with last "
            f"({digest or 'none'} now, {objective.digest or 'none'} then); its values may differ"
        )


def check_identity(study: optuna.Study, description: StudyDescription) -> None:
    """Refuse to go on with a study as another one.

    Raises:
        UsageError: it is another one; the differences are named, and how to begin that one.
    """
    name, storage = study.study_name, storage_of(study)
    stored = read(marks(study))
    if stored is None:
        free, _ = _name_to_take(storage, name, description)
        raise UsageError(
            f"study {name!r} is there already and was not made by golf-opt; choose another name: "
            f"{command.again(description.verb, command.override('study.name', free))}"
        )
    if found := differences(stored.identity(), description.identity()):
        wanted = name_for(name, found, command.chosen("space"))
        other, there = _name_to_take(storage, wanted, description)
        raise UsageError(
            f"study {name!r} is another study: {told(found)}. Give what it was made with to go on "
            f"with it, or {'go on with this one' if there else 'begin a new one'}: "
            f"{command.again(description.verb, command.override('study.name', other))}"
        )


def _name_to_take(
    storage: BaseStorage, wanted: str, description: StudyDescription
) -> tuple[str, bool]:
    """Return a name under which the study can run, and whether it is there already."""
    known = {frozen.study_name: frozen.system_attrs for frozen in storage.get_all_studies()}
    for name in (wanted, *(f"{wanted}-{count}" for count in range(2, len(known) + 3))):
        if name not in known:
            return name, False
        stored = readable(name, known[name])
        if stored is not None and not differences(stored.identity(), description.identity()):
            return name, True
    raise AssertionError("there are more names than studies")
