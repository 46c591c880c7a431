"""Who may ask the dashboard, and for what: optuna-dashboard itself lets everybody do everything."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import ipaddress
import os
import re
import secrets
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from urllib.parse import parse_qsl, quote

from bottle import Bottle, HTTPError
from cachetools import TTLCache
from jinja2 import Environment, PackageLoader
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from golf_opt.config.errors import UsageError
from golf_opt.dashboard.connections import place_of
from golf_opt.utils.files import read_regular

# What a reader may ask for: rules of optuna-dashboard's own route table, all of them GET. A rule
# that another version adds is refused until somebody has looked at it.
READ_RULES = frozenset(
    {
        "/",
        "/dashboard<:re:(/.*)?>",
        "/static/<filename:path>",
        "/favicon.ico",
        "/api/meta",
        "/api/studies",
        "/api/studies/<study_id:int>",
        "/api/studies/<study_id:int>/param_importances",
        "/api/studies/<study_id:int>/plot/<plot_type>",
        "/csv/<study_id:int>",
        "/artifacts/<study_id:int>/<artifact_id:re:[0-9a-fA-F-]+>",
        "/artifacts/<study_id:int>/<trial_id:int>/<artifact_id:re:[0-9a-fA-F-]+>",
    }
)
HEADER_BYTES = 32 * 1024
SESSION_S, MOST_SESSIONS = 12 * 3600, 1000
MOST_FAILURES, FAILURES_WITHIN_S, MOST_ADDRESSES = 5, 60, 10_000
SHORTEST_PASSWORD = 12

# optuna-dashboard's own policy: its plots need unsafe-eval (WebGL) and styles of their own
APP_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-eval'; style-src 'self' data: 'unsafe-inline'; "
    "img-src 'self' data: blob:; connect-src 'self'; frame-src 'self'; object-src 'none'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
# an artifact may be anything that anybody wrote: shown, never run, and no part of this site
ARTIFACT_POLICY = (
    "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'self'"
)
PAGE_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)
COMMON_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Guard:
    """ASGI application that lets a request through to the dashboard, or answers it.

    Sessions and wrong passwords are kept in memory: a restart ends every session. Only the event
    loop touches them, so that they need no lock.

    Args:
        app: what answers the requests that are let through.
        routes: optuna-dashboard's application, for its route table.
        password: None: no login, and only requests to a local name, so that a page elsewhere that
            points its own name at this machine gets nothing.
        write: let through what changes studies, too.
        check: raises when the storage cannot be read; for /healthz.
        metrics: for /metrics: its text, or None where that is not installed.
        say: prints a line to the user.
    """

    def __init__(
        self,
        app: ASGIApp,
        routes: Bottle,
        password: str | None,
        write: bool,
        check: Callable[[], Awaitable[None]],
        metrics: Callable[[], Awaitable[bytes | None]],
        say: Callable[[str], None],
    ) -> None:
        self._app, self._routes = app, routes
        self._password, self._write = password, write
        self._check, self._metrics, self._say = check, metrics, say
        self._sessions: TTLCache[bytes, bool] = TTLCache(MOST_SESSIONS, SESSION_S)
        self._failures: TTLCache[str, int] = TTLCache(MOST_ADDRESSES, FAILURES_WITHIN_S)
        self._login_page = Environment(
            loader=PackageLoader("golf_opt.dashboard"), autoescape=True
        ).get_template("login.html")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with contextlib.suppress(ClientDisconnect):
            answer = await self._answer(Request(scope, receive))
            path = scope["path"] if answer is self._app else None
            await answer(scope, receive, _with_headers(path, send))

    async def _answer(self, request: Request) -> ASGIApp:
        """Return what answers the request: the dashboard, or a response of ours."""
        path = request.scope["path"]
        if sum(len(name) + len(value) for name, value in request.headers.raw) > HEADER_BYTES:
            return _refuse(431, "the request's headers are too large")
        if path == "/healthz":
            return await self._health()
        if self._password is None and not is_local(_host(request)):
            return _refuse(403, "this dashboard answers to local names only")
        if request.method not in ("GET", "HEAD") and not _same_origin(request):
            return _refuse(403, "the request comes from another site")
        if self._password is not None:
            if path in ("/login", "/logout"):
                return await self._login(request)
            if (refusal := self._not_logged_in(request)) is not None:
                return refusal
        if path == "/metrics" and request.method == "GET":
            return await self._tell_metrics()
        return self._not_allowed(path, request.method) or self._app

    async def _health(self) -> Response:
        try:
            await self._check()
        except Exception:
            return _refuse(503, "the storage cannot be read")
        return _refuse(200, "ok")

    async def _tell_metrics(self) -> Response:
        try:
            text = await self._metrics()
        except Exception:
            return _refuse(503, "the storage cannot be read")
        if text is None:
            return _refuse(
                404, "Prometheus' client is not installed: pip install 'golf-opt[prometheus]'"
            )
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    def _not_allowed(self, path: str, method: str) -> Response | None:
        """Return the answer to a request that this dashboard does not let through."""
        wanted = "GET" if method == "HEAD" else method
        if wanted != "GET" and not self._write:
            return _refuse(403, "this dashboard is read-only; dashboard.write=true allows edits")
        try:
            found = {"PATH_INFO": path.rstrip("/") or "/", "REQUEST_METHOD": wanted}
            route, _ = self._routes.router.match(found)
        except HTTPError as error:
            return _refuse(error.status_code, "there is nothing here")
        if wanted == "GET" and route.rule not in READ_RULES:
            return _refuse(404, "there is nothing here")
        return None

    def _not_logged_in(self, request: Request) -> Response | None:
        """Return None for a request of somebody who is logged in, otherwise the answer to it."""
        if _session(request) in self._sessions:
            return None
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            if self._is_locked(request):
                return _refuse(429, "too many wrong passwords; wait a minute")
            if self._is_right(token.strip(), request):
                return None
        if "text/html" in request.headers.get("accept", ""):
            path, query = request.scope["path"], request.scope["query_string"].decode()
            target = f"{path}?{query}" if query else path
            return RedirectResponse(f"/login?next={quote(target, safe='/')}", 303)
        return _refuse(401, "log in")

    def _is_locked(self, request: Request) -> bool:
        return self._failures.get(_address(request), 0) >= MOST_FAILURES

    def _is_right(self, given: str, request: Request) -> bool:
        """Compare in a time that tells nothing; a wrong guess is counted and told."""
        assert self._password is not None
        right = hmac.compare_digest(_digest(given), _digest(self._password))
        if not right:
            address = _address(request)
            self._failures[address] = self._failures.get(address, 0) + 1
            self._say(f"wrong password from {address}")
        return right

    async def _login(self, request: Request) -> Response:
        body = (await request.body()).decode("utf-8", "replace")
        fields = dict(request.query_params) | dict(parse_qsl(body))
        target = _own_path(fields.get("next", "/"))
        if request.method != "POST":
            return self._page(200, target)
        if request.scope["path"] == "/logout":
            self._sessions.pop(_session(request), None)
            return _set_cookie(RedirectResponse("/login", 303), request, "", 0)
        if self._is_locked(request):
            wait = {"Retry-After": str(FAILURES_WITHIN_S)}
            return self._page(429, target, "Too many wrong passwords. Wait a minute.", wait)
        if not self._is_right(fields.get("password", ""), request):
            return self._page(401, target, "That is not the password.")
        token = secrets.token_urlsafe(32)
        self._sessions[_digest(token)] = True
        return _set_cookie(RedirectResponse(target, 303), request, token, SESSION_S)

    def _page(
        self,
        status: int,
        target: str,
        message: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        text = self._login_page.render(target=target, message=message)
        return HTMLResponse(text, status, headers)


def read_password(env: str, file: Path | None) -> str | None:
    """Return the password from a file, or from the environment; None where neither is given.

    Raises:
        UsageError: the file cannot be read or others can read it, or the password is short.
    """
    if file is not None:
        try:
            mode, text = file.stat().st_mode, read_regular(file).decode()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UsageError(f"dashboard.password_file {file} cannot be read: {reason}") from error
        if mode & 0o077 and os.name == "posix":
            raise UsageError(
                f"dashboard.password_file {file} can be read by others; chmod 600 {file}"
            )
        where, password = f"dashboard.password_file {file}", text.strip()
    else:
        where, password = env, os.environ.get(env, "")
        if not password:
            return None
    if len(password) < SHORTEST_PASSWORD:
        raise UsageError(
            f"the password of {where} has {len(password)} characters, but must have at least "
            f"{SHORTEST_PASSWORD}."
        )
    return password


def is_local(host: str) -> bool:
    """Return whether a name or address is this machine's own, and no other's."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _refuse(status: int, reason: str) -> Response:
    return JSONResponse({"reason": reason}, status)


def _with_headers(path: str | None, send: Send) -> Send:
    """Return a send that adds the security headers; the path is None for answers of ours."""
    policy, cache = APP_POLICY, "no-store"
    if path is None:
        policy = PAGE_POLICY
    elif path.startswith("/artifacts/"):
        policy = ARTIFACT_POLICY
    elif path.startswith("/static/") or path == "/favicon.ico":
        cache = "no-cache"
    ours = COMMON_HEADERS | {"Content-Security-Policy": policy, "Cache-Control": cache}

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers.update(ours)
            # the app lets every site read artifacts; no other site is to read anything here
            del headers["Access-Control-Allow-Origin"]
        await send(message)

    return send_with_headers


def _same_origin(request: Request) -> bool:
    """Return whether a browser sent the request from a page of this site; other clients may."""
    origin = request.headers.get("origin")
    if origin is not None:
        host = origin.partition("://")[2]
        return bool(host) and host == request.headers.get("host")
    return request.headers.get("sec-fetch-site", "same-origin") in ("same-origin", "none")


def _host(request: Request) -> str:
    """Return the name that the client asked for, without the port."""
    return re.sub(r":\d*$", "", request.headers.get("host", ""))


def _address(request: Request) -> str:
    return place_of(request.client.host if request.client else "")


def _own_path(target: str) -> str:
    """Return a path of this site; anything else becomes the first page."""
    own = target.isprintable() and re.fullmatch(r"/([^/\\ ][^\\ ]*)?", target)
    return target if own else "/"


def _cookie_name(request: Request) -> str:
    """Behind https the prefix makes browsers refuse the cookie from anywhere but this host.

    Cookies do not know ports: two dashboards of one machine have one each.
    """
    if request.scope["scheme"] == "https":
        return "__Host-golf"
    return f"golf-{request.scope['server'][1]}"


def _session(request: Request) -> bytes:
    return _digest(request.cookies.get(_cookie_name(request), ""))


def _set_cookie(answer: Response, request: Request, token: str, age_s: int) -> Response:
    answer.set_cookie(
        _cookie_name(request),
        token,
        max_age=age_s,
        secure=request.scope["scheme"] == "https",
        httponly=True,
        samesite="strict",
    )
    return answer


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "replace")).digest()
