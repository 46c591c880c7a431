"""The dashboard's connections: each has a time for its request, each address a share of them."""

from __future__ import annotations

import asyncio
import contextlib
import http
import ipaddress
import sys
from collections import Counter
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

MOST_CONNECTIONS = 400  # fifty browsers have six each
REQUEST_S = 30.0  # for a request to arrive as a whole, headers and body
CONNECTION_S, ABORT_S = 60.0, 600.0  # see Connection
FILES, OWN_FILES = 4096, 200  # wanted in all, and those that are not connections
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
SHORTEST_QUEUE, LONGEST_QUEUE = 16, 1024  # of those that wait to be accepted


def room_for_connections() -> tuple[int, int]:
    """Let this process have as many files as it may need; return what that is enough for.

    Returns:
        connections, and how many more may wait to be accepted.
    """
    files = FILES
    if sys.platform != "win32":
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        unlimited = resource.RLIM_INFINITY
        files = FILES if hard == unlimited else min(hard, FILES)
        if soft == unlimited or soft >= files:
            files = FILES if soft == unlimited else soft
        else:
            try:
                resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
            except (ValueError, OSError):  # a system that has a limit of its own below that
                files = soft
    connections = max(SHORTEST_QUEUE, min(MOST_CONNECTIONS, (files - OWN_FILES) // 2))
    queue = max(SHORTEST_QUEUE, min(LONGEST_QUEUE, files - OWN_FILES - connections))
    return connections, queue


def is_in(address: str, network: Network | None) -> bool:
    """Return whether an address is of a network; what is no address is of none."""
    try:
        return network is not None and ipaddress.ip_address(address) in network
    except ValueError:
        return False


def place_of(address: str) -> str:
    """Return who an address is, as far as shares and guesses count: of IPv6 the whole network."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return "unknown"
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return str(parsed)


class Connection(H11Protocol):
    """A connection that lives for a minute, and for the answer that is under way then.

    uvicorn closes an idle connection once it has had an answer, but waits without end for a
    request that does not come, or comes a byte a second, and for a client that does not read; and
    when all connections are taken it answers nobody. Here a request has a time as a whole, and who
    comes when all are taken gets one from the address that has most: the one that has waited
    longest for its request, so that somebody who asks at once is served also beside others of the
    same address who do not.

    Args:
        most: connections at the same time.
        proxy: addresses that everybody comes from; they have no share.
    """

    def __init__(self, *args: Any, most: int, proxy: Network | None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._most, self._proxy = most, proxy
        self._ends: list[asyncio.TimerHandle] = []
        self._late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        address = self.client[0] if self.client else ""
        self.place = "" if is_in(address, self._proxy) else place_of(address)  # "": the proxy's
        self.since = self.loop.time()  # when it came, or had its last answer
        self._ends = [
            self.loop.call_later(CONNECTION_S, self.shutdown),
            self.loop.call_later(ABORT_S, transport.abort),
        ]
        self._watch()
        if len(self.connections) > self._most:
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        for end in self._ends:
            end.cancel()
        self._stop_watch()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        self.since = self.loop.time()
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, msg)

    @property
    def waits(self) -> bool:
        """Whether a request, or the rest of one, has not come yet."""
        return self.cycle is None or self.cycle.response_complete or self.cycle.more_body

    def _watch(self) -> None:
        """Let the time of a request begin with its first byte, and end with its last."""
        if not self.waits:
            self._stop_watch()
        elif self._late is None and not self.transport.is_closing():
            too_late = "the request did not arrive in time"
            self._late = self.loop.call_later(REQUEST_S, self._refuse, 408, too_late)

    def _stop_watch(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _refuse(self, status: int, reason: str) -> None:
        """End the connection, with an answer where none has begun."""
        with contextlib.suppress(h11.LocalProtocolError):
            if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                headers = [("content-type", "text/plain; charset=utf-8"), ("connection", "close")]
                phrase = http.HTTPStatus(status).phrase.encode()
                begin = h11.Response(status_code=status, headers=headers, reason=phrase)
                for event in (begin, h11.Data(data=reason.encode()), h11.EndOfMessage()):
                    self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _make_room(self) -> None:
        """Close a connection of the address that has most; of the proxy only where all are."""
        all_of_them = [other for other in self.connections if isinstance(other, Connection)]
        held = Counter(other.place for other in all_of_them if other.place)
        most = max(held, key=lambda place: held[place], default="")
        theirs = [other for other in all_of_them if other.place == most]
        waiting = [other for other in theirs if other.waits and other is not self]
        if waiting:
            unlucky = min(waiting, key=lambda other: other.since)
        else:  # their requests are being answered: no more of those
            unlucky = max(theirs, key=lambda other: other.since)
        self.connections.discard(unlucky)
        unlucky.transport.abort()
