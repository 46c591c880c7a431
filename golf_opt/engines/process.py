"""A Python process that an engine starts: spoken to, and ended with all that it started.

Each side sends the other a line of JSON for a message, through a socket.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

ENDING_S = 2.0  # for a process that was told to end, before it is killed
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


class ChildProcess:
    """The engine's side: a Python process that runs `main` of a module.

    It has a session of its own: Ctrl-C in a terminal is for the engine alone, and what the
    process starts (loaders, servers) ends with it.

    Args:
        module: to run; it takes its end of the socket with `Messages`.
        hello: the first message.
        threads: of NumPy and PyTorch in it, unless the environment says otherwise.
        say: is given every line that it prints.
    """

    def __init__(
        self, module: str, hello: Mapping[str, Any], threads: int, say: Callable[[str], None]
    ) -> None:
        self.socket, theirs = socket.socketpair()
        environment = dict.fromkeys(THREADS, str(threads)) | os.environ
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
        environment["PYTHONUNBUFFERED"] = "1"
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", module, str(theirs.fileno())],
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

    def take(self, patience_s: float | None = None) -> dict[str, Any] | None:
        """Return the message that it has sent, waiting for the whole of it; None where it ended.

        Raises:
            TimeoutError: it has sent nothing for so long.
        """
        self.socket.settimeout(patience_s)
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
        with contextlib.suppress(subprocess.TimeoutExpired):  # a driver may hold it for ever
            self._process.wait(ENDING_S)
        self._said.join(ENDING_S)


class Messages:
    """The process's side, of the socket whose file descriptor is its first argument.

    A thread reads it, so that its end is seen whatever the process does. When the engine closes its
    end, by kill -9 too, the process and all that it started end at once.
    """

    def __init__(self) -> None:
        self._engine = socket.socket(fileno=int(sys.argv[1]))
        self._read: queue.SimpleQueue[Any] = queue.SimpleQueue()
        os.register_at_fork(after_in_child=self._leave)
        threading.Thread(target=self._work, daemon=True, name="engine").start()

    def _leave(self) -> None:
        """Close a forked child's end: while it is open, the engine does not see a lane's death."""
        with contextlib.suppress(OSError):
            os.close(self._engine.detach())

    def take(self) -> Any:
        return self._read.get()

    def put(self, **message: Any) -> None:
        with contextlib.suppress(OSError):  # the engine is gone, and this process in a moment
            self._engine.sendall(json.dumps(message).encode() + b"\n")

    def _work(self) -> None:
        with contextlib.suppress(OSError), self._engine.makefile() as file:
            for line in file:
                self._read.put(json.loads(line))
        os.killpg(os.getpgrp(), signal.SIGKILL)
