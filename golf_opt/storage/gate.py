"""The gate for what a database or an export holds: nothing of it is believed before it passed here.

A trial that cannot be one becomes a failed trial that says why: numbers and totals stay what they
are, and no sampler learns from it. An attribute that is read by us, Optuna or its dashboard and is
not what it must be is left out. What is wrong with a study is told once, in one line, through the
log `golf_opt`; functions here collect it in `complaints`.
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from datetime import datetime
from functools import cache
from typing import Annotated, Any, Literal

from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState
from pydantic import AfterValidator, Field, Json, StrictBool, StrictFloat, StrictInt, StrictStr

from golf_opt.config.check import check, model
from golf_opt.config.errors import UsageError
from golf_opt.config.types import MOST
from golf_opt.storage.optuna_internals import contains

log = logging.getLogger("golf_opt")

MOST_TEXT = 16 * 1024 * 1024  # characters of an attribute: as objects they take many times as much
DEEPEST = 50  # levels of an attribute's lists and mappings
EPOCH = datetime(1970, 1, 1)  # stands in for a time that cannot be read
UNREADABLE = (
    ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError,
    AssertionError,
)  # fmt: skip
MOST_TOLD = 3  # complaints of a line


def _storable(text: str) -> str:
    text.encode()  # half of a surrogate pair is no text
    if len(text) > 512 or "\0" in text:
        raise ValueError("at most 512 characters, and none of them NUL.")
    return text


def _is(kind: Any, words: str) -> AfterValidator:
    """Return the check of a value that was made already."""

    def check_kind(value: object) -> object:
        if not isinstance(value, kind):
            raise ValueError(words)
        return value

    return AfterValidator(check_kind)


Key = Annotated[str, AfterValidator(_storable)]  # of a parameter or an attribute
Step = Annotated[StrictInt, Field(ge=-MOST, le=MOST)]
Count = Annotated[StrictInt, Field(ge=0, le=MOST)]
Scalar = StrictStr | StrictInt | StrictFloat | StrictBool | None
Moment = Annotated[Any, _is(datetime | None, "a time.")]


@model
class StoredTrial:
    """What a trial is made of; values of attributes are anything that JSON can hold."""

    number: Count
    state: Annotated[Any, _is(TrialState, "one of Optuna's states.")]
    values: Annotated[list[StrictFloat], Field(min_length=1)] | None
    datetime_start: Moment
    datetime_complete: Moment
    params: dict[Key, Scalar]
    distributions: dict[Key, Annotated[Any, _is(BaseDistribution, "a distribution.")]]
    intermediate_values: dict[Step, StrictFloat]
    user_attrs: dict[Key, Any]
    system_attrs: dict[Key, Any]


PARTS = tuple(part.name for part in fields(StoredTrial))


@model
class Artifact:
    """A file of a study or of a trial, as Optuna describes it."""

    artifact_id: Annotated[str, Field(pattern=r"^[0-9a-f-]{36}$")]
    filename: Annotated[str, Field(max_length=255, pattern=r"^[^\x00-\x1f\x7f/\\]*$")]
    mimetype: Annotated[str, Field(max_length=255, pattern=r"^[\w.+-]+/[\w.+-]+$")]
    encoding: Annotated[str, Field(pattern=r"^[\w-]{1,40}$")] | None


@model
class TestReading:
    """What a study of protocol=holdout read of the test set."""

    trial: Count
    test_accuracy: Annotated[StrictFloat, Field(ge=0, le=1)]
    after_trials: Count


@model
class RunLimits:
    """When the run of a study that was begun last is over."""

    deadline: Annotated[StrictFloat, Field(allow_inf_nan=False)] | None
    epochs: Count | None
    plateau: StrictBool


# Attributes that a program reads and believes, by pattern. Others are shown, and no more.
KNOWN: Mapping[str, Any] = {
    r"golf_opt:id": Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")],
    r"golf_opt:paused": Count | None,
    r"golf_opt:limits": RunLimits,
    r"golf_opt:importing": str | Literal[False],
    r"golf_opt:note_sections": dict[str, str],
    r"golf_opt:confirmed(:\d+)?": dict[str, Any],  # whose rows pass study/fresh.py
    r"golf_opt:test_readings": list[TestReading],
    r"dashboard:(\d+:)?note_str:\d+": str,
    r"dashboard:(\d+:)?note_ver": Count,
    r"(dashboard:)?artifacts:.*": Json[Artifact | None],  # type: ignore[misc]
    r"study:metric_names": list[str],
    r"fixed_params": dict[str, Scalar],
    r"grid_id": Count,
    r"search_space": dict[str, list[Scalar]],
    r"constraints": list[StrictFloat],
    r"completed_rung_\d+": StrictFloat,
    r"(\w+:)+generation": StrictInt,
    r"(qmc|tpe|gp):.*": str | StrictInt,
}
PICKLES = re.compile(r"(\w+:)+optimizer:.*")  # of Optuna's CMA-ES, which unpickles what it finds


def read_json(text: object) -> Any:
    """Return what a JSON text says.

    Raises:
        ValueError, TypeError, RecursionError: it is none, or nested too deep.
    """
    if not isinstance(text, str):
        raise TypeError(f"{type(text).__name__} stands where JSON must")
    if len(text) > MOST_TEXT:
        raise ValueError(f"its text has {len(text):,} characters, but may have {MOST_TEXT:,}")
    value = json.loads(text)
    if text.count("[") + text.count("{") > DEEPEST:
        _refuse_deep(value, DEEPEST)
    if "\\ud" in text.lower():
        json.dumps(value, ensure_ascii=False).encode()  # half of a surrogate pair is no text
    return value


def _refuse_deep(value: object, levels: int) -> None:
    children = value.values() if isinstance(value, dict) else value
    if isinstance(value, (dict, list)):
        if not levels:
            raise ValueError(f"it is nested more than {DEEPEST} levels deep")
        for child in children:  # type: ignore[attr-defined]
            _refuse_deep(child, levels - 1)


def admit(trial: FrozenTrial, num_objectives: int, complaints: list[str]) -> FrozenTrial:
    """Return a trial that was read, checked, without attributes that are not what they must be.

    Raises:
        UsageError: it cannot be a trial.
    """
    check(StoredTrial, {key: getattr(trial, key) for key in PARTS})
    values = trial.values or []
    if len(values) != num_objectives and (values or trial.state == TrialState.COMPLETE):
        raise UsageError(f"it has {len(values)} values, but must have {num_objectives}")
    if any(map(math.isnan, values)):
        raise UsageError("a value of it is not a number")
    if trial.params.keys() != trial.distributions.keys():
        raise UsageError("its parameters and their distributions differ")
    for name, distribution in trial.distributions.items():
        value = trial.params[name]
        if not isinstance(distribution, CategoricalDistribution) and not _is_number(value):
            raise UsageError(f"its {name} is {value!r}, but must be a number")
        # what is finished may have been asked for outside of the space; Optuna lets that be
        if not trial.state.is_finished() and not contains(distribution, value):
            raise UsageError(f"its {name} is {value!r}, outside of {distribution}")
    found: list[str] = []
    trial.system_attrs = admit_attributes(trial.system_attrs, found)
    complaints += [f"trial {trial.number}, {complaint}" for complaint in found]
    return trial


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def admit_attributes(attributes: Mapping[str, Any], complaints: list[str]) -> dict[str, Any]:
    """Return attributes without those that are not what whoever reads them believes."""
    kept = {}
    for key, value in attributes.items():
        if PICKLES.fullmatch(key):
            continue  # nothing is wrong where there is one; it is only not for us
        try:
            if (kind := _known(key)) is not None:
                check(kind, value, "it")
            kept[key] = value
        except UNREADABLE as error:
            complaints.append(_left_out(key, error))
    return kept


def _left_out(key: object, error: Exception) -> str:
    return f"attribute {key!r} is left out: {reason(error)}"


@cache
def _patterns() -> list[tuple[re.Pattern[str], Any]]:
    return [(re.compile(pattern), kind) for pattern, kind in KNOWN.items()]


def _known(key: str) -> Any:
    return next((kind for pattern, kind in _patterns() if pattern.fullmatch(key)), None)


def decoded(rows: Iterable[tuple[object, object]], complaints: list[str]) -> dict[str, Any]:
    """Return attributes of a study from their keys and JSON texts, admitted."""
    values: dict[str, Any] = {}
    for key, text in rows:
        try:
            values[check(Key, key, "key")] = read_json(text)
        except UNREADABLE as error:
            complaints.append(_left_out(key, error))
    return admit_attributes(values, complaints)


def failed(number: int, trial_id: int, why: str) -> FrozenTrial:
    """Return the failed trial that stands for one which cannot be read."""
    return FrozenTrial(
        number=number, trial_id=trial_id, state=TrialState.FAIL, value=None,
        datetime_start=EPOCH, datetime_complete=EPOCH, params={},
        distributions={}, user_attrs={"fail_reason": f"it cannot be read: {why}"},
        system_attrs={}, intermediate_values={},
    )  # fmt: skip


def reason(error: Exception) -> str:
    """Return in a few words why something cannot be read."""
    if isinstance(error, RecursionError):
        return "it is nested too deep"
    text = " ".join(str(error).split()).rstrip(".")
    text = text if len(text) <= 120 else f"{text[:120]}..."
    return f"it has no {text}" if isinstance(error, KeyError) else text or type(error).__name__


def counts_as_failed(number: object, error: Exception) -> str:
    """Return the complaint about a trial that cannot be read."""
    return f"trial {number} cannot be read and counts as failed: {reason(error)}"


def tell(where: str, complaints: Sequence[str]) -> None:
    """Log what is wrong in one line; nothing where nothing is, or where it was told before."""
    if complaints:
        more = len(complaints) - MOST_TOLD
        shown = "; ".join(complaints[:MOST_TOLD]) + (f"; and {more} more" if more > 0 else "")
        _log_once(f"{where}: {shown}")


@cache
def _log_once(line: str) -> None:
    log.warning("%s", line)


def forget_what_was_told() -> None:
    """Let everything be told again, as a new process would."""
    _log_once.cache_clear()
