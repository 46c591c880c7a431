"""What Hydra composed becomes checked dataclasses; what is wrong is told here in one line.

The package itself knows where the configuration lies, and what stands in its files.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from golf_opt.config import yaml_file
from golf_opt.config.errors import UsageError

PACKAGE = Path(__file__).parents[1]
# in a wheel the configuration lies in the package, in a checkout beside it
CONF_DIR = PACKAGE / "conf" if (PACKAGE / "conf").is_dir() else PACKAGE.parent / "conf"


def load_yaml(path: Path) -> Any:
    """Read a YAML file as plain data; one that cannot be read is named."""
    try:
        return OmegaConf.to_container(yaml_file.load(path), resolve=True)
    except OmegaConfBaseException as error:
        raise UsageError(f"{path} cannot be read: {str(error).splitlines()[0]}") from error


@cache
def defaults(verb: str) -> Mapping[str, Any]:
    """Return what conf/VERB.yaml says of the verb's own keys: the one place of their defaults."""
    content: dict[str, Any] = load_yaml(CONF_DIR / f"{verb}.yaml")
    return content
