"""What a configuration gives a sampler, a pruner or a callback, held against the class's own types.

Optuna checks little of it: a sampler takes -5 random trials, or NaN of them, and says nothing.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from functools import cache
from types import NoneType, SimpleNamespace, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from hydra.utils import get_object
from pydantic import ConfigDict, Field, StrictInt, TypeAdapter, ValidationError

from golf_opt.config.check import check
from golf_opt.config.errors import UsageError, did_you_mean, short

Count = Annotated[StrictInt, Field(ge=0, le=1_000_000)]
STRICT = ConfigDict(strict=True, arbitrary_types_allowed=True)
WORDS = {
    int: "a whole number", float: "a number", bool: "true or false", str: "a text",
    NoneType: "null",
}  # fmt: skip


def check_arguments(name: str, node: Any, counts: bool) -> None:
    """Refuse a value that is not of the type that the class says, or no number one can count with.

    Args:
        name: the dotted key of the node, for the message.
        node: a `_target_` with its arguments, some of them nodes themselves.
        counts: whether whole numbers are numbers of something, as all of Optuna's are.

    Raises:
        UsageError: it is so.
    """
    kinds = _kinds(str(node["_target_"])) if "_target_" in node else {}
    for key, value in node.items():
        place = f"{name}.{key}"
        if _is_node(value):
            check_arguments(place, value, counts)
            continue
        if key in kinds:
            _check_kind(place, value, kinds[key])
        _check_numbers(place, value, counts)


def _is_node(value: object) -> bool:
    return isinstance(value, Mapping) and "_target_" in value


def _check_numbers(place: str, value: object, counts: bool) -> None:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            _check_numbers(f"{place}.{key}", inner, counts)
    elif isinstance(value, float) and not math.isfinite(value):
        raise UsageError(f"{place} is {value}, but must be a finite number.")
    elif counts and type(value) is int:
        check(Count, value, place)


def _check_kind(place: str, value: object, kind: Any) -> None:
    checker = _checker(kind)
    if checker is None:
        return
    try:
        checker.validate_python(value)
    except ValidationError as error:
        if get_origin(kind) is Literal:
            must = did_you_mean(str(value), map(str, get_args(kind)))
        else:
            must = f"{_words(kind)}."
        raise UsageError(f"{place} is {short(value)}, but must be {must}") from error


def _words(kind: Any) -> str:
    if get_origin(kind) in (Union, UnionType):
        return " or ".join(map(_words, get_args(kind)))
    return WORDS.get(kind) or inspect.formatannotation(kind)


@cache
def _checker(kind: Any) -> TypeAdapter[Any] | None:
    try:
        return TypeAdapter(kind, config=STRICT)
    except Exception:  # a type that pydantic cannot make sense of
        return None


@cache
def _kinds(target: str) -> Mapping[str, Any]:
    """Return the types of the keywords that a class or function takes, where they can be known."""
    made = get_object(target)
    function: Any = inspect.unwrap(made.__init__ if inspect.isclass(made) else made)
    known: dict[str, Any] = {}
    for name, written in getattr(function, "__annotations__", {}).items():
        one = SimpleNamespace(__annotations__={name: written})
        try:
            known |= get_type_hints(one, globalns=function.__globals__)
        except Exception:  # names that are there for type checkers alone
            continue
    return known
