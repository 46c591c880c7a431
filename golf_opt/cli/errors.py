"""One clear message for an error of ours, of Hydra's or of OmegaConf's."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from hydra.errors import HydraException, MissingConfigException
from omegaconf import OmegaConf

from golf_opt.config import CONF_DIR
from golf_opt.config.errors import did_you_mean, near
from golf_opt.task.grammar import unknown_arch


def explain(error: Exception) -> str:
    """Return one clear message for an error of ours, of Hydra's or of OmegaConf's."""
    if isinstance(error, MissingConfigException):
        return _explain_missing(error)
    text = " ".join(line.strip() for line in str(error).splitlines() if line.strip())
    unknown = re.search(r"Could not override '([\w.]+)'|Key '(\w+)' is not in struct", text)
    if isinstance(error, HydraException) and unknown:
        return _explain_unknown_key(unknown[1] or unknown[2])
    return text


def _explain_missing(error: MissingConfigException) -> str:
    group, _, name = (error.missing_cfg_file or "").rpartition("/")
    if group == "arch":
        return unknown_arch(name, error.options or [])
    if not group:
        return " ".join(str(error).split())
    return f"{group} is {name!r}, but must be {did_you_mean(name, error.options or [])}"


def _explain_unknown_key(key: str) -> str:
    hint = near(key, _known_keys())
    return f"{key!r} is no key{hint} --cfg job shows every key; +{key}=VALUE adds one."


def _known_keys() -> list[str]:
    keys: set[str] = set()
    for path in CONF_DIR.rglob("*.yaml"):
        group = "" if path.parent == CONF_DIR else path.parent.name
        keys |= {group, *_keys_below(OmegaConf.to_container(OmegaConf.load(path)), group)}
    return sorted(key for key in keys if not key.startswith(("hydra", "defaults")))


def _keys_below(node: Any, prefix: str) -> Iterator[str]:
    for key, value in node.items() if isinstance(node, dict) else ():
        name = f"{prefix}.{key}".lstrip(".")
        yield name
        yield from _keys_below(value, name)


def raised_by_hydra(error: Exception) -> bool:
    """Tell an error that Hydra raised from one of ours that passed through it."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    return frame is not None and frame.tb_frame.f_globals["__name__"].split(".")[0] == "hydra"
