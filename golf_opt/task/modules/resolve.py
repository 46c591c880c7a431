"""What a user types as `arch=my_nets:Tiny` becomes a net of layers, or a module that stays one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from golf_opt.config.errors import UsageError, short
from golf_opt.task.arch import Net, build_net
from golf_opt.task.grammar import parse_target
from golf_opt.task.inputs import InputSpec
from golf_opt.task.layers import Module
from golf_opt.task.modules import given

if TYPE_CHECKING:
    from torch import nn

    from golf_opt.task.modules.factory import Factory

Arch = Mapping[str, Any]
Say = Callable[[str], None]


def resolve(arch: Arch, spec: InputSpec, say: Say, then: str = "") -> dict[str, Any]:
    """Return `{name, layers}` of an architecture; a module that it names is imported and traced.

    Args:
        arch: `{name, layers}`, which comes back as it is, or `{name, module}` as a user typed it.
        spec: what the net takes and gives.
        say: prints a line to the user: what became of the module.
        then: ends that line where the module is layers of ours.

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
    from golf_opt.task.modules.translate import NotOurs

    made = factory.find(target, spec)
    module = factory.prove(made)
    try:
        net, traced = trace.trace(made, name)
    except NotOurs as reason:
        return {"name": name, "layers": [_as_it_is(made, module, f"{target} {reason}")]}
    say(f"{target} is {len(net.nodes)} layers of ours{then}")
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
    given.keep(graph, made, why)
    return {
        "kind": Module.kind,
        "of": made.target,
        "graph": graph,
        "image": list(made.spec.shape),
        "features": made.spec.classes,
        "trained": [[name, list(p.shape)] for name, p in factory.trained(module).items()],
        "kept": [[name, list(b.shape)] for name, b in factory.kept(module).items()],
    }


def provide(arch: Arch | None, net: Net | None, whose: str) -> None:
    """Let a stored net be trained and evaluated by the module that a user gives for it.

    Args:
        arch: `{name, module}` as the user typed it; None: nothing was given.
        net: as it was stored; None of a family, whose nets are of our layers.
        whose: it is, such as `study 'odd'`.

    Raises:
        UsageError: what was given is another module, or the net needs none.
    """
    if arch is None:
        return
    if net is None or net.module is None:
        raise UsageError(f"arch is given, but {whose} has its own layers; leave it out.")
    if "module" not in arch:
        raise UsageError(
            f"arch is {short(arch.get('name'))}, but must be arch={net.module.of} for {whose}, "
            "whose net is that module."
        )
    found = build_net(resolve(arch, net.input, lambda line: None), net.input)
    if found.module is None or found.module.graph != net.module.graph:
        now = "layers of ours" if found.module is None else f"graph {found.module.graph}"
        raise UsageError(
            f"arch {arch['module']} is another module than that of {whose}: it is {now}, and "
            f"{net.module.of} there is graph {net.module.graph}; give the module as it was then."
        )
