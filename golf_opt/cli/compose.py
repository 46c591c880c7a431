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
_one_at_a_time = threading.Lock()  # Hydra's version belongs to the process


def compose(verb: str, overrides: Sequence[str], folder: Path | None = None) -> DictConfig:
    """Return the configuration of a verb, without the files that Hydra would write.

    Args:
        verb: such as `study`.
        overrides: of Hydra's grammar, `key=value`.
        folder: with more configuration.
    """
    overrides = list(overrides)
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


@contextmanager
def _version_of_ours() -> Iterator[None]:
    before = version.getbase()
    version.setbase(HYDRA)
    try:
        yield
    finally:
        version.VersionBase.instance().version_base = before
