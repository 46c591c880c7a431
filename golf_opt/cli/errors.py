"""One clear message for an error of ours, of Hydra's or of OmegaConf's."""

from __future__ import annotations

import re
from typing import Any

from hydra.errors import HydraException, MissingConfigException
from omegaconf import OmegaConf

from golf_opt.config.errors import did_you_mean, near
from golf_opt.config.paths import CONF_DIR
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
    keys: list[str] = []
    for path in [*CONF_DIR.glob("*.yaml"), *CONF_DIR.glob("*/*.yaml")]:
        prefix = "" if path.parent == CONF_DIR else f"{path.parent.name}."
        node = OmegaConf.to_container(OmegaConf.load(path))
        keys += [path.parent.name] if prefix else []
        keys += _keys_below(node, prefix) if isinstance(node, dict) else []
    return sorted(set(keys))


def _keys_below(node: dict[Any, Any], prefix: str) -> list[str]:
    keys = []
    for key, value in node.items():
        keys.append(f"{prefix}{key}")
        if isinstance(value, dict):
            keys += _keys_below(value, f"{prefix}{key}.")
    return [key for key in keys if not key.startswith(("hydra", "defaults"))]


def raised_by_hydra(error: Exception) -> bool:
    """Tell an error that Hydra raised from one of ours that passed through it."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    return frame is not None and frame.tb_frame.f_globals["__name__"].split(".")[0] == "hydra"
