"""What conf/reproduce.yaml holds: trainings, prunings, and the published rows they answer for."""

from __future__ import annotations

from dataclasses import field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, StrictBool, StrictInt

from golf_opt.config import defaults, types
from golf_opt.config.check import model
from golf_opt.config.schema import Common, DataConfig, EngineConfig


@model
class Seeds:
    """How many each part of a reproduction asks for."""

    quick: Annotated[StrictInt, Field(ge=0)]
    full: Annotated[StrictInt, Field(ge=0)]


@model
class TrainingRow:
    arch: str
    recipe: types.Mapped
    epochs: types.Epochs
    seeds: Seeds
    train_images: types.Positive | None = None  # only the first so many
    raw: StrictBool = False  # pixels in [0, 1], not normalised
    engine: types.EngineName | None = None  # instead of the one that was asked for


@model
class PruningRow:
    of: str  # a training
    method: types.PruneMethod
    target: types.Fraction
    scope: types.Scope = field(default_factory=lambda: defaults("prune")["scope"])


@model
class PublishedRow:
    table: str
    system: str
    published: float | None  # percent
    of: str  # a training
    tolerance: float = 0.0  # of a figure that was only rounded
    read: types.Reading = "last"


@model
class PublishedCount:
    system: str
    published: types.Positive  # parameters
    of: str  # a pruning


@model
class Curve:
    """A figure of mean test accuracy by epoch."""

    title: str
    of: tuple[str, ...]  # trainings
    start: Annotated[float | None, Field(alias="from")] = None  # of the axis, percent
    published: dict[str, types.Mapped] = field(default_factory=dict)  # label -> epochs, accuracies


@model
class ReproduceConfig(Common):
    """One run of `golf-opt reproduce`; names that rows refer to are checked by `golf.retrain`."""

    part: Literal["quick", "full", "tables"]  # tables: write the page, train nothing
    introduction: str
    tables: dict[str, str]  # key -> title
    trainings: dict[str, TrainingRow]
    rows: tuple[PublishedRow, ...]
    about_pruning: str
    prunings: dict[str, PruningRow]
    pruned_rows: tuple[PublishedCount, ...]
    curves: dict[str, Curve]
    findings: tuple[str, ...]
    data: DataConfig
    engine: EngineConfig

    @property
    def output(self) -> Path:
        """The folder of results.json, README.md and figures/."""
        return self.folder / "reproduction"
