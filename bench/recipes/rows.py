"""Trainings as lines of JSON: what is there is not trained again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Stage = Literal["tune", "confirm", "cost", "strong"]


@dataclass(frozen=True)
class Key:
    """One training: what of it a row is found by."""

    idea: str
    stage: Stage
    epochs: int
    params: str  # of the recipe, as JSON
    seed: int  # its index

    @property
    def recipe(self) -> dict[str, Any]:
        recipe: dict[str, Any] = json.loads(self.params)
        return recipe


def key(idea: str, stage: Stage, epochs: int, params: Mapping[str, Any], seed: int = 0) -> Key:
    return Key(idea, stage, epochs, json.dumps(params, sort_keys=True), seed)


class Rows:
    """The trainings of one net: `FOLDER/NET.jsonl`, a line each as it ends.

    A last line that a kill cut short is none, and the next one begins behind it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._kept: dict[Key, dict[str, Any]] = {}
        text = path.read_text() if path.exists() else ""
        self._cut = not text.endswith("\n") and text != ""
        for line in text.splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                continue
            self._kept[_key_of(row)] = row

    def __contains__(self, wanted: Key) -> bool:
        return wanted in self._kept

    def __getitem__(self, wanted: Key) -> dict[str, Any]:
        return self._kept[wanted]

    def add(self, wanted: Key, **found: Any) -> None:
        """Append what a training came to."""
        row = {
            "idea": wanted.idea, "stage": wanted.stage, "epochs": wanted.epochs,
            "params": wanted.recipe, "seed": wanted.seed,
        } | found  # fmt: skip
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a") as file:
            file.write("\n" * self._cut + json.dumps(row, separators=(",", ":")) + "\n")
        self._cut = False
        self._kept[wanted] = row


def _key_of(row: Mapping[str, Any]) -> Key:
    return key(row["idea"], row["stage"], row["epochs"], row["params"], row["seed"])
