"""Lanes: which trial each one trains, and how busy they were. Standard library only.

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
        self._since: list[float] = [0.0] * num_lanes  # when the lane was last taken
        self._busy_s = 0.0  # of lanes that are free again
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
            self._runs[lane], self._since[lane] = run, self._clock()
            self._waited_s += self._since[lane] - self._freed[lane]
            yield lane, run

    def release(self, lane: int) -> Run:
        """Free a lane and return what it held."""
        run = self._runs[lane]
        assert run is not None, f"lane {lane} is free already"
        self._runs[lane], self._freed[lane] = None, self._clock()
        self._busy_s += self._freed[lane] - self._since[lane]
        return run

    def __getitem__(self, lane: int) -> Run:
        run = self._runs[lane]
        assert run is not None, f"lane {lane} is free"
        return run

    @property
    def lanes(self) -> list[Run | None]:
        """What each lane holds."""
        return list(self._runs)

    @property
    def busy(self) -> list[tuple[int, Run]]:
        """The lanes that hold a run."""
        return [(lane, run) for lane, run in enumerate(self._runs) if run is not None]

    @property
    def waiting(self) -> tuple[float, float]:
        """The lane time in which lanes stood free until their next run: its share, seconds."""
        total_s = (self._clock() - self._started) * len(self._runs)
        return self._waited_s / total_s if total_s > 0 else 0.0, self._waited_s

    @property
    def utilisation(self) -> float:
        """The share of lane time since the start in which a lane held a run, in [0, 1]."""
        now = self._clock()
        running_s = sum(now - self._since[lane] for lane, _ in self.busy)
        total_s = (now - self._started) * len(self._runs)
        return (self._busy_s + running_s) / total_s if total_s > 0 else 0.0
