"""Through a chain of proxies, to a plain socket that ends at the server.

Each hop takes the socket to a proxy and makes it one to what lies behind: with CONNECT (RFC 9110, 9.3.6), inside TLS
for an https:// proxy, or with SOCKS, which python-socks speaks.  Whether that is the next proxy or the server makes no
difference to it.

What has been opened is closed when any hop fails.
"""

from __future__ import annotations

import asyncio
import socket
import ssl as ssl_module
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, cast

from ...errors import InvalidHandshake, ProxyError, TLSError
from ...protocol.headers import basic_authorization
from ...protocol.http1 import ResponseReader, encode_connect
from ...types import Headers, Response
from ..options import ConnectOptions
from .proxies import ProxyURL, need_socks
from .pump import Pump
from .tls import context_for_loop, tls_error

if TYPE_CHECKING:
    from python_socks.async_.asyncio import Proxy

__all__ = ["open_tunnel"]

Reach = Callable[[str, int], Awaitable[socket.socket]]

_CHUNK = 65536
_UNLIMITED = 1e9
"""python-socks wants a time limit; ours are set around it (seconds)."""


async def open_tunnel(
    chain: tuple[ProxyURL, ...], host: str, port: int, reach: Reach, options: ConnectOptions
) -> socket.socket:
    """A socket, non-blocking, that is connected to ``host`` and ``port`` through every proxy of ``chain`` in turn.

    ``reach(host, port)``: connects to the first proxy; what it raises is left as it is.  Behind an https:// proxy the
    socket is one end of a socket pair (see ``pump``).

    Raises ``ProxyError`` for the proxy that failed or refused; ``TLSError``, ``CertificateError`` among them, when the
    TLS connection to a proxy failed; ``MissingExtra`` before any I/O.  When it is cancelled nothing stays open.
    """
    need_socks(chain)
    targets = [(proxy.host, proxy.port) for proxy in chain[1:]] + [(host, port)]
    sock = await reach(chain[0].host, chain[0].port)
    pumps: list[tuple[ProxyURL, Pump]] = []
    try:
        for proxy, (name, number) in zip(chain, targets, strict=True):
            if proxy.scheme == "https":
                pump, sock = await _secure(proxy, sock, options)
                pumps.append((proxy, pump))
            ask = _ask_socks if proxy.socks else _ask
            # The zone of an IPv6 address means something on this host only.
            await ask(proxy, sock, name.partition("%")[0], number, options)
    except BaseException as exc:
        failure = _tls_failure(pumps)
        sock.close()
        for _, pump in reversed(pumps):
            await pump.stop()
        if failure is not None and isinstance(exc, ProxyError) and exc.response is None:
            raise failure from exc
        raise
    return sock


def _tls_failure(pumps: list[tuple[ProxyURL, Pump]]) -> TLSError | None:
    """What became of TLS to a proxy after the handshake: with TLS 1.3 it refuses our certificate only then."""
    for proxy, pump in pumps:
        if isinstance(pump.problem, ssl_module.SSLError):
            return tls_error(pump.problem, f"proxy {proxy}")
    return None


# -- HTTP ------------------------------------------------------------------------------------------------------------


async def _secure(proxy: ProxyURL, sock: socket.socket, options: ConnectOptions) -> tuple[Pump, socket.socket]:
    """TLS to ``proxy`` over ``sock``, which belongs to it from now on, and the socket that stands for it."""
    context = options.proxy_ssl or await context_for_loop()
    pump = Pump(sock, context, proxy.host.partition("%")[0])
    try:
        async with asyncio.timeout(options.tls_timeout):
            return pump, await pump.start()
    except OSError as exc:
        raise tls_error(exc, f"proxy {proxy}") from exc


async def _ask(proxy: ProxyURL, sock: socket.socket, host: str, port: int, options: ConnectOptions) -> None:
    """Have ``proxy``, at the other end of ``sock``, connect it to ``host`` and ``port``."""
    try:
        response, early = await _exchange(sock, _request(proxy, host, port, options), options)
    except InvalidHandshake as exc:
        raise ProxyError(str(proxy), exc.problem, response=exc.response) from exc
    except OSError as exc:
        raise ProxyError(str(proxy), f"the connection to it was lost: {exc}") from exc
    if not 200 <= response.status_code < 300:
        status = f"{response.status_code} {response.reason_phrase}".rstrip()
        raise ProxyError(
            str(proxy), f"it answered CONNECT {_authority(host, port)} with HTTP {status}", response=response
        )
    if early:
        # Neither TLS nor WebSocket lets a server speak first: these bytes are not from the server.
        raise ProxyError(str(proxy), f"it sent {early} bytes behind its answer to CONNECT", response=response)


def _request(proxy: ProxyURL, host: str, port: int, options: ConnectOptions) -> bytes:
    """The CONNECT request; what ``proxy_headers`` names is as given there."""
    authority = _authority(host, port)
    additional = Headers(options.proxy_headers)
    headers = Headers()
    if "Host" not in additional:
        headers.add("Host", authority)  # RFC 9110, 7.2: the same as the target
    if options.user_agent_header is not None and "User-Agent" not in additional:
        headers.add("User-Agent", options.user_agent_header)
    if proxy.username is not None and "Proxy-Authorization" not in additional:
        headers.add("Proxy-Authorization", basic_authorization(proxy.username, proxy.password or ""))
    for name, value in additional.raw_items():
        headers.add(name, value)
    return encode_connect(authority, headers)


def _authority(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


async def _exchange(sock: socket.socket, request: bytes, options: ConnectOptions) -> tuple[Response, int]:
    """Send ``request``: the response, and how many bytes came behind it."""
    loop = asyncio.get_running_loop()
    reader = ResponseReader(max_head=options.max_head, max_headers=options.max_headers, tunnel=True)
    await loop.sock_sendall(sock, request)
    complete = False
    while not complete:
        data = await loop.sock_recv(sock, _CHUNK)
        if data:
            complete = reader.feed(data)
        else:
            reader.eof()
            complete = True
    return reader.response, len(reader.remaining)


# -- SOCKS -----------------------------------------------------------------------------------------------------------


async def _ask_socks(proxy: ProxyURL, sock: socket.socket, host: str, port: int, options: ConnectOptions) -> None:
    """As ``_ask``, in the version of SOCKS that ``proxy`` speaks."""
    from python_socks import ProxyError as SocksError  # noqa: PLC0415
    from python_socks import ProxyType  # noqa: PLC0415
    from python_socks.async_.asyncio import Proxy  # noqa: PLC0415

    if proxy.scheme in ("socks4", "socks5"):
        host = await _resolve(proxy, host, port, options)
    client = Proxy(
        ProxyType.SOCKS4 if proxy.scheme.startswith("socks4") else ProxyType.SOCKS5,
        proxy.host,
        proxy.port,
        proxy.username,
        proxy.password,
        rdns=True,  # the proxy's business from here on
        forward=cast("Proxy", _Reached(sock)),
    )
    try:
        await client.connect(host, port, timeout=_UNLIMITED)
    except SocksError as exc:
        raise ProxyError(str(proxy), f"it gave no way to {_authority(host, port)}: {exc}") from exc
    except OSError as exc:
        raise ProxyError(str(proxy), f"the connection to it was lost: {exc}") from exc
    except ValueError as exc:
        raise ProxyError(str(proxy), f"its answer makes no sense: {exc}") from exc


async def _resolve(proxy: ProxyURL, host: str, port: int, options: ConnectOptions) -> str:
    """An address of ``host``, for a proxy that takes no names: an IPv4 one if possible, which every proxy speaks."""
    family = socket.AF_INET if proxy.scheme == "socks4" else options.family
    try:
        async with asyncio.timeout(options.dns_timeout):
            found = await asyncio.get_running_loop().getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM)
    except OSError as exc:
        problem = f"it takes no names, and no address of {host} was found here"
        raise ProxyError(str(proxy), f"{problem}: {str(exc) or 'it took too long (dns_timeout)'}") from exc
    return str(min(found, key=lambda each: each[0] != socket.AF_INET)[4][0])


class _Reached:
    """A socket to the proxy that is there already, where python-socks expects the proxy before it in a chain."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    async def connect(self, dest_host: str, dest_port: int, timeout: float | None = None) -> socket.socket:
        return self._sock
