"""Tests whose examples hypothesis makes up, and `make fuzz`, which goes on with them.

In `make test` each has a fixed number of examples, the same every time. `make fuzz` tries others,
in turns of a few minutes until its time is up, and counts them; one of ten seconds has failed.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

COUNTS = os.environ.get("GOLF_FUZZ_COUNTS")  # a folder with a file a test, a byte an example
MORE = 5  # times the examples of `make test`, in each turn of `make fuzz`


def fuzz(examples: int) -> Callable[[Any], Any]:
    """Return a decorator for a test over examples that hypothesis makes up.

    Args:
        examples: how many `make test` tries.
    """

    def decorate(test: Any) -> Any:
        chosen = settings(
            max_examples=examples * (MORE if COUNTS else 1),
            derandomize=not COUNTS,
            database=None,
            # machines are slow at times: `make test` leaves what hangs to pytest-timeout
            deadline=timedelta(seconds=10) if COUNTS else None,
            suppress_health_check=list(HealthCheck),
        )
        if COUNTS:
            inner = test.hypothesis.inner_test
            test.hypothesis.inner_test = _counted(inner, Path(COUNTS) / inner.__name__)
        return pytest.mark.fuzz(chosen(test))

    return decorate


def _counted(test: Callable[..., None], path: Path) -> Callable[..., None]:
    @functools.wraps(test)
    def counted(*arguments: Any, **named: Any) -> None:
        with path.open("ab") as file:
            file.write(b".")
        test(*arguments, **named)

    return counted


def main(minutes: float) -> int:
    """Run turns until the time is up or one fails; print how many examples each test had."""
    end, turn, status = time.monotonic() + 60 * minutes, 0, 0
    folder = Path(__file__).parent / "hostile"
    with tempfile.TemporaryDirectory() as counts:
        while not status and time.monotonic() < end:
            turn += 1
            seed = f"--hypothesis-seed={time.time_ns()}"
            command = [sys.executable, "-m", "pytest", "-q", "-m", "fuzz", seed, str(folder)]
            status = subprocess.run(
                command, env=os.environ | {"GOLF_FUZZ_COUNTS": counts}
            ).returncode
        sizes = {path.name: path.stat().st_size for path in sorted(Path(counts).iterdir())}
    for name, size in sizes.items():
        print(f"{size:>8,}  {name}")
    end_words = "FAILED" if status else "all passed"
    print(f"{sum(sizes.values()):>8,}  examples in {turn} turns; {end_words}")
    return status


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1])))
