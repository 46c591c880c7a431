"""A real PgBouncer in transaction mode before the PostgreSQL of the tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.postgres import PASSWORD, USER, Server, free_port, unprivileged, wait_until_up

pytest_plugins = ["postgres"]

# With one connection for everybody no client may wait for a second one while it has the first.
CONFIGURATION = """
[databases]
* = host=127.0.0.1 port={behind}

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = users
pool_mode = transaction
max_client_conn = 1000
default_pool_size = {size}
"""


def program() -> str | None:
    """Return PgBouncer's program, which Debian keeps where only root looks; None without it."""
    return shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


@pytest.fixture(scope="session")
def pgbouncer(postgres: Server) -> Iterator[Server]:
    """The same server through PgBouncer; skip where it is missing."""
    if program() is None:
        pytest.skip("pgbouncer is not installed")
    with before(postgres, size=1) as through:
        yield through


@contextmanager
def before(server: Server, size: int) -> Iterator[Server]:
    """Start a PgBouncer with so many connections to each database of a server."""
    folder, port = Path(tempfile.mkdtemp(prefix="golf-pgbouncer-")), free_port()
    options = {"cwd": folder, **unprivileged()}
    if "user" in options:
        shutil.chown(folder, options["user"], options["group"])
    text = CONFIGURATION.format(behind=server.port, port=port, size=size)
    for name, content in (("pgbouncer.ini", text), ("users", f'"{USER}" "{PASSWORD}"\n')):
        (folder / name).write_text(content)
        (folder / name).chmod(0o644)  # the folder lets in nobody else
    through = replace(server, port=port, log=folder / "log", process=None)
    command = [str(program()), "-q", "pgbouncer.ini"]
    with through.log.open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, **options)
    try:
        wait_until_up(through, process, through.log)
        yield through
    finally:
        process.terminate()
        process.wait(60)
        shutil.rmtree(folder)
