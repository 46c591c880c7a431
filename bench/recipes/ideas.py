"""What is compared, as data: ideas, nets, and how much is trained for each.

An idea is what it changes in the space of the base. One whose parameters this golf-opt does not
know is left out, so that a line is enough to add one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from golf_opt.task.recipe import PARAMETERS

BASE = "base"  # to which every idea is compared
SPACE: Mapping[str, Any] = {  # of the base
    "batch_size": {"type": "categorical", "choices": [16, 32, 64]},
    "lr": {"type": "float", "low": 1.5e-3, "high": 3e-2, "log": True},
    "schedule": "cosine",
}


@dataclass(frozen=True, eq=False)
class Idea:
    """A training idea: the nodes that it adds to the base's space, or puts in their place."""

    name: str
    nodes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def space(self) -> dict[str, Any]:
        return {**SPACE, **self.nodes}

    @property
    def taught(self) -> bool:
        """Whether it needs a teacher."""
        return "distill" in self.nodes


def _real(low: float, high: float, log: bool = False) -> dict[str, Any]:
    return {"type": "float", "low": low, "high": high, "log": log}


ALL = (
    Idea(BASE),
    Idea("one cycle", {"schedule": "one_cycle"}),
    Idea("label smoothing", {"label_smoothing": _real(0.01, 0.2)}),
    Idea("weight decay", {"optimizer": "adamw", "weight_decay": _real(1e-4, 1e-1, log=True)}),
    Idea("ema", {"average": "ema", "average_span": _real(0.01, 0.2, log=True)}),
    Idea(
        "swa, cyclic rate",
        {
            "average": "swa",
            "average_span": _real(0.2, 0.6),
            "schedule": "cyclic",
            "step_size": {"type": "int", "low": 1, "high": 4},
        },
    ),
    Idea("distillation", {"distill": _real(0.3, 1.0), "temperature": _real(1.0, 8.0, log=True)}),
    Idea("shift", {"shift": _real(0.25, 2.0)}),
    Idea("rotate, scale, shear", {"rotate": _real(2, 12), "scale": _real(0.02, 0.1), "shear": 0.1}),
    Idea("elastic", {"elastic": _real(0.25, 2.0)}),
    Idea("erase", {"erase": _real(0.1, 0.4)}),
    Idea(
        "active sampling",
        {
            "order": {
                "type": "categorical",
                "choices": ["hard", "importance", "curriculum", "forgetting"],
            },
            "order_share": _real(0.2, 0.9),
        },
    ),
    Idea("mixup", {"mixup": _real(0.05, 0.4)}),
)
IDEAS = tuple(idea for idea in ALL if set(idea.nodes) <= set(PARAMETERS))


def together(best: Sequence[Idea]) -> Idea:
    """Return the ideas as one, the best first: what the earlier ones say holds."""
    nodes: dict[str, Any] = {}
    names = []
    for idea in best:
        if all(nodes.get(key, node) == node for key, node in idea.nodes.items()):
            nodes |= idea.nodes
            names.append(idea.name)
    return Idea(" + ".join(names), nodes)


@dataclass(frozen=True)
class Part:
    """How much is trained. Every idea of a net is tuned with as many points, seeds and epochs."""

    nets: tuple[str, ...]
    points: int  # that an idea is tried at, on held-out images
    seeds: int  # of each
    confirmed: int  # fresh seeds of the point that is picked
    epochs: int
    teacher: tuple[str, ...]  # how `golf-opt teach` makes it
    strong: int  # fresh seeds of recipe=strong, on all training images

    def of(self, net: str) -> Part:
        """Return how much is trained of one net: of a dear one less, and not recipe=strong."""
        return replace(self, epochs=DEAR[net], strong=0) if net in DEAR else self


TARGETS = {  # mean test accuracies that recipe=strong is to reach
    "c4-5-4": 0.9840,
    "c4-5-4-prelu": 0.9855,
    "separable-697": 0.9875,
}
NETS = (*TARGETS, "deepml-separable")
DEAR = {"deepml-separable": 4}  # nets, and their epochs: one costs as much as eight of c4-5-4
PARTS = {
    "quick": Part(NETS[:1], 4, 1, 8, 6, ("nets=1", "epochs=3"), 0),
    "full": Part(NETS, 6, 2, 24, 20, ("nets=4", "epochs=12"), 30),
}
