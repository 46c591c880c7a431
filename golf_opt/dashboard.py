"""optuna-dashboard over the same storage and artifacts as the studies."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType

import optuna_dashboard
import waitress
from optuna.artifacts import FileSystemArtifactStore

from golf_opt.config import DashboardConfig, UsageError
from golf_opt.storage import open_storage

THREADS = 8
LOCAL_HOSTS = ("127.0.0.1", "::1", "localhost")


def serve(config: DashboardConfig, say: Callable[[str], None]) -> None:
    """Serve the dashboard until SIGINT or SIGTERM.

    Raises:
        UsageError: the storage cannot be opened, or the address cannot be bound.
    """
    storage = open_storage(config.storage)
    artifacts = config.folder / "artifacts"
    artifacts.mkdir(parents=True, exist_ok=True)
    app = optuna_dashboard.wsgi(storage, artifact_store=FileSystemArtifactStore(artifacts))
    try:
        server = waitress.create_server(
            app, host=config.host, port=config.port, threads=THREADS, ident=None
        )
    except OSError as error:
        raise UsageError(
            f"dashboard cannot listen on {config.host}:{config.port}: {error.strerror}; "
            "choose another with dashboard.port=N."
        ) from error
    if config.host not in LOCAL_HOSTS:
        say("warning: whoever reaches this address can read and delete studies; there is no login")
    signal.signal(signal.SIGTERM, _interrupt)
    say(f"dashboard: http://{config.host}:{server.effective_port}/  (Ctrl-C ends it)")
    try:
        server.run()
    finally:
        server.close()


def _interrupt(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(0)
