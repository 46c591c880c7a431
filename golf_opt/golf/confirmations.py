"""What confirmations left in a study: what came out of its best trials on fresh seeds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import optuna

from golf_opt.storage.studies import CONFIRMED, marks
from golf_opt.task.goals import Goal
from golf_opt.utils.trials import of_kind

Results = dict[str, dict[str, dict[str, Any]]]  # trial -> seed -> what came out


def kept_results(study: optuna.Study) -> Results:
    """Return `{trial: {seed: result}}` as `golf-opt confirm` kept it; other forms are left out."""
    known = marks(study).get(CONFIRMED, {})
    return {
        number: {
            seed: result
            for seed, result in rows.items()
            if _is_number(seed) and isinstance(result, dict) and _is_result(result)
        }
        for number, rows in known.items()
        if _is_number(number) and isinstance(rows, dict)
    }


def _is_number(key: str) -> bool:
    return key.isdecimal() and len(key) < 20


def _is_result(row: Mapping[str, Any]) -> bool:
    if "accuracy" not in row:
        return "error" in row
    train = row.get("train_accuracy")
    accuracies = [row["accuracy"], *([] if train is None else [train])]
    return all(Goal("accuracy").admits(of_kind(value, float)) for value in accuracies)
