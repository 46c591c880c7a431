"""What conf/hunt.yaml holds: a board, where a hunt for it begins, and how it is trained."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import BeforeValidator, Field, StrictFloat, StrictInt, model_validator

from golf_opt.config import types
from golf_opt.config.check import model
from golf_opt.config.errors import UsageError
from golf_opt.config.schema import Common, DataConfig, EngineConfig, RoundOptions

Nets = Annotated[
    tuple[types.StudyName, ...],
    BeforeValidator(lambda names: tuple(names) if isinstance(names, list) else names or ()),
    Field(description="a list of names of nets such as [c4-5-4-prelu], or null"),
]


@model
class Board:
    """What a board asks for on the images that decide, and where a hunt for it begins."""

    target: types.Fraction
    rule: types.Protocol
    parents: Nets = ()  # nets that are trained and pruned
    drift: Annotated[StrictInt, Field(ge=0, le=1000)] = 0  # of the pruning, where test may decide
    weight_decay: Annotated[StrictFloat, Field(ge=0, le=1)] = 0.0  # of the pruning, where not
    family: str | None = None  # or one that is searched, where nothing may be zeroed


@model
class HuntConfig(Common):
    """One run of `golf-opt hunt`."""

    board: types.BoardName
    budget: types.BudgetGiven
    parents: Nets  # instead of the board's own
    seeds: types.Positive  # trainings of each parent
    epochs: types.Epochs
    seed: types.Seed
    target: types.Target  # instead of the board's
    recipe: types.Mapped  # of a parent, a space
    rounds: RoundOptions  # of the pruning
    boards: dict[str, Board]
    data: DataConfig
    engine: EngineConfig

    @model_validator(mode="after")
    def _parents_are_pruned_in_a_time(self) -> Self:
        if self.parents and self.on.family is not None:
            raise UsageError(
                f"parents are given, but board {self.board} takes nets with nothing zeroed, which "
                f"are searched for in family {self.on.family}; leave parents= out."
            )
        if self.budget.seconds is None and self.on.family is None:
            raise UsageError(
                f"budget is '{self.budget.epochs}epochs', but must be a time such as 30m: for "
                f"board {self.board} nets are pruned, and epochs are those of trainings alone."
            )
        return self

    @property
    def on(self) -> Board:
        return self.boards[self.board]

    @property
    def aim(self) -> float:
        """The accuracy to keep."""
        return self.on.target if self.target is None else self.target
