"""The opening handshake of one connection, on the side of a server for threads: in the thread that will serve it.

It reads a request within limits of size and time, lets the hooks of the server have their say, and answers: with 101
the connection is open, with anything else the socket is closed once the peer has had time to read the answer.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import socket
import time
from typing import TYPE_CHECKING, Any

from ..drivers.background import background
from ..drivers.wires import READABLE, WRITABLE, Wire
from ..errors import InvalidHandshake, InvalidMessage, OpenTimeout
from ..protocol.deflate import ContextPool
from ..protocol.handshake import refusal
from ..protocol.http1 import encode_response
from ..protocol.proxy_protocol import ProxyHeaderReader
from ..server.arriving import take_header
from ..server.handshake import ServerHandshake
from ..server.trust import proxied_by_header, proxied_by_request
from ..types import Response

if TYPE_CHECKING:
    from .server import Server, ServerConnection

__all__ = ["Accepting"]

_LINGER = 1.0
"""How long a refused peer may take to read the answer (seconds)."""
_LOOK = 0.1
"""How often an opening looks whether the server is closing (seconds)."""


class Accepting:
    """A connection that is not open yet."""

    def __init__(self, server: Server, sock: socket.socket, connection: ServerConnection) -> None:
        self._server = server
        self._sock = sock
        self._connection = connection
        self._deadline = None if server.open_timeout is None else time.monotonic() + server.open_timeout
        self._wire: Wire | None = None

    def run(self) -> bool:
        """Open the connection: whether it is open. If not, nothing is left of it."""
        logger = self._server.logger
        try:
            wire = self._wire = self._begin()
            try:
                if self._open(wire):
                    return True
            except InvalidHandshake as exc:
                if logger.isEnabledFor(logging.INFO):
                    logger.info("opening handshake refused: %s", exc, extra=self._connection.log_fields())
                self._refuse(wire, refusal(exc))
        except (OSError, InvalidHandshake) as exc:  # the latter before there is a stream
            logger.info("opening handshake failed: %s", exc, extra=self._connection.log_fields())
        except Exception as exc:
            logger.error("opening handshake failed", exc_info=exc, extra=self._connection.log_fields())
            if self._wire is not None:
                self._try_to_refuse(self._wire)
        self._sock.close()
        return False

    # -- bytes -------------------------------------------------------------------------------------------------

    def _begin(self) -> Wire:
        """The byte stream, after the TLS handshake if there is one."""
        if self._server.proxy_protocol:
            self._read_proxy_header()
        if self._server.ssl is None:
            return Wire(self._sock)
        wire = Wire(self._sock, self._server.ssl, server_side=True)
        while wants := wire.handshake():
            self._wait(wire, wants)
        self._connection.tls = wire.ssl_object
        return wire

    def _read_proxy_header(self) -> None:
        """Take the header of the PROXY protocol, and nothing behind it."""
        if self._sock.getpeername() not in self._server.trusted_proxies:
            raise InvalidMessage("it is no trusted proxy")
        reader, complete = ProxyHeaderReader(), False
        while not complete:
            self._sock.settimeout(self._patience())
            with contextlib.suppress(TimeoutError):
                complete = take_header(self._sock, reader)
        self._connection.proxied = proxied_by_header(reader.header)

    def _wait(self, wire: Wire, wants: int) -> None:
        """Wait for the peer, as long as it may take."""
        wire.wait(wants, self._patience())

    def _patience(self) -> float:
        """How long a wait may take (seconds); raises when that is over, or the server is closing."""
        left = _LOOK
        if self._deadline is not None:
            left = min(left, self._deadline - time.monotonic())
            if left <= 0:
                raise OpenTimeout(self._server.open_timeout or 0.0)
        if not self._server.is_serving():
            raise InvalidMessage("the server is shutting down", status=503)
        return left

    def _send(self, wire: Wire, data: bytes) -> None:
        while data := wire.put(data):
            self._wait(wire, WRITABLE)

    # -- the negotiation ---------------------------------------------------------------------------------------

    def _open(self, wire: Wire) -> bool:
        server, connection = self._server, self._connection
        handshake = ServerHandshake(server)
        complete = False
        while not complete:
            data = wire.get()
            if data is None:
                self._wait(wire, READABLE)
            elif data:
                complete = handshake.feed(data)
            else:
                raise OSError("the client left before its request was complete")
        connection.record_handshake(handshake.request)
        if server.trusted_proxies:
            peer, headers = self._sock.getpeername(), handshake.request.headers
            connection.proxied = proxied_by_request(connection.proxied, headers, peer, server.trusted_proxies)
        response = self._negotiate(handshake)
        if response.status_code != 101:
            self._refuse(wire, response)
            return False
        if handshake.session is None:
            raise RuntimeError("process_request answered 101, which is not its part: return None to accept")
        if not server.is_serving():
            raise InvalidMessage("the server is shutting down", status=503)
        connection.choose_codec()
        self._send(wire, encode_response(response))
        thread = background()
        try:
            connection.open(thread, wire, handshake.session, handshake.remaining)
        except BaseException:
            thread.release()
            raise
        return True

    def _negotiate(self, handshake: ServerHandshake) -> Response:
        server, connection, request = self._server, self._connection, handshake.request
        response: Response | None = None
        if server.process_request is not None:
            response = _answer("process_request", server.process_request(connection, request))
        if response is None:
            # A pool of its own: a connection may be used by any thread, and pools are not made for that.
            secure, host = server.ssl is not None, None
            if connection.proxied is not None:
                secure, host = connection.proxied.secure_or(secure), connection.proxied.host
            response = handshake.accept(connection, ContextPool(), secure=secure, host=host, now=time.monotonic())
            connection.subprotocol = handshake.subprotocol
        if server.process_response is not None:
            revised = _answer("process_response", server.process_response(connection, request, response))
            return response if revised is None else revised
        return response

    # -- refusing ----------------------------------------------------------------------------------------------

    def _refuse(self, wire: Wire, response: Response) -> None:
        deadline = time.monotonic() + _LINGER
        data = encode_response(response)
        while (data := wire.put(data)) and (left := deadline - time.monotonic()) > 0:
            wire.wait(WRITABLE, left)
        wire.end_sending()
        # Closing with unread input would reset the connection, and the peer might lose the answer.
        while (left := deadline - time.monotonic()) > 0:
            received = wire.get()
            if received == b"":
                break
            if received is None:
                wire.wait(READABLE, left)

    def _try_to_refuse(self, wire: Wire) -> None:
        """Something of ours failed."""
        with contextlib.suppress(OSError):
            self._refuse(wire, refusal(InvalidMessage("internal error", status=500)))


def _answer(name: str, answer: Any) -> Response | None:
    """What a hook returned, which must not be something to wait for."""
    if inspect.isawaitable(answer):
        if inspect.iscoroutine(answer):
            answer.close()
        raise TypeError(f"{name} must not be a coroutine function here")
    response: Response | None = answer
    return response
