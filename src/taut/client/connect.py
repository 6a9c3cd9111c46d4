"""``connect``: from a URI to an open connection, to one after another, or to a session that survives them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Callable, Generator
from types import TracebackType
from typing import Any, Generic, Literal, TypeVar, Unpack, cast, overload

from ..errors import ConnectError, ReconnectFailed, closed_error
from ..types import State
from .connecting import Connecting
from .opening import ClientConnection
from .options import ConnectArguments
from .reconnection import Backoff, ReconnectPolicy, is_transient
from .session.session import Session

__all__ = ["connect", "unix_connect"]

Opened = TypeVar("Opened", ClientConnection, Session)


class connect(Connecting, Generic[Opened]):  # used like a function, as in the websockets package
    """Open a WebSocket connection: ``async with connect(uri) as ws``, or ``ws = await connect(uri)``.

    ``async for ws in connect(uri)`` opens one after another, for as long as the loop goes on. With ``reconnect``, a
    ``ReconnectPolicy`` or True for the default one, ``await`` and ``async with`` give a ``Session`` instead, which goes
    on over drops by itself; ``async for`` follows that policy, and ends with close codes that it calls final.
    ``process_exception``: asked by ``async for`` about a failure to connect; returns None to try again, or the
    exception to raise.

    ``uri``: ws:// or wss://, with credentials if wanted (sent as basic authentication). ``host``, ``port``: connect to
    this address instead of the URI's. ``sock``: a connected socket to use; ``path``: a Unix socket to connect to.
    ``local_addr``: IP address and port to connect from. ``family``: socket.AF_INET or AF_INET6 for only one of them.
    ``socket_options``: tuples of level, name and value, set before connecting. ``happy_eyeballs_delay`` (0.25 s): how
    long an address may take before the next one is tried beside it (RFC 8305), None to try one after another.
    ``connecting_limit`` (1): how many connections to one address may be opening at a time (RFC 6455, 4.1), None for
    any number; waiting for a turn does not count as time.

    ``proxy`` (True): the URL of a proxy, http, https, socks4, socks4a, socks5 or socks5h, or a sequence of them, the
    nearest first; True to ask the environment, None for none. ``proxy_ssl``: a context for https proxies;
    ``proxy_headers``: additional headers for HTTP proxies.

    ``ssl``: a client context for wss, by default one that verifies the server; ``server_hostname``: the name to verify.
    ``pins``: certificates or public keys one of which the server must have, "sha256:HEX" or "sha256/BASE64".

    ``origin``: the Origin header. ``subprotocols``: offered, in order of preference. ``compression``: "deflate", None,
    or ``DeflateOptions``. ``additional_headers``: for the request. ``user_agent_header``: None for none.
    ``basic_auth``: user name and password; ``bearer_token``: a token (RFC 6750). ``cookies``: an
    ``http.cookiejar.CookieJar`` to keep cookies in, by default one of its own. ``max_redirects`` (5): how many are
    followed, never from wss to ws; credentials are dropped at another origin.
    ``events``: an ``Events``, or several, which are told of every step and frame. ``logger``: where to log, by default
    "taut.client".

    ``open_timeout`` (10 s): for everything until the connection is open. ``dns_timeout``, ``connect_timeout`` (for one
    address), ``tls_timeout``: for these parts of it, None for no limits of their own. ``max_head`` (16384 bytes),
    ``max_headers`` (128): limits of the response. Everything in ``ConnectionOptions`` is accepted by name as well:
    ``max_size``, ``max_frame_size``, ``max_fragments``, ``read_limit``, ``write_limit``, ``outbox_limit``,
    ``overflow``, ``fragment_size``, ``ping_interval``, ``ping_timeout``, ``close_timeout``, ``strict_pongs``,
    ``rate_limits``, ``idle_timeout``, ``max_lifetime``.

    Raises ``TypeError`` or ``ValueError`` (``InvalidURI``, ``InvalidProxy`` among them) for a wrong argument, at once,
    before any I/O. Awaiting it raises a ``ConnectError``: ``DialError`` when no connection can be made, ``TLSError``,
    ``ProxyError``, ``InvalidHandshake`` when the server refuses, ``OpenTimeout``; its ``attempts`` tell what was tried.
    When it is cancelled nothing stays open.
    """

    @overload
    def __init__(
        self: connect[ClientConnection],
        uri: str,
        *,
        reconnect: Literal[False] | None = None,
        process_exception: Callable[[Exception], Exception | None] | None = None,
        **options: Unpack[ConnectArguments],
    ) -> None: ...

    @overload
    def __init__(
        self: connect[Session],
        uri: str,
        *,
        reconnect: ReconnectPolicy | Literal[True],
        process_exception: Callable[[Exception], Exception | None] | None = None,
        **options: Unpack[ConnectArguments],
    ) -> None: ...

    def __init__(
        self,
        uri: str,
        *,
        reconnect: ReconnectPolicy | bool | None = None,
        process_exception: Callable[[Exception], Exception | None] | None = None,
        **options: Unpack[ConnectArguments],
    ) -> None:
        super().__init__(uri, options)
        _check_reconnect(reconnect)
        if process_exception is not None and not callable(process_exception):
            raise TypeError(f"process_exception must be callable or None, not {process_exception!r}")
        self.reconnect = ReconnectPolicy() if reconnect is True else reconnect or None
        self._process_exception = process_exception
        self._opened: Opened | None = None

    def __await__(self) -> Generator[Any, None, Opened]:
        return self._start().__await__()

    async def _start(self) -> Opened:
        opened: Any = await (self.open() if self.reconnect is None else Session(self, policy=self.reconnect))
        return cast("Opened", opened)

    async def __aenter__(self) -> Opened:
        self._opened = await self._start()
        return self._opened

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        if self._opened is not None:
            await self._opened.close()

    # -- one after another -------------------------------------------------------------------------------------

    async def __aiter__(self) -> AsyncGenerator[ClientConnection, None]:
        policy = self.reconnect or ReconnectPolicy()
        backoff = Backoff(policy)
        while True:
            try:
                connection = await self.open()
            except ConnectError as exc:
                await self._back_off(exc, backoff, policy)
                continue
            backoff.opened()
            lost = False
            try:
                yield connection
                lost = connection.state is not State.OPEN
            finally:
                await connection.close()
            if lost and (info := connection.close_info) is not None:
                reason = closed_error(info)
                if self.reconnect is not None and not is_transient(reason, policy):
                    raise reason
                await self._pause(reason, backoff)
            else:
                backoff = Backoff(policy)  # the loop was done with it

    async def _back_off(self, exc: ConnectError, backoff: Backoff, policy: ReconnectPolicy) -> None:
        """Wait before the next attempt, or raise what ends them."""
        if self._process_exception is not None:
            raised = self._process_exception(exc)
            if raised is not None:
                raise raised
        elif not is_transient(exc, policy):
            raise exc
        try:
            await self._pause(exc, backoff)
        except ReconnectFailed as failure:
            failure.attempts = exc.attempts
            raise

    async def _pause(self, reason: Exception, backoff: Backoff) -> None:
        delay = backoff.after(reason)
        # Not the whole URI: a token in its query is nothing for a log.
        self.options.logger.info("connecting to %s again in %.3g s: %s", self.uri.host_header, delay, reason)
        await asyncio.sleep(delay)


def _check_reconnect(value: object) -> None:
    if value is not None and not isinstance(value, ReconnectPolicy | bool):
        raise TypeError(f"reconnect must be a ReconnectPolicy, True, or None, not {value!r}")


def unix_connect(
    path: str | os.PathLike[str], uri: str = "ws://localhost/", **options: Any
) -> connect[ClientConnection]:
    """Open a connection over a Unix socket.

    ``uri``: gives the Host and the target of the request. The rest is as for ``connect``.
    """
    return connect(uri, path=path, **options)
