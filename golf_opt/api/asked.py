"""From keywords of Python to the checked configuration of a verb, by the command line's own way.

A group takes a choice or a mapping of what differs, any other key its value; a dotted key goes
into a mapping: `space="wide"`, `space={"lr": {"high": 0.1}}`, `**{"study.name": "mine"}`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from omegaconf import DictConfig, OmegaConf

from golf_opt.cli.compose import compose
from golf_opt.cli.errors import EXIT_USAGE, explain
from golf_opt.config import command
from golf_opt.config.check import check, load
from golf_opt.config.comments import groups
from golf_opt.config.errors import UsageError, short
from golf_opt.config.schema import DataConfig
from golf_opt.storage.url import take_password
from golf_opt.task.grammar import parse_target
from golf_opt.utils.said import Say
from golf_opt.utils.text import one_line

Kind = TypeVar("Kind")
Arch = str | Path | Mapping[str, Any] | Callable[[tuple[int, int, int], int], Any]
LONGEST_CHOICE = 200  # characters


@contextmanager
def asking(verb: str, given: Mapping[str, Any]) -> Iterator[None]:
    """A block that does what was asked for: what goes wrong by the user's doing is a `UsageError`.

    Messages name the call, and Optuna says nothing by itself.
    """
    import optuna

    shown = {key: _without_password(value) for key, value in given.items()}
    said = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with command.called(verb, shown):
            yield
    except UsageError:
        raise
    except Exception as error:
        message, status = explain(error, verb)
        if status == EXIT_USAGE:
            raise UsageError(one_line(message)) from error
        raise
    finally:
        optuna.logging.set_verbosity(said)


def hush(line: str) -> None:
    """Tell nobody."""


def speaker(say: Say | None) -> Say:
    return hush if say is None else say


def given_of(named: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was given: of the keywords with a name, those that are not None."""
    given = {key: value for key, value in named.items() if value is not None} | dict(overrides)
    for key in ("arch", "objective"):
        if callable(given.get(key)):
            given[key] = _target(key, given[key])
    storage = given.get("storage")
    if isinstance(storage, (str, Path)) and re.match(r"\w[\w+.-]*:", str(storage)):
        del given["storage"]
        given["storage.url"] = str(storage)
    return given


def module_of(arch: Arch) -> Mapping[str, Any]:
    """Return `{name, module}` of a class or function of the user's, or of its name.

    Raises:
        UsageError: it is no such thing.
    """
    found = parse_target(_target("arch", arch) if callable(arch) else str(arch))
    if found is None:
        raise UsageError(f"arch is {short(arch)}, but must be a class or its name, my_nets:Tiny.")
    return found


def _target(key: str, made_by: Any) -> str:
    """Return the name by which a class or function is imported again."""
    name = getattr(made_by, "__qualname__", "")
    if not name.isidentifier():
        raise UsageError(
            f"{key} is {short(made_by)}, but must be a class or function at the top of its "
            "module, so that a worker can be given the same."
        )
    return f"{made_by.__module__}:{name}"


def configured(kind: type[Kind], verb: str, given: Mapping[str, Any]) -> Kind:
    """Return the checked configuration of a verb.

    Args:
        kind: its model.
        verb: whose defaults count.
        given: by key; see the module.

    Raises:
        UsageError: as the command line would say it.
    """
    return load(kind, composed(verb, given))


def data_config(given: Mapping[str, Any]) -> DataConfig:
    """Return where data comes from, of the keys `data` and `data.root` and the like."""
    tree = OmegaConf.to_container(composed("report", given), resolve=True)
    assert isinstance(tree, dict)
    checked: DataConfig = check(DataConfig, tree["data"], "data")
    return checked


def composed(verb: str, given: Mapping[str, Any]) -> DictConfig:
    """Return the configuration of a verb, not checked yet."""
    known_groups = {group.path for group in groups(verb)}
    chosen, values = [], {}
    for key, value in given.items():
        if not isinstance(key, str) or not re.fullmatch(r"\w+(\.\w+)*", key):
            raise UsageError(f"{short(key)} is no key; keys look like trials or space.lr.high.")
        typed = key in known_groups or key == "objective"  # which other choices follow from
        if typed and isinstance(value, (str, Path)):
            chosen.append(_choice(key, str(value)))
        else:
            values[key] = _plain(key, value)
    net = values.get("arch") or values.get("family")
    config = compose(verb, chosen, net=net if isinstance(net, dict) else None)
    for key, value in values.items():
        _put(config, key, value)
    return config


def _choice(group: str, name: str) -> str:
    if len(name) > LONGEST_CHOICE:
        raise UsageError(f"{group} is {short(name)}, but no choice has so long a name.")
    return command.override(group, name)


def _put(config: DictConfig, key: str, value: Any) -> None:
    """Set a key; a mapping says only what differs, but an architecture is a whole."""
    if isinstance(value, dict) and value and key not in ("arch", "family"):
        for name, inner in value.items():
            _put(config, f"{key}.{name}", inner)
        return
    OmegaConf.update(config, key, value, merge=False, force_add=True)


def _plain(key: str, value: Any) -> Any:
    """Return a value as plain data.

    Raises:
        UsageError: it is something that no configuration can hold.
    """
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, (np.generic, np.ndarray)):
        value = value.tolist()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Mapping):
        return {_name(key, name): _plain(f"{key}.{name}", v) for name, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(f"{key}[{index}]", v) for index, v in enumerate(value)]
    raise UsageError(
        f"{key} is {short(value)}, but must be plain data: a number, a text, a list or a mapping."
    )


def _name(key: str, name: object) -> str:
    if not isinstance(name, str) or not re.fullmatch(r"\w+", name):
        raise UsageError(f"{key} has the key {short(name)}, but keys must be names.")
    return name


def _without_password(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_password(inner) for key, inner in value.items()}
    return take_password(value)[0] if isinstance(value, str) else value
