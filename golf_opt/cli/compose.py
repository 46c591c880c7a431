"""What a user typed, or gave in Python, as one configuration.

Hydra's loader is used by itself. `hydra.compose` needs Hydra's global state, which belongs to the
process: it may be that of somebody else's Hydra application, who calls us from Python.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hydra import version
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.types import RunMode
from omegaconf import DictConfig, open_dict

from golf_opt.cli import sources
from golf_opt.cli.errors import composing
from golf_opt.config import CONF_DIR

HYDRA = "1.3"  # whose habits are asked for
WITH_OBJECTIVE = {  # by verb and group, unless the user chose from it
    "study": {"arch": "~arch", "space": "~space", "data": "~data", "engine": "engine=python"},
    "worker": {"engine": "engine=python"},
}
_one_at_a_time = threading.Lock()  # Hydra's version belongs to the process


def compose(verb: str, overrides: Sequence[str], folder: Path | None = None) -> DictConfig:
    """Return the configuration of a verb, without the files that Hydra would write.

    Args:
        verb: such as `study`.
        overrides: of Hydra's grammar, `key=value`.
        folder: with more configuration.
    """
    overrides = [*implied(verb, overrides), *overrides]
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
    return config


def implied(verb: str, overrides: Sequence[str]) -> list[str]:
    """Return the overrides that follow from `objective=...`: no net, and the engine for it."""
    chosen = [override.partition("=") for override in overrides]
    keys = [key.lstrip("+~") for key, *_ in chosen]
    given = [value for key, (_, _, value) in zip(keys, chosen, strict=True) if key == "objective"]
    if not given or given[-1] in ("", "null"):
        return []
    return [row for key, row in WITH_OBJECTIVE.get(verb, {}).items() if key not in keys]


@contextmanager
def _version_of_ours() -> Iterator[None]:
    before = version.getbase()
    version.setbase(HYDRA)
    try:
        yield
    finally:
        version.VersionBase.instance().version_base = before
