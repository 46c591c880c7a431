"""What a user typed, or gave in Python, as one configuration.

Hydra's loader is used by itself. `hydra.compose` needs Hydra's global state, which belongs to the
process: it may be that of somebody else's Hydra application, who calls us from Python.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import version
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.types import RunMode
from omegaconf import DictConfig, open_dict

from golf_opt.cli import sources
from golf_opt.cli.errors import composing
from golf_opt.config import CONF_DIR
from golf_opt.config.command import key_of
from golf_opt.config.comments import choices
from golf_opt.config.errors import UsageError, check_choice

HYDRA = "1.3"  # whose habits are asked for
WITH_OBJECTIVE = {  # by verb and group, unless the user chose from it
    "study": {"arch": "~arch", "space": "~space", "data": "~data", "engine": "engine=python"},
    "worker": {"engine": "engine=python"},
    "fleet": {"engine": "engine=python"},
}
WITH_RECIPE = ("study", "search")
RECIPE_KEYS = ("recipe", "space", "epochs")  # it, and what it stands for
_one_at_a_time = threading.Lock()  # Hydra's version belongs to the process


def compose(
    verb: str,
    overrides: Sequence[str],
    folder: Path | None = None,
    net: Mapping[str, Any] | None = None,
) -> DictConfig:
    """Return the configuration of a verb, without the files that Hydra would write.

    Args:
        verb: such as `study`.
        overrides: of Hydra's grammar, `key=value`.
        folder: with more configuration.
        net: the arch or family that is put into it afterwards, if one is.
    """
    overrides = [*implied(verb, overrides, folder, net), *overrides]
    if folder is not None:
        path = str(folder.absolute()).replace("'", "\\'")
        search = f"['{sources.CheckedSource.scheme()}://{path}', 'arch://grammar']"
        overrides.insert(0, f"hydra.searchpath={search}")
    sources.register()
    place = f"{sources.CheckedSource.scheme()}://{CONF_DIR}"
    with composing(), _one_at_a_time, _version_of_ours():
        loader = ConfigLoaderImpl(create_config_search_path(place))
        config = loader.load_configuration(verb, overrides, RunMode.RUN, from_shell=False)
    with open_dict(config):
        config.pop("hydra", None)
        if verb in WITH_RECIPE:
            config.pop("recipe", None)  # what it stands for is in its place
    return config


def implied(
    verb: str,
    overrides: Sequence[str],
    folder: Path | None = None,
    net: Mapping[str, Any] | None = None,
) -> list[str]:
    """Return the overrides that follow from `objective=...`, no net and the engine for it, and
    from `recipe=...`, its space and epochs.

    Raises:
        UsageError: there is no such recipe, or no net that it could be for.
    """
    given = {key_of(override): override.partition("=")[2] for override in overrides}
    rows: list[str] = []
    if given.get("objective", "null") not in ("", "null"):
        rows += [row for key, row in WITH_OBJECTIVE.get(verb, {}).items() if key not in given]
    if verb in WITH_RECIPE and given.get("recipe", "null") not in ("", "null"):
        rows += _of_recipe(verb, given["recipe"], overrides, folder, net)
    return rows


def _of_recipe(
    verb: str,
    name: str,
    overrides: Sequence[str],
    folder: Path | None,
    net: Mapping[str, Any] | None,
) -> list[str]:
    """Return the overrides that a recipe stands for, but for those that the user gives."""
    given = {key_of(override) for override in overrides}
    check_choice("recipe", name, choices("recipe"))
    if inner := next((key for key in given if key.startswith("recipe.")), None):
        raise UsageError(f"{inner} is the recipe's own; give epochs= and space.KEY=, which win.")
    others = [row for row in overrides if key_of(row).split(".")[0] not in RECIPE_KEYS]
    if net is None:
        config = compose(verb, others, folder)
        net = config.get("arch") or config.get("family")
    if net is None:
        raise UsageError(f"recipe is {name!r}, but recipes are for nets of ours; take it away.")
    kind = sources.kind_of(net)
    rows = {"space": f"recipe/{name}/{kind}", "epochs": sources.read_recipe(name)[kind]["epochs"]}
    return [f"{key}={value}" for key, value in rows.items() if key not in given]


@contextmanager
def _version_of_ours() -> Iterator[None]:
    before = version.getbase()
    version.setbase(HYDRA)
    try:
        yield
    finally:
        version.VersionBase.instance().version_base = before
