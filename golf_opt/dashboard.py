"""optuna-dashboard over the same storage and artifacts as the studies."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable
from types import FrameType

import optuna_dashboard
import waitress
from optuna.artifacts import FileSystemArtifactStore
from optuna.storages import BaseStorage

from golf_opt.config import DashboardConfig, UsageError
from golf_opt.storage import opened_storage

THREADS = 8
LOCAL_HOSTS = ("127.0.0.1", "::1", "localhost")


def serve(config: DashboardConfig, say: Callable[[str], None]) -> None:
    """Serve the dashboard until SIGINT or SIGTERM.

    Raises:
        UsageError: the storage cannot be opened, or the address cannot be bound.
    """
    try:
        listener = socket.create_server((config.host, config.port))
    except OSError as error:
        raise UsageError(
            f"dashboard cannot listen on {config.host}:{config.port}: {error.strerror}; "
            "choose another with dashboard.port=N."
        ) from error
    with listener:
        _serve(config, listener, say)


def _serve(config: DashboardConfig, listener: socket.socket, say: Callable[[str], None]) -> None:
    with opened_storage(config.storage) as storage:
        _serve_storage(storage, config, listener, say)


def _serve_storage(
    storage: BaseStorage,
    config: DashboardConfig,
    listener: socket.socket,
    say: Callable[[str], None],
) -> None:
    artifacts = config.folder / "artifacts"
    artifacts.mkdir(parents=True, exist_ok=True)
    app = optuna_dashboard.wsgi(storage, artifact_store=FileSystemArtifactStore(artifacts))
    server = waitress.create_server(app, sockets=[listener], threads=THREADS, ident=None)
    if config.host not in LOCAL_HOSTS:
        say("warning: whoever reaches this address can read and delete studies; there is no login")
    for number in (signal.SIGINT, signal.SIGTERM):  # SIGINT too: a script's `&` ignores it
        signal.signal(number, _interrupt)
    say(f"dashboard: http://{config.host}:{server.effective_port}/  (Ctrl-C ends it)")
    try:
        server.run()
    finally:
        server.close()


def _interrupt(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(0)
