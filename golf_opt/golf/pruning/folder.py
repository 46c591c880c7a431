"""A pruning on disk: `weights.safetensors` and `prune.json` in a folder of their own.

The weights always keep the target. While the pruning is not finished, their file holds in its
header how far it is, so that one file, replaced as a whole, is enough to go on.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, NonNegativeInt, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load, save

from golf_opt.config.errors import UsageError
from golf_opt.config.schema import PruneOptions
from golf_opt.engines.base import Tensors
from golf_opt.golf.net_file import header_of
from golf_opt.golf.pruning.search import PruningState, flatten
from golf_opt.golf.pruning.weight_pruner import PruningResult, masks
from golf_opt.storage.checkpoint import metadata
from golf_opt.storage.gate import UNREADABLE
from golf_opt.task.arch import Net
from golf_opt.task.forward import check_tensors
from golf_opt.utils.files import read_regular, replace_file


def folder_name(label: str, tensors: Tensors, options: PruneOptions) -> str:
    """Return a folder's name, another one for other weights or other options."""
    digest = hashlib.sha256(json.dumps(asdict(options), sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(name.encode() + tensors[name].tobytes())
    words = re.sub(r"[^\w.-]+", "-", label).strip("-.")[:80]
    return f"{words}-{options.method}-{options.rule}-{digest.hexdigest()[:8]}"


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")


class Standing(_Part):
    """How far a pruning is, but for its arrays; see `PruningState`."""

    model_config = ConfigDict(strict=True, extra="forbid")
    accuracy: float
    stage: Literal["passes", "rounds", "regrowth", "surgery", "annealing"]
    turn: NonNegativeInt
    at: NonNegativeInt
    removed: NonNegativeInt
    level: NonNegativeInt
    failures: NonNegativeInt
    evaluations: NonNegativeInt
    time_s: float
    finished: bool
    log: list[dict[str, Any]]


class Method(_Part):
    method: str
    rule: Literal["test", "holdout"]


class Summary(_Part):
    """What prune.json says from the beginning."""

    arch: str
    net: dict[str, Any] | None = None  # of before version 0.2, what `arch` names
    input: dict[str, Any] | None = None
    source: str
    trial: int | None
    trained_with: dict[str, Any] | None
    trained_epochs: int | None
    options: Method
    command: str
    finished: bool
    log: list[dict[str, Any]]


class Smaller(_Part):
    arch: str
    parameters: int


class Finished(Summary):
    """What it says in the end."""

    nz: int
    parameters: int
    removed: int
    dead: int
    guide: str
    num_guide: int
    guide_accuracy: float
    num_train: int
    train_accuracy: float
    test_accuracy: float
    evaluations: int
    time_s: float
    smaller: Smaller | None


class PruningFolder:
    """The folder of one pruning."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.weights, self.summary = path / "weights.safetensors", path / "prune.json"

    def save(self, net: Net, state: PruningState, facts: Mapping[str, Any]) -> None:
        """Write the best so far, and how far the search is."""
        tensors = state.tensors(net)
        scalars = {
            field.name: getattr(state, field.name)
            for field in fields(state)
            if field.name not in ("weights", "buffers", "order")
        }
        header = header_of(net) | {"standing": scalars}
        self._write(tensors | masks(net, tensors) | {"order": state.order}, header)
        self._summarise(
            dict(facts)
            | {
                "finished": False,
                "nz": state.nz,
                "guide_accuracy": state.accuracy,
                "evaluations": state.evaluations,
                "time_s": round(state.time_s, 3),
                "log": state.log,
            }
        )

    def load(self, net: Net) -> PruningState | None:
        """Return the state of an unfinished pruning, None where there is none.

        Raises:
            UsageError: the file is damaged.
        """
        if not self.weights.is_file() or self.finished() is not None:
            return None
        try:
            data = read_regular(self.weights)
            tensors = load(data)
            scalars = Standing.model_validate(metadata(data)["standing"]).model_dump()
            check_tensors(net, tensors)
            buffers = {k: v for k, v in tensors.items() if k.startswith("buffers/")}
            weights, order = flatten(net, tensors), tensors["order"]
            if order.dtype != np.int64 or not ((order >= 0) & (order < net.num_params)).all():
                raise ValueError("its order is of other weights")
            return PruningState(weights=weights, buffers=buffers, order=order, **scalars)
        except ValidationError as error:
            first = error.errors()[0]
            raise UsageError(
                f"{self.weights} cannot be gone on with: {'.'.join(map(str, first['loc']))}: "
                f"{first['msg']}; delete {self.path} to begin anew."
            ) from error
        except (SafetensorError, OSError, *UNREADABLE) as error:
            raise UsageError(
                f"{self.weights} cannot be gone on with: {error}; delete {self.path} to begin anew."
            ) from error

    def finished(self) -> dict[str, Any] | None:
        """Return the summary of a pruning that ended, None where there is none."""
        try:
            summary = self.read_summary()
            return Finished.model_validate(summary).model_dump() if summary["finished"] else None
        except (OSError, ValueError):
            return None

    def read_summary(self) -> dict[str, Any]:
        """Return what is written beside the weights, of a pruning that was stopped too.

        Raises:
            OSError: it cannot be read.
            ValueError: it is no such file; the message has one line.
        """
        try:
            return Summary.model_validate_json(read_regular(self.summary)).model_dump()
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"])) or self.summary.name
            raise ValueError(f"{place}: {first['msg']}") from error

    def finish(self, result: PruningResult, facts: Mapping[str, Any]) -> dict[str, Any]:
        """Write the result; return the summary."""
        self._write(result.tensors, header_of(result.net))
        summary = dict(facts) | _measures(result) | {"finished": True}
        self._summarise(summary)
        return summary

    def _write(self, tensors: Tensors, header: Mapping[str, Any]) -> None:
        rows = {name: np.asarray(values, order="C") for name, values in tensors.items()}
        text = json.dumps(header)
        replace_file(self.weights, save(rows, metadata={"golf_opt": text}))

    def _summarise(self, summary: Mapping[str, Any]) -> None:
        replace_file(self.summary, (json.dumps(summary, indent=1) + "\n").encode())


def _measures(result: PruningResult) -> dict[str, Any]:
    counted, small, view, state = result.count, result.small, result.view, result.state
    return {
        "parameters": counted.size,
        "nz": counted.nz,
        "removed": result.removed,
        "dead": counted.dead,
        "tensors": [asdict(row) for row in counted.tensors],
        "guide": view.objective.name,
        "num_guide": len(view.objective),
        "guide_accuracy": result.accuracy,
        "num_train": len(view.train),
        "train_accuracy": result.train_accuracy,
        "test_accuracy": result.test_accuracy,
        "evaluations": state.evaluations,
        "time_s": round(state.time_s, 3),
        "smaller": None if small is None else {"arch": small.name, "parameters": small.num_params},
        "log": state.log,
    }
