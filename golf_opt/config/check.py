"""Checking by pydantic: constraints stand in the types, and a mistake is a `UsageError`.

    @model
    class Oven:
        celsius: Annotated[StrictInt, Field(ge=50, le=250)]
        mode: Literal["fan", "grill"]

    Oven(celsius=180, mode="fan")                      # checked
    check(Oven, {"celsius": 300, "mode": "fan"}, "oven")
    # UsageError: oven.celsius is 300, but must be at least 50 and at most 250.

The words come from the JSON schema that pydantic makes of the types. A validator that wants words
of its own raises `ValueError` with what the value must be, or `UsageError` with the whole message.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, wraps
from typing import Any, TypeVar, dataclass_transform

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic_core import ArgsKwargs

from golf_opt.config.errors import UsageError, did_you_mean, short, unknown_key

T = TypeVar("T")
Node = Mapping[str, Any]  # of a JSON schema
RULES = ConfigDict(
    extra="forbid",
    coerce_numbers_to_str=True,  # Hydra reads `study=7` as a number
    validate_by_name=True,
    validate_by_alias=True,
)


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def model(cls: type[T]) -> type[T]:
    """Make a frozen dataclass that checks its fields; unknown ones are refused."""
    made: Any = dataclass(frozen=True)(cls)

    @wraps(made.__init__)
    def checked(self: T, *args: Any, **named: Any) -> None:
        try:
            _adapter(made).validator.validate_python(ArgsKwargs(args, named), self_instance=self)
        except ValidationError as error:
            raise UsageError(_explain(_adapter(made), error, "")) from error

    made.__init__ = checked
    made.__pydantic_config__ = RULES
    return cls


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    """Return pydantic's checker of a type; it takes a millisecond to make and is made when used."""
    return TypeAdapter(kind)


def check(kind: Any, value: object, place: str = "") -> Any:
    """Return the value as what the type says.

    Args:
        kind: a `model`, or any type that pydantic knows.
        value: plain data.
        place: the dotted key of the value, for the message.

    Raises:
        UsageError: it is not that.
    """
    adapter = _adapter(kind)
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        raise UsageError(_explain(adapter, error, place)) from error


def must_be(kind: Any) -> str:
    """Return in words what a value of a type must be, as `a whole number of at least 1`."""
    schema: Node = _adapter(kind).json_schema()
    return _must(schema, schema, None).rstrip(".")


def load(kind: type[T], cfg: DictConfig) -> T:
    """Check what Hydra composed; nothing else sees a DictConfig.

    Raises:
        UsageError: a value is missing or not allowed.
    """
    try:
        tree = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise UsageError(str(error).splitlines()[0]) from error
    checked: T = check(kind, tree)
    return checked


def _explain(adapter: TypeAdapter[Any], failed: ValidationError, place: str) -> str:
    """Return our message for the first error."""
    error = failed.errors(include_url=False)[0]
    cause = error.get("ctx", {}).get("error")
    if isinstance(cause, UsageError):
        return str(cause)
    whole: Node = adapter.json_schema()
    name, node, parent = place, whole, whole
    unknown = error["type"] == "unexpected_keyword_argument"
    for part in error["loc"]:
        if (chosen := _tagged(whole, node, part)) is not None:
            node = chosen
            continue
        parent, inner = node, _inside(whole, node, part)
        if inner is None and not unknown:
            break  # what follows names the branch of a union
        name += f"[{part}]" if isinstance(part, int) else f".{part}" if name else part
        node = inner or {}
    if unknown:
        return unknown_key(name, _resolved(whole, parent)["properties"])
    if error["type"] == "missing":
        return f"{name} is missing; it must be {_must(whole, node, None)}"
    value = error["input"]
    return f"{name} is {short(value)}, but must be {cause or _must(whole, node, value)}"


def _resolved(whole: Node, node: Node) -> Node:
    """Follow references, and leave out that a value may be null."""
    if "$ref" in node:
        return _resolved(whole, whole["$defs"][node["$ref"].rpartition("/")[2]])
    options = [option for option in node.get("anyOf", []) if option.get("type") != "null"]
    return _resolved(whole, options[0]) if len(options) == 1 else node


def _tagged(whole: Node, node: Node, part: str | int) -> Node | None:
    """Return the choice of a group that a part of a place names; it is no key."""
    choices = _resolved(whole, node).get("discriminator", {}).get("mapping", {})
    return {"$ref": choices[part]} if part in choices else None


def _inside(whole: Node, node: Node, part: str | int) -> Node | None:
    node = _resolved(whole, node)
    inner = node.get("items") if isinstance(part, int) else node.get("properties", {}).get(part)
    more = node.get("additionalProperties")
    return inner or (more if isinstance(more, dict) else None)


def _must(whole: Node, node: Node, value: object) -> str:
    """Return in words what a value must be, with its full stop."""
    words = node.get("description")
    node = _resolved(whole, node)
    choices = node.get("enum") or ([node["const"]] if "const" in node else None)
    if choices:
        return did_you_mean(str(value), choices)
    kind = node.get("type")
    if words is None and kind in NUMBERS:
        right = isinstance(value, NUMBERS[kind][0]) and not isinstance(value, bool)
        told = [key for key in BOUNDS if key in node and not _goes_without_saying(node[key], value)]
        bounds = " and ".join(f"{BOUNDS[key]} {node[key]}" for key in told)
        return f"{' '.join(filter(None, ('' if right and bounds else NUMBERS[kind][1], bounds)))}."
    return f"{words or WORDS.get(str(kind), 'something else')}."


def _goes_without_saying(bound: float, value: object) -> bool:
    """Whether a bound is a machine's, and the value is on its right side."""
    return bound >= MACHINE and not (isinstance(value, (int, float)) and value > bound)


MACHINE = 2**31 - 1
NUMBERS: dict[str, tuple[Any, str]] = {
    "integer": (int, "a whole number of"),
    "number": ((int, float), "a number"),
}
BOUNDS = {
    "minimum": "at least", "exclusiveMinimum": "above",
    "maximum": "at most", "exclusiveMaximum": "below",
}  # fmt: skip
WORDS = {
    "boolean": "true or false",
    "string": "a text",
    "array": "a list",
    "object": "a group choice or a mapping",
}
