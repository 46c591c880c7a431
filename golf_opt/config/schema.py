"""The configuration of each verb: Hydra's tree as frozen models, of the same shape as conf/.

`check.load(StudyConfig, cfg)` is the way in. Defaults stand in conf/*.yaml and not here.
"""

from __future__ import annotations

from dataclasses import field, fields
from typing import Annotated, Any, Literal, Self

from pydantic import Field, StrictBool, StrictFloat, StrictInt, model_validator

from golf_opt.config import defaults, network, types
from golf_opt.config.check import model
from golf_opt.config.errors import UsageError
from golf_opt.config.on import On, Workers


@model
class DataConfig:
    name: types.DataName  # of a data set, or the path of a file or folder
    root: types.FilePath  # of the data sets with a name
    size: types.PictureSize = None  # height and width that pictures are scaled to
    grey: StrictBool = False  # whether pictures become grey
    fold: types.Fold = 0  # which sixth of the training images is held out


@model
class EngineConfig:
    name: types.EngineName
    device: types.Device
    lanes: types.Lanes
    threads: Annotated[StrictInt, Field(ge=1, le=1024)]


@model
class StorageConfig:
    url: str | None  # without its password; None: in memory, gone when the process ends
    url_env: str | None = None  # the environment variable that holds the URL instead


@model
class Common:
    """What every verb takes."""

    folder: Annotated[types.Folder, Field(alias="dir")]  # of the studies
    storage: StorageConfig


@model
class NewStudy:
    name: types.StudyName | None
    enqueue: types.Points
    warm_start: types.StudyNames = field(default=(), kw_only=True)  # whose best points come first


@model
class StudyConfig(Common):
    """One run of `golf-opt study`, checked as far as that goes without reading data."""

    study: NewStudy
    trials: types.Trials  # None: see `total`
    budget: types.BudgetOrNone  # that this run may take
    stop: Literal["plateau"] | None
    epochs: types.Epochs
    seed: types.Seed
    seeds: types.Seeds  # of each point
    statistic: types.Statistic  # what a point is worth by them
    protocol: types.Protocol
    sampler: types.Mapped
    pruner: types.Mapped
    callbacks: types.Callbacks
    engine: EngineConfig
    # of an objective; None: of a net of ours. Directions: None is one value, maximised
    objective: types.ObjectiveOrNone = field(default=None, kw_only=True)
    directions: types.DirectionsOrNone = field(default=None, kw_only=True)
    arch: types.Mapped | None = field(default=None, kw_only=True)  # with an objective: none
    family: types.Mapped | None = field(default=None, kw_only=True)  # in place of an arch: a search
    target: types.Target = field(default=None, kw_only=True)  # accuracy for a search to reach
    max_params: types.MaxParams = field(default=None, kw_only=True)  # of a search's nets
    space: types.Mapped | None = field(default=None, kw_only=True)  # None: not given
    teacher: types.FilePathOrNone = field(default=None, kw_only=True)  # that nets learn from
    data: DataConfig | None = field(default=None, kw_only=True)  # None: an objective without any
    workers: Workers = field(default=None, kw_only=True)  # of a fleet; None: this process trains
    on: On | None = field(default=None, kw_only=True)  # what starts them

    @property
    def total(self) -> int | None:
        """Trials of the study; None where nothing but a budget limits them."""
        if self.trials is None and self.budget is None:
            return types.USUAL_TRIALS if self.family is None else types.USUAL_TRIALS_OF_A_SEARCH
        return self.trials

    @model_validator(mode="after")
    def _net_or_objective(self) -> Self:
        if self.seeds == 1 and self.statistic != "mean":
            raise UsageError(
                f"statistic is {self.statistic!r}, but seeds is 1, which leaves nothing to reckon "
                "with; give seeds=5, or seeds=race."
            )
        if self.objective is not None:
            _check_objective(self, self.objective)
            return self
        if self.target is not None and self.max_params is not None:
            raise UsageError(
                "target and max_params are both given; give one: target=0.98 for the smallest net "
                "that reaches it, or max_params=700 for the best one that small."
            )
        for group in ("arch" if self.family is None else "family", "space", "data"):
            if getattr(self, group) is None:
                raise UsageError(f"{group} is None, but must be chosen for a net of ours.")
        if self.directions is not None:
            raise UsageError(
                "directions are given, but only objective=MODULE:FUNCTION has them; "
                "a net of ours is after accuracy."
            )
        if self.engine.name == "python":
            raise UsageError(
                "engine is 'python', which runs a function of yours; give it as "
                "objective=MODULE:FUNCTION."
            )
        return self


def _check_objective(config: StudyConfig, objective: str) -> None:
    """Refuse what does not go with an objective."""
    if config.arch is not None:
        raise UsageError(
            f"arch and objective are both given, but a study trains one thing; take arch= away, "
            f"or objective={objective}."
        )
    if config.space is None:
        raise UsageError(
            f"space is missing; objective={objective} needs space=FILE.yaml, which declares its "
            "parameters, such as `lr: {type: float, low: 0.001, high: 1.0, log: true}`."
        )
    check_engine(config.engine, objective)
    if config.teacher is not None:
        raise UsageError(
            f"teacher and objective are both given, but {objective} is trained by you; take "
            "teacher= away."
        )
    if config.data is None and config.protocol != "test":
        raise UsageError(
            f"protocol is {config.protocol!r}, but there is no data to split; give data=NAME."
        )


def check_engine(engine: EngineConfig, objective: str) -> None:
    """Refuse another engine than the one that runs objectives."""
    if engine.name != "python":
        raise UsageError(
            f"engine is {engine.name!r}, but must be python, which it is with "
            f"objective={objective} unless another is chosen."
        )
    if engine.device not in ("auto", "cpu"):
        raise UsageError(
            f"engine.device is {engine.device!r}, but must be auto or cpu; where its tensors are "
            "is the objective's own affair."
        )


@model
class WorkerConfig(Common):
    """One run of `golf-opt worker`; the rest is kept with the study."""

    study: types.ExistingStudy
    objective: types.ObjectiveOrNone  # that the study is of; it is never taken from a database
    data: DataConfig
    callbacks: types.Callbacks
    engine: EngineConfig
    arch: types.Mapped | None = field(default=None, kw_only=True)  # a module that the net is
    teacher: types.FilePathOrNone = field(default=None, kw_only=True)  # where the study's is


@model
class ServerConfig:
    host: network.Host
    port: Annotated[StrictInt, Field(ge=0, le=65_535)]
    write: StrictBool
    password_env: str  # the environment variable that holds the password
    password_file: types.FilePath | None
    trusted_proxy: network.Proxy | None  # the address whose X-Forwarded-* headers count


@model
class DashboardConfig(Common):
    dashboard: ServerConfig
    data: DataConfig


@model
class ReportConfig(Common):
    study: types.ExistingStudy
    data: DataConfig
    trial: types.TrialOrNone = field(default=None, kw_only=True)  # None: of the whole study


@model
class CompareConfig(Common):
    studies: types.TwoOrMore


@model
class ListConfig(Common):
    format: Literal["auto", "table", "plain", "json"]


@model
class DoctorConfig(Common):
    format: Literal["text", "json"]
    arch: types.Mapped
    data: DataConfig
    engine: EngineConfig


@model
class TuneConfig(Common):
    arch: types.Mapped
    data: DataConfig


@model
class RemovalConfig(Common):
    study: types.ExistingStudy
    yes: StrictBool  # do not ask
    force: StrictBool  # whatever programs other than ours seem to run
    artifacts: StrictBool  # remove pictures too


@model
class ExportConfig(Common):
    study: types.ExistingStudy
    output: types.NewFolder
    checkpoints: StrictBool


@model
class ImportConfig(Common):
    input: Annotated[types.FilePath, Field(description="a folder that golf-opt export wrote")]
    name: types.StudyName | None  # None: as it was


@model
class ConfirmConfig(Common):
    """One run of `golf-opt confirm`."""

    study: types.ExistingStudy
    top: types.Positive  # trials, the best first
    seeds: types.Epochs  # for each
    target: types.Fraction  # accuracy in [0, 1]
    data: DataConfig
    engine: EngineConfig
    sizes: types.Sizes = field(default=None, kw_only=True)  # None: whatever their size
    epochs: types.EpochsOrNone = field(default=None, kw_only=True)  # None: the study's
    test: StrictBool = field(default=False, kw_only=True)  # whether to read the test set, too
    teacher: types.FilePathOrNone = field(default=None, kw_only=True)  # where the study's is
    arch: types.Mapped | None = field(default=None, kw_only=True)  # a module that the net is


@model
class TeachConfig(Common):
    """One run of `golf-opt teach`."""

    name: types.FolderNameOrNone  # None: made of arch, data and protocol
    arch: types.Mapped
    data: DataConfig
    engine: EngineConfig
    protocol: types.Protocol
    nets: Annotated[StrictInt, Field(ge=1, le=1000)]
    epochs: types.Epochs
    seed: types.Seed
    recipe: types.Mapped  # of each net


@model
class RecordConfig(Common):
    """One run of `golf-opt record`: a study's trial, or what pruning made of one."""

    study: types.StudyName | None
    trial: types.Trial
    source: types.FilePath | None  # a folder that pruning wrote
    board: types.BoardName
    slug: Annotated[
        str,
        Field(
            pattern=r"^[a-z0-9][a-z0-9.-]{0,99}$",
            description="the record's short name: up to 100 small letters, digits, . and -",
        ),
    ]
    how: str | None  # in a few words
    data: DataConfig

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if self.study is None and self.source is None:
            fix = "give study=NAME, or source=FOLDER study=NAME."
            raise UsageError(f"study and source are None; {fix}")
        return self


@model
class VerifyConfig(Common):
    path: types.FilePath  # one record, or a folder of records
    data: DataConfig


@model
class LeaderboardConfig(Common):
    """One run of `golf-opt leaderboard`."""

    output: types.Folder  # of the site
    steps: types.Positive
    data: DataConfig


@model
class SourceConfig(Common):
    """The trained net that a verb works on: a trial of a study, or a file of weights."""

    study: types.StudyName | None
    trial: types.Trial
    weights: types.FilePath | None
    data: DataConfig
    arch: types.Mapped | None = field(default=None, kw_only=True)  # of `weights`

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.study is None) == (self.weights is None):
            given = "neither is" if self.study is None else "both are"
            raise UsageError(
                f"study and weights name the net, and {given} given; give one: study=NAME, or "
                "weights=FILE arch=NAME."
            )
        if self.weights is None and self.arch is not None and "module" not in self.arch:
            raise UsageError("arch is given, but a study has its own.")
        return self


@model
class DeployConfig(SourceConfig):
    format: Literal["c", "onnx", "safetensors"]
    output: types.NewFile | None  # None: named after the net


@model
class InterpretConfig(SourceConfig):
    protocol: types.Protocol | None  # which images to look at; None: the study's
    steps: types.Epochs  # of gradient ascent


@model
class RoundOptions:
    """How `method=rounds` goes about it: see `golf.pruning.rounds` and conf/prune.yaml."""

    share: types.Fraction
    epochs: types.Epochs
    variants: Annotated[StrictInt, Field(ge=1, le=1000)]
    patience: Annotated[StrictInt, Field(ge=1, le=1000)]
    lr: types.Fraction
    batch_size: Annotated[StrictInt, Field(ge=1, le=65_536)]
    regrow: Annotated[StrictInt, Field(ge=0, le=1000)] = 0
    drift: Annotated[StrictInt, Field(ge=0, le=1000)] = 0
    weight_decay: Annotated[StrictFloat, Field(ge=0, le=1)] = 0.0


@model
class PruneOptions:
    """What to prune, how far and by which rule: see conf/prune.yaml."""

    method: types.PruneMethod
    target: types.Target  # accuracy in [0, 1]; None: the net's own less half a point
    rule: types.Protocol
    scope: types.Scope
    seed: types.Seed
    order: Literal["first", "second"]
    rounds: RoundOptions

    @property
    def aim(self) -> float:
        """The target, of options that the net to prune has had a say in."""
        assert self.target is not None
        return self.target


def prune_options(**changed: Any) -> PruneOptions:
    """Return the options of conf/prune.yaml, some of them changed."""
    standing = {field.name: defaults("prune")[field.name] for field in fields(PruneOptions)}
    return PruneOptions(**standing | changed)


@model
class PruneConfig(PruneOptions, SourceConfig):
    """One run of `golf-opt prune`."""

    engine: EngineConfig

    @property
    def options(self) -> PruneOptions:
        return PruneOptions(*(getattr(self, field.name) for field in fields(PruneOptions)))
