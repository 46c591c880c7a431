"""A torch module as layers of ours, by torch.fx; and what it computes as a hash, where it is none.

The result is not taken on trust: with other weights than it began with, the layers must give the
scores that the module gives.
"""

from __future__ import annotations

import hashlib
import inspect
import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from golf_opt.config.errors import UsageError
from golf_opt.task.arch import Net, build_net
from golf_opt.task.forward import forward
from golf_opt.task.layers import Parameter
from golf_opt.task.modules.factory import (
    PROBE,
    Factory,
    kept,
    last_line,
    seeded,
    tensors_of,
    trained,
)
from golf_opt.task.modules.translate import NotOurs
from golf_opt.task.modules.walk import Traced, Walk

CLOSE = 1e-6  # of scores in float64


class _Proxy(fx.Proxy):
    def __len__(self) -> int:  # a whole number cannot be followed; `x.view(len(x), -1)` is common
        return PROBE


class _Tracer(fx.Tracer):
    record_stack_traces = True

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)


def trace(factory: Factory, name: str) -> tuple[Net, Traced]:
    """Return a module as a net of layers.

    Args:
        factory: of the module, which has been proved.
        name: of the net.

    Raises:
        NotOurs: an operation, which is named, is no layer of ours.
    """
    module = factory.build(0).train()
    graph = fx.GraphModule(module, follow(module))
    try:
        with seeded(0):
            ShapeProp(graph).propagate(factory.images())
    except Exception as error:
        raise NotOurs(f"cannot be followed by torch.fx: {last_line(error)[:-1]}") from error
    walk = Walk(module)
    for node in graph.graph.nodes:
        walk.visit(node)
    traced = walk.traced
    _check_all_is_there(module, traced)
    try:
        net = build_net({"name": name, "layers": traced.rows}, factory.spec)
    except UsageError as error:
        raise NotOurs(f"cannot be said in layers: {error}") from error
    theirs, ours = tensors_of(module), (*net.parameters, *net.buffers)
    if any(p.size != theirs[traced.tensors[p.name]].numel() for p in ours):
        raise NotOurs("cannot be said in layers: its tensors are of other sizes")
    _compare(net, traced, factory)
    return net, traced


def follow(module: nn.Module) -> fx.Graph:
    """Return what a module computes, as torch.fx writes it down; raise NotOurs where it cannot."""
    try:
        return _Tracer().trace(module)
    except Exception as error:  # whatever a user's code does with what is no tensor
        raise NotOurs(f"cannot be followed by torch.fx: {last_line(error)[:-1]}") from error


def _check_all_is_there(module: nn.Module, traced: Traced) -> None:
    used = list(traced.tensors.values())
    everything = dict(module.named_parameters(remove_duplicate=False))
    for name, parameter in everything.items():
        if not parameter.requires_grad:
            raise NotOurs(f"keeps {name} from being trained, which layers of ours are not")
        if name not in used:
            raise NotOurs(f"has {name}, which no layer reads")
    if len({id(parameter) for parameter in everything.values()}) < len(everything):
        raise NotOurs("ties parameters of different layers to each other")


def _compare(net: Net, traced: Traced, factory: Factory) -> None:
    """Hold the layers against a module with tensors that tell one channel from another."""
    module = factory.build(0)
    with seeded(1), torch.no_grad():
        for name, tensor in tensors_of(module).items():
            positive = name.endswith("running_var")
            tensor.copy_(
                0.5 + torch.rand_like(tensor) if positive else 0.5 * torch.randn_like(tensor)
            )
    module = module.double().eval()
    images = factory.images(2).double()
    with torch.no_grad(), seeded(1):
        theirs = module(images.clone())
    *_, (_, ours) = forward(net, traced.tensors_of(net, module), images.numpy())
    scores = torch.from_numpy(np.array(ours))
    if traced.normalised:
        scores = scores.log_softmax(1)
    if not (scores - theirs).abs().max() <= CLOSE * (1 + theirs.abs().max()):
        raise NotOurs("gives other scores than its layers one by one: something works in place")


def own_beginning(net: Net, tensors: Mapping[str, Any]) -> list[str]:
    """Return the parameters that do not begin as PyTorch's defaults would draw them."""
    return [p.name for p in net.parameters if not _by_default(p, tensors[f"weights/{p.name}"])]


def _by_default(parameter: Parameter, values: Any) -> bool:
    if parameter.bound is None:
        return bool(np.all(values == np.float32(parameter.fill)))
    within = np.abs(values).max() <= parameter.bound * 1.0001
    spread = np.sqrt(np.mean(np.square(values))) / (parameter.bound / math.sqrt(3))
    far = 4 / math.sqrt(parameter.size)  # about nine standard deviations
    return bool(within and abs(spread - 1) <= far and np.any(values))


def graph_hash(module: nn.Module) -> str:
    """Return 16 hex digits of what a module computes, and the shapes of its tensors."""
    parts = [re.sub(r"0x[0-9a-f]+", "", repr(module))]
    sides = trained(module), kept(module)
    parts += [str([(name, *t.shape) for name, t in side.items()]) for side in sides]
    for training in (True, False):
        module.train(training)
        try:
            graph = fx.GraphModule(module, follow(module))
            parts.append(graph.code)
            parts += [str(t.tolist()) for t in _constants(graph, module)]
        except NotOurs:
            parts += _sources(module)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _constants(graph: fx.GraphModule, module: nn.Module) -> list[Tensor]:
    """Return the tensors that a graph reads and that are no parameters or buffers."""
    known = {*dict(module.named_parameters()), *dict(module.named_buffers())}
    paths = [str(n.target) for n in graph.graph.nodes if n.op == "get_attr"]
    found = [getattr(graph, path, None) for path in paths if path not in known]
    return [value for value in found if isinstance(value, Tensor)]


def _sources(module: nn.Module) -> list[str]:
    """Return the source of every class of the module that is not PyTorch's own."""
    classes = {type(part) for part in module.modules()}
    own = sorted((c for c in classes if not c.__module__.startswith("torch.")), key=str)
    found = []
    for cls in own:
        try:
            found.append(inspect.getsource(cls))
        except (OSError, TypeError):  # of a notebook's cell, say
            found.append(cls.__qualname__)
    return found
