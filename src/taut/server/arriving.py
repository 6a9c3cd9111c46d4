"""What comes before the opening handshake on a socket that was accepted: the header of the PROXY protocol, then TLS.

A connection that needs neither never comes here.  The others are one ``Arrival`` each, driven by the readiness of
their socket: header -> first byte of TLS -> (waiting for others to be done) -> TLS handshake -> handed over to an
``Opening``, together with what is left of its time: ``open_timeout`` is for all of that and the request.

The bytes of the header are looked at in the kernel's buffer and taken from it no further than they belong to it, so
that TLS, or the transport, finds the next ones where it looks for them.  Until a client has sent a first byte of TLS
it costs a socket and an ``Arrival``; no more than ``max_tls_handshakes`` have made OpenSSL allocate anything.  What
goes wrong here is the fault of the other end: one line in the log, a count, and the socket is closed without an answer,
as nobody speaks HTTP yet.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import Counter
from typing import TYPE_CHECKING, Any, cast

from ..drivers.transports import TLSAcceptor, plain_transport
from ..errors import InvalidMessage
from ..protocol.proxy_protocol import ProxyHeaderReader
from .trust import Proxied, TrustedProxies, proxied_by_header

if TYPE_CHECKING:
    from .opening import Opening
    from .server import Server
    from .serving import serve

__all__ = ["Arrivals", "take_header"]

_PEEK = 1024
_TLS_HANDSHAKE = b"\x16"
"""The type of the first record of TLS (RFC 8446, 5.1)."""


class Arrivals:
    """All connections of a server that are in this stage."""

    def __init__(self, server: Server, settings: serve) -> None:
        self.server = server
        self.loop = server.loop
        self.open_timeout = settings.open_timeout
        self.wants_header = settings.proxy_protocol
        self.trusted: TrustedProxies = settings.trusted_proxies
        self.tls = None if settings.ssl is None else TLSAcceptor(server.loop, settings.ssl)
        self.failures: Counter[str] = Counter()
        """How many ended here, by what they were at: "header", "tls", "timeout"."""
        self._limit = settings.max_tls_handshakes
        self._all: set[Arrival] = set()
        self._shaking_hands: set[asyncio.Task[None]] = set()
        self._waiting: dict[Arrival, None] = {}  # in the order in which they came

    def __len__(self) -> int:
        return len(self._all)

    def accepted(self, sock: socket.socket, address: Any) -> None:
        """A connection was accepted."""
        Arrival(self, sock, address).begin()

    def __contains__(self, arrival: object) -> bool:
        return arrival in self._all

    def begun(self, arrival: Arrival) -> None:
        """It is there."""
        self._all.add(arrival)

    def gone(self, arrival: Arrival) -> None:
        """It was handed over, or it failed."""
        self._all.discard(arrival)
        self._waiting.pop(arrival, None)

    # -- TLS handshakes in flight ------------------------------------------------------------------------------

    def begin_tls(self, arrival: Arrival) -> None:
        """Let it begin its TLS handshake, at once or when others are done."""
        if self._limit is not None and len(self._shaking_hands) >= self._limit:
            self._waiting[arrival] = None
            return
        task = arrival.task = self.loop.create_task(arrival.shake_hands())
        self._shaking_hands.add(task)
        task.add_done_callback(arrival.tls_done)

    def tls_done(self, task: asyncio.Task[None]) -> None:
        """A TLS handshake is over, and the next may begin."""
        self._shaking_hands.discard(task)
        if self._waiting:
            arrival = next(iter(self._waiting))
            del self._waiting[arrival]
            self.begin_tls(arrival)

    # -- the end -----------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """Drop all that are here, and wait until nothing is left of them."""
        for arrival in list(self._all):
            arrival.drop()
        if self._shaking_hands:
            await asyncio.wait(self._shaking_hands)

    def failed(self, stage: str, address: Any, problem: object, level: int = logging.INFO) -> None:
        """Say and count that one ended here."""
        self.failures[stage] += 1
        who = f"{address[0]} port {address[1]}" if isinstance(address, tuple) else "a Unix socket"
        self.server.logger.log(level, "connection from %s dropped: %s", who, problem)


class Arrival(asyncio.Protocol):
    """One connection before its opening handshake; as a protocol, it only waits for the end of the TLS handshake."""

    __slots__ = (
        "_address",
        "_admitted",
        "_arrivals",
        "_begun_at",
        "_proxied",
        "_reader",
        "_sock",
        "_timer",
        "_watching",
        "task",
    )

    def __init__(self, arrivals: Arrivals, sock: socket.socket, address: Any) -> None:
        self._arrivals = arrivals
        self._sock = sock
        self._address = address
        self._begun_at = arrivals.loop.time()
        self._reader = ProxyHeaderReader() if arrivals.wants_header else None
        self._proxied: Proxied | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._watching = False
        self._admitted: bytes | None = None  # what ``server.admission`` counts it under
        self.task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Wait for its first bytes."""
        arrivals = self._arrivals
        if self._reader is not None and self._address not in arrivals.trusted:
            arrivals.failed("header", self._address, "it is no trusted proxy")
            self._sock.close()
            return
        if self._reader is None:
            self._admitted = arrivals.server.admission.enter(self._address)
        arrivals.begun(self)
        if arrivals.open_timeout is not None:
            self._timer = arrivals.loop.call_later(arrivals.open_timeout, self._timed_out)
        self._watching = True
        arrivals.loop.add_reader(self._sock.fileno(), self._readable)

    def _readable(self) -> None:
        try:
            # Until there is nothing more: uvloop tells of an error only together with the bytes before it.
            while self._reader is not None:
                self._read_header(self._reader)
            if not self._watching:
                return
            if self._arrivals.tls is None:
                self._end()
                plain_transport(self._arrivals.loop, self._sock, self._opening())
            elif self._begins_tls():
                self._unwatch()
                self._arrivals.begin_tls(self)
        except (BlockingIOError, InterruptedError):
            pass
        except ConnectionAbortedError as exc:
            self._fail("header", exc, logging.DEBUG)  # as those do who only look for a port
        except (InvalidMessage, OSError) as exc:
            self._fail("header" if self._reader is not None else "tls", exc)

    def _read_header(self, reader: ProxyHeaderReader) -> None:
        """Take what has come of the header."""
        if take_header(self._sock, reader):
            self._reader = None
            self._proxied = proxied_by_header(reader.header)
            self._admitted = self._arrivals.server.admission.enter(self._proxied.remote)

    def _begins_tls(self) -> bool:
        """Whether its first byte is there, and looks like TLS."""
        first = self._sock.recv(1, socket.MSG_PEEK)
        if first == _TLS_HANDSHAKE:
            return True
        if first:
            raise InvalidMessage("it does not speak TLS")
        self._fail("tls", "it left before the TLS handshake", logging.DEBUG)
        return False

    async def shake_hands(self) -> None:
        """The TLS handshake, to its end."""
        arrivals = self._arrivals
        assert arrivals.tls is not None
        left = None if self._timer is None else max(self._timer.when() - arrivals.loop.time(), 0.001)
        try:
            await arrivals.tls.shake_hands(self._sock, self, left)
        except OSError as exc:
            self._fail("tls", f"the TLS handshake failed: {getattr(exc, 'reason', None) or str(exc) or 'it left'}")
        except Exception as exc:
            arrivals.server.logger.error("the TLS handshake failed", exc_info=exc)
            self._fail("tls", "the TLS handshake failed")
        else:
            self._fail("tls", "the TLS handshake failed: it left")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The TLS handshake is done."""
        stream = cast(asyncio.Transport, transport)
        if self not in self._arrivals:
            stream.abort()
            return
        self.task = None
        self._end()
        opening = self._opening()
        stream.set_protocol(opening)
        opening.connection_made(stream)

    def _opening(self) -> Opening:
        opening = self._arrivals.server.new_opening()
        opening.go_on_from(self._begun_at, self._proxied)
        opening.connection.admitted = self._admitted
        return opening

    def tls_done(self, task: asyncio.Task[None]) -> None:
        """The task that made the TLS handshake is over."""
        if self.task is not None:
            self.task = None
            self._sock.close()
        self._arrivals.tls_done(task)

    # -- the end -----------------------------------------------------------------------------------------------

    def _timed_out(self) -> None:
        self._timer = None
        stage = "the PROXY protocol's header" if self._reader is not None else "the TLS handshake"
        self._fail("timeout", f"{stage} was not complete within {self._arrivals.open_timeout:g} s")

    def _fail(self, stage: str, problem: object, level: int = logging.INFO) -> None:
        if self in self._arrivals:
            self._arrivals.failed(stage, self._address, problem, level)
            self.drop()

    def drop(self) -> None:
        """Close the connection."""
        self._arrivals.server.admission.leave(self._admitted)
        self._end()
        if self.task is None:
            self._sock.close()
        elif self.task is not asyncio.current_task():
            self.task.cancel()

    def _end(self) -> None:
        self._arrivals.gone(self)
        self._unwatch()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _unwatch(self) -> None:
        if self._watching:
            self._watching = False
            self._arrivals.loop.remove_reader(self._sock.fileno())


def take_header(sock: socket.socket, reader: ProxyHeaderReader) -> bool:
    """Take what has come of the header of the PROXY protocol, and nothing behind it: whether it is complete.

    Raises ``InvalidMessage``, ``ConnectionAbortedError`` when the peer has left, ``BlockingIOError`` or
    ``TimeoutError`` when there is nothing, by the mode of the socket, and other ``OSError``.
    """
    data = sock.recv(_PEEK, socket.MSG_PEEK)
    if not data:
        raise ConnectionAbortedError("it left before the header of the PROXY protocol was complete")
    complete = reader.feed(data)
    left = len(data) - len(reader.remaining)
    while left:
        left -= len(sock.recv(left))
    return complete
