"""Modules of users that are no nets of layers: made, loaded and evaluated.

Only what a user types is imported. A database tells a module's name, its hash and the shapes of its
tensors; who trains or evaluates it must have been given a module of the same hash, in this process.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from golf_opt.config.errors import UsageError
from golf_opt.task import rng
from golf_opt.task.arch import Net
from golf_opt.task.layers import Module

if TYPE_CHECKING:
    from torch import nn

    from golf_opt.task.modules.factory import Factory

BATCH = 1000  # images at once
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class _Given:
    """A module that the user of this process gave."""

    factory: Factory
    why: str  # it is no net of layers


_GIVEN: dict[str, _Given] = {}  # by the hash of what it computes


def keep(graph: str, factory: Factory, why: str) -> None:
    """Keep a module that the user of this process gave, by the hash of what it computes."""
    _GIVEN[graph] = _Given(factory, why)


def _of(layer: Module) -> _Given:
    given = _GIVEN.get(layer.graph)
    if given is None:
        raise UsageError(
            f"the net is {layer.of}, a module of its user's (graph {layer.graph}), which is never "
            f"imported because a database or file names it; give arch={layer.of} with that module "
            "here or on PYTHONPATH."
        )
    return given


def is_given(net: Net) -> bool:
    """Return whether a net can be trained and evaluated here."""
    return net.module is None or net.module.graph in _GIVEN


def why_not_ours(layer: Module) -> str:
    """Return `my_nets:Odd uses torch.cumsum (line 17), which is no layer of ours`.

    Raises:
        UsageError: the module was not given.
    """
    return _of(layer).why


def make(layer: Module, seed: int = 0) -> nn.Module:
    """Return a new torch module for the layer, as its own initialisation leaves it.

    Raises:
        UsageError: the module was not given.
    """
    return _of(layer).factory.build(seed)


def initial_tensors(layer: Module, seed: int) -> dict[str, Array]:
    """Return `weights/...` and `buffers/...` as the module itself begins, drawn from a seed."""
    from golf_opt.task.modules.factory import tensors_of

    module = make(layer, rng.derive(seed, "module"))
    theirs = {name: t.detach().numpy().copy() for name, t in tensors_of(module).items()}
    weights = {f"weights/{name}": theirs[name] for name, _ in layer.trained}
    return weights | {f"buffers/{name}": theirs[name] for name, _ in layer.kept}


def load(layer: Module, tensors: Mapping[str, Array]) -> nn.Module:
    """Return the module with these `weights/...` and `buffers/...`."""
    import torch

    from golf_opt.task.modules.factory import tensors_of

    module = make(layer)
    theirs = tensors_of(module)
    with torch.no_grad():
        for kind, named in (("weights", layer.trained), ("buffers", layer.kept)):
            for name, _ in named:
                theirs[name].copy_(torch.from_numpy(np.array(tensors[f"{kind}/{name}"])))
    return module


def scores(layer: Module, tensors: Mapping[str, Array], x: Array) -> Array:
    """Return the class scores [n, classes] of normalised images [n, channels, height, width]."""
    import torch

    with torch.no_grad():
        module = load(layer, tensors).eval().to(torch.from_numpy(x[:0]).dtype)
        parts = [
            module(torch.from_numpy(x[at : at + BATCH]).clone()) for at in range(0, len(x), BATCH)
        ]
    found: Array = torch.cat(parts).numpy()
    return found
