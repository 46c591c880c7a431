"""What record.json says, as the one model that checks, reads and writes it."""

from __future__ import annotations

import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt

WEIGHTS, CONFIG, SEEDS, LOG = "weights.safetensors", "config.yaml", "seeds.json", "log.txt"
FILES = (WEIGHTS, CONFIG, SEEDS, LOG)

Words = Annotated[str, Field(min_length=1)]
FileName = Annotated[str, Field(pattern=r"^\w[\w.-]*$", max_length=100)]  # in the folder itself
SHA256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Layers(_Part):
    """A net as in conf/arch."""

    name: str
    layers: list[dict[str, Any]]


class Data(_Part):
    name: str
    md5: str = Field(pattern=r"^[0-9a-f]{32}$")


class Params(_Part):
    """Trained numbers, shared tensors once: all, the non-zero, those of them without effect."""

    dense: PositiveInt
    nz: NonNegativeInt
    dead: NonNegativeInt


class Counted(_Part):
    """How many images of a split get their label."""

    correct: NonNegativeInt
    of: PositiveInt


class Splits(_Part):
    train: Counted  # what the net was trained on
    test: Counted
    holdout: Counted | None = None


class Protocol(_Part):
    rule: Literal["test", "holdout"]  # what guided choices: the test set, or held-out images
    words: Words
    seeds: PositiveInt  # trainings behind it that it was chosen from


class MadeBy(_Part):
    version: str
    git_commit: str | None = None


def _all_files(files: dict[str, str]) -> dict[str, str]:
    if missing := [name for name in FILES if name not in files]:
        raise ValueError(f"{', '.join(missing)} must be among them")
    return files


class Claim(_Part):
    """A record of golf_opt: one net, what it does and how it was made."""

    format: Literal[1]
    board: Literal["article", "holdout", "99", "dense"]
    date: datetime.date
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")
    net: Layers
    data: Data
    params: Params
    splits: Splits
    protocol: Protocol
    how: Words
    made_by: MadeBy
    files: Annotated[
        dict[FileName, SHA256], AfterValidator(_all_files)
    ]  # name in the folder -> hash
