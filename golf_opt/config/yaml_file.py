"""YAML that somebody else may have written: nothing in it may hang, flood or surprise us.

Hydra's files and ours pass through here. What a file may be is decided by its events, before
anything is built of them.
"""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from golf_opt.config.errors import UsageError
from golf_opt.utils.files import read_regular
from golf_opt.utils.text import one_line

MAX_BYTES = 256 * 1024
MAX_NODES = 20_000  # an alias counts as all that it stands for
MAX_DEPTH = 50
Parser = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def load(path: Path) -> DictConfig | ListConfig:
    """Read a YAML file.

    Raises:
        UsageError: it cannot be read, is no YAML, or is larger than a configuration can be.
    """
    try:
        if (size := path.stat().st_size) > MAX_BYTES:
            raise ValueError(f"it has {size:,} bytes, but must have at most {MAX_BYTES:,}")
        text = read_regular(path).decode("utf-8")
        _check_events(text)
        return OmegaConf.load(io.StringIO(text))
    except Exception as error:  # of the system, of YAML's parser, of OmegaConf
        raise UsageError(f"{path} cannot be read as YAML: {_reason(error)}.") from error


def load_plain(path: Path, holds: str) -> dict[str, Any]:
    """Read a YAML file that may be anybody's: a mapping of plain data, and no more than that.

    Args:
        path: of the file.
        holds: what it must be a mapping of, for the message.

    Raises:
        UsageError: it is no such file.
    """
    content = load(path)
    if not isinstance(content, DictConfig):
        raise UsageError(f"{path} is a list, but must be a mapping {holds}.")
    plain = OmegaConf.to_container(content)
    assert isinstance(plain, dict)
    if "${" in str(plain):
        raise UsageError(f"{path} has ${{...}} in it, but must have values alone.")
    return {str(key): value for key, value in plain.items()}


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8"
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}: {one_line(error.problem or '')}"
    text = str(error)
    if isinstance(error, OmegaConfBaseException):
        text = text.partition("\n")[0]
    return re.sub(r' *in "<.*?>",', " in", one_line(text, most=500)).rstrip(".")


def _check_events(text: str) -> None:
    """Refuse a text that is deeper, or with its aliases larger, than a configuration can be."""
    sizes = [0]  # of the collections that are open
    open_anchors: list[str | None] = []
    anchors: dict[str, int] = {}
    for event in yaml.parse(text, Loader=Parser):
        if isinstance(event, yaml.CollectionStartEvent):
            sizes.append(1)
            open_anchors.append(event.anchor)
        elif isinstance(event, yaml.CollectionEndEvent):
            size, anchor = sizes.pop(), open_anchors.pop()
            sizes[-1] += size
            if anchor is not None:
                anchors[anchor] = size
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in anchors:
                raise ValueError(f"the alias *{event.anchor} stands for nothing before it")
            sizes[-1] += anchors[event.anchor]
        elif isinstance(event, yaml.ScalarEvent):
            sizes[-1] += 1
            if event.anchor is not None:
                anchors[event.anchor] = 1
        if len(sizes) > MAX_DEPTH:
            raise ValueError(f"it is nested more than {MAX_DEPTH} deep")
        if sizes[-1] > MAX_NODES:
            raise ValueError(f"it has more than {MAX_NODES:,} entries, aliases written out")
