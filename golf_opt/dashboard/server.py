"""`golf-opt dashboard`: optuna-dashboard behind our door, served until somebody stops it.

A request passes web.Guard (may it?), views.StudyPages (figures and pictures), optuna-dashboard.
"""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import optuna_dashboard
import waitress
from optuna.artifacts import FileSystemArtifactStore
from optuna.storages import BaseStorage

from golf_opt.config.errors import UsageError
from golf_opt.config.schema import DashboardConfig
from golf_opt.dashboard.guard import Guard, is_local, read_password
from golf_opt.dashboard.pages import StudyPages
from golf_opt.storage.connect import opened_storage
from golf_opt.storage.workers import coordination

THREADS = 8
MOST_CONNECTIONS = 400  # fifty browsers have six each
IDLE_S = 30  # after which a connection that says nothing is closed
HEADER_BYTES, FORM_BYTES, UPLOAD_BYTES = 32 * 1024, 64 * 1024, 32 * 1024 * 1024
WARM_S = 5.0  # for reading studies before the address is told; large ones go on being read
STOP_S = 5.0  # for answers under way
PROXY_HEADERS = {"x-forwarded-for", "x-forwarded-host", "x-forwarded-proto"}


def serve(config: DashboardConfig, say: Callable[[str], None]) -> None:
    """Serve the dashboard until SIGINT or SIGTERM.

    Raises:
        UsageError: the storage cannot be opened, the address cannot be bound, or others could
            reach it and there is no password.
    """
    board = config.dashboard
    password = read_password(board.password_env, board.password_file)
    if password is None and not is_local(board.host):
        raise UsageError(
            f"dashboard.host is {board.host}, which others can reach, and there is no password; "
            f"set {board.password_env} or give dashboard.password_file=FILE, or listen on "
            "127.0.0.1."
        )
    try:
        listener = socket.create_server(
            (board.host, board.port),
            family=socket.AF_INET6 if ":" in board.host else socket.AF_INET,
        )
    except OSError as error:
        raise UsageError(
            f"dashboard cannot listen on {board.host}:{board.port}: {error.strerror}; "
            "choose another with dashboard.port=N."
        ) from error
    with listener, opened_storage(config.storage) as storage:
        app, pages = _application(config, storage, password, say)
        server = waitress.create_server(
            app,
            sockets=[listener],
            threads=THREADS,
            ident=None,
            connection_limit=MOST_CONNECTIONS,
            channel_timeout=IDLE_S,
            max_request_header_size=HEADER_BYTES,
            max_request_body_size=UPLOAD_BYTES if board.write else FORM_BYTES,
            asyncore_use_poll=True,
            **_proxy(board.trusted_proxy),
        )
        stop = Stop(server)
        reading = threading.Thread(target=pages.warm, daemon=True, name="warm")
        reading.start()
        reading.join(WARM_S)  # so that the first page is there at once
        say(_address(board.host, server.effective_port, password is not None, board.write))
        if password is not None and not is_local(board.host) and not board.trusted_proxy:
            say("note: without https the password crosses the network in clear")
        stop.run()


def _application(
    config: DashboardConfig,
    storage: BaseStorage,
    password: str | None,
    say: Callable[[str], None],
) -> tuple[Guard, StudyPages]:
    artifacts = config.folder / "artifacts"
    artifacts.mkdir(parents=True, exist_ok=True)
    reader = coordination(storage).reader
    app = optuna_dashboard.wsgi(reader, artifact_store=FileSystemArtifactStore(artifacts))
    pages = StudyPages(app, reader, storage, config.folder, config.data.root)

    def check() -> None:
        reader.get_all_studies()

    return Guard(pages, app, password, config.dashboard.write, check, say), pages


def _proxy(address: str | None) -> dict[str, Any]:
    """Return waitress's settings: whose X-Forwarded-* headers count, if anybody's."""
    if address is None:
        return {}
    return {
        "trusted_proxy": address,
        "trusted_proxy_count": 1,
        "trusted_proxy_headers": PROXY_HEADERS,
        "clear_untrusted_proxy_headers": True,
    }


def _address(host: str, port: int, login: bool, write: bool) -> str:
    shown = f"[{host}]" if ":" in host else host
    how = [] if not login else ["asks for the password"]
    how += ["allows edits"] if write else ["read-only"]
    return f"dashboard: http://{shown}:{port}/  ({', '.join(how)}; Ctrl-C ends it)"


class Stop:
    """Runs a waitress server until a signal, and then until the answers under way are sent."""

    def __init__(self, server: Any) -> None:
        self._server, self._asked = server, False
        for number in (signal.SIGINT, signal.SIGTERM):  # SIGINT too: a script's `&` ignores it
            signal.signal(number, self._ask)

    def _ask(self, _number: int, _frame: object) -> None:
        if self._asked:
            raise SystemExit(1)
        self._asked = True
        self._server.pull_trigger()  # wakes the loop

    def run(self) -> None:
        server = self._server
        try:
            while not self._asked:
                self._turn(1.0)
            server.del_channel()  # nobody new
            until = time.monotonic() + STOP_S
            while self._busy() and time.monotonic() < until:
                self._turn(0.05)
        finally:
            server.task_dispatcher.shutdown(timeout=0.1 if self._busy() else STOP_S)
            server.close()

    def _turn(self, timeout_s: float) -> None:
        server = self._server
        server.asyncore.loop(timeout=timeout_s, map=server._map, use_poll=True, count=1)

    def _busy(self) -> bool:
        channels = self._server.active_channels.values()
        return any(channel.requests or channel.total_outbufs_len for channel in channels)
