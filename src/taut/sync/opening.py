"""The opening of a blocking connection: a coroutine on the loop of the thread in the background.

Only the byte stream is another one than for asyncio, a ``Wire``; how the server is reached, what is asked of it and
where it redirects are the same code (``client.attempt``, ``client.dialling``, ``client.handshake``).
"""

from __future__ import annotations

import asyncio
import ssl as ssl_module
import time
from dataclasses import dataclass

from ..client.dialling.certificates import check_pins
from ..client.dialling.dial import Dialled, dial
from ..client.dialling.tls import default_context, tls_error
from ..client.dialling.turns import Deadline
from ..client.handshake import ClientHandshake
from ..client.redirects import Navigation
from ..drivers.wires import READABLE, WRITABLE, Wire
from ..errors import InvalidHandshake
from ..protocol.deflate import ContextPool
from ..protocol.session import Session
from ..types import Attempt

__all__ = ["Opened", "open_once"]


@dataclass(frozen=True, slots=True)
class Opened:
    """A byte stream on which the opening handshake has succeeded."""

    wire: Wire
    session: Session
    handshake: ClientHandshake

    def discard(self) -> None:
        """Close it: it is not wanted after all."""
        self.wire.close()


async def open_once(navigation: Navigation, deadline: Deadline, attempts: list[Attempt]) -> Opened:
    """Dial, TLS, and the opening handshake, with where the way has come to.

    Raises ``ConnectError``, and records what failed. When it is cancelled nothing stays open.
    """
    dialled = await dial(navigation.uri, navigation.options, deadline, attempts)
    stage, begun = "tls", time.monotonic()
    try:
        wire = await _tls(dialled, navigation)
        stage, begun = "handshake", time.monotonic()
        return await _shake_hands(wire, ClientHandshake(navigation))
    except BaseException as exc:
        dialled.sock.close()
        attempts.append(Attempt(str(navigation.uri), dialled.address, stage, time.monotonic() - begun, exc))
        raise
    finally:
        dialled.settled()


async def _tls(dialled: Dialled, navigation: Navigation) -> Wire:
    uri, options = navigation.uri, navigation.options
    if not uri.secure:
        return Wire(dialled.sock)
    try:
        async with asyncio.timeout(options.tls_timeout):
            context = options.ssl or default_context()
            wire = Wire(dialled.sock, context, server_hostname=options.server_hostname or uri.host)
            while wants := wire.handshake():
                await _ready(wire, wants)
    except OSError as exc:
        raise tls_error(exc, uri.host) from exc
    if options.pins:
        tls: ssl_module.SSLObject | None = wire.ssl_object
        certificate = None if tls is None else tls.getpeercert(binary_form=True)
        check_pins(certificate or b"", options.pins)
    return wire


async def _shake_hands(wire: Wire, handshake: ClientHandshake) -> Opened:
    try:
        left = wire.put(handshake.request_bytes)
        while left:
            await _ready(wire, WRITABLE)
            left = wire.put(left)
        complete = False
        while not complete:
            data = wire.get()
            if data is None:
                await _ready(wire, READABLE)
            elif data:
                complete = handshake.feed(data)
            else:
                handshake.eof()
                complete = True
    except OSError as exc:
        problem = "the connection was lost before the response was complete"
        raise InvalidHandshake(problem, request=handshake.request) from exc
    # A pool of its own: a connection may be used by any thread, and pools are not made for that.
    return Opened(wire, handshake.accept(ContextPool(), time.monotonic()), handshake)


async def _ready(wire: Wire, wants: int) -> None:
    """Wait until the socket is readable or writable."""
    loop, descriptor = asyncio.get_running_loop(), wire.fileno()
    ready: asyncio.Future[None] = loop.create_future()
    watch, unwatch = (
        (loop.add_reader, loop.remove_reader) if wants == READABLE else (loop.add_writer, loop.remove_writer)
    )
    watch(descriptor, _settle, ready)
    try:
        await ready
    finally:
        unwatch(descriptor)


def _settle(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
