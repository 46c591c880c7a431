"""What starts workers, and what each of them gets: the group `on` of `golf-opt fleet`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StrictBool, StrictInt

from golf_opt.config import types
from golf_opt.config.check import model

Size = Annotated[
    Annotated[str, Field(pattern=r"^[1-9]\d{0,8}[KMGT]$")] | None,
    Field(description="a size such as 500M or 4G, or null"),
]
Minutes = Annotated[StrictInt, Field(ge=5, le=1_000_000)]  # Slurm may warn a minute too early
Gpus = Annotated[StrictInt, Field(ge=0, le=1000)]
Name = Annotated[str, Field(min_length=1, max_length=253)]
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


@model
class KubernetesConfig:
    """Where the cluster is, and what each pod of the Job is made of."""

    name: Literal["kubernetes"]
    context: Name | None
    namespace: Name | None
    image: Name
    secret: Name  # with the keys `url` and `password`
    claim: Name | None  # of the volume with MNIST
    cpus: types.Positive
    gpus: Gpus
    memory: Annotated[
        str, Field(pattern=r"^[1-9]\d{0,8}[KMGT]i$", description="a size such as 500Mi or 4Gi")
    ]
    pod: dict[str, Any]  # more of its PodSpec, which the API's schema checks
    dry_run: StrictBool  # print the Job, and touch nothing


On = Annotated[
    LocalConfig | SlurmConfig | RayConfig | KubernetesConfig, Field(discriminator="name")
]
