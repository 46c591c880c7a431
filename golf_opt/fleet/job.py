"""A worker as submitit runs it in a job of Slurm's."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Sequence
from typing import Any

STOP_S = 60.0  # for the trials in flight to be checkpointed
LOOK_S = 0.2


class SlurmJob:
    """Calls a command in a job, and has the job queued again when its time is nearly up.

    Slurm sends SIGUSR2 before the time limit, upon which submitit calls `checkpoint` and queues the
    job again. SIGTERM, of scancel or of Slurm itself where it preempts and queues again, is the
    worker's. Which of a job's processes get a signal differs from site to site: it is handed on.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self.command = list(command)

    def __call__(self) -> int:
        ours = signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # which the worker inherits
        self._process = subprocess.Popen(self.command)
        signal.signal(signal.SIGUSR2, ours)
        signal.signal(signal.SIGTERM, lambda *_: self._process.terminate())
        while self._process.poll() is None:
            time.sleep(LOOK_S)  # and does not wait: `checkpoint` is called in the midst of it
        return self._process.returncode

    def checkpoint(self) -> Any:
        """Let the worker checkpoint and end; return what the job does when it runs again."""
        from submitit.helpers import DelayedSubmission

        self._process.terminate()
        until = time.monotonic() + STOP_S
        while self._process.poll() is None and time.monotonic() < until:
            time.sleep(LOOK_S)
        return DelayedSubmission(SlurmJob(self.command))
