"""`golf-opt dashboard`: optuna-dashboard behind a login, served until somebody stops it.

A request passes uvicorn (HTTP, on a `connections.Connection`), `guard.Guard` (may it?), a2wsgi
(gives it one of a few threads), `routes.Door` (can it be answered?) and optuna-dashboard, which
reads through `reading.ShownStorage` and to which `pages.StudyPages` adds figures and pictures.
"""

from __future__ import annotations

import asyncio
import functools
import ipaddress
import logging
import queue
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, Future
from typing import Any, BinaryIO

import optuna_dashboard
import uvicorn
from a2wsgi import WSGIMiddleware
from optuna.storages import BaseStorage
from starlette.datastructures import MutableHeaders
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from golf_opt.config.errors import UsageError
from golf_opt.config.schema import DashboardConfig
from golf_opt.dashboard.connections import Connection, room_for_connections
from golf_opt.dashboard.guard import Guard, is_local, read_password
from golf_opt.dashboard.metrics import Metrics
from golf_opt.dashboard.pages import StudyPages
from golf_opt.dashboard.reading import ArtifactFolder, ShownStorage
from golf_opt.dashboard.routes import Door
from golf_opt.storage.connect import opened_storage
from golf_opt.storage.workers import coordination

THREADS, CONNECTIONS = 8, 4  # of answers; to the database, at most
IDLE_S = 30  # after which a connection that asks nothing more is closed
FILE, PART_BYTES = "golf_opt.file", 64 * 1024  # see _with_files
FORM_BYTES, UPLOAD_BYTES = 64 * 1024, 32 * 1024 * 1024
WARM_S = 5.0  # for reading studies before the address is told; large ones go on being read
STOP_S = 5  # for answers under way


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
    with listener, opened_storage(config.storage, CONNECTIONS) as storage:
        app, pages = _application(config, storage, password, say)
        connections, queue = room_for_connections()
        proxy = ipaddress.ip_network(board.trusted_proxy) if board.trusted_proxy else None
        server = uvicorn.Server(
            uvicorn.Config(
                app,
                http=functools.partial(Connection, most=connections, proxy=proxy),  # type: ignore[arg-type]
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="error",
                proxy_headers=False,  # TrustedProxy has them
                server_header=False,
                backlog=queue,
                timeout_keep_alive=IDLE_S,
                timeout_graceful_shutdown=STOP_S,
            )
        )
        for number in (signal.SIGINT, signal.SIGTERM):  # one that comes before `run` counts, too
            signal.signal(number, server.handle_exit)
        # of answers that are cut off at the end there is nothing to say
        logging.getLogger("uvicorn.error").addFilter(lambda _: not server.should_exit)
        reading = threading.Thread(target=pages.warm, daemon=True, name="warm")
        reading.start()
        reading.join(WARM_S)  # so that the first page is there at once
        port = listener.getsockname()[1]
        say(_address(board.host, port, password is not None, board.write))
        if password is not None and not is_local(board.host) and not board.trusted_proxy:
            say("note: without https the password crosses the network in clear")
        server.run(sockets=[listener])


class DaemonThreads(Executor):
    """Threads that do not keep the process from ending, as those of ThreadPoolExecutor do."""

    def __init__(self, count: int) -> None:
        self._calls: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = queue.SimpleQueue()
        for number in range(count):
            threading.Thread(target=self._work, daemon=True, name=f"answer-{number}").start()

    def submit(self, call: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self._calls.put((future, functools.partial(call, *args, **kwargs)))
        return future

    def _work(self) -> None:
        while True:
            future, call = self._calls.get()
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(call())
                except BaseException as error:
                    future.set_exception(error)


class TrustedProxy(ProxyHeadersMiddleware):
    """Takes X-Forwarded-Host, too, from the proxy that is trusted."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # type: ignore[override]
        if scope["client"][0] in self.trusted_hosts:
            headers = MutableHeaders(scope=scope)
            host = headers.get("x-forwarded-host") or headers.get("host", "")
            headers["host"] = host.rpartition(",")[2].strip()
        await super().__call__(scope, receive, send)  # type: ignore[arg-type]


def _application(
    config: DashboardConfig,
    storage: BaseStorage,
    password: str | None,
    say: Callable[[str], None],
) -> tuple[ASGIApp, StudyPages]:
    artifacts = config.folder / "artifacts"
    artifacts.mkdir(parents=True, exist_ok=True)
    reader, write = ShownStorage(coordination(storage).reader), config.dashboard.write
    routes = optuna_dashboard.wsgi(reader, artifact_store=ArtifactFolder(artifacts))
    pages = StudyPages(routes, reader, storage, config.folder, config.data, write, tell)
    routes.install(Door(pages.wrap, write, tell))

    def optuna_app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        environ.setdefault("HTTP_ACCEPT_ENCODING", "")  # it takes it for granted
        environ.pop("HTTP_RANGE", None)  # parts would be sent from its thread
        environ["wsgi.errors"] = sys.stderr
        environ["wsgi.file_wrapper"] = functools.partial(_sent_later, environ["asgi.scope"])
        return routes(environ, start_response)  # type: ignore[no-any-return]

    async def check() -> None:
        await asyncio.get_running_loop().run_in_executor(threads, reader.get_all_studies)

    async def metrics() -> bytes | None:
        return await asyncio.get_running_loop().run_in_executor(threads, numbers.text)

    numbers = Metrics(reader, storage)
    threads = DaemonThreads(THREADS)
    wsgi = WSGIMiddleware(optuna_app)  # type: ignore[arg-type]
    wsgi.executor = threads  # type: ignore[assignment]
    app = _with_whole_body(_with_files(wsgi, threads))  # type: ignore[arg-type]
    if write:
        app = RequestBodyLimitMiddleware(app, UPLOAD_BYTES)
    guard = Guard(app, routes, password, write, check, metrics, say)
    limited = RequestBodyLimitMiddleware(guard, FORM_BYTES)
    if config.dashboard.trusted_proxy is None:
        return limited, pages
    return TrustedProxy(limited, config.dashboard.trusted_proxy), pages  # type: ignore[arg-type]


def _with_whole_body(app: ASGIApp) -> ASGIApp:
    """Call the application once the body is all here: a slow client holds no thread."""

    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        body = await Request(scope, receive).body()

        async def receive_whole() -> Message:
            return {"type": "http.request", "body": body}

        await app(scope, receive_whole, send)

    return call


def _sent_later(scope: Scope, file: BinaryIO, _: int = 0) -> list[bytes]:
    """Leave a file to `_with_files`: a client that reads slowly holds no thread."""
    scope[FILE] = file
    return []


def _with_files(app: ASGIApp, threads: Executor) -> ASGIApp:
    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        loop = asyncio.get_running_loop()

        async def send_file(message: Message) -> None:
            file = scope.get(FILE)
            ends = message["type"] == "http.response.body" and not message.get("more_body")
            if file is not None and ends and scope["method"] != "HEAD":
                while part := await loop.run_in_executor(threads, file.read, PART_BYTES):
                    await send({"type": "http.response.body", "body": part, "more_body": True})
            await send(message)

        try:
            await app(scope, receive, send_file)
        finally:
            if (file := scope.get(FILE)) is not None:
                file.close()

    return call


def tell(line: str) -> None:
    """Print a line about what went wrong here, where logs go."""
    print(f"dashboard: {line}", file=sys.stderr, flush=True)


def _address(host: str, port: int, login: bool, write: bool) -> str:
    shown = f"[{host}]" if ":" in host else host
    how = [] if not login else ["asks for the password"]
    how += ["allows edits"] if write else ["read-only"]
    return f"dashboard: http://{shown}:{port}/  ({', '.join(how)}; Ctrl-C ends it)"
