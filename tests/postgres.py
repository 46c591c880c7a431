"""A PostgreSQL server of its own for the tests: no service, no root, gone at the end."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psycopg
import pytest
from sqlalchemy.engine import URL

from golf_opt.config.schema import StorageConfig
from golf_opt.storage.url import PASSWORD_ENV, take_password

USER = "golfer"
PASSWORD = "Gehe1m@ss:w/rd%?#&="  # every character that means something in a URL
START_TIMEOUT_S = 30


@dataclass
class Server:
    """A server that lets USER in with PASSWORD, by SCRAM."""

    port: int
    command: list[str | Path]
    options: dict[str, object]
    log: Path
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, again after a stop, and wait until it answers."""
        with self.log.open("ab") as file:
            self.process = subprocess.Popen(self.command, stdout=file, stderr=file, **self.options)
        wait_until_up(self, self.process, self.log)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop it: SIGINT is PostgreSQL's fast shutdown, SIGKILL a crash."""
        assert self.process is not None
        self.process.send_signal(how)
        self.process.wait(timeout=120)

    def url(self, database: str = "postgres", password: str | None = PASSWORD) -> str:
        """Return the URL as SQLAlchemy writes it, its password percent-encoded."""
        return URL.create(
            "postgresql", USER, password, "127.0.0.1", self.port, database
        ).render_as_string(hide_password=False)

    def connect(self, database: str = "postgres") -> psycopg.Connection:
        return psycopg.connect(
            host="127.0.0.1",
            port=self.port,
            user=USER,
            password=PASSWORD,
            dbname=database,
            autocommit=True,
        )

    def create_database(self) -> str:
        """Create an empty database and return its name."""
        with self.connect() as connection:
            (count,) = connection.execute("SELECT count(*) FROM pg_database").fetchone()
            connection.execute(f"CREATE DATABASE test{count}")
        return f"test{count}"


def _binaries() -> Path | None:
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    if found := shutil.which("initdb"):
        folders.insert(0, Path(found).parent)
    if config := shutil.which("pg_config"):
        told = subprocess.run([config, "--bindir"], capture_output=True, text=True, check=True)
        folders.insert(0, Path(told.stdout.strip()))
    return next((folder for folder in folders if (folder / "initdb").is_file()), None)


def found() -> bool:
    """Whether PostgreSQL's server is installed."""
    return _binaries() is not None


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def unprivileged() -> dict[str, object]:
    """Options of `subprocess` for a user that initdb does not refuse."""
    return {"user": "nobody", "group": "nogroup", "extra_groups": []} if os.getuid() == 0 else {}


def wait_until_up(server: Server, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            server.connect().close()
            return
        except psycopg.OperationalError as error:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the server did not start:\n{log.read_text()}") from error
            time.sleep(0.05)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """A server of the session's own; skip where its binaries are missing."""
    if not found():
        pytest.skip("PostgreSQL's server binaries (initdb, postgres) are not installed")
    with started("fsync=off") as server:
        yield server


@pytest.fixture
def on_postgres(postgres: Server, monkeypatch: pytest.MonkeyPatch) -> StorageConfig:
    """An empty database; its password is in the environment, as the product keeps it."""
    url, password = take_password(postgres.url(postgres.create_database()))
    monkeypatch.setenv(PASSWORD_ENV, password)
    return StorageConfig(url, None)


@contextmanager
def started(*settings: str) -> Iterator[Server]:
    """Start a server in a folder of its own, with `name=value` of its configuration."""
    binaries = _binaries()
    assert binaries is not None, "PostgreSQL's server binaries are not installed"
    folder = Path(tempfile.mkdtemp(prefix="golf-pg-"))
    options = {"cwd": folder, **unprivileged()}
    if "user" in options:
        shutil.chown(folder, options["user"], options["group"])
    password_file, log = folder / "password", folder / "log"
    password_file.write_text(PASSWORD)
    password_file.chmod(0o644)  # the folder lets in nobody else
    run = partial(subprocess.run, check=True, capture_output=True, **options)
    port = free_port()
    command = [
        binaries / "postgres", "-D", "data", "-h", "127.0.0.1", "-p", str(port),
        "-k", folder, *(word for setting in settings for word in ("-c", setting)),
    ]  # fmt: skip
    server = Server(port, command, options, log)
    try:
        run([
            binaries / "initdb", "--pgdata=data", f"--username={USER}", "--auth=scram-sha-256",
            f"--pwfile={password_file}", "--encoding=UTF8", "--no-locale", "--no-sync",
        ])  # fmt: skip
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder)
