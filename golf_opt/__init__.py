"""Find the smallest network that still does the job, and the training recipe that gets it there.

import golf_opt as golf

study = golf.study(arch="c4-5-4", trials=50)
net = study.net()
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from golf_opt.api.golfing import Confirmation, confirm, deploy, prune
    from golf_opt.api.nets import Net, load_net
    from golf_opt.api.studies import Study, Trial, load, search, study
    from golf_opt.api.training import Training, train
    from golf_opt.config.errors import UsageError

__version__ = "0.2.0"
__all__ = [
    "Confirmation", "Net", "Study", "Training", "Trial", "UsageError", "confirm", "deploy", "load",
    "load_net", "prune", "search", "study", "train",
]  # fmt: skip
_PLACES = {
    "api.golfing": ("Confirmation", "confirm", "deploy", "prune"),
    "api.nets": ("Net", "load_net"),
    "api.studies": ("Study", "Trial", "load", "search", "study"),
    "api.training": ("Training", "train"),
    "config.errors": ("UsageError",),
}  # the same once more: Optuna and NumPy are imported when one of these is used, and not before


def __getattr__(name: str) -> object:
    for place, names in _PLACES.items():
        if name in names:
            found: object = getattr(import_module(f"{__name__}.{place}"), name)
            return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
