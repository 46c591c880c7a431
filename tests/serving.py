"""A running dashboard for tests, requests to it as they are, and what its pages show."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

WAIT_S = 180  # for what comes, however slow the machine


def start(folder: Path, *arguments: str, **env: str) -> subprocess.Popen[str]:
    """Start `golf-opt dashboard ARGS...`."""
    return subprocess.Popen(
        [sys.executable, "-m", "golf_opt", "dashboard", *arguments],
        cwd=folder,
        env=os.environ | env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(process: subprocess.Popen[str]) -> tuple[str, str]:
    process.terminate()
    return process.communicate(timeout=WAIT_S)


def address_of(process: subprocess.Popen[str]) -> str:
    """Return the address that a dashboard prints."""
    return re.search(r"http://127\.0\.0\.1:\d+/", process.stdout.readline())[0]


@contextlib.contextmanager
def served(folder: Path, *arguments: str, err: str | None = None, **env: str) -> Iterator[str]:
    """Give the address of a dashboard.

    Args:
        err: a pattern of what it is to have said on stderr in the end; None: whatever.
    """
    process = start(folder, "dashboard.port=0", *arguments, **env)
    try:
        yield address_of(process)
        assert process.poll() is None
    finally:
        _, said = end(process)
    assert err is None or re.fullmatch(err, said), said


def wait_for(condition: Callable[[], Any]) -> Any:
    until = time.monotonic() + WAIT_S
    while time.monotonic() < until:
        if found := condition():
            return found
        time.sleep(0.1)
    raise AssertionError("it did not happen")


def text(browser: Any) -> str:
    """What an open page shows, a space between words: in one go, since the page may reload."""
    return " ".join((browser.execute_script("return document.body?.innerText") or "").split())


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes


def ask(
    url: str,
    path: str,
    method: str = "GET",
    body: str | bytes | None = None,
    source: str | None = None,  # the client's address
    **headers: str,
) -> Answer:
    """Send one request as it is, and follow nothing."""
    place = urlsplit(url)
    own = None if source is None else (source, 0)
    connection = HTTPConnection(place.hostname, place.port, timeout=WAIT_S, source_address=own)
    with contextlib.closing(connection):
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, named)
        answer = connection.getresponse()
        return Answer(answer.status, answer.headers, answer.read())
