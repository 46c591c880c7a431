"""A trained net as one safetensors file that says what net it is, and back.

Tensors are `<layer>.<tensor>`; the header holds the architecture and what the net takes and gives,
so nothing else is needed to use it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.numpy import save

from golf_opt.config.errors import UsageError
from golf_opt.engines.base import Tensors
from golf_opt.storage import gate
from golf_opt.storage.checkpoint import metadata
from golf_opt.task.arch import Net, build_net
from golf_opt.task.inputs import InputSpec
from golf_opt.utils.files import read_regular

FORMAT = 1


def pack_net(net: Net, tensors: Tensors, about: Mapping[str, str]) -> bytes:
    """Return the file; `about` is for who reads its header."""
    plain = {name.partition("/")[2]: values for name, values in tensors.items()}
    return save(plain, metadata={**about, "golf_opt": json.dumps(header_of(net))})


def header_of(net: Net) -> dict[str, Any]:
    """Return what a file's header has to say of a net for `net_of` to make it again."""
    return {"format": FORMAT, "arch": net.arch, "input": net.input.to_dict()}


def net_of(path: Path) -> Net:
    """Return the net whose weights a file holds.

    Raises:
        UsageError: it cannot be read, or does not say what net it is.
    """
    try:
        header = metadata(read_regular(path))
        if header["format"] > FORMAT:
            raise UsageError(f"its format is {header['format']}, of a newer golf-opt")
        return build_net(header["arch"], InputSpec(**header["input"]))
    except OSError as error:
        raise UsageError(f"weights {path} cannot be read: {error.strerror}.") from error
    except UsageError as error:
        raise UsageError(f"weights {path} holds no net that can be used: {error}") from error
    except gate.UNREADABLE as error:
        raise UsageError(
            f"weights {path} does not say what net it is ({gate.reason(error)}), as files of "
            "golf_opt do; say it: arch=NAME."
        ) from error
