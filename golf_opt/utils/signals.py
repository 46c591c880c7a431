"""Ends on SIGINT and SIGTERM where the work says, not in the middle of a write."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import TypeVar

Item = TypeVar("Item")


@dataclass
class Stop:
    """The signal that asked the work to end, if any."""

    signal: int | None = None


@contextlib.contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """Note SIGINT and SIGTERM for the block to look at; a second SIGINT ends it at once.

    In another thread than the main one, which alone gets signals, nothing is noted.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def handle(number: int, _frame: FrameType | None) -> None:
        if stop.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.signal = number

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            if handler is not None:  # one that C code installed cannot be put back
                signal.signal(number, handler)


def unless_stopped(items: Iterable[Item], stop: Stop) -> Iterator[Item]:
    """Yield the items; after a signal, leave with the status that shells give it.

    Raises:
        SystemExit: between two items, once a signal came.
    """
    for item in items:
        if stop.signal is not None:
            raise SystemExit(128 + stop.signal)
        yield item
