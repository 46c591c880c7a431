"""When to do again what is done now and then."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType

FRACTION = 0.02  # of the time


class Pace:
    """Something done every so often; the longer it takes the less often.

    So what looks at all trials of a study costs the same share of the time however many there are.
    Each time is a block: `with pace: write()`.

    Args:
        every_s: from the end of one time to the next, at least.
        fraction: of the time that it may take.
        clock: seconds, from any origin.
    """

    def __init__(
        self,
        every_s: float,
        fraction: float = FRACTION,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._every_s, self._fraction, self._clock = every_s, fraction, clock
        self._next = self._begun = -1e9

    @property
    def is_due(self) -> bool:
        return self._clock() >= self._next

    def __enter__(self) -> None:
        self._begun = self._clock()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        now = self._clock()
        self._next = now + max(self._every_s, (now - self._begun) / self._fraction)
