"""The study loop: ask, train in lanes, report, prune, tell; spaces, samplers, callbacks.

The package has the name of `golf_opt.study(...)`, the function of Python's face, which lives above.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any


class _Study(ModuleType):
    """Lets the package be called as that function: importing it takes the function's place."""

    def __call__(self, *args: Any, **named: Any) -> Any:
        return import_module("golf_opt.api.studies").study(*args, **named)


sys.modules[__name__].__class__ = _Study
