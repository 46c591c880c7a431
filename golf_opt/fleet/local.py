"""Workers as processes of this machine, each on cores of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from golf_opt.fleet.base import Tally, last_words
from golf_opt.utils.processes import ending_with_us

STOP_S = 30.0  # for the trials in flight to be checkpointed
PROGRAM = (sys.executable, "-m", "golf_opt")


class Local:
    """Processes that end with this one.

    Args:
        command: of a worker.
        workers: how many there are to be.
        folder: of their logs.
    """

    stays = False

    def __init__(self, command: Sequence[str], workers: int, folder: Path) -> None:
        self._command, self._folder = ending_with_us(command), folder
        self._cores = shares(cores(), workers)
        self._running: dict[int, subprocess.Popen[bytes]] = {}  # by place
        self._started = 0

    def start(self, count: int) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._forget_ended()
        free = [place for place in range(len(self._cores)) if place not in self._running]
        for place in free[:count]:
            self._started += 1
            with (self._folder / f"worker-{self._started}.log").open("wb") as log:
                process = subprocess.Popen(
                    self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                    start_new_session=True,  # Ctrl-C is ours: we end them, once
                )  # fmt: skip
            with contextlib.suppress(OSError, AttributeError):  # not on every system
                os.sched_setaffinity(process.pid, self._cores[place])
            self._running[place] = process

    def tally(self) -> Tally:
        self._forget_ended()
        return Tally(0, len(self._running))

    def stop(self, queued: bool = False) -> None:
        if queued:
            return
        for process in self._running.values():
            process.terminate()
        until = time.monotonic() + STOP_S
        for process in self._running.values():
            try:
                process.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
        self._running.clear()

    def last_words(self) -> str:
        return last_words(self._folder)

    def _forget_ended(self) -> None:
        ended = [place for place, process in self._running.items() if process.poll() is not None]
        for place in ended:
            del self._running[place]


def cores() -> list[int]:
    """Return the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def shares(cores: Sequence[int], workers: int) -> list[list[int]]:
    """Return the cores of each worker: as many as there are for each, or one that some share."""
    each = max(1, len(cores) // workers)
    return [
        [cores[(worker * each + core) % len(cores)] for core in range(each)]
        for worker in range(workers)
    ]
