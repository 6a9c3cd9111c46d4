"""One opening of a connection: from a URI and options to an open connection, or one error that tells all of it.

Dial, TLS, opening handshake; and again where the server redirects, all within ``open_timeout``.  What was tried and
failed on the way is recorded, and stands on whatever is raised at the end.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from http.cookiejar import CookieJar
from typing import Any, TypeVar

from ..connection.watching import Watcher
from ..drivers.contexts import contexts_of
from ..drivers.transports import connect_transport
from ..errors import ConnectError, InvalidStatus, OpenTimeout, TLSError
from ..protocol.uri import WebSocketURI
from ..types import Attempt
from .dialling.addresses import address_text
from .dialling.dial import dial
from .dialling.tls import context_for_loop, tls_error
from .dialling.turns import Deadline
from .handshake import ClientHandshake
from .opening import ClientConnection, Opening
from .options import ConnectOptions
from .redirects import Navigation

__all__ = ["Link", "link", "navigate", "open_connection"]

T = TypeVar("T")

Settled = Callable[[], None]
Link = Callable[[Opening, Navigation, Deadline, list[Attempt]], Awaitable[Settled]]
"""Gives an opening a transport, and returns what is called once the opening is over."""


async def open_connection(
    uri: WebSocketURI, options: ConnectOptions, cookies: CookieJar, *, through: Link
) -> ClientConnection:
    """Open a connection to ``uri``, following redirects; ``cookies``: sent and kept; ``through``: makes transports.

    Raises ``ConnectError``, with all attempts. When it is cancelled nothing stays open.
    """

    async def once(navigation: Navigation, deadline: Deadline, attempts: list[Attempt]) -> ClientConnection:
        return await _open_once(navigation, deadline, attempts, through)

    return await navigate(uri, options, cookies, once)


async def navigate(
    uri: WebSocketURI,
    options: ConnectOptions,
    cookies: CookieJar,
    once: Callable[[Navigation, Deadline, list[Attempt]], Awaitable[T]],
) -> T:
    """What ``once`` returns: it is called for ``uri``, and again for where the server redirects, within the time.

    Raises ``ConnectError``, with all attempts.
    """
    navigation = Navigation(uri, options, cookies)
    attempts: list[Attempt] = []
    try:
        async with Deadline(options.open_timeout) as deadline:
            while True:
                try:
                    return await once(navigation, deadline, attempts)
                except InvalidStatus as exc:
                    if not navigation.follow(exc.response):
                        raise
    except ConnectError as exc:
        exc.attempts = tuple(attempts)
        raise
    except TimeoutError as exc:
        if options.open_timeout is None:
            raise
        failure = OpenTimeout(options.open_timeout)
        failure.attempts = tuple(attempts)
        raise failure from exc


async def _open_once(
    navigation: Navigation, deadline: Deadline, attempts: list[Attempt], through: Link
) -> ClientConnection:
    loop = asyncio.get_running_loop()
    options = navigation.options
    connection = ClientConnection(loop, options.connection, options.logger)
    handshake = ClientHandshake(navigation)
    if options.events:
        connection.watcher = Watcher(options.events, connection, loop, options.logger)
        connection.watcher.connecting(handshake.request)
    opening = Opening(connection, handshake, contexts_of(loop), options.pins)
    settled: Settled | None = None
    try:
        settled = await through(opening, navigation, deadline, attempts)
        begun = time.monotonic()
        try:
            await opening.done
        except BaseException as exc:
            stage = "tls" if isinstance(exc, TLSError) else "handshake"
            attempts.append(_attempt(navigation.uri, _address(opening, navigation), stage, begun, exc))
            raise
    except BaseException as exc:
        if connection.watcher is not None:
            connection.watcher.tell("on_failed", exc)
        if not opening.done.cancel() and not opening.done.cancelled():
            opening.done.exception()  # something else came first, and nobody will ask for this any more
        if opening.transport is not None:
            opening.transport.abort()
        raise
    finally:
        if settled is not None:
            settled()
    return connection


async def link(opening: Opening, navigation: Navigation, deadline: Deadline, attempts: list[Attempt]) -> Settled:
    """Give ``opening`` a transport over the network."""
    uri, options = navigation.uri, navigation.options
    begun = time.monotonic()
    dialled = await dial(uri, options, deadline, attempts)
    watcher = opening.connection.watcher
    if watcher is not None:
        watcher.dialled(dialled.address, time.monotonic() - begun)
    begun = time.monotonic()
    try:
        ssl = (options.ssl or await context_for_loop()) if uri.secure else None
        hostname = (options.server_hostname or uri.host) if uri.secure else None
        async with asyncio.timeout(options.tls_timeout if uri.secure else None):
            await connect_transport(opening.connection.loop, opening, dialled.sock, ssl, hostname)
    except BaseException as exc:
        dialled.settled()
        if opening.transport is None:
            dialled.sock.close()
        failure = tls_error(exc, uri.host) if isinstance(exc, OSError) else None
        attempts.append(_attempt(uri, dialled.address, "tls", begun, failure or exc))
        if failure is None:
            raise
        raise failure from exc
    return dialled.settled


def _attempt(uri: WebSocketURI, address: str, stage: str, begun: float, error: BaseException) -> Attempt:
    return Attempt(str(uri), address, stage, time.monotonic() - begun, error)


def _address(opening: Opening, navigation: Navigation) -> str:
    peer: Any = None if opening.transport is None else opening.transport.get_extra_info("peername")
    return str(peer or navigation.uri.host) if isinstance(peer, str | None) else address_text(peer[0], peer[1])
