"""What a user gives by `arch=my_nets:Tiny`: a net of layers, or a module that stays one.

Only what a user types is imported. A database tells a module's name, its hash and the shapes of its
tensors; who trains or evaluates it must have been given a module of the same hash, in this process.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from golf_opt.config.errors import UsageError
from golf_opt.task import rng
from golf_opt.task.arch import Module, Net, build_net
from golf_opt.task.inputs import InputSpec

if TYPE_CHECKING:
    from torch import nn

    from golf_opt.task.modules.factory import Factory

TARGET = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)
BATCH = 1000  # images at once
Arch = Mapping[str, Any]
Say = Callable[[str], None]
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class _Given:
    """A module that the user of this process gave."""

    factory: Factory
    why: str  # it is no net of layers


_GIVEN: dict[str, _Given] = {}  # by the hash of what it computes


def parse_target(name: str) -> dict[str, Any] | None:
    """Return `{name, module}` for `my_nets:Tiny`, None for what is no such name."""
    if not TARGET.fullmatch(name) or len(name) > 200:
        return None
    return {"name": name.rpartition(":")[2], "module": name}


def resolve(arch: Arch, spec: InputSpec, say: Say) -> dict[str, Any]:
    """Return `{name, layers}` of an architecture; a module that it names is imported and traced.

    Args:
        arch: `{name, layers}`, which comes back as it is, or `{name, module}` as a user typed it.
        spec: what the net takes and gives.
        say: prints a line to the user: what became of the module.

    Raises:
        UsageError: there is no such module, or no net can be made of it.
    """
    if "module" not in arch:
        return dict(arch)
    if more := set(arch) - {"name", "module"}:
        raise UsageError(f"arch {arch['module']} is a net already; leave out {', '.join(more)}.")
    target = str(arch["module"])
    if parse_target(target) is None:
        raise UsageError(f"arch.module is {target!r}, but must be a name such as my_nets:Tiny.")
    name = str(arch.get("name", target.rpartition(":")[2]))
    from golf_opt.task.modules import factory, trace  # PyTorch: seconds to import

    made = factory.find(target, spec)
    module = factory.prove(made)
    try:
        net, traced = trace.trace(module, made, name)
    except trace.NotOurs as reason:
        return {"name": name, "layers": [_as_it_is(made, module, f"{target} {reason}")]}
    say(f"{target} is {len(net.nodes)} layers of ours: trains natively")
    if own := trace.own_beginning(net, traced.tensors_of(net, module)):
        say(
            f"note: {target} gives {', '.join(own)} a beginning of its own, which is not used: "
            "weights begin as PyTorch's defaults draw them, from each trial's seed"
        )
    return {"name": name, "layers": traced.rows}


def _as_it_is(made: Factory, module: nn.Module, why: str) -> dict[str, Any]:
    """Keep the factory for whoever trains the module; return the layer that stands for it."""
    from golf_opt.task.modules import factory, trace

    graph = trace.graph_hash(module)
    _GIVEN[graph] = _Given(made, why)
    return {
        "kind": Module.kind,
        "of": made.target,
        "graph": graph,
        "image": list(made.spec.shape),
        "features": made.spec.classes,
        "trained": [[name, list(p.shape)] for name, p in factory.trained(module).items()],
        "kept": [[name, list(b.shape)] for name, b in factory.kept(module).items()],
    }


def provide(arch: Arch | None, net: Net, whose: str, say: Say) -> None:
    """Let a stored net be trained and evaluated by the module that a user gives for it.

    Args:
        arch: `{name, module}` as the user typed it; None: nothing was given.
        net: as it was stored.
        whose: it is, such as `study 'odd'`.
        say: prints a line to the user.

    Raises:
        UsageError: what was given is another module, or the net needs none.
    """
    if arch is None:
        return
    if "module" not in arch or net.module is None:
        raise UsageError(f"arch is given, but {whose} has its own layers; leave it out.")
    found = build_net(resolve(arch, net.input, lambda line: None), net.input)
    if found.module is None or found.module.graph != net.module.graph:
        now = "layers of ours" if found.module is None else f"graph {found.module.graph}"
        raise UsageError(
            f"arch {arch['module']} is another module than that of {whose}: it is {now}, and "
            f"{net.module.of} there is graph {net.module.graph}; give the module as it was then."
        )


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
