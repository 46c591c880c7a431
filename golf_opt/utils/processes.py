"""Workers: processes that run trials, where, of which commit, and whether they still do."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import uuid
from collections.abc import Sequence
from functools import cache
from pathlib import Path

WORKER = "worker"  # the user attribute with the name of the worker that ran a trial last


@cache
def worker_id() -> str:
    """Return a name for this process that no other has, even one with its number later on."""
    pid = os.getpid()
    return f"{socket.gethostname()}:{pid}:{_born(pid) or ''}:{uuid.uuid4().hex[:8]}"


def show_worker(worker: str) -> str:
    """Return `host:pid`."""
    return worker.rsplit(":", 2)[0]


def is_alive(worker: object) -> bool:
    """Return whether a worker may still be running; one on another host may."""
    if not isinstance(worker, str):  # a database may hold anything
        return False
    parts = re.fullmatch(r"(.*):([1-9]\d{0,8}):(\d*):\w*", worker)
    if parts is None:
        return False  # no name that `worker_id` gives
    host, pid, born = parts.groups()
    if host != socket.gethostname():
        return True
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return not born or _born(int(pid)) == born


def _born(pid: int) -> str | None:
    """When a process started, where the system says so (/proc/PID/stat, field 22)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]  # a zombie does nothing any more


@cache
def git_commit() -> str | None:
    """Return the commit of the source tree, with `+` if it has changes; None outside of git."""
    folder = Path(__file__).parents[2]
    if not (folder / ".git").exists():
        return None
    words = ["git", "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        head = subprocess.run(
            words, cwd=folder, capture_output=True, text=True, check=True, timeout=10
        )
        return head.stdout.strip() or None
    return None


def ending_with_us(command: Sequence[str]) -> list[str]:
    """Return a command that gets SIGTERM when this process ends, however it does.

    Where the system has no way to that, the command as it is: it goes on alone.
    """
    program = shutil.which("setpriv")  # of util-linux
    return [program, "--pdeathsig", "TERM", *command] if program else list(command)
