"""Servers and clients that are connected in memory."""

from __future__ import annotations

import asyncio
import ssl as ssl_module
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any, cast

from ..client.attempt import Settled
from ..client.connect import connect
from ..client.dialling.turns import Deadline
from ..client.opening import ClientConnection
from ..client.opening import Opening as ClientOpening
from ..client.redirects import Navigation
from ..drivers.memory import CAPACITY, MemoryTransport, check_capacity, connect_in_memory
from ..errors import ConnectionClosed
from ..listener import Listener
from ..server.connection import Handler, ServerConnection
from ..server.server import Server
from ..server.serving import serve
from ..types import Attempt

__all__ = ["MemoryServer", "connected", "memory_connect", "memory_serve"]


class MemoryServer(Server):
    """A server that ``memory_connect`` connects to.

    ``failures`` holds what handlers and callbacks raised, in order; each is logged as well.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, settings: memory_serve) -> None:
        super().__init__(loop, settings)
        self.failures: list[BaseException] = []
        self._capacity = settings.capacity
        self.accept_from(_NoListener())

    def new_connection(self) -> ServerConnection:
        return _ReportingConnection(self.loop, self.options, self.logger, self)

    def accept(
        self, protocol: asyncio.BaseProtocol, *, secure: bool = False, address: Any = "client"
    ) -> MemoryTransport:
        """Connect a client, given as any asyncio protocol, and return its transport.

        ``secure``: let the server see a connection with TLS. ``address``: what it sees as the client's address. Raises
        ``ConnectionRefusedError`` once the server is closed, and while it is suspended: nothing waits in memory.
        """
        if not self.is_serving() or self.suspended:
            raise ConnectionRefusedError(f"the server in memory is {'suspended' if self.suspended else 'closed'}")
        server_extra: dict[str, Any] = {"peername": address, "sockname": "server"}
        client_extra: dict[str, Any] = {"peername": "server", "sockname": address}
        if secure:
            server_extra["sslcontext"] = ssl_module.SSLContext(ssl_module.PROTOCOL_TLS_SERVER)
            client_extra["sslcontext"] = ssl_module.SSLContext(ssl_module.PROTOCOL_TLS_CLIENT)
        _, transport = connect_in_memory(
            self.loop,
            self.new_opening(),
            protocol,
            capacity=self._capacity,
            first_extra=server_extra,
            second_extra=client_extra,
        )
        return transport


class _NoListener:
    """In memory nothing has to be accepted: clients come through ``MemoryServer.accept``."""

    def close(self) -> None: ...
    def suspend(self) -> None: ...
    def resume(self) -> None: ...
    def finish(self) -> None: ...


class _ReportingConnection(ServerConnection):
    __slots__ = ()

    def _report(self, failure: BaseException) -> None:
        cast(MemoryServer, self.server).failures.append(failure)
        super()._report(failure)


class memory_serve(serve):  # used like a function, as ``serve`` is
    """Start a server in memory: ``async with memory_serve(handler) as server``, or ``await memory_serve(handler)``.

    ``capacity`` (65536 bytes): what each direction of a connection holds on its way, as the buffers of sockets do. The
    rest is as for ``taut.serve``, without an address.
    """

    def __init__(self, handler: Handler | type[Listener], *, capacity: int = CAPACITY, **options: Any) -> None:
        for name in ("host", "port", "sock", "path", "ssl", "backlog", "reuse_port"):
            if name in options:
                raise TypeError(f"{name} is not for servers in memory")
        self.capacity = check_capacity(capacity)
        super().__init__(handler, **options)

    async def _start(self) -> MemoryServer:
        self._server = server = MemoryServer(asyncio.get_running_loop(), self)
        return server

    async def __aenter__(self) -> MemoryServer:
        return await self._start()


class memory_connect(connect[ClientConnection]):  # used like a function, as ``connect`` is
    """Connect to a server in memory: ``async with memory_connect(server) as ws``, or ``await memory_connect(server)``.

    ``uri`` gives the request's Host and target; with wss:// the server sees a connection with TLS, though nothing is
    encrypted. ``address`` is what it sees as the client's address. The rest is as for ``taut.connect``.
    """

    def __init__(
        self, server: MemoryServer, uri: str = "ws://localhost/", *, address: Any = "client", **options: Any
    ) -> None:
        for name in ("host", "port", "sock", "path", "ssl", "server_hostname"):
            if name in options:
                raise TypeError(f"{name} is not for connections in memory")
        self.server = _check_server(server)
        self.address = address
        super().__init__(uri, **options)

    async def _link(
        self, opening: ClientOpening, navigation: Navigation, deadline: Deadline, attempts: list[Attempt]
    ) -> Settled:
        self.server.accept(opening, secure=navigation.uri.secure, address=self.address)
        return _nothing_to_settle


def _nothing_to_settle() -> None: ...


def _check_server(server: object) -> MemoryServer:
    if not isinstance(server, MemoryServer):
        raise TypeError(f"server must be what memory_serve gives, not {server!r}")
    return server


@asynccontextmanager
async def connected(
    handler: Handler | type[Listener],
    uri: str = "ws://localhost/",
    *,
    server: Mapping[str, Any] | None = None,
    client: Mapping[str, Any] | None = None,
    **options: Any,
) -> AsyncGenerator[ClientConnection]:
    """Serve one client in memory, and give its connection: ``async with connected(handler) as ws``.

    ``uri``: as for ``memory_connect``. ``server``, ``client``: options for one side; ``options``: for both, such as
    ``subprotocols`` or ``max_size``. At the end the connection and the server are closed. What the handler raised is
    raised again then, unless the block itself failed for another reason than the closed connection; a test of how a
    handler fails uses ``memory_serve``.
    """
    async with memory_serve(handler, **{**options, **(server or {})}) as running:
        closed: ConnectionClosed | None = None
        try:
            async with memory_connect(running, uri, **{**options, **(client or {})}) as ws:
                yield ws
        except ConnectionClosed as exc:
            closed = exc
        running.close()
        await running.wait_closed()
    if running.failures:
        raise running.failures[0]
    if closed is not None:
        raise closed
