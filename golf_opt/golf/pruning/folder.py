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
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from golf_opt.config.errors import UsageError
from golf_opt.config.schema import PruneOptions
from golf_opt.engines.base import Tensors
from golf_opt.golf.pruning.search import PruningState, flatten
from golf_opt.golf.pruning.weight_pruner import PruningResult, masks
from golf_opt.task.arch import Net
from golf_opt.utils.files import replace_file

FORMAT = 1


def folder_name(label: str, tensors: Tensors, options: PruneOptions) -> str:
    """Return a folder's name, another one for other weights or other options."""
    digest = hashlib.sha256(json.dumps(asdict(options), sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(name.encode() + tensors[name].tobytes())
    words = re.sub(r"[^\w.-]+", "-", label).strip("-.")[:80]
    return f"{words}-{options.method}-{options.rule}-{digest.hexdigest()[:8]}"


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
        self._write(tensors | masks(net, tensors) | {"order": state.order}, {"standing": scalars})
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
            with safe_open(self.weights, framework="numpy") as file:
                header = json.loads((file.metadata() or {})["golf_opt"])["standing"]
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            buffers = {k: v for k, v in tensors.items() if k.startswith("buffers/")}
            weights = flatten(net, tensors)
            return PruningState(weights=weights, buffers=buffers, order=tensors["order"], **header)
        except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
            raise UsageError(
                f"{self.weights} cannot be gone on with: {error}; delete {self.path} to begin anew."
            ) from error

    def finished(self) -> dict[str, Any] | None:
        """Return the summary of a pruning that ended, None where there is none."""
        try:
            summary = json.loads(self.summary.read_text())
        except (OSError, ValueError):
            return None
        return summary if isinstance(summary, dict) and summary.get("finished") else None

    def finish(self, result: PruningResult, facts: Mapping[str, Any]) -> dict[str, Any]:
        """Write the result; return the summary."""
        self._write(result.tensors, {"net": result.net.name})
        summary = dict(facts) | _measures(result) | {"finished": True}
        self._summarise(summary)
        return summary

    def _write(self, tensors: Tensors, header: Mapping[str, Any]) -> None:
        rows = {name: np.ascontiguousarray(values) for name, values in tensors.items()}
        text = json.dumps({"format": FORMAT, **header})
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
