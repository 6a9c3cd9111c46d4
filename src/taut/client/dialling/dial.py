"""Dialling: from a URI and options to a connected socket.

The address is given by hand (a socket, a path, a host and a port) or by the URI; a name is resolved, and where there
are several addresses they are raced as RFC 8305 ("happy eyeballs") has it: families take turns, the next attempt begins
when one has failed or ``happy_eyeballs_delay`` after the last, the first to connect wins, and the others are cancelled.
With proxies it is the nearest of them that is reached like this.

Whatever happens, at most one socket comes out of here, and with it the turn to be CONNECTING (see ``turns``): each
attempt closes its own socket and gives its turn back unless it wins.  Every address that failed is recorded.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import time
from collections import deque
from dataclasses import dataclass, replace

from ...errors import ConnectRefused, DialError, InvalidProxy, MissingExtra, ProxyError
from ...protocol.uri import WebSocketURI
from ...types import Attempt
from ..options import ConnectOptions
from .addresses import Address, address_text, addresses_of, interleaved, is_literal, literal_addresses
from .proxies import ProxyURL, need_socks, proxies_from_environment
from .sockets import connect_socket
from .tunnels import open_tunnel
from .turns import Deadline, Turn, turns_of

__all__ = ["Dialled", "dial"]


@dataclass(slots=True)
class Dialled:
    """A connected, non-blocking socket, and the turn that it was connected in.

    ``address``: of the server as far as it is known: "127.0.0.1:80", "[::1]:443", a path, "host:port" behind a proxy.
    """

    sock: socket.socket
    address: str
    turn: Turn | None = None

    def settled(self) -> None:
        """Say that the connection is not CONNECTING any more: it is open, or failed. Again is as good as once."""
        if self.turn is not None:
            self.turn.give_back()

    def discard(self) -> None:
        """Close it: it is not wanted after all."""
        self.sock.close()
        self.settled()


async def dial(uri: WebSocketURI, options: ConnectOptions, deadline: Deadline, attempts: list[Attempt]) -> Dialled:
    """Reach the server of ``uri``, over proxies if there are any, and record in ``attempts`` what failed.

    A given ``options.sock`` is only made non-blocking. Raises ``DialError`` with all addresses and causes,
    ``ConnectRefused`` if nobody listens at any; what ``open_tunnel`` raises; ``ProxyError`` for a proxy of the
    environment that cannot be used. When it is cancelled nothing stays open.
    """
    host = uri.host if options.host is None else options.host
    port = uri.port if options.port is None else options.port
    if options.sock is not None:
        try:
            options.sock.setblocking(False)
        except OSError as exc:
            raise _with_cause(DialError(f"sock: {_cause(exc)}", errno=exc.errno), exc) from exc
        return Dialled(options.sock, address_text(host, port))
    call = _Call(uri, options, deadline, attempts)
    if options.path is not None:
        search = _Search(call, "connect", in_turn=False)
        return await search.connect(options.path, [Address(socket.AF_UNIX, options.path, options.path)])
    chain = options.proxy
    if chain is None:  # whether the environment has a proxy for it depends on where it goes to
        chain = _proxies_for(replace(uri, host=host, port=port), call)
    if chain:
        return await _dial_through(chain, host, port, call)
    search = _Search(call, "connect", in_turn=True)
    return await search.connect(address_text(host, port), await search.resolve(host, port))


@dataclass(frozen=True, slots=True)
class _Call:
    """What ``dial`` was asked for."""

    uri: WebSocketURI
    options: ConnectOptions
    deadline: Deadline
    attempts: list[Attempt]

    def record(self, address: str, stage: str, begun: float, error: Exception) -> None:
        self.attempts.append(Attempt(str(self.uri), address, stage, time.monotonic() - begun, error))


def _proxies_for(uri: WebSocketURI, call: _Call) -> tuple[ProxyURL, ...]:
    """What the environment says; raises ``ProxyError``, since it is no argument of anybody's that is wrong then."""
    begun = time.monotonic()
    shown = "of the environment"
    try:
        chain = proxies_from_environment(uri)
        shown = str(chain[0]) if chain else shown
        need_socks(chain)
    except (InvalidProxy, MissingExtra) as exc:
        error = ProxyError(shown, str(exc))
        if isinstance(exc, InvalidProxy):
            error = ProxyError(exc.proxy, f"it cannot be used: {exc.problem}")
        call.record(address_text(uri.host, uri.port), "proxy", begun, error)
        raise error from exc
    return chain


async def _dial_through(chain: tuple[ProxyURL, ...], host: str, port: int, call: _Call) -> Dialled:
    """Reach host and port through proxies. The server's address stays unknown, so the turn is one for its name."""
    reached = False

    async def reach(host: str, port: int) -> socket.socket:
        nonlocal reached
        search = _Search(call, "proxy", in_turn=False)
        dialled = await search.connect(f"proxy {chain[0]}", await search.resolve(host, port))
        reached = True
        return dialled.sock

    address = address_text(host, port)
    turns = turns_of(asyncio.get_running_loop())
    turn = await turns.take(address.lower(), call.options.connecting_limit, call.deadline)
    begun = time.monotonic()
    try:
        return Dialled(await open_tunnel(chain, host, port, reach, call.options), address, turn)
    except BaseException as exc:
        turn.give_back()
        if reached and isinstance(exc, Exception):  # else it is recorded already
            call.record(address, "proxy", begun, exc)
        raise


class _Search:
    """The search for one address that answers, among those of one host.

    ``stage``: what its failures are recorded as. ``in_turn``: whether each attempt waits for a turn.
    """

    def __init__(self, call: _Call, stage: str, *, in_turn: bool) -> None:
        self._loop = asyncio.get_running_loop()
        self._options = call.options
        self._call = call
        self._stage = stage
        self._turns = turns_of(self._loop) if in_turn else None
        self._failures: list[tuple[str, Exception]] = []

    # -- names -------------------------------------------------------------------------------------------------

    async def resolve(self, host: str, port: int) -> list[Address]:
        """The addresses of ``host`` in the order in which they are to be tried; at least one."""
        begun = time.monotonic()
        try:
            return self._usable(host, await self._lookup(host, port))
        except (OSError, ValueError) as exc:  # ValueError: the name cannot be encoded with IDNA
            error = exc if isinstance(exc, DialError) else DialError(f"{host} cannot be resolved: {_cause(exc)}")
            self._call.record(host, "dns", begun, error)
            raise error from (exc.__cause__ if error is exc else exc)

    async def _lookup(self, host: str, port: int) -> list[Address]:
        if is_literal(host):
            return literal_addresses(host, port, self._options.family)
        timeout = self._options.dns_timeout
        clock = asyncio.timeout(timeout)
        try:
            async with clock:
                found = await self._loop.getaddrinfo(
                    host, port, family=self._options.family, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP
                )
        except TimeoutError:
            if not clock.expired():
                raise
            raise DialError(f"{host} was not resolved within {timeout:g} s (dns_timeout)") from None
        return addresses_of(found)

    def _usable(self, host: str, addresses: list[Address]) -> list[Address]:
        if not addresses:
            raise DialError(f"{host} has no address")
        if self._options.local_addr is None:
            return interleaved(addresses)
        local = self._local(*self._options.local_addr)
        addresses = [address for address in addresses if address.family == local.family]
        if not addresses:
            raise DialError(f"no address of {host} can be reached from {local.text} (local_addr): not the same family")
        return addresses

    def _local(self, host: str, port: int) -> Address:
        try:
            return literal_addresses(host, port)[0]
        except OSError as exc:  # a zone that does not exist
            raise DialError(f"local_addr: {host}: {_cause(exc)}") from exc

    # -- the race ----------------------------------------------------------------------------------------------

    async def connect(self, name: str, addresses: list[Address]) -> Dialled:
        """Connect to the first of ``addresses`` that answers; ``name`` is what they are addresses of."""
        if len(addresses) == 1 or self._options.happy_eyeballs_delay is None:
            dialled = await self._one_by_one(addresses)
        else:
            dialled = await self._race(addresses, self._options.happy_eyeballs_delay)
        if dialled is None:
            raise _unreachable(name, self._failures, ConnectRefused if self._stage == "connect" else DialError)
        return dialled

    async def _one_by_one(self, addresses: list[Address]) -> Dialled | None:
        for address in addresses:
            dialled = await self._attempt(address)
            if dialled is not None:
                return dialled
        return None

    async def _race(self, addresses: list[Address], delay: float) -> Dialled | None:
        connected: list[Dialled] = []

        async def run(address: Address) -> None:
            dialled = await self._attempt(address)
            if dialled is not None:
                connected.append(dialled)

        waiting = deque(addresses)
        running: set[asyncio.Task[None]] = set()
        try:
            async with asyncio.TaskGroup() as group:
                while (waiting or running) and not connected:
                    if waiting:
                        running.add(group.create_task(run(waiting.popleft())))
                    pause = delay if waiting else None
                    _, running = await asyncio.wait(running, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
                for task in running:
                    task.cancel()
        except BaseException:
            for dialled in connected:
                dialled.discard()
            raise
        for dialled in connected[1:]:
            dialled.discard()
        return connected[0] if connected else None

    async def _attempt(self, address: Address) -> Dialled | None:
        """Connect to one address, when it is its turn; None, and a record, if that fails."""
        turn: Turn | None = None
        with self._call.deadline.attempting():
            if self._turns is not None:
                turn = await self._turns.take(address.sockaddr, self._options.connecting_limit, self._call.deadline)
            begun = time.monotonic()
            try:
                return Dialled(await self._open(address), address.text, turn)
            except BaseException as exc:
                if turn is not None:
                    turn.give_back()
                if not isinstance(exc, OSError | ValueError):  # ValueError: a path that cannot be one
                    raise
                self._failures.append((address.text, exc))
                self._call.record(address.text, self._stage, begun, exc)
                return None

    async def _open(self, address: Address) -> socket.socket:
        sock = socket.socket(address.family, socket.SOCK_STREAM)
        timeout = self._options.connect_timeout
        clock = asyncio.timeout(timeout)
        try:
            self._prepare(sock, address)
            async with clock:
                await connect_socket(self._loop, sock, address.sockaddr)
        except BaseException as exc:
            sock.close()
            if isinstance(exc, TimeoutError) and clock.expired():
                raise DialError(f"no answer within {timeout:g} s (connect_timeout)") from None
            raise
        return sock

    def _prepare(self, sock: socket.socket, address: Address) -> None:
        sock.setblocking(False)
        if address.is_ip:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for option in self._options.socket_options:
            try:
                sock.setsockopt(*option)
            except OSError as exc:
                raise _named(f"socket_options: {option!r}", exc) from exc
            except (OverflowError, TypeError) as exc:
                raise OSError(errno.EINVAL, f"socket_options: {option!r}: a number is out of range") from exc
        if self._options.local_addr is not None and address.is_ip:
            local = self._local(*self._options.local_addr)
            try:
                sock.bind(local.sockaddr)
            except OSError as exc:
                raise _named(f"local_addr: {local.text}", exc) from exc


# -- failures ----------------------------------------------------------------------------------------------------------


def _unreachable(name: str, failures: list[tuple[str, Exception]], refused: type[DialError]) -> DialError:
    """One error for all that failed; ``refused`` if nobody listened anywhere."""
    causes = [_cause(exc) if address == name else f"{address}: {_cause(exc)}" for address, exc in failures]
    codes = {getattr(exc, "errno", None) for _, exc in failures}
    code = codes.pop() if len(codes) == 1 else None
    kind = refused if code == errno.ECONNREFUSED else DialError
    return _with_cause(kind(f"{name} cannot be reached: {'; '.join(causes)}", errno=code), failures[0][1])


def _with_cause(error: DialError, cause: Exception) -> DialError:
    if error.errno is not None:
        error.strerror = os.strerror(error.errno)
    error.__cause__ = cause
    return error


def _cause(exc: Exception) -> str:
    return getattr(exc, "strerror", None) or str(exc) or type(exc).__name__


def _named(what: str, exc: OSError) -> OSError:
    """The same error, but it says what it is about."""
    return OSError(exc.errno or errno.EINVAL, f"{what}: {_cause(exc)}")
