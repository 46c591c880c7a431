"""PyTorch's optimisers without what torch.compile needs of them.

A method of theirs imports all of it at its first call, and nothing is compiled here: that would be
half of what a command takes before it trains.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable

import torch
from torch.optim import Optimizer


def spare_imports() -> None:
    """Let optimisers be made without that import; what torch keeps it in is told it is done."""
    add = inspect.unwrap(Optimizer.add_param_group)
    vars(add).setdefault("__dynamo_disable", add)


def step_of(optimizer: Optimizer) -> Callable[[], object]:
    """Return the optimiser's step as its class has it, with no hooks around it."""
    step = torch.no_grad()(inspect.unwrap(type(optimizer).step))
    return lambda: step(optimizer)
