"""Families of nets: an architecture file with a `space:` and parameters in its layers.

A layer's value is a parameter's where it reads `$name`. Layers may be repeated, left out, and
shared, and a parameter may be one for each repetition:

    >>> import yaml
    >>> family = build_family(yaml.safe_load('''
    ...     name: tiny
    ...     space:
    ...       depth: {type: int, low: 1, high: 3}
    ...       channels: {type: categorical, choices: [2, 4], each: depth}  # channels_1, ...
    ...       pool: {type: categorical, choices: [true, false]}
    ...     layers:
    ...       - repeat: $depth
    ...         layers: [{kind: conv, channels: $channels, kernel: 3}, {kind: relu}]
    ...       - {kind: max_pool, size: 2, when: {pool: true}}
    ...       - {kind: global_avg_pool}
    ...       - {kind: linear, features: classes}
    ... '''))
    >>> list(family.space)
    ['depth', 'pool', 'channels_1', 'channels_2', 'channels_3']
    >>> family.space["channels_2"]["when"]  # a shallower net has no such layer
    {'depth': [2, 3]}
    >>> family.net({"depth": 2, "pool": True, "channels_1": 2, "channels_2": 4}).num_params
    146

Nothing of a file is run: `$name` stands for a value, and that is all.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from golf_opt.config import yaml_file
from golf_opt.config.check import check
from golf_opt.config.errors import UsageError, check_choice, check_keys, short
from golf_opt.config.types import StudyName
from golf_opt.task.arch import MOST_LAYERS, Net, build_net
from golf_opt.task.inputs import MNIST, InputSpec
from golf_opt.task.layers import KINDS, Layer

Row = Mapping[str, Any]
KEYS = ("name", "space", "layers", "points")
EACH, WHEN, REPEAT, SHARE = "each", "when", "repeat", "share"
BLOCK = (REPEAT, "layers", WHEN, SHARE)
MOST_REPEATS = 32
PARAMETER = re.compile(r"\$([A-Za-z]\w*)", re.ASCII)
NUM_TRIED = 100  # nets that are built of a family before it is searched
Conditions = Mapping[str, Sequence[Any]]


@dataclass(frozen=True)
class Family:
    """Nets that differ in their parameters; `space` has a node for each, as conf/space has."""

    name: str
    layers: Sequence[Any]
    space: Mapping[str, Any]  # `each` written out
    each: Mapping[str, str]  # parameters that are one for each repetition, and the count's name
    points: Sequence[Row] = ()  # what is known to be good: parameters, which are tried first

    def net(self, params: Mapping[str, Any], spec: InputSpec = MNIST) -> Net:
        """Return the net of some parameters, named after its size.

        Args:
            params: of the space; those that are not tuned may be left out.
            spec: what the net takes and gives.

        Raises:
            UsageError: they make no net, such as one whose kernel is larger than its input.
        """
        fixed = {name: node for name, node in self.space.items() if not isinstance(node, Mapping)}
        rows: list[dict[str, Any]] = []
        self._write(self.layers, fixed | dict(params), "", rows)
        net = build_net({"name": self.name, "layers": rows}, spec)
        return replace(net, name=f"{self.name}-{net.num_params}")

    def check(self, spec: InputSpec = MNIST, max_params: int | None = None) -> Net:
        """Return the smallest net of some that are tried.

        Raises:
            UsageError: none of them can be built for the input, or none is small enough.
        """
        errors: list[UsageError] = []
        nets: list[Net] = []
        draw = random.Random(0)
        for _ in range(NUM_TRIED):
            params: dict[str, Any] = {}
            for name, node in self.space.items():
                if isinstance(node, Mapping) and _holds(_conditions(node), params):
                    params[name] = draw.choice(_values(node))
                elif not isinstance(node, Mapping):
                    params[name] = node
            try:
                nets.append(self.net(params, spec))
            except UsageError as error:
                errors.append(error)
        if not nets:
            raise UsageError(f"family {self.name} has no net for this data: {errors[0]}")
        smallest = min(nets, key=lambda net: net.num_params)
        if max_params is not None and smallest.num_params > max_params:
            raise UsageError(
                f"max_params is {max_params}, but the smallest of {len(nets)} nets of family "
                f"{self.name} has {smallest.num_params:,} parameters; allow more, or take a "
                "family with smaller ones."
            )
        return smallest

    def describe(self) -> list[str]:
        """Return the layers as lines: what two families must share to be the same."""
        return [_line(row) for row in self.layers]

    def _write(
        self, rows: Sequence[Any], values: Mapping[str, Any], suffix: str, out: list[dict[str, Any]]
    ) -> None:
        """Add the layers that some values give; `suffix` tells repetitions apart."""
        names = {row["name"] for row in rows if isinstance(row, Mapping) and "name" in row}
        for row in rows:
            if isinstance(row, (list, tuple)):
                self._write(row, values, suffix, out)
            elif not _holds(_conditions(row), values):
                continue
            elif REPEAT in row:
                self._repeat(row, values, suffix, out)
            else:
                layer = {k: self._value(v, values) for k, v in row.items() if k != WHEN}
                for key in ("name", "of"):
                    if suffix and layer.get(key) in names:
                        layer[key] += suffix
                out.append(layer)
            if len(out) > MOST_LAYERS:
                raise UsageError(f"family {self.name} has a net of over {MOST_LAYERS} layers.")

    def _repeat(
        self, row: Row, values: Mapping[str, Any], suffix: str, out: list[dict[str, Any]]
    ) -> None:
        times = self._value(row[REPEAT], values)
        if not isinstance(times, int) or not 0 <= times <= MOST_REPEATS:
            must = f"a whole number of 0 to {MOST_REPEATS}"
            raise UsageError(f"family {self.name}: repeat is {short(times)}, but must be {must}.")
        counter = str(row[REPEAT]).removeprefix("$")
        first: list[dict[str, Any]] = []
        for index in range(1, times + 1):
            own = {
                name: values[f"{name}_{index}"]
                for name, of in self.each.items()
                if of == counter and f"{name}_{index}" in values
            }
            block: list[dict[str, Any]] = []
            place = f"{suffix}_{len(out)}"  # no other repetition begins there
            self._write(row["layers"], {**values, **own}, place, block)
            if self._value(row.get(SHARE, False), values):
                block, first = _shared(block, first, place), first or block
            out += block

    def _value(self, value: Any, values: Mapping[str, Any]) -> Any:
        if isinstance(value, (list, tuple)):
            return [self._value(part, values) for part in value]
        named = PARAMETER.fullmatch(value) if isinstance(value, str) else None
        if named is None:
            return value
        if named[1] not in values:
            raise UsageError(
                f"family {self.name}: a layer asks for ${named[1]} where it has no value; give the "
                f"layer the `when` that space.{named[1]} has."
            )
        return values[named[1]]


def build_family(content: Mapping[str, Any]) -> Family:
    """Build a family from `{name, space, layers, points}`, as a file of conf/family has them.

    Raises:
        UsageError: it is none; what is wrong is named.
    """
    name = check(StudyName, content.get("name", "family"), "family.name")
    check_keys("family", content, KEYS)
    space, layers = content.get("space"), content.get("layers")
    if not isinstance(space, Mapping) or not space:
        must = "a mapping of parameters, such as depth: {type: int, low: 1, high: 3}"
        raise UsageError(f"family.space is {short(space)}, but must be {must}.")
    if not isinstance(layers, (list, tuple)) or not layers:
        raise UsageError(f"family.layers is {short(layers)}, but must be a list of layers.")
    rows = list(layers)
    _check_rows(rows, name)
    each = {
        str(key): check_choice(f"family.space.{key}.each", node[EACH], list(space))
        for key, node in space.items()
        if isinstance(node, Mapping) and EACH in node
    }
    _check_names(name, space, rows, each)
    points = content.get("points") or []
    if not isinstance(points, (list, tuple)) or not all(isinstance(p, Mapping) for p in points):
        must = "a list of mappings of parameter to value"
        raise UsageError(f"family.points is {short(points)}, but must be {must}.")
    return Family(name, rows, _written_out(space, each), each, points)


def read_family(path: Path) -> dict[str, Any]:
    """Return what a file says of a family; it may be anybody's, and is plain data.

    Raises:
        UsageError: it is no such file.
    """
    content = {"name": path.stem} | yaml_file.load_plain(path, "with name, space and layers")
    check_keys(str(path), content, KEYS)
    return content


def _check_rows(rows: Sequence[Any], name: str) -> None:
    for row in rows:
        if isinstance(row, (list, tuple)):
            _check_rows(row, name)
        elif not isinstance(row, Mapping) or ("kind" in row) == (REPEAT in row):
            must = "a mapping with a kind or with `repeat` and layers"
            raise UsageError(f"family {name}: a layer is {short(row)}, but must be {must}.")
        elif not isinstance(row.get(WHEN, {}), Mapping):
            must = "a mapping such as {pool: true}"
            raise UsageError(f"family {name}: when is {short(row[WHEN])}, but must be {must}.")
        elif REPEAT in row:
            check_keys(f"family {name}: a repetition", row, BLOCK)
            if not isinstance(row.get("layers"), (list, tuple)):
                raise UsageError(f"family {name}: a repetition has no list of layers.")
            _check_rows(row["layers"], name)


def _check_names(
    name: str, space: Mapping[str, Any], rows: Sequence[Any], each: Mapping[str, str]
) -> None:
    """Refuse a `$name` that the space has not, and a parameter that no layer asks for."""
    asked = set(_asked(rows))
    for parameter in sorted(asked):
        check_choice(f"family {name}: a layer's parameter", parameter, list(space))
    conditions = (_conditions(node) for node in space.values() if isinstance(node, Mapping))
    used = asked | set(each.values()) | {other for when in conditions for other in when}
    for parameter in space:
        if not isinstance(parameter, str) or not re.fullmatch(r"[A-Za-z]\w*", parameter, re.ASCII):
            must = "a letter, then letters, digits or _"
            raise UsageError(f"family.space has {short(parameter)}, but its name must be {must}.")
        if parameter not in used:
            raise UsageError(
                f"family.space.{parameter} stands in no layer of {name}; write ${parameter} where "
                "its value is to go, or leave it out."
            )


def _asked(rows: Sequence[Any]) -> Iterator[str]:
    """Yield the names of the parameters that layers ask for."""
    for row in rows:
        if isinstance(row, (list, tuple)):
            yield from _asked(row)
        elif isinstance(row, Mapping):
            yield from map(str, row.get(WHEN) or ())
            yield from _asked(list(row.values()))
        elif isinstance(row, str) and (named := PARAMETER.fullmatch(row)):
            yield named[1]


def _written_out(space: Mapping[str, Any], each: Mapping[str, str]) -> dict[str, Any]:
    """Return the nodes with one for each repetition; those come behind what they depend on."""
    nodes = {name: node for name, node in space.items() if name not in each}
    for name, counter in each.items():
        times = nodes.get(counter)
        node = {key: value for key, value in space[name].items() if key != EACH}
        low, high = (times, times) if type(times) is int else _bounds(counter, times)
        for index in range(1, high + 1):
            when = {counter: list(range(max(low, index), high + 1))} if index > low else {}
            made = {**node, WHEN: {**dict(node.get(WHEN) or {}), **when}}
            if not made[WHEN]:
                del made[WHEN]
            if f"{name}_{index}" in space:
                raise UsageError(f"family.space has {name}_{index}, which {name} has for itself.")
            nodes[f"{name}_{index}"] = made
    return nodes


def _bounds(name: str, node: Any) -> tuple[int, int]:
    low, high = (node.get("low"), node.get("high")) if isinstance(node, Mapping) else (None, None)
    if type(low) is not int or type(high) is not int or not 0 <= low <= high <= MOST_REPEATS:
        must = f"of type int from 0 at least to {MOST_REPEATS} at most, to count repetitions"
        raise UsageError(f"family.space.{name} is {short(node)}, but must be {must}.")
    return low, high


def _conditions(row: Row) -> Conditions:
    when = row.get(WHEN)
    conditions = when if isinstance(when, Mapping) else {}
    return {
        str(name): allowed if isinstance(allowed, (list, tuple)) else (allowed,)
        for name, allowed in conditions.items()
    }


def _holds(conditions: Conditions, values: Mapping[str, Any]) -> bool:
    return all(values.get(name) in allowed for name, allowed in conditions.items())


def _values(node: Row) -> Sequence[Any]:
    """Return values that a node holds: all of its choices, or both ends of its range."""
    return list(node.get("choices") or (node.get("low"), node.get("high")))


def _shared(
    block: list[dict[str, Any]], first: list[dict[str, Any]], place: str
) -> list[dict[str, Any]]:
    """Return a repetition's layers with the tensors of the first one's; that has names for them."""
    if not first:
        for index, row in enumerate(block):
            if _has_tensors(row):
                row.setdefault("name", f"{row['kind']}{place}_{index}")
        return block
    if [row.get("kind") for row in block] != [row.get("kind") for row in first]:
        raise UsageError("repetitions that share tensors must have the same layers.")
    pairs = zip(first, block, strict=True)
    return [{"kind": "reuse", "of": a["name"]} if _has_tensors(a) else b for a, b in pairs]


def _has_tensors(row: Row) -> bool:
    kind = KINDS.get(str(row.get("kind")))
    return kind is not None and kind.parameters is not Layer.parameters


def _line(row: Any) -> str:
    if isinstance(row, (list, tuple)):
        return ", ".join(map(_line, row))
    options = {key: value for key, value in row.items() if key not in ("kind", "layers")}
    inner = f" of {_line(row['layers'])}" if "layers" in row else ""
    shown = ", ".join(f"{key}={value}" for key, value in options.items())
    return f"{row.get('kind', REPEAT)}({shown}){inner}"
