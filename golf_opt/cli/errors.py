"""One clear line for an error: of ours, of Hydra's, of OmegaConf's, of the system's, of any."""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hydra.errors import HydraException, MissingConfigException
from omegaconf.errors import OmegaConfBaseException

from golf_opt.config import PACKAGE
from golf_opt.config.comments import choices, groups, known_keys
from golf_opt.config.errors import UsageError, did_you_mean, near
from golf_opt.task.grammar import unknown_arch

EXIT_USAGE = 2
EXIT_FAULT = 1  # the machine, and not the user, did it


def explain(error: BaseException, verb: str) -> tuple[str, int]:
    """Return what to say of an error that a verb ended with, and the exit status."""
    if isinstance(error, MissingConfigException):
        return _explain_missing(error), EXIT_USAGE
    if isinstance(error, (UsageError, HydraException, OmegaConfBaseException)):
        # Hydra wraps what a source of configurations raises
        ours = next((e for e in _causes(error) if isinstance(e, UsageError)), None)
        return str(ours) if ours else _explain_hydra(error, verb), EXIT_USAGE
    if isinstance(error, RecursionError):
        return "what was given is nested too deeply.", EXIT_USAGE
    if isinstance(error, MemoryError):
        return "there is not enough memory for that.", EXIT_FAULT
    from golf_opt.engines.base import EngineFault  # here: what a command needs of these
    from golf_opt.storage.failures import explain_failure  # two is imported by now

    if isinstance(error, EngineFault):
        told = f"{error}; its trials wait to go on from their checkpoints"
        return f"{told}: give the same command again", EXIT_FAULT
    if isinstance(error, Exception) and (told := explain_failure(error) or ""):
        return told, EXIT_USAGE
    if isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename else ""
        return f"{place}{error.strerror or error}", EXIT_USAGE
    return _explain_fault(error), EXIT_FAULT


def _causes(error: BaseException) -> list[BaseException]:
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(cause)
    return chain


def _explain_missing(error: MissingConfigException) -> str:
    group, _, name = (error.missing_cfg_file or "").rpartition("/")
    if group == "arch":
        return unknown_arch(name, error.options or [])
    if group == "data":
        from golf_opt.task.data.own import no_data

        return no_data(Path(name), error.options or [])
    if not group:
        return str(error)
    return f"{group} is {name!r}, but must be {did_you_mean(name, error.options or [])}"


def _explain_hydra(error: BaseException, verb: str) -> str:
    text = " ".join(line.strip() for line in str(error).splitlines() if line.strip())
    unknown = re.search(r"Could not override '([^']+)'|Key '([^']+)' is not in struct", text)
    if not isinstance(error, HydraException) or not unknown:
        return text
    key = unknown[1] or unknown[2]
    known = known_keys(verb)
    if key in [group.path for group in groups(verb)] and (options := choices(key)):
        fix = f"Its keys are set one by one: {key}.KEY=VALUE."
        return f"{key} must be {did_you_mean(key, options)} {fix}"
    if any(other.startswith(f"{key}.") for other in known):
        return f"{key} is a mapping, whose keys are set one by one: {key}.KEY=VALUE."
    if key in known:
        return f"{key} has no such key of its own; +{key}=VALUE adds one."
    hint = near(key, known)
    more = f"; +{key}=VALUE adds one" if "." in key else ""
    return f"{key!r} is no key{hint} golf-opt {verb} --help lists them{more}."


@contextmanager
def composing() -> Iterator[None]:
    """While Hydra reads what a user typed, whatever it stumbles over is the user's."""
    try:
        yield
    except (UsageError, HydraException, OmegaConfBaseException, RecursionError, BrokenPipeError):
        raise
    except Exception as error:
        raise UsageError(f"{error}; overrides are key=value") from error


def _explain_fault(error: BaseException) -> str:
    """Return where in golf-opt an error came up that nobody expected."""
    places = traceback.extract_tb(error.__traceback__)
    ours = [place for place in places if Path(place.filename).is_relative_to(PACKAGE)]
    where = ""
    if ours:
        where = f" in {Path(ours[-1].filename).relative_to(PACKAGE)}:{ours[-1].lineno}"
    return (
        f"a fault of golf-opt{where}: {type(error).__name__}: {error}; please report it, with what "
        "HYDRA_FULL_ERROR=1 before the same command prints"
    )
