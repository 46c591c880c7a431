"""Weights from a file: safetensors, a PyTorch state dict, or a checkpoint of ours.

Nothing is unpickled: PyTorch's own loader is asked for tensors alone, and refuses the rest.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load

from golf_opt.config.errors import UsageError
from golf_opt.engines.base import Tensors
from golf_opt.task.arch import Net
from golf_opt.task.layers import Parameter, show_shape
from golf_opt.utils.files import read_regular

Foreign = dict[str, npt.NDArray[Any]]
OURS = ("weights/", "buffers/")
ZIP, PICKLE = b"PK\x03\x04", b"\x80"  # how PyTorch's files begin
MOST_NUMBERS = 1 << 28  # of a tensor
IN_MODULE = ("weight", "bias", "running_mean", "running_var")


def read_weights(path: Path, net: Net) -> tuple[Tensors, list[str]]:
    """Return `weights/...` and `buffers/...` of a net from a file, and how names were matched.

    Names that are the net's are taken as they are. Otherwise the modules of the file are matched
    by order, each layer taking the first one left whose shapes are its own; the second return
    value has a line `theirs -> ours` for each tensor.

    Raises:
        UsageError: the file cannot be read, holds code, or does not fit the net.
    """
    found = _read(path)
    ours = {name.removeprefix("weights/").removeprefix("buffers/"): values
            for name, values in found.items() if name.startswith(OURS)}  # fmt: skip
    found = ours or {k: v for k, v in found.items() if not k.endswith("num_batches_tracked")}
    expected = [tensor for module in _modules(net) for tensor in module]
    if found.keys() == {tensor.name for tensor in expected}:
        names = {tensor.name: tensor.name for tensor in expected}
    else:
        names = _by_order(path, net, found)
    for tensor in expected:
        _check(path, tensor, names[tensor.name], found[names[tensor.name]])
    buffers = {buffer.name for buffer in net.buffers}
    tensors = {
        f"{'buffers' if ours_ in buffers else 'weights'}/{ours_}": np.asarray(
            found[theirs], dtype=np.float32, order="C"
        )
        for ours_, theirs in names.items()
    }
    return tensors, [f"{theirs} -> {o}" for o, theirs in names.items() if o != theirs]


def _read(path: Path) -> Foreign:
    """Return the tensors of a file by name, in the file's order."""
    try:
        data = read_regular(path)
    except OSError as error:
        raise UsageError(f"weights {path} cannot be read: {error.strerror}.") from error
    if data.startswith((ZIP, PICKLE)) and data[8:9] != b"{":  # the length of a header may be those
        return _read_torch(path, data)
    try:
        found = load(data)
        names = sorted(found, key=_natural)  # the format keeps no order
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise UsageError(
            f"weights {path} is no safetensors file and no PyTorch state dict: "
            + " ".join(str(error).split())
        ) from error
    return {name: found[name] for name in names}


def _read_torch(path: Path, data: bytes) -> Foreign:
    import torch  # seconds to import

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a pickle protocol that it may not know
            loaded = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        for state in _mappings(loaded):
            rows = {str(k): v for k, v in state.items() if isinstance(v, torch.Tensor)}
            if rows and len(rows) == len(state):
                return {name: _array(value) for name, value in rows.items()}
    except Exception as error:  # pickle's, zip's and PyTorch's own, by what is wrong
        raise UsageError(
            f"weights {path} is refused: it holds more than tensors, or is damaged, and nothing in "
            "it was run; save the state dict alone, with torch.save(model.state_dict(), FILE)."
        ) from error
    raise UsageError(f"weights {path} holds no state dict, which is a mapping of name to tensor.")


def _array(tensor: Any) -> npt.NDArray[Any]:
    """Return a tensor of PyTorch's as an array; raise ValueError for one that only claims a size.

    A few bytes of a file may stand for any number of numbers, in a sparse tensor for example.
    """
    if tensor.numel() > MOST_NUMBERS:
        raise ValueError(f"{tensor.numel():,} numbers")
    dense = tensor.detach().to_dense()
    array: npt.NDArray[Any] = (dense.float() if dense.is_floating_point() else dense).numpy()
    return array


def _mappings(loaded: object) -> Iterator[Mapping[Any, Any]]:
    """Yield the loaded object and what it holds under names such as `state_dict`."""
    if isinstance(loaded, Mapping):
        yield loaded
        yield from (value for value in loaded.values() if isinstance(value, Mapping))


def _modules(net: Net) -> list[tuple[Parameter, ...]]:
    """Return the tensors of each layer that has any, once."""
    rows = [node.parameters + node.buffers for node in net.nodes if not node.shared]
    return [row for row in rows if row]


def _by_order(path: Path, net: Net, found: Foreign) -> dict[str, str]:
    """Return which tensor of the file is which of the net's."""
    modules: dict[str, list[str]] = {}
    for name in found:
        modules.setdefault(name.rpartition(".")[0], []).append(name)
    groups = [sorted(names, key=_in_module) for names in modules.values()]
    match: dict[str, str] = {}
    for wanted in _modules(net):
        shapes = [tensor.shape for tensor in wanted]
        fits = [group for group in groups if [found[name].shape for name in group] == shapes]
        if not fits:
            raise UsageError(_no_fit(path, net, wanted, groups, found))
        groups.remove(fits[0])
        match |= {tensor.name: name for tensor, name in zip(wanted, fits[0], strict=True)}
    if groups:
        rest = ", ".join(name for group in groups for name in group)
        raise UsageError(f"weights {path} does not fit {net.name}: {rest} would be left over.")
    return match


def _no_fit(
    path: Path, net: Net, wanted: tuple[Parameter, ...], groups: list[list[str]], found: Foreign
) -> str:
    wants = ", ".join(f"{tensor.name} {show_shape(tensor.shape)}" for tensor in wanted)
    left = ", ".join(f"{n} {show_shape(found[n].shape)}" for group in groups for n in group)
    return (
        f"weights {path} does not fit {net.name}: nothing has the shape of {wants}; "
        f"it has {left or 'nothing more'}."
    )


def _check(path: Path, tensor: Parameter, name: str, values: npt.NDArray[Any]) -> None:
    if values.shape != tensor.shape:
        raise UsageError(
            f"weights {path}: {name} is {show_shape(values.shape)}, but must be "
            f"{show_shape(tensor.shape)}; give the arch= that it was trained as."
        )
    if values.dtype.kind != "f":
        raise UsageError(f"weights {path}: {name} is {values.dtype}, but must be of floats.")
    with np.errstate(over="ignore"):
        finite = np.isfinite(values.astype(np.float32)).all()
    if not finite:
        raise UsageError(f"weights {path}: {name} has values that are not finite.")


def _in_module(name: str) -> int:
    kind = name.rpartition(".")[2]
    return IN_MODULE.index(kind) if kind in IN_MODULE else len(IN_MODULE)


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Sort `features.10` behind `features.9`."""
    parts = re.findall(r"\d+|\D+", name)
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts]
