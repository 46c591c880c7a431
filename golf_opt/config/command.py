"""Commands that a message names run as they stand: with the user's program, folder and storage.

`cli` notes what was typed. Whoever typed `.venv/bin/golf-opt study dir=elsewhere trials=3`:

    runnable("dashboard")          # .venv/bin/golf-opt dashboard dir=elsewhere
    again("study", "trials=6")     # .venv/bin/golf-opt study dir=elsewhere trials=6

Whoever called `golf.study(trials=3, dir="elsewhere")` in Python gets `golf.study(trials=6,
dir='elsewhere')` for the second, and a command for the first, since Python has no dashboard.
"""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

PLACES = ("dir", "storage", "storage.url", "storage.url_env")
CONFIG_DIR = ("--config-dir", "-cd")  # Hydra's
PLAIN = re.compile(r"[A-Za-z][\w.@/-]*", re.ASCII)  # Hydra reads it as a text, but for:
WORDS = ("null", "true", "false", "nan", "inf")


@dataclass(frozen=True)
class Typed:
    """A command line: how the program was called, its verb, and what followed."""

    program: str = "golf-opt"  # as a shell takes it
    verb: str = ""
    arguments: tuple[str, ...] = ()
    call: Mapping[str, Any] | None = None  # of Python: what was given by which name


_typed = Typed()  # by who started the process
_called: ContextVar[Typed | None] = ContextVar("called", default=None)
CALLS = {
    "study": "",
    "search": "",
    "prune": "..., ",
    "confirm": "..., ",
}  # verbs of Python: what comes first


def remember(called: str, verb: str, arguments: Iterable[str]) -> None:
    """Note what was typed; no password may be among the arguments.

    Args:
        called: the program, as in `sys.argv[0]`.
        verb: what it was to do.
        arguments: what followed.
    """
    global _typed
    _typed = Typed(_program(called), verb, tuple(arguments))


@contextmanager
def called(verb: str, given: Mapping[str, Any]) -> Iterator[None]:
    """Note for a block that a function of Python was called; no password may be in what was given.

    Other threads, and whoever called, keep what they noted.
    """
    places = tuple(override(key, str(given[key])) for key in PLACES if key in given)
    token = _called.set(Typed("golf-opt", verb, places, given))
    try:
        yield
    finally:
        _called.reset(token)


def _now() -> Typed:
    return _called.get() or _typed


def this_call() -> str:
    """Return the call that `called` noted, as a line of Python."""
    typed = _now()
    return _call(typed.verb, typed.call or {})


def runnable(verb: str, *overrides: str) -> str:
    """Return the command for a verb, on the studies that the user's command is about."""
    typed = _now()
    if typed.call is not None and verb in CALLS:
        kept = {key: typed.call[key] for key in PLACES if key in typed.call}
        return _call(verb, kept | dict(map(_value, overrides)))
    return _line(verb, [*_places(typed.arguments), *overrides])


def again(verb: str, *changed: str) -> str:
    """Return the user's command with some overrides changed; that of another verb is no start."""
    typed = _now()
    if verb != typed.verb:
        return runnable(verb, *changed)
    if typed.call is not None:
        return _call(verb, dict(typed.call) | dict(map(_value, changed)))
    new = {key_of(override): override for override in changed}
    kept = []
    for argument in typed.arguments:
        key = key_of(argument)
        if key not in new:
            kept.append(argument)
        elif new[key] not in kept:
            kept.append(new[key])
    return _line(verb, [*kept, *(override for override in new.values() if override not in kept)])


def handed_on(verb: str, but: Container[str], *changed: str) -> list[str]:
    """Return the words for another verb with what the user typed, but for some keys.

    Args:
        verb: to hand it on to.
        but: keys, or what keys begin with before a dot, that stay here.
        changed: overrides in their place.
    """
    given = _now().arguments
    kept = [word for word in given if "=" not in word or key_of(word).split(".")[0] not in but]
    return [verb, *_flags_last([*changed, *kept])]


def turn_into(verb: str, keys: Container[str], *changed: str) -> list[str]:
    """Go on as if another verb had been typed; return its arguments.

    Args:
        verb: the other one.
        keys: or what keys begin with before a dot, of which what was typed is the other's, too.
        changed: overrides that come before them.
    """
    global _typed
    given = _typed.arguments
    kept = [
        word
        for before, word in zip(["", *given], given, strict=False)
        if before in CONFIG_DIR or key_of(word) in CONFIG_DIR or key_of(word).split(".")[0] in keys
    ]
    _typed = Typed(_typed.program, verb, tuple(_flags_last([*changed, *kept])))
    return list(_typed.arguments)


def chosen(key: str) -> str | None:
    """Return what the user typed for a key."""
    typed = _now()
    if typed.call is not None:
        value = typed.call.get(key)
        return value if isinstance(value, str) else None
    values = [a.partition("=")[2] for a in typed.arguments if key_of(a) == key and "=" in a]
    return values[-1] if values else None


def override(key: str, value: str) -> str:
    """Return `key=value`, quoted so that Hydra and OmegaConf read the value as this very text."""
    if PLAIN.fullmatch(value) and value.lower() not in WORDS:
        return f"{key}={value}"
    doubled = re.sub(r"\\+(?=\$\{|'|\Z)", lambda backslashes: 2 * backslashes[0], value)
    escaped = doubled.replace("${", r"\${").replace("'", r"\'")
    return f"{key}='{escaped}'"


def key_of(argument: str) -> str:
    """Return the key of an override, without what adds or removes it."""
    return argument.partition("=")[0].lstrip("+~")


def _line(verb: str, arguments: Sequence[str]) -> str:
    """Return the line; flags come last, since Hydra wants all overrides in one piece."""
    return " ".join([_now().program, verb, *map(_quoted, _flags_last(arguments))])


def _flags_last(arguments: Sequence[str]) -> list[str]:
    pairs = list(zip(["", *arguments], arguments, strict=False))
    flags = [here for before, here in pairs if here.startswith("-") or before in CONFIG_DIR]
    overrides = [argument for argument in arguments if argument not in flags]
    return [*overrides, *flags]


def _call(verb: str, given: Mapping[str, Any]) -> str:
    """Return a call of Python; what is no name of Python comes last, in a mapping."""
    named = [f"{key}={value!r}" for key, value in given.items() if key.isidentifier()]
    rest = {key: value for key, value in given.items() if not key.isidentifier()}
    return (
        f"golf.{verb}({CALLS.get(verb, '')}{', '.join([*named, *([f'**{rest!r}'] * bool(rest))])})"
    )


def _value(given: str) -> tuple[str, Any]:
    """Return key and value of an override of ours, as Python has them."""
    key, _, text = given.partition("=")
    if text.startswith("'"):
        return key, re.sub(r"\\(.)", r"\1", text[1:-1])
    return key, yaml.safe_load(text)


def _quoted(argument: str) -> str:
    """Return a word for the shell; Hydra's own quotes are common in it, and stay readable."""
    if "'" in argument and not re.search(r'["$`\\!]', argument):
        return f'"{argument}"'
    return shlex.quote(argument)


def _places(arguments: Sequence[str]) -> Iterator[str]:
    """Yield the arguments that say where studies and configuration are."""
    for before, argument in zip(["", *arguments], arguments, strict=False):
        if before in CONFIG_DIR or key_of(argument) in (*PLACES, *CONFIG_DIR):
            yield argument


def _program(called: str) -> str:
    """Return how a shell finds the program."""
    if Path(called).name == "__main__.py":
        return f"{shlex.quote(_shortest(sys.executable))} -m golf_opt"
    return shlex.quote(_shortest(called))


def _shortest(path: str) -> str:
    """Return the name alone where the shell finds this very file by it."""
    name = Path(path).name
    found = shutil.which(name)
    same = found is not None and Path(found).absolute() == Path(path).absolute()
    return name if same else path
