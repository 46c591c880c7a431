"""What a user typed behind the verb, checked before Hydra sees it.

Hydra does more than golf-opt wants: it sweeps, unpickles, and writes where it is told to. What is
left is `key=value` and the few flags here.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from golf_opt.config import CONF_DIR, types
from golf_opt.config.check import check
from golf_opt.config.errors import UsageError, short

LONGEST = 10_000  # characters of an argument; more takes Hydra's parser minutes
LONGEST_CHOICE = 200  # characters
POSITIONAL = {"verify": "path"}  # verb -> the key that a word without `=` is the value of
INFO = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
QUIET = "callbacks.progress.mode=quiet"
SWEEPS = ("-m", "--multirun", "--run", "-r")
ONE_AT_A_TIME = (
    "a command runs one configuration; for several give one for each, as in: "
    "for arch in c2-2 c3-2; do golf-opt study arch=$arch; done"
)


@dataclass(frozen=True)
class Arguments:
    """The arguments of a verb."""

    overrides: list[str]
    help: bool
    config_dir: Path | None  # more configuration
    shown: list[str]  # flags that show something of the configuration instead of running it


class Flags(argparse.ArgumentParser):
    """Python's parser, but that a mistake is a `UsageError`."""

    def __init__(self) -> None:
        super().__init__(add_help=False, allow_abbrev=False)
        self.add_argument("overrides", nargs="*")
        self.add_argument("--help", "-h", action="store_true")
        self.add_argument("--quiet", action="store_true")
        self.add_argument("--cfg", "-c", choices=("job", "hydra", "all"))
        self.add_argument("--resolve", action="store_true")
        self.add_argument("--package", "-p")
        self.add_argument("--config-dir", "-cd")
        self.add_argument("--info", "-i", nargs="?", const="all", choices=INFO)

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; golf-opt VERB --help lists flags and keys.")


def parse(verb: str, given: Sequence[str]) -> Arguments:
    """Return the arguments of a verb.

    Raises:
        UsageError: a flag that there is not, or an override that means more than one value.
    """
    given = _name_positional(verb, given)
    for argument in given:
        if len(argument) > LONGEST:
            raise UsageError(
                f"an argument has {len(argument):,} characters, but must have at most {LONGEST:,}: "
                f"{argument[:40]}..."
            )
        if argument in SWEEPS:
            raise UsageError(f"{argument} is not for golf-opt: {ONE_AT_A_TIME}.")
    flags = Flags().parse_intermixed_args(given)
    if flags.help:
        return Arguments([], True, None, [])
    overrides = list(map(hide_password, flags.overrides))
    overrides += [QUIET] if flags.quiet else []
    parser = OverridesParser.create()
    for override in overrides:
        try:
            parsed = parser.parse_override(override)
        except (HydraException, ValueError) as error:  # ValueError: a number of 5,000 digits
            raise UsageError(
                f"Error parsing override {short(override)}: it must be KEY=VALUE, where a text of "
                "blanks or signs has quotes that the shell leaves, as in KEY=\"'a text'\"."
            ) from error
        _check(parsed)
    folder = flags.config_dir
    if folder is not None:
        folder = check(types.ExistingFolder, folder, "--config-dir")
    return Arguments(overrides, False, folder, _shown(flags))


def _name_positional(verb: str, given: Sequence[str]) -> Sequence[str]:
    """Turn the PATH of `golf-opt verify PATH ...` into the override that Hydra wants."""
    if verb not in POSITIONAL or not given or "=" in given[0] or given[0][:1] == "-":
        return given
    quoted = given[0].replace("'", "\\'")
    return [f"{POSITIONAL[verb]}='{quoted}'", *given[1:]]


def _shown(flags: Any) -> list[str]:
    """Return the flags for Hydra that show something."""
    if not flags.cfg and not flags.info:
        for name in ("resolve", "package"):
            if getattr(flags, name):
                raise UsageError(f"--{name} goes with --cfg.")
        return []
    shown = ["--cfg", flags.cfg] if flags.cfg else ["--info", flags.info]
    shown += ["--resolve"] if flags.resolve else []
    return shown + (["--package", flags.package] if flags.package else [])


def _check(override: Override) -> None:
    key = override.key_or_group
    if key.split(".")[0].split("/")[0] == "hydra":
        raise UsageError(
            f"{key} is Hydra's own and stays as it is; --config-dir FOLDER adds configuration."
        )
    value = override.value()
    if isinstance(value, str) and len(value) > LONGEST_CHOICE and (CONF_DIR / key).is_dir():
        raise UsageError(f"{key} is {short(value)}, but no choice has so long a name.")
    if not override.is_sweep_override():
        return
    shown = override.get_value_string()
    if key.startswith("space."):
        raise UsageError(
            f"{key} is {shown}, but must be one value, or bounds as {key}.low=... {key}.high=..., "
            f"or choices as +{key}='{{type: categorical, choices: [{shown}]}}'."
        )
    raise UsageError(
        f"{key} is {shown}, but must be one value (a list is [{shown}], a text with commas is "
        f"quoted): {ONE_AT_A_TIME}."
    )


def hide_password(override: str) -> str:
    """Move the password of `storage.url=` to the environment, out of every configuration dump."""
    key, equals, value = override.partition("=")
    if key.lstrip("+") not in ("storage.url", "storage"):
        return override
    from golf_opt.storage.url import PASSWORD_ENV, take_password

    url, password = take_password(value)
    if password is not None:
        os.environ[PASSWORD_ENV] = password
    return f"{key}{equals}{url}"
