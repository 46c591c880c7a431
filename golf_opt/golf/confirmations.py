"""What confirmations left in a study: what came out of its best trials on fresh seeds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import optuna

from golf_opt.storage.studies import CONFIRMED, marks
from golf_opt.study.description import description_of
from golf_opt.task.goals import Goal
from golf_opt.utils.trials import of_kind

Results = dict[str, dict[str, dict[str, Any]]]  # trial -> seed -> what came out


def key_of_results(study: optuna.Study, epochs: int | None = None) -> str:
    """Return the key of what so many epochs gave; None: as many as the study's trials have."""
    usual = description_of(study).epochs
    return CONFIRMED if epochs in (None, usual) else f"{CONFIRMED}:{epochs}"


def kept_results(study: optuna.Study, epochs: int | None = None) -> Results:
    """Return `{trial: {seed: result}}` as `golf-opt confirm` kept it; other forms are left out.

    Args:
        study: that was confirmed.
        epochs: of those trainings; None: as many as its trials have.
    """
    known = marks(study).get(key_of_results(study, epochs), {})
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
    known = (row.get(name) for name in ("train_accuracy", "test_accuracy"))
    accuracies = [row["accuracy"], *(value for value in known if value is not None)]
    return all(Goal("accuracy").admits(of_kind(value, float)) for value in accuracies)
