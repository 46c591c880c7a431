"""The engine's side of a lane's process: started, spoken to, and ended with all that it started."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

ENDING_S = 2.0  # for a process that was told to end, before it is killed
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


class LaneProcess:
    """A Python process that runs `lane.main`.

    It has a session of its own: Ctrl-C in a terminal is for the engine alone, and what the
    objective starts (loaders, servers) ends with it.

    Args:
        hello: the first message, see `lane`.
        threads: of NumPy and PyTorch in it, unless the environment says otherwise.
        say: is given every line that it prints.
    """

    def __init__(self, hello: Mapping[str, Any], threads: int, say: Callable[[str], None]) -> None:
        self.socket, theirs = socket.socketpair()
        environment = dict.fromkeys(THREADS, str(threads)) | os.environ
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
        environment["PYTHONUNBUFFERED"] = "1"
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "golf_opt.engines.python.lane", str(theirs.fileno())],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                text=True, errors="replace", env=environment, start_new_session=True,
                pass_fds=[theirs.fileno()],
            )  # fmt: skip
        self._said = threading.Thread(target=self._tell, args=(say,), daemon=True, name="output")
        self._said.start()
        self._unread = b""
        self.put(hello)

    def _tell(self, say: Callable[[str], None]) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as file:
            for line in file:
                if text := line.rstrip():
                    say(text)

    def put(self, message: Any) -> None:
        with contextlib.suppress(OSError):  # it has ended, as whoever reads from it is told
            self.socket.sendall(json.dumps(message).encode() + b"\n")

    @property
    def has_more(self) -> bool:
        """Whether it has sent another message than those taken, that came with one of them."""
        return b"\n" in self._unread

    def take(self) -> dict[str, Any] | None:
        """Return the message that it has sent, waiting for the whole of it; None where it ended."""
        while b"\n" not in self._unread:
            try:
                part = self.socket.recv(65_536)
            except ConnectionError:
                part = b""
            if not part:
                return None
            self._unread += part
        line, _, self._unread = self._unread.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        return message

    def ended_with(self) -> str:
        """Return how a process ended whose socket is closed: `exit status 3`, `SIGSEGV`."""
        try:
            status = self._process.wait(ENDING_S)
        except subprocess.TimeoutExpired:
            status = 0  # it closed the socket and lives on
        self.kill()
        if status < 0:
            with contextlib.suppress(ValueError):
                return signal.Signals(-status).name
        return f"exit status {status}"

    def kill(self) -> None:
        """End it at once, with all that it started; its checkpoint is whole at any moment."""
        self.socket.close()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._said.join(ENDING_S)
