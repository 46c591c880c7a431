"""Tests whose examples hypothesis makes up.

In `make test` each has a fixed number of them, the same every time; `make fuzz` goes on with others
for as long as it is told.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

FACTOR = int(os.environ.get("GOLF_FUZZ_FACTOR", "1"))  # of the examples of `make test`


def fuzz(examples: int) -> Callable[[Any], Any]:
    """Return a decorator for a test over examples that hypothesis makes up.

    Args:
        examples: how many `make test` tries.
    """

    def decorate(test: Any) -> Any:
        chosen = settings(
            max_examples=examples * FACTOR,
            derandomize=FACTOR == 1,
            database=None,
            deadline=None,  # machines are slow at times; pytest-timeout finds what hangs
            suppress_health_check=list(HealthCheck),
        )
        return pytest.mark.fuzz(chosen(test))

    return decorate
