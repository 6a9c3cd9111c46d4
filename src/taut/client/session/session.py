"""``Session``: a client's connection that outlives its connections.

What lives is in ``supervision``: one task that connects, and connects again.  Here is what its user sees, who only puts
messages in and takes messages out, and says when it is over; to cancel one of these calls changes nothing about the
rest. The states, and what may follow each, are in ``lifecycle``; ``queue`` keeps what cannot be sent, ``arrivals`` what
is yet to be received, ``reconnection`` knows when to try again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator, Hashable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import MappingProxyType, TracebackType
from typing import Any, Literal, Self, Unpack, overload

from ...errors import ConnectionClosed, ConnectionClosedOK, ReconnectFailed, closed_error
from ...protocol.session import valid_close_code
from ...types import Attempt, BytesLike, Data, State
from ..endpoints import Endpoint, Endpoints, Factory
from ..opening import ClientConnection
from ..options import ConnectArguments
from ..outbox.outbox import Ack, Loss, OfflineQueue, OutboxClosed
from ..reconnection import ReconnectPolicy
from .arrivals import Finished
from .lifecycle import SessionState
from .supervision import Supervisor

__all__ = ["Session", "SessionState", "SessionStats"]


@dataclass(frozen=True, slots=True)
class SessionStats:
    """Counters of a session, over all of its connections.

    ``connections``: opened so far; ``attempts``: made to open one; ``drops``: connections lost. Of messages and bytes,
    as in ``Stats``. ``waiting``, ``in_flight``, ``queued_bytes``: what the queue holds now. ``acknowledged``,
    ``resent``: messages, with ``ack``. ``lost``: messages, by the kind of ``Loss``.
    """

    connections: int
    attempts: int
    drops: int
    messages_received: int
    messages_sent: int
    bytes_received: int
    bytes_sent: int
    waiting: int
    in_flight: int
    queued_bytes: int
    acknowledged: int
    resent: int
    lost: Mapping[str, int]


class Session:
    """A connection that is opened again whenever it is lost: ``async with Session(uri) as session``.

    ``uri_or_factory``: a URI, ``connect(...)``, or a function that gives one of these for every attempt, called with
    the number of the attempt (from 1, again from 1 after a good connection was lost); it may be a coroutine function,
    and is where a fresh token comes from. ``policy``: when to connect again. ``queue``: what is sent while there is no
    connection waits here; None: ``send`` raises ``ConnectionClosed`` instead. ``ack``: how messages are acknowledged,
    so that those that were in flight are sent again. All options of ``connect`` are accepted by name, except ``sock``.

    Hooks, functions or coroutine functions; one that raises is logged, and ends the session:

    - ``on_connect(session, connection)`` sets up a new connection before anything else is sent on it; it sends and
      receives with ``connection``.
    - ``on_disconnect(reason, attempt)``: a connection, or an attempt to open one, has ended in ``reason``, and
      ``attempt`` is the number of the next. It returns None to leave the decision to the policy, False to give up, True
      to go on whatever the policy says, a URI or ``connect(...)`` to go on there.
    - ``on_lost(loss)``: messages were lost, or may be.
    - ``on_state(old, new)``: the state has changed.

    Raises ``TypeError`` or ``ValueError`` for a wrong argument, at once, before any I/O. To enter it, or to await it,
    starts it, once, and waits for the first connection: raises ``ConnectError`` when that cannot be opened, unless
    ``policy.retry_first`` is set; cancelled, it ends the session. Leaving it closes it.
    """

    def __init__(
        self,
        uri_or_factory: Endpoint | Factory,
        *,
        policy: ReconnectPolicy = ReconnectPolicy(),  # noqa: B008 - it is frozen
        queue: OfflineQueue | None = OfflineQueue(),  # noqa: B008 - it is frozen
        ack: Ack | None = None,
        on_connect: Callable[[Session, ClientConnection], object] | None = None,
        on_disconnect: Callable[[Exception, int], object] | None = None,
        on_lost: Callable[[Loss], object] | None = None,
        on_state: Callable[[SessionState, SessionState], object] | None = None,
        **options: Unpack[ConnectArguments],
    ) -> None:
        _check_kind("policy", policy, ReconnectPolicy)
        if queue is not None:
            _check_kind("queue", queue, OfflineQueue, " or None")
        if ack is not None:
            _check_kind("ack", ack, Ack, " or None")
            if queue is None:
                raise ValueError("ack needs a queue: that is where messages wait to be acknowledged, not None")
        endpoints = Endpoints(uri_or_factory, options)
        if endpoints.settings.sock is not None:
            raise ValueError("sock cannot be given to a session: it opens more than one connection")
        hooks = {"on_connect": on_connect, "on_disconnect": on_disconnect, "on_lost": on_lost, "on_state": on_state}
        self._supervisor = Supervisor(self, endpoints, policy=policy, queue=queue, ack=ack, hooks=hooks)
        # Whether a message may go past the queue, when nothing waits there.
        self._direct = queue is not None and queue.path is None and ack is None
        self._acknowledged = ack is not None
        self._putting = 0

    # -- facts -------------------------------------------------------------------------------------------------

    @property
    def state(self) -> SessionState:
        """CONNECTING, OPEN, BACKING_OFF, CLOSING or CLOSED."""
        return self._supervisor.lifecycle.state

    @property
    def connection(self) -> ClientConnection | None:
        """The connection that there is now; ``on_connect`` may still be busy with it. Receive from the session."""
        return self._supervisor.connection

    @property
    def attempt(self) -> int:
        """The number of the attempt that is under way, or next, since there was a good connection; else 0."""
        trying = self.state in (SessionState.CONNECTING, SessionState.BACKING_OFF)
        return self._supervisor.backoff.failures + 1 if trying else 0

    @property
    def retry_at(self) -> float | None:
        """When the next attempt is due, by ``loop.time()``; None unless it is waited for."""
        return self._supervisor.retry_at

    @property
    def last_error(self) -> Exception | None:
        """What ended the last connection, or the last attempt to open one."""
        return self._supervisor.last_error

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        """The last attempts that failed, each at one address; at most 32."""
        return tuple(self._supervisor.attempts)

    @property
    def stats(self) -> SessionStats:
        """Counters over all connections."""
        supervisor = self._supervisor
        outbox, connection = supervisor.outbox, supervisor.connection
        counts = supervisor.ledger.totals(None if connection is None else connection.stats)
        return SessionStats(
            connections=counts["connections"],
            attempts=counts["attempts"],
            drops=counts["drops"],
            messages_received=counts["messages_received"],
            messages_sent=counts["messages_sent"],
            bytes_received=counts["bytes_received"],
            bytes_sent=counts["bytes_sent"],
            waiting=0 if outbox is None else outbox.waiting,
            in_flight=0 if outbox is None else outbox.in_flight,
            queued_bytes=0 if outbox is None else outbox.size,
            acknowledged=counts["acknowledged"],
            resent=counts["resent"],
            lost=MappingProxyType(dict(supervisor.ledger.losses)),
        )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.state.name} {self._supervisor.connection or ''}>"

    # -- from beginning to end ---------------------------------------------------------------------------------

    async def _start(self) -> Self:
        supervisor = self._supervisor
        if supervisor.task is not None or self.state is SessionState.CLOSED:
            raise RuntimeError("a session can be started once")
        task = supervisor.start()
        try:
            state = await supervisor.lifecycle.reach(frozenset({SessionState.OPEN}))
        except BaseException:
            supervisor.close(1000, "")
            await asyncio.wait({task})
            raise
        if state is not SessionState.OPEN:
            await asyncio.wait({task})
            raise supervisor.first_failure or self._ended()
        return self

    def __await__(self) -> Generator[Any, None, Self]:
        return self._start().__await__()

    async def __aenter__(self) -> Self:
        return await self._start()

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close the session and wait until it is closed.

        What is queued is still sent, and acknowledged, if there is a connection and it takes no longer than
        ``close_timeout``; what remains is reported as a ``Loss``, unless it is kept in a file. ``code``, ``reason``: as
        for ``Connection.close``. Does nothing when it is closed already; cancelling the wait does not undo it.
        """
        if not valid_close_code(code):
            raise ValueError(f"close code must be 1000-1003, 1007-1014 or 3000-4999, not {code}")
        supervisor = self._supervisor
        supervisor.close(code, reason)
        if supervisor.task is None:
            supervisor.lifecycle.enter(SessionState.CLOSED)
        elif not supervisor.waits_for_caller():
            await self.wait_closed()

    async def wait_closed(self) -> None:
        """Wait until the session is closed, by this side or because it gave up. Raises ``RuntimeError`` in a hook."""
        self._check_elsewhere("wait_closed", self._supervisor.waits_for_caller())
        if self._supervisor.task is not None:
            await asyncio.wait({self._supervisor.task})
        elif self.state is not SessionState.CLOSED:
            raise _not_started()

    async def wait_open(self) -> None:
        """Wait until there is a connection. Raises as ``wait_state`` does."""
        await self.wait_state(SessionState.OPEN)

    async def wait_state(self, *states: SessionState) -> SessionState:
        """Wait until the session is in one of these states, however short, and say in which.

        Raises ``ConnectionClosed`` or ``ReconnectFailed`` when it is closed instead; ``RuntimeError`` in a hook that
        the session waits for.
        """
        if not states:
            raise ValueError("wait_state() needs at least one state to wait for")
        for state in states:
            _check_kind("state", state, SessionState)
        if self.state not in states:
            self._check_elsewhere("wait_state")
        reached = await self._supervisor.lifecycle.reach(frozenset(states))
        if reached not in states:
            raise self._ended()
        return reached

    def _ended(self) -> Exception:
        """What tells of the end."""
        supervisor = self._supervisor
        if (failure := supervisor.failure) is not None:
            again = ReconnectFailed(failure.problem, failure.reason)
            again.attempts = tuple(supervisor.attempts)
            again.__cause__ = failure.reason
            return again
        return closed_error(supervisor.end) if supervisor.wish is None else ConnectionClosedOK(supervisor.end)

    def _check_elsewhere(self, operation: str, waited_for: bool | None = None) -> None:
        """In a hook, the session waits for whoever calls this: it would never get what it wants."""
        if self._supervisor.is_caller() if waited_for is None else waited_for:
            raise RuntimeError(
                f"{operation}() of a session cannot be awaited in one of its hooks, which it waits for itself"
                " (on_connect is given the connection: use that)"
            )

    def _check_usable(self) -> None:
        if self._supervisor.ending():
            raise self._ended()
        if self._supervisor.task is None:
            raise _not_started()

    # -- sending -----------------------------------------------------------------------------------------------

    async def send(self, message: str | BytesLike) -> None:
        """Send a message, or queue it until there is a connection; a str is sent as Text, anything else as Binary.

        Waits while the connection, or the queue with its policy "block", takes no more. Raises ``QueueFull`` as the
        policy says; ``ConnectionClosed`` or ``ReconnectFailed`` once the session is closed, without a queue also while
        there is no connection; ``TypeError`` for what is no whole message; ``RuntimeError`` in a hook that the session
        waits for, if it would have to wait for room. When it is cancelled, the message is either sent, or queued, or
        not, as a whole.
        """
        self._check_usable()
        _check_message(message)
        if not self._direct:
            await (self._send_unqueued(message) if self._supervisor.outbox is None else self._put(message))
            return
        while (connection := self._open_connection()) is not None and not self._queued():
            ready = not connection.write_paused
            if ready:
                connection.send_nowait(message)
            with suppress(ConnectionClosed):  # what was sent may be lost then, which is reported
                await connection.drain()
            if ready:
                return
            self._check_usable()
        await self._put(message)

    def _open_connection(self) -> ClientConnection | None:
        connection = self._supervisor.connection
        if connection is None or self.state is not SessionState.OPEN:
            return None
        # A peer that has sent its Close frame need not read any more.
        return connection if connection.state is State.OPEN and not connection.fragmenting else None

    def _queued(self) -> bool:
        """Whether others are before."""
        outbox = self._supervisor.outbox
        return self._putting > 0 or (outbox is not None and outbox.waiting > 0)

    async def _send_unqueued(self, message: str | BytesLike) -> None:
        connection = self._supervisor.connection
        if connection is None or self.state is not SessionState.OPEN or connection.state is not State.OPEN:
            raise closed_error(self._supervisor.end)
        await connection.send(message)

    async def _put(self, message: str | BytesLike) -> None:
        supervisor = self._supervisor
        self._putting += 1
        try:
            if not supervisor.outbox_opened.is_set():
                await supervisor.outbox_opened.wait()
                self._check_usable()
            if supervisor.outbox is not None:
                if supervisor.is_caller() and supervisor.outbox.would_wait(message):
                    self._check_elsewhere("send")
                await supervisor.outbox.put(message)
        except OutboxClosed:
            raise self._ended() from None
        finally:
            self._putting -= 1

    async def drain(self) -> None:
        """Wait until nothing is queued, everything is acknowledged that is to be, and the connection takes more.

        Raises ``ConnectionClosed`` or ``ReconnectFailed`` once the session is closed; ``RuntimeError`` in a hook that
        the session waits for.
        """
        self._check_usable()
        self._check_elsewhere("drain")
        if self._supervisor.outbox is not None:
            try:
                await self._supervisor.outbox.drain()
            except OutboxClosed:
                raise self._ended() from None
        if (connection := self._open_connection()) is not None:
            with suppress(ConnectionClosed):
                await connection.drain()

    def acknowledge(self, key: Hashable) -> int:
        """The application knows that the message with this key has arrived: it will not be sent again.

        Says how many messages that ended, 0 if the key is not known. Raises ``RuntimeError`` without ``ack``.
        """
        if not self._acknowledged:
            raise RuntimeError("acknowledge() is for a session with ack=Ack(...)")
        return self._supervisor.acknowledge(key)

    # -- receiving ---------------------------------------------------------------------------------------------

    @overload
    async def recv(self, decode: None = None) -> Data: ...
    @overload
    async def recv(self, decode: Literal[True]) -> str: ...
    @overload
    async def recv(self, decode: Literal[False]) -> bytes: ...
    @overload
    async def recv(self, decode: bool | None = None) -> Data: ...

    async def recv(self, decode: bool | None = None) -> Data:
        """Receive the next message, over all connections: str for Text, bytes for Binary.

        ``decode``: True for str, False for bytes, whatever the message is. All that arrived on one connection comes
        before anything of the next. Raises ``ConnectionClosed`` or ``ReconnectFailed`` once the session is closed and
        everything is received; ``ConcurrencyError`` if another task is receiving; ``RuntimeError`` in a hook that the
        session waits for. When it is cancelled no message is lost.
        """
        try:
            message = await self._receive()
        except Finished:
            raise self._ended() from None
        if decode is True and isinstance(message, bytes):
            return message.decode()
        return message.encode() if decode is False and isinstance(message, str) else message

    def _receive(self) -> Awaitable[Data]:
        if self._supervisor.task is None:
            self._check_usable()
        self._check_elsewhere("recv")
        return self._supervisor.inbound.receive()

    def __aiter__(self) -> Self:
        """Receive messages until this side closes the session; raises ``ReconnectFailed`` when it gives up."""
        return self

    async def __anext__(self) -> Data:
        try:
            return await self._receive()
        except Finished:
            if self._supervisor.wish is not None:
                raise StopAsyncIteration from None
            raise self._ended() from None


def _not_started() -> RuntimeError:
    return RuntimeError("the session is not started: use it with `async with session`, or `await session`")


def _check_message(message: object) -> None:
    if not isinstance(message, str | bytes | bytearray | memoryview):
        raise TypeError(f"a message must be str or bytes-like, not {type(message).__name__}")


def _check_kind(name: str, value: object, kind: type, alternative: str = "") -> None:
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be a {kind.__name__}{alternative}, not {value!r}")
