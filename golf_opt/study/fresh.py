"""What `golf-opt confirm` kept with a study: what its trials gave on fresh seeds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from golf_opt.storage.studies import CONFIRMED
from golf_opt.task.goals import Goal
from golf_opt.utils.stats import ENOUGH, Spread
from golf_opt.utils.trials import of_kind
from golf_opt.visualization.snapshot import Fresh

Results = dict[str, dict[str, dict[str, Any]]]  # trial -> seed -> what came out


def results_of(kept: Mapping[str, Any]) -> Results:
    """Return `{trial: {seed: result}}` without what is of another form."""
    return {
        number: {
            seed: result
            for seed, result in rows.items()
            if _is_number(seed) and isinstance(result, dict) and _is_result(result)
        }
        for number, rows in kept.items()
        if _is_number(number) and isinstance(rows, dict)
    }


def fresh_of(attributes: Mapping[str, Any], epochs: int) -> dict[int, Fresh]:
    """Return what fresh seeds gave, by the trial's number.

    Of trainings of several lengths the longest is told that has seeds enough for an interval.

    Args:
        attributes: system attributes of a study.
        epochs: of each of its trials.
    """
    found: dict[int, Fresh] = {}
    for key, kept in attributes.items():
        name, _, longer = key.partition(f"{CONFIRMED}:")
        if key != CONFIRMED and (name or not _is_number(longer)):
            continue
        for number, rows in results_of(kept).items():
            fresh = Fresh(
                Spread(tuple(row["accuracy"] for row in rows.values() if "accuracy" in row)),
                Spread(tuple(row["test_accuracy"] for row in rows.values() if _has_test(row))),
                int(longer or epochs),
            )
            before = found.get(int(number))
            if fresh.ours.n and (before is None or _weight(fresh) > _weight(before)):
                found[int(number)] = fresh
    return found


def _weight(fresh: Fresh) -> tuple[bool, int]:
    return fresh.ours.n >= ENOUGH, fresh.epochs


def _has_test(row: Mapping[str, Any]) -> bool:
    return row.get("test_accuracy") is not None


def _is_number(key: str) -> bool:
    return key.isdecimal() and len(key) < 20


def _is_result(row: Mapping[str, Any]) -> bool:
    if "accuracy" not in row:
        return "error" in row
    known = (row.get(name) for name in ("train_accuracy", "test_accuracy"))
    accuracies = [row["accuracy"], *(value for value in known if value is not None)]
    return all(Goal("accuracy").admits(of_kind(value, float)) for value in accuracies)
