"""``connect``: from a URI to an open connection."""

from __future__ import annotations

import asyncio
import base64
import logging
import os
import socket
import ssl as ssl_module
from collections.abc import Generator, Sequence
from types import TracebackType
from typing import Any

from .._version import __version__
from ..drivers.contexts import contexts_of
from ..drivers.transports import connect_transport
from ..errors import OpenTimeout
from ..options import check_deflate, check_number, check_sequence, check_ssl, check_text, connection_options
from ..protocol import deflate
from ..protocol.frames import MaskPool
from ..protocol.handshake import build_request
from ..protocol.headers import is_token
from ..protocol.http1 import encode_request
from ..protocol.uri import WebSocketURI, parse_uri
from ..types import DeflateOptions, HeadersLike, Request
from .opening import ClientConnection, Opening

__all__ = ["connect", "unix_connect"]

_USER_AGENT = f"taut/{__version__}"

_masks = MaskPool(os.urandom)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_masks.forget)


class connect:  # used like a function, as in the websockets package
    """Open a WebSocket connection: ``async with connect(uri) as ws``, or ``ws = await connect(uri)``.

    ``uri``: ws:// or wss://, with credentials if wanted (sent as basic authentication). ``host``, ``port``: connect to
    this address instead of the URI's. ``sock``: a connected socket to use; ``path``: a Unix socket to connect to.
    ``ssl``: a client context for wss, by default one that verifies the server; ``server_hostname``: the name to verify.

    ``origin``: the Origin header. ``subprotocols``: offered, in order of preference. ``compression``: "deflate", None,
    or ``DeflateOptions``. ``additional_headers``: for the request. ``user_agent_header``: None for none.
    ``logger``: where to log, by default "taut.client".

    ``open_timeout`` (10 s): for everything until the connection is open. ``max_head`` (16384 bytes), ``max_headers``
    (128): limits of the response. Everything in ``ConnectionOptions`` is accepted by name as well: ``max_size``,
    ``max_frame_size``, ``max_fragments``, ``read_limit``, ``write_limit``, ``outbox_limit``, ``ping_interval``,
    ``ping_timeout``, ``close_timeout``, ``strict_pongs``.

    Raises ``TypeError`` or ``ValueError`` (``InvalidURI`` among them) for a wrong argument, at once, before any I/O.
    Awaiting it raises ``OSError`` when no connection can be made, ``InvalidHandshake`` when the server refuses, and
    ``OpenTimeout``; when it is cancelled nothing stays open.
    """

    def __init__(
        self,
        uri: str,
        *,
        host: str | None = None,
        port: int | None = None,
        sock: socket.socket | None = None,
        path: str | os.PathLike[str] | None = None,
        ssl: ssl_module.SSLContext | None = None,
        server_hostname: str | None = None,
        origin: str | None = None,
        subprotocols: Sequence[str] | None = None,
        compression: str | DeflateOptions | None = "deflate",
        additional_headers: HeadersLike | None = None,
        user_agent_header: str | None = _USER_AGENT,
        logger: logging.Logger | str | None = None,
        open_timeout: float | None = 10.0,
        max_head: int = 16384,
        max_headers: int = 128,
        **options: Any,
    ) -> None:
        check_text("uri", uri)
        self.uri: WebSocketURI = parse_uri(uri)
        check_ssl(ssl)
        if ssl is not None and not self.uri.secure:
            raise ValueError("ssl is for wss:// URIs, and this one is ws://")
        self.host, self.port, self.sock, self.path = host, port, sock, path
        self.ssl = ssl
        self.server_hostname = server_hostname
        self.origin = origin
        self.subprotocols: Sequence[str] = check_sequence("subprotocols", subprotocols, (str,)) or ()
        for subprotocol in self.subprotocols:
            if not is_token(subprotocol):
                raise ValueError(f"subprotocols must be HTTP tokens, not {subprotocol!r}")
        self.deflate = check_deflate(compression)
        self.additional_headers: HeadersLike = () if additional_headers is None else additional_headers
        self.user_agent_header = user_agent_header
        self.logger = logger if isinstance(logger, logging.Logger) else logging.getLogger(logger or "taut.client")
        self.open_timeout = check_number("open_timeout", open_timeout, above=0, optional=True)
        self.max_head = int(check_number("max_head", max_head, above=0) or 0)
        self.max_headers = int(check_number("max_headers", max_headers, above=0) or 0)
        self.options = connection_options(options)
        self._connection: ClientConnection | None = None
        encode_request(self._request())  # so that a wrong header is refused here, before any I/O

    def _request(self) -> Request:
        key = base64.b64encode(os.urandom(16)).decode()  # RFC 6455, 4.1: a nonce for each connection
        return build_request(
            self.uri,
            key,
            origin=self.origin,
            subprotocols=self.subprotocols,
            extensions=None if self.deflate is None else deflate.offer(self.deflate),
            headers=self.additional_headers,
            user_agent=self.user_agent_header,
        )

    # -- opening -----------------------------------------------------------------------------------------------

    async def _open(self) -> ClientConnection:
        try:
            async with asyncio.timeout(self.open_timeout):
                return await self._attempt()
        except TimeoutError as exc:
            if isinstance(exc, OpenTimeout) or self.open_timeout is None:
                raise
            raise OpenTimeout(self.open_timeout) from exc

    async def _attempt(self) -> ClientConnection:
        loop = asyncio.get_running_loop()
        connection = ClientConnection(loop, self.options, self.logger)
        opening = Opening(
            connection,
            self._request(),
            subprotocols=self.subprotocols,
            deflate_options=self.deflate,
            contexts=contexts_of(loop),
            masks=_masks,
            max_head=self.max_head,
            max_headers=self.max_headers,
        )
        try:
            await self._link(loop, opening)
            await opening.done
        except BaseException:
            opening.done.cancel()
            if opening.transport is not None:
                opening.transport.abort()
            raise
        return connection

    async def _link(self, loop: asyncio.AbstractEventLoop, opening: Opening) -> None:
        """Give ``opening`` a transport to the server."""
        sock = await self._dial(loop)
        try:
            ssl = self.ssl or (ssl_module.create_default_context() if self.uri.secure else None)
            hostname = (self.server_hostname or self.uri.host) if ssl is not None else None
            await connect_transport(loop, opening, sock, ssl, hostname)
        except BaseException:
            if opening.transport is None:
                sock.close()
            raise

    async def _dial(self, loop: asyncio.AbstractEventLoop) -> socket.socket:
        if self.sock is not None:
            self.sock.setblocking(False)
            return self.sock
        if self.path is not None:
            return await _connect(loop, socket.AF_UNIX, 0, os.fspath(self.path))
        host, port = self.host or self.uri.host, self.port or self.uri.port
        problems: list[OSError] = []
        for family, _, proto, _, address in await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            try:
                return await _connect(loop, family, proto, address)
            except OSError as exc:
                problems.append(exc)
        if len(problems) == 1:
            raise problems[0]
        raise OSError(f"no address of {host} port {port} answers: {'; '.join(str(exc) for exc in problems)}")

    def __await__(self) -> Generator[Any, None, ClientConnection]:
        return self._open().__await__()

    async def __aenter__(self) -> ClientConnection:
        self._connection = await self._open()
        return self._connection

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        if self._connection is not None:
            await self._connection.close()


def unix_connect(path: str | os.PathLike[str], uri: str = "ws://localhost/", **options: Any) -> connect:
    """Open a connection over a Unix socket.

    ``uri``: gives the Host and the target of the request. The rest is as for ``connect``.
    """
    return connect(uri, path=path, **options)


async def _connect(loop: asyncio.AbstractEventLoop, family: int, proto: int, address: Any) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM, proto)
    try:
        sock.setblocking(False)
        if family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await loop.sock_connect(sock, address)
    except BaseException:
        sock.close()
        raise
    return sock
