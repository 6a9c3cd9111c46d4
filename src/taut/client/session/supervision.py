"""The life of a session: one task that opens a connection, waits until it is lost, and decides what comes next.

``_live`` is a loop, never a recursion: each round makes one attempt, and waits before the next.  Everything that
belongs to one connection lives in its round.  Whoever uses the session only leaves a wish: a message in the outbox, or
that it be closed.  To close it, or when something failed for good, the task is interrupted, once, wherever it waits in
``_live``; however that ends, ``_finish`` closes the last connection and reports what remains.

What must never happen: an attempt without a wait since the last one that failed; a message sent twice without ``ack``,
or lost without a ``Loss``; anything of a connection that outlives it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine, Hashable, Mapping
from typing import Any

from ...connection import Stats
from ...errors import ConnectError, ConnectionClosed, ReconnectFailed, closed_error
from ...types import Attempt, CloseInfo, Initiator, State
from ..endpoints import Endpoints
from ..opening import ClientConnection
from ..outbox.outbox import Ack, OfflineQueue, Outbox, OutboxClosed
from ..reconnection import Backoff, ReconnectPolicy, is_transient, retry_after
from .arrivals import AcknowledgedArrivals, Arrivals
from .hooks import Hook, HookFailed, Hooks
from .ledger import Ledger
from .lifecycle import Lifecycle, SessionState

__all__ = ["Supervisor"]

_ATTEMPTS_KEPT = 32
_BURST = 100
"""How many queued messages are sent before other tasks have their turn."""
_FRAGMENTING = 0.01
"""How often to look whether a fragmented message, which somebody sends on the connection itself, is over (seconds)."""
_INTERNAL_ERROR = 1011


class Supervisor:
    """Everything of a session that moves; ``session`` is what its hooks are given."""

    def __init__(
        self,
        session: object,
        endpoints: Endpoints,
        *,
        policy: ReconnectPolicy,
        queue: OfflineQueue | None,
        ack: Ack | None,
        hooks: Mapping[str, Hook | None],
    ) -> None:
        settings = endpoints.settings
        self._session = session
        self._endpoints = endpoints
        self._policy = policy
        self._logger = settings.logger
        self._patience = settings.connection.close_timeout
        self._hooks = Hooks(self._hook_failed, hooks)
        self.lifecycle = Lifecycle(lambda old, new: self._hooks.tell("on_state", old, new))
        self.backoff = Backoff(policy)
        self.ledger = Ledger(self._logger, lambda loss: self._hooks.tell("on_lost", loss))
        self.outbox = None if queue is None else Outbox(queue, ack, self.ledger.lost)
        self.outbox_opened = asyncio.Event()
        self._sender: asyncio.Task[None] | None = None
        limit = settings.connection.read_limit
        self._arrivals = Arrivals(limit, self.ledger.unread)
        self._sorted = None if ack is None else AcknowledgedArrivals(self._arrivals, ack, self.acknowledge, limit)
        self._sorter: asyncio.Task[None] | None = None
        self.inbound = self._arrivals if self._sorted is None else self._sorted
        # What is going on.
        self.task: asyncio.Task[None] | None = None
        self._interruptible = False
        self.connection: ClientConnection | None = None
        self._before: Stats | None = None  # its counters when on_connect was done
        self.retry_at: float | None = None
        # How it ends.
        self.wish: CloseInfo | None = None
        self.failure: ReconnectFailed | None = None
        self.first_failure: Exception | None = None
        self.end = CloseInfo(Initiator.NETWORK, 1006)
        # What happened.
        self.last_error: Exception | None = None
        self.attempts: deque[Attempt] = deque(maxlen=_ATTEMPTS_KEPT)

    # -- from elsewhere ----------------------------------------------------------------------------------------

    def start(self) -> asyncio.Task[None]:
        """Begin to live, in the task that is returned."""
        self.backoff = Backoff(self._policy)
        self.task = task = asyncio.get_running_loop().create_task(self._run())
        task.add_done_callback(self._ended)
        return task

    def ending(self) -> bool:
        """Whether it is about to end, or has."""
        return self.wish is not None or self.failure is not None or self.lifecycle.state is SessionState.CLOSED

    def close(self, code: int, reason: str) -> None:
        """Close the session; the first wish counts. What is in the queue is sent before, if there is a connection."""
        if not self.ending():
            self.wish = self.end = CloseInfo(Initiator.LOCAL, code, reason)
            self.lifecycle.enter(SessionState.CLOSING)
            self._interrupt()

    def waits_for_caller(self) -> bool:
        """Whether the session waits for the task that calls this, which is in one of its hooks."""
        return self.is_caller() or self._hooks.running_in(asyncio.current_task())

    def is_caller(self) -> bool:
        """Whether it is the session's own task that calls this, in a hook that must be over before anything goes on."""
        return self.task is not None and asyncio.current_task() is self.task

    def acknowledge(self, key: Hashable) -> int:
        """``key`` was acknowledged; says how many messages that were."""
        count = 0 if self.outbox is None else self.outbox.acknowledge(key)
        self.ledger.counts["acknowledged"] += count
        return count

    def _interrupt(self) -> None:
        if self._interruptible and self.task is not None:
            self._interruptible = False
            if asyncio.current_task() is not self.task:  # else it comes to notice by itself
                self.task.cancel()

    def _fail(self, problem: str, exc: Exception) -> None:
        """It cannot go on."""
        if not self.ending():
            self.failure = ReconnectFailed(problem, exc)
            self._interrupt()

    def _hook_failed(self, failure: HookFailed) -> None:
        self._logger.error("session: %s", failure, exc_info=failure.error)
        self._fail(str(failure), failure.error)

    # -- the life ----------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            self._interruptible = True
            await asyncio.sleep(0)  # a loop may run the first step of a task in the middle of creating it
            await self._live()
        except asyncio.CancelledError:
            # Interrupted; or cancelled from outside, as all tasks are when their event loop ends.
            while self.task is not None and self.task.uncancel():
                pass
        except ReconnectFailed as exc:
            self.failure = self.failure or exc
            if self.first_failure is None:
                self._logger.warning("session: gave up: %s", exc)
        except HookFailed as exc:
            self._hook_failed(exc)
        except Exception as exc:
            self._logger.error("session: failed", exc_info=exc)
            self._fail("the session failed", exc)
        finally:
            self._interruptible = False
            await self._finish()

    async def _live(self) -> None:
        await self._begin()
        first = not self._policy.retry_first
        while not self.ending():
            self.lifecycle.enter(SessionState.CONNECTING)
            if self.ending():
                return
            self.ledger.counts["attempts"] += 1
            try:
                connecting = await self._endpoints.next(self.backoff.failures + 1)
                connection = await connecting.open()
            except Exception as exc:
                self.backoff.failed()
                self._attempt_failed(exc)
                reason: Exception = exc
                if first and not self.ending():
                    self.first_failure = exc
                    raise ReconnectFailed("the first connection could not be opened (retry_first is off)", exc) from exc
            else:
                reason = await self._use(connection)
                self.backoff.lost()
            first = False
            if not self.ending():
                await self._back_off(reason)

    async def _begin(self) -> None:
        if self._sorted is not None:
            self._sorter = self._child(self._sorted.run(), "reading what arrives")
        if self.outbox is not None:
            try:
                await self.outbox.open()
            except Exception as exc:
                self.first_failure = exc
                raise ReconnectFailed("the queue cannot be opened", exc) from exc
        self.outbox_opened.set()

    def _attempt_failed(self, exc: Exception) -> None:
        self.last_error = exc
        if isinstance(exc, ConnectError):
            self.attempts.extend(exc.attempts)
        self._logger.info("session: attempt %d failed: %s", self.backoff.failures, exc)

    async def _use(self, connection: ClientConnection) -> ConnectionClosed:
        """Everything while there is this connection; what ended it."""
        self.connection, self._before = connection, None
        self.backoff.opened()
        self.ledger.counts["connections"] += 1
        if self.ledger.counts["connections"] > 1:
            self._logger.info("session: connected again, at attempt %d", self.backoff.failures + 1)
        ready = not self.ending() and await self._set_up(connection)
        self._before = connection.stats
        self._arrivals.begin(connection)
        if ready and not self.ending():
            if self.outbox is not None:
                self._sender = self._child(self._send_waiting(self.outbox, connection), "sending what is queued")
            self.lifecycle.enter(SessionState.OPEN)
        if not self.ending():
            await connection.wait_closed()
            return await self._after(connection)
        return closed_error(connection.close_info or self.end)

    async def _set_up(self, connection: ClientConnection) -> bool:
        """Whether it is ready to be used; not when it is lost before."""
        try:
            await self._hooks.ask("on_connect", self._session, connection)
        except HookFailed as exc:
            # A connection that is lost while it is set up is a connection that is lost.
            if not isinstance(exc.error, ConnectionClosed) or connection.state is State.OPEN:
                raise
            return False
        return True

    async def _after(self, connection: ClientConnection) -> ConnectionClosed:
        """The connection is gone: what it leaves behind."""
        await self._stop_sender()
        self.connection = None
        info = connection.close_info or self.end
        if self.wish is None or info.initiator is Initiator.LOCAL:
            self.end = info
        error = closed_error(info)
        self.last_error = error
        stats = connection.stats
        self.ledger.connection_over(stats)
        if self._sorted is None and self._before is not None:  # else what is to be acknowledged is sent again
            self.ledger.unconfirmed(self._before, stats)
        if not self.ending():
            self.ledger.counts["drops"] += 1
            self._logger.info("session: %s", info)
        if self.outbox is not None:
            self.ledger.counts["resent"] += self.outbox.rewind()
        await self._arrivals.ended(connection)
        return error

    async def _back_off(self, reason: Exception) -> None:
        """Decide whether there is another attempt, and wait until it is due. Raises ``ReconnectFailed``."""
        self.lifecycle.enter(SessionState.BACKING_OFF)
        if self.ending():
            return
        verdict = await self._hooks.ask("on_disconnect", reason, self.backoff.failures + 1)
        if self.ending():
            return
        if verdict is False:
            raise ReconnectFailed("on_disconnect gave up", reason) from reason
        if verdict is None and not self._is_transient(reason):
            raise ReconnectFailed("trying again is of no use", reason) from reason
        delay = self.backoff.delay(retry_after(reason))
        if verdict is None and (limit := self.backoff.exhausted(delay)) is not None:
            raise ReconnectFailed(limit, reason) from reason
        if verdict is not None and verdict is not True:
            try:
                self._endpoints.move(verdict)
            except (TypeError, ValueError) as exc:
                raise HookFailed("on_disconnect", exc) from exc
        self.retry_at = asyncio.get_running_loop().time() + delay
        try:
            await asyncio.sleep(delay)
        finally:
            self.retry_at = None

    def _is_transient(self, reason: Exception) -> bool:
        try:
            return is_transient(reason, self._policy)
        except Exception as exc:
            raise HookFailed("classify", exc) from exc

    # -- sending -----------------------------------------------------------------------------------------------

    async def _send_waiting(self, outbox: Outbox, connection: ClientConnection) -> None:
        """Send what is queued, as long as there is this connection."""
        sent = 0
        try:
            while True:
                entry = await outbox.next()
                if connection.state is not State.OPEN:
                    return  # the peer has begun to close, and need not read any more
                if connection.write_paused:
                    await connection.drain()
                elif connection.fragmenting:
                    await asyncio.sleep(_FRAGMENTING)
                else:
                    connection.send_nowait(entry.message)
                    outbox.sent(entry)
                    sent += 1
                    if sent % _BURST == 0:
                        await asyncio.sleep(0)
        except (ConnectionClosed, OutboxClosed):
            pass

    async def _stop_sender(self) -> None:
        if (sender := self._sender) is not None:
            sender.cancel()
            await asyncio.wait({sender})
            self._sender = None

    def _child(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """A task without which the session cannot go on."""

        def done(task: asyncio.Task[None]) -> None:
            if not task.cancelled() and isinstance(exc := task.exception(), Exception):
                self._logger.error("session: %s failed", name, exc_info=exc)
                self._fail(f"{name} failed", exc)

        task = asyncio.get_running_loop().create_task(work)
        task.add_done_callback(done)
        return task

    # -- the end -----------------------------------------------------------------------------------------------

    async def _finish(self) -> None:
        """Close what there is, and report what remains."""
        connection = self.connection
        try:
            if connection is not None:
                self.lifecycle.enter(SessionState.CLOSING)
                await self._close_connection(connection)
                await self._after(connection)
        except asyncio.CancelledError:
            if connection is not None:
                connection.abort()
        except Exception as exc:
            self._logger.error("session: closing failed", exc_info=exc)
        finally:
            self.inbound.finish()
            try:
                await self._close_outbox()
                await self._stop_sender()
                if self._sorter is not None:
                    await asyncio.wait({self._sorter})
            finally:
                self._ended()
                await self._hooks.finish(self._patience)

    def _ended(self, _: object = None) -> None:
        """It is over, or never began: a task can be cancelled before its first step. Whoever waits is told."""
        self.outbox_opened.set()
        self._arrivals.finish()
        if self._sorted is not None:
            self._sorted.end()
        if self.lifecycle.state is SessionState.OPEN:
            self.lifecycle.enter(SessionState.CLOSING)  # its connection is gone, but nobody has said so
        self.lifecycle.enter(SessionState.CLOSED)

    async def _close_connection(self, connection: ClientConnection) -> None:
        try:
            if self.wish is None and self.failure is None:  # cancelled from outside: there is no time
                connection.abort()
            elif self.wish is not None:
                await self._flush(connection)
                await connection.close(self.wish.code, self.wish.reason)
            else:
                await connection.close(_INTERNAL_ERROR, "the session cannot go on")
        except asyncio.CancelledError:
            connection.abort()
        await connection.wait_closed()

    async def _close_outbox(self) -> None:
        """Whatever else happens: its file is locked, and what is left in memory is to be reported."""
        if self.outbox is not None:
            try:
                await self.outbox.close()
            except Exception as exc:
                self._logger.error("session: closing failed", exc_info=exc)

    async def _flush(self, connection: ClientConnection) -> None:
        """Wait until the queue is empty, as long as there is hope."""
        if self.outbox is None or self._sender is None:
            return
        tasks = {asyncio.ensure_future(self.outbox.drain()), asyncio.ensure_future(connection.wait_closed())}
        try:
            await asyncio.wait(tasks, timeout=self._patience, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
