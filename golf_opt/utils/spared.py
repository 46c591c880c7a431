"""What others import for a part of theirs that nobody uses here, left out until somebody does."""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

FOREST = ("sklearn", "sklearn.ensemble")


def import_importances() -> None:
    """Import `optuna.importance` without scikit-learn, which takes longer than all the rest.

    One of its ways to weigh parameters grows forests, not the one that we and the dashboard ask
    for. It still can: then scikit-learn is imported.
    """
    if {*FOREST, "optuna.importance"} & {*sys.modules}:
        return
    sys.modules |= {name: ModuleType(name) for name in FOREST}
    vars(sys.modules[FOREST[-1]])["RandomForestRegressor"] = _forest
    try:
        import_module("optuna.importance")
    finally:
        for name in FOREST:
            del sys.modules[name]


def _forest(*arguments: Any, **options: Any) -> Any:
    from sklearn.ensemble import RandomForestRegressor

    return RandomForestRegressor(*arguments, **options)
