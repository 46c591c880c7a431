"""The configuration of `golf-opt fleet`: what starts the workers, how many, and what each gets."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Any, Literal

from pydantic import Field, StrictBool, StrictInt

from golf_opt.config import types
from golf_opt.config.check import model
from golf_opt.config.schema import WorkerConfig

Size = Annotated[
    Annotated[str, Field(pattern=r"^[1-9]\d{0,8}[KMGT]$")] | None,
    Field(description="a size such as 500M or 4G, or null"),
]
Minutes = Annotated[StrictInt, Field(ge=5, le=1_000_000)]  # Slurm may warn a minute too early
Gpus = Annotated[StrictInt, Field(ge=0, le=1000)]
Workers = Annotated[
    Annotated[StrictInt, Field(ge=1, le=10_000)] | None,
    Field(description="a whole number from 1 to 10000, or null"),
]


@model
class LocalConfig:
    """Processes of this machine."""

    name: Literal["local"]


@model
class SlurmConfig:
    """What each job of the array asks Slurm for."""

    name: Literal["slurm"]
    partition: str | None
    cpus: types.Positive
    gpus: Gpus
    memory: Size
    minutes: Minutes
    options: dict[str, Any]  # of sbatch, by long name; it says itself what is wrong with one


@model
class RayConfig:
    """What each actor asks Ray for."""

    name: Literal["ray"]
    address: Annotated[str, Field(min_length=1, max_length=200)]
    cpus: types.Positive
    gpus: Gpus


On = Annotated[LocalConfig | SlurmConfig | RayConfig, Field(discriminator="name")]


@model
class FleetConfig(WorkerConfig):
    """One run of `golf-opt fleet`."""

    on: On = field(kw_only=True)
    workers: Workers = field(kw_only=True)  # None: as many as there are, on this machine its cores
    stop: StrictBool = field(kw_only=True)  # whether to end them
    notify: str | None = field(default=None, kw_only=True)  # a URL of apprise's
