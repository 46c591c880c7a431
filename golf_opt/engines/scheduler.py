"""Lanes: which trial each one trains, and how long they stood free. Standard library only.

Invariant: a lane holds one run or none, and a run is in one lane at most. `fill` leaves no lane
empty while there is a run to be had, so a lane whose trial ends is taken again at once while the
others go on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

Run = TypeVar("Run")


class Scheduler(Generic[Run]):
    """Keeps `num_lanes` lanes full.

    Args:
        num_lanes: lanes of the engine.
        clock: seconds, from any origin.
    """

    def __init__(self, num_lanes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._runs: list[Run | None] = [None] * num_lanes
        self._started = clock()
        self._freed: list[float] = [self._started] * num_lanes  # when the lane became free
        self._waited_s = 0.0  # of lanes that were taken again

    def fill(self, take: Callable[[int], Run | None]) -> Iterator[tuple[int, Run]]:
        """Offer every free lane to `take(lane)`, until it has no more; yield what is placed."""
        for lane, current in enumerate(self._runs):
            if current is not None:
                continue
            run = take(lane)
            if run is None:
                break
            self._runs[lane] = run
            self._waited_s += self._clock() - self._freed[lane]
            yield lane, run

    def release(self, lane: int) -> Run:
        """Free a lane and return what it held."""
        run = self[lane]
        self._runs[lane], self._freed[lane] = None, self._clock()
        return run

    def __getitem__(self, lane: int) -> Run:
        run = self._runs[lane]
        assert run is not None, f"lane {lane} is free"
        return run

    def num_free(self) -> int:
        """Return how many lanes hold no run."""
        return self._runs.count(None)

    @property
    def busy(self) -> list[tuple[int, Run]]:
        """The lanes that hold a run."""
        return [(lane, run) for lane, run in enumerate(self._runs) if run is not None]

    @property
    def waiting(self) -> tuple[float, float]:
        """Lane time in which lanes stood free until their next run: its fraction, and seconds."""
        total_s = (self._clock() - self._started) * len(self._runs)
        return self._waited_s / total_s if total_s > 0 else 0.0, self._waited_s
