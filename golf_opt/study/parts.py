"""Parts of a stored description: what they may be, and what older names stand for."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from golf_opt.config import types

RENAMED = {  # what a stored study may ask for by a name that is not ours today
    "golf_opt.space.grid_sampler": "golf_opt.study.samplers.grid_sampler",
    "optuna.samplers.CmaEsSampler": "golf_opt.study.samplers.CmaEsSampler",
    "optuna.samplers.TPESampler": "golf_opt.study.samplers.TPESampler",
    "optuna.pruners.MedianPruner": "golf_opt.study.pruners.MedianPruner",
    "optuna.pruners.PercentilePruner": "golf_opt.study.pruners.PercentilePruner",
}


def _part(node: dict[str, Any]) -> dict[str, Any]:
    """Return a sampler or pruner under today's name."""
    if "_target_" not in node:
        return node
    target = node["_target_"]
    if not isinstance(target, str):
        raise ValueError(f"its _target_ is {target!r}, but must be a name")
    return node | {"_target_": RENAMED.get(target, target)}


Part = Annotated[dict[str, Any], AfterValidator(_part)]
Short = Annotated[str, Field(max_length=100)]


class Objective(BaseModel):
    """A function of the user's that a study is of; it is named here, and never imported by it."""

    model_config = ConfigDict(frozen=True, strict=True)

    name: types.Objective
    digest: Short  # of the source file that the study was begun with
    directions: types.Directions  # by the name of each value, in order


class Taught(BaseModel):
    """The teacher that a study's nets learn from."""

    model_config = ConfigDict(frozen=True, strict=True)

    digest: Short  # of its logits
    path: Annotated[str, Field(max_length=4096)]  # where it was
    words: Annotated[str, Field(max_length=1000)]  # what it is
