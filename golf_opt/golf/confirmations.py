"""What confirmations left in a study: what came out of its best trials on fresh seeds."""

from __future__ import annotations

import optuna

from golf_opt.storage.studies import CONFIRMED, marks
from golf_opt.study.description import description_of
from golf_opt.study.fresh import Results, results_of


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
    return results_of(marks(study).get(key_of_results(study, epochs), {}))
