"""The door in front of optuna-dashboard, which has none of its own: who may come in, and for what.

Guard        WSGI middleware: login, read-only, same origin, security headers, /healthz
Sessions     who has logged in
Throttle     who has guessed too often
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import json
import os
import re
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

from bottle import Bottle, HTTPError

from golf_opt.config.errors import UsageError

Environ = dict[str, Any]
Headers = list[tuple[str, str]]
StartResponse = Callable[..., Any]
Wsgi = Callable[[Environ, StartResponse], Iterable[bytes]]

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
SESSION_S = 12 * 3600.0
MOST_SESSIONS = 1000
MOST_FAILURES, FAILURES_WITHIN_S = 5, 60.0
MOST_ADDRESSES = 10_000
FORM_BYTES = 4096
LOG_IN = "log in"
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


class Guard:
    """Lets a request through to the dashboard, or answers it.

    Args:
        app: what answers the requests that are let through.
        routes: optuna-dashboard's application, for its route table.
        password: None: no login, and only requests to a local name, so that a page elsewhere that
            points its own name at this machine gets nothing.
        write: let through what changes studies, too.
        check: raises when the storage cannot be read; for /healthz.
        say: prints a line to the user.
    """

    def __init__(
        self,
        app: Wsgi,
        routes: Bottle,
        password: str | None,
        write: bool,
        check: Callable[[], None],
        say: Callable[[str], None],
    ) -> None:
        self._app, self._routes = app, routes
        self._password, self._write = password, write
        self._check, self._say = check, say
        self._sessions, self._throttle = Sessions(), Throttle()

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        environ.setdefault("HTTP_ACCEPT_ENCODING", "")  # the app takes it for granted
        path, method = environ.get("PATH_INFO", "/"), environ["REQUEST_METHOD"]

        def answer(
            status: str, body: str, kind: str, headers: Headers | None = None
        ) -> list[bytes]:
            return _answer(environ, start_response, status, body, kind, headers or [])

        def refuse(status: str, reason: str) -> list[bytes]:
            return answer(status, json.dumps({"reason": reason}), "application/json")

        if path == "/healthz":
            return self._health(refuse)
        if self._password is None and not is_local(_host(environ)):
            return refuse("403 Forbidden", "this dashboard answers to local names only")
        if method not in ("GET", "HEAD") and not _same_origin(environ):
            return refuse("403 Forbidden", "the request comes from another site")
        if self._password is not None:
            if path in ("/login", "/logout"):
                return self._login_page(environ, answer)
            if (refusal := self._not_logged_in(environ)) is not None:
                if refusal == LOG_IN and "text/html" in environ.get("HTTP_ACCEPT", ""):
                    return answer("303 See Other", "", "text/plain", [_to_login(environ)])
                status = "401 Unauthorized" if refusal == LOG_IN else "429 Too Many Requests"
                return refuse(status, refusal)
        if (refused := self._not_allowed(path, method)) is not None:
            return refuse(*refused)
        return self._app(environ, _with_headers(path, environ, start_response))

    def _health(self, refuse: Callable[[str, str], list[bytes]]) -> list[bytes]:
        try:
            self._check()
        except Exception:
            return refuse("503 Service Unavailable", "the storage cannot be read")
        return refuse("200 OK", "ok")

    def _not_allowed(self, path: str, method: str) -> tuple[str, str] | None:
        """Return status and reason for a request that this dashboard does not let through."""
        wanted = "GET" if method == "HEAD" else method
        if wanted != "GET" and not self._write:
            return "403 Forbidden", "this dashboard is read-only; dashboard.write=true allows edits"
        try:
            found = {"PATH_INFO": path.rstrip("/") or "/", "REQUEST_METHOD": wanted}
            route, _ = self._routes.router.match(found)
        except HTTPError as error:
            return error.status_line, "there is nothing here"
        if wanted == "GET" and route.rule not in READ_RULES:
            return "404 Not Found", "there is nothing here"
        return None

    def _not_logged_in(self, environ: Environ) -> str | None:
        """Return None for a request of somebody who is logged in, otherwise why it is not."""
        if self._sessions.has(_cookie(environ)):
            return None
        scheme, _, token = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
        if scheme.lower() != "bearer":
            return LOG_IN
        if self._throttle.is_full(_address(environ)):
            return "too many wrong passwords; wait a minute"
        return None if self._is_right(token.strip(), environ) else LOG_IN

    def _is_right(self, given: str, environ: Environ) -> bool:
        """Compare in a time that tells nothing; a wrong guess is counted and told."""
        assert self._password is not None
        right = hmac.compare_digest(_digest(given), _digest(self._password))
        if not right:
            self._throttle.count(_address(environ))
            self._say(f"wrong password from {_address(environ)}")
        return right

    def _login_page(self, environ: Environ, answer: Callable[..., list[bytes]]) -> list[bytes]:
        fields = _form(environ)
        query = parse_qs(environ.get("QUERY_STRING", ""))
        target = _own_path((fields.get("next") or query.get("next") or ["/"])[0])
        if environ["REQUEST_METHOD"] != "POST":
            return answer("200 OK", login_page(target, ""), "text/html")
        if environ["PATH_INFO"] == "/logout":
            self._sessions.end(_cookie(environ))
            gone = _set_cookie(environ, "", 0)
            return answer("303 See Other", "", "text/plain", [("Location", "/login"), gone])
        if self._throttle.is_full(_address(environ)):
            words = "Too many wrong passwords. Wait a minute."
            wait = [("Retry-After", str(round(FAILURES_WITHIN_S)))]
            return answer("429 Too Many Requests", login_page(target, words), "text/html", wait)
        if not self._is_right(fields.get("password", [""])[0], environ):
            page = login_page(target, "That is not the password.")
            return answer("401 Unauthorized", page, "text/html")
        made = _set_cookie(environ, self._sessions.begin(), round(SESSION_S))
        return answer("303 See Other", "", "text/plain", [("Location", target), made])


class Sessions:
    """Random tokens, of which only digests are kept, in memory: a restart ends every session."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._ends: OrderedDict[bytes, float] = OrderedDict()  # oldest first

    def begin(self) -> str:
        token = secrets.token_urlsafe(32)
        with self._lock:
            self._ends[_digest(token)] = self._clock() + SESSION_S
            while len(self._ends) > MOST_SESSIONS:
                self._ends.popitem(last=False)
        return token

    def has(self, token: str) -> bool:
        return self._ends.get(_digest(token), 0.0) > self._clock()

    def end(self, token: str) -> None:
        self._ends.pop(_digest(token), None)


class Throttle:
    """Counts wrong guesses by address: at most 5 in a minute."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._failures: OrderedDict[str, list[float]] = OrderedDict()

    def is_full(self, address: str) -> bool:
        return len(self._recent(address)) >= MOST_FAILURES

    def count(self, address: str) -> None:
        with self._lock:
            self._failures[address] = [*self._recent(address), self._clock()][-MOST_FAILURES:]
            self._failures.move_to_end(address)
            while len(self._failures) > MOST_ADDRESSES:
                self._failures.popitem(last=False)

    def _recent(self, address: str) -> list[float]:
        since = self._clock() - FAILURES_WITHIN_S
        return [moment for moment in self._failures.get(address, ()) if moment > since]


def read_password(env: str, file: Path | None) -> str | None:
    """Return the password from a file, or from the environment; None where neither is given.

    Raises:
        UsageError: the file cannot be read or others can read it, or the password is short.
    """
    if file is not None:
        try:
            mode, text = file.stat().st_mode, file.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"dashboard.password_file {file} cannot be read: {error}") from error
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


def login_page(target: str, words: str) -> str:
    """Return the page that asks for the password; needs no script."""
    said = f'<p role="alert">{escape(words)}</p>' if words else ""
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>golf-opt: log in</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
body {{ font: 16px/1.5 sans-serif; color: #222; max-width: 22em; margin: 15vh auto; padding: 1em }}
label, input, button {{ display: block; width: 100%; box-sizing: border-box; font: inherit }}
input, button {{ padding: .5em; margin: .3em 0 1em; border: 1px solid #666; border-radius: 4px }}
button {{ background: #0072B2; color: white; cursor: pointer }}
[role=alert] {{ color: #A33B00; font-weight: bold }}
</style></head><body>
<h1>golf-opt</h1>{said}
<form method="post" action="/login">
<input type="hidden" name="next" value="{escape(target)}">
<label for="password">Password of this dashboard</label>
<input id="password" name="password" type="password" autocomplete="current-password" autofocus
 required>
<button type="submit">Log in</button>
</form></body></html>
"""


def _answer(
    environ: Environ,
    start_response: StartResponse,
    status: str,
    body: str,
    kind: str,
    headers: Headers,
) -> list[bytes]:
    data = body.encode()
    start_response(
        status,
        [
            ("Content-Type", f"{kind}; charset=utf-8"),
            ("Content-Length", str(len(data))),
            ("Content-Security-Policy", PAGE_POLICY),
            *_common_headers(),
            ("Cache-Control", "no-store"),
            *headers,
        ],
    )
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [data]


def _with_headers(path: str, environ: Environ, start_response: StartResponse) -> StartResponse:
    """Return a start_response that adds the security headers to the application's own."""
    artifact = path.startswith("/artifacts/")
    static = path.startswith("/static/") or path == "/favicon.ico"
    ours = [
        ("Content-Security-Policy", ARTIFACT_POLICY if artifact else APP_POLICY),
        *_common_headers(),
        ("Cache-Control", "no-cache" if static else "no-store"),
    ]
    # the app lets every site read artifacts; no other site is to read anything here
    dropped = {name.lower() for name, _ in ours} | {"access-control-allow-origin"}

    def start(status: str, headers: Headers, *rest: Any) -> Any:
        kept = [(name, value) for name, value in headers if name.lower() not in dropped]
        return start_response(status, [*kept, *ours], *rest)

    return start


def _common_headers() -> Headers:
    return [
        ("X-Content-Type-Options", "nosniff"),
        ("Referrer-Policy", "same-origin"),
        ("Cross-Origin-Opener-Policy", "same-origin"),
        ("Cross-Origin-Resource-Policy", "same-origin"),
    ]


def _same_origin(environ: Environ) -> bool:
    """Return whether a browser sent the request from a page of this site; other clients may."""
    origin = environ.get("HTTP_ORIGIN")
    if origin is not None:
        return bool(origin) and urlsplit(origin).netloc == environ.get("HTTP_HOST")
    return environ.get("HTTP_SEC_FETCH_SITE", "same-origin") in ("same-origin", "none")


def _host(environ: Environ) -> str:
    """Return the name that the client asked for, without the port."""
    return re.sub(r":\d*$", "", environ.get("HTTP_HOST", ""))


def _address(environ: Environ) -> str:
    """Return the client's address; of IPv6 the network, which is one client's as a whole."""
    text = str(environ.get("REMOTE_ADDR", ""))
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return "unknown"
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)


def _to_login(environ: Environ) -> tuple[str, str]:
    query = environ.get("QUERY_STRING", "")
    target = environ["PATH_INFO"] + (f"?{query}" if query else "")
    return "Location", f"/login?next={quote(target, safe='/')}"


def _own_path(target: str) -> str:
    """Return a path of this site; anything else becomes the first page."""
    return target if re.fullmatch(r"/([^/\\\x00-\x20][^\\\x00-\x20]*)?", target) else "/"


def _form(environ: Environ) -> dict[str, list[str]]:
    if environ["REQUEST_METHOD"] != "POST":
        return {}
    data = environ["wsgi.input"].read(FORM_BYTES)
    return parse_qs(data.decode("utf-8", "replace"))


def _cookie_name(environ: Environ) -> str:
    """Behind https the prefix makes browsers refuse the cookie from anywhere but this host.

    Cookies do not know ports: two dashboards of one machine have one each.
    """
    if environ.get("wsgi.url_scheme") == "https":
        return "__Host-golf"
    return f"golf-{environ.get('SERVER_PORT', '')}"


def _cookie(environ: Environ) -> str:
    wanted = _cookie_name(environ)
    for part in environ.get("HTTP_COOKIE", "").split(";"):
        name, _, value = part.strip().partition("=")
        if name == wanted:
            return str(value)
    return ""


def _set_cookie(environ: Environ, token: str, age_s: int) -> tuple[str, str]:
    secure = "; Secure" if environ.get("wsgi.url_scheme") == "https" else ""
    value = f"{_cookie_name(environ)}={token}; Path=/; Max-Age={age_s}; HttpOnly; SameSite=Strict"
    return "Set-Cookie", value + secure


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "replace")).digest()
