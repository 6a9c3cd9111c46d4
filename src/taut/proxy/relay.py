"""The two directions between a client and an upstream, from when both are open until both are closed.

Each direction is a loop that receives from one connection, its source, and sends to the other, its sink.  It waits for
the sink as any program does, so a sink that takes nothing stops the reading from its source: what the proxy holds of
one direction is bounded by ``read_limit``, ``write_limit`` and the size of one read, however long a message is, because
long ones are passed on in parts while they arrive.

The end of a source, seen behind the last message that came from it, becomes the end of the sink (``endings``), and with
that the end of the other direction.  A sink that takes nothing any more must not keep the proxy waiting once its source
is gone: then it has ``close_timeout``.  Pings and Pongs stay on their side: each has a keepalive of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from ..connection import Connection
from ..errors import ConnectionClosed
from ..protocol.inbox import Fragment
from ..types import CloseInfo, Data
from .endings import Ending, ending_for_client, ending_for_upstream

__all__ = ["relay"]

_SMALL = 1 << 12
"""Below this many characters or bytes, messages that came together are sent together."""


async def relay(client: Connection, upstream: Connection) -> None:
    """Pass messages both ways until both connections are closed. When it is cancelled both are dropped."""
    up = _Direction(client, upstream, ending_for_upstream)
    down = _Direction(upstream, client, ending_for_client)
    task = upstream.loop.create_task(down.run())
    try:
        await up.run()
        await task
        for connection in (client, upstream):
            await connection.wait_closed()
    finally:
        up.stop()
        down.stop()
        if not task.done():
            task.cancel()
        for connection in (client, upstream):
            connection.abort()  # which does nothing to one that is closed
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # of two failures, one is raised


class _Direction:
    """Everything that goes from ``source`` to ``sink``; ``ending`` translates the end of the one for the other."""

    def __init__(self, source: Connection, sink: Connection, ending: Callable[[CloseInfo], Ending]) -> None:
        self._source = source
        self._sink = sink
        self._ending = ending
        self._source_gone: asyncio.Task[None] | None = None
        self._patience: asyncio.TimerHandle | None = None

    async def run(self) -> None:
        """Pass everything on, then the end."""
        source, sink = self._source, self._sink
        try:
            await self._pass_messages()
        except ConnectionClosed:
            pass
        except Exception:
            source.abort()
            sink.abort()
            raise
        if source.close_info is None:
            await _let_go(source)
        else:
            await _end(sink, self._ending(source.close_info))

    async def _pass_messages(self) -> None:
        """Until one of them is closed, which is what ``ConnectionClosed`` tells."""
        source, sink = self._source, self._sink
        while True:
            message: Data | Fragment = await source.recv()
            if isinstance(message, Fragment):
                await self._pass_parts(message)
            elif len(message) < _SMALL and len(source.session) and not sink.write_paused:
                sink.session.send(message)  # leaves together with the next one, which is here already
            else:
                sending = sink.send(message)
                if sink.write_paused:
                    self._be_patient()
                await sending

    async def _pass_parts(self, part: Fragment) -> None:
        """Pass on a message while it arrives."""
        source, sink = self._source, self._sink
        text, first = isinstance(part.data, str), True
        await sink.take_turn()
        try:
            while True:
                sink.session.send_fragment(part.data, text, first, part.final)
                sink.flush_output()
                if part.final:
                    break
                if sink.write_paused:
                    self._be_patient()
                    await sink.make_room()
                first = False
                part = await _next_part(source)
        finally:
            sink.end_turn()
        if sink.write_paused:
            self._be_patient()
            await sink.drain()

    # -- a sink that is stuck ----------------------------------------------------------------------------------

    def _be_patient(self) -> None:
        """The sink takes nothing at the moment: do not wait for it long once the source is gone."""
        if self._source_gone is None:
            self._source_gone = self._source.loop.create_task(self._source.wait_closed())
            self._source_gone.add_done_callback(self._source_is_gone)

    def _source_is_gone(self, task: asyncio.Task[None]) -> None:
        timeout = self._sink.options.close_timeout
        if not task.cancelled() and timeout is not None and not self._sink.closed:
            self._patience = self._sink.loop.call_later(timeout, self._sink.abort)

    def stop(self) -> None:
        """It is over."""
        if self._source_gone is not None:
            self._source_gone.remove_done_callback(self._source_is_gone)
            self._source_gone.cancel()
        if self._patience is not None:
            self._patience.cancel()


async def _next_part(source: Connection) -> Fragment:
    part: object = await source.recv()
    if not isinstance(part, Fragment):
        raise RuntimeError("a message was received in the midst of another one")
    return part


async def _let_go(source: Connection) -> None:
    """Nobody takes what comes from it any more: read on, so that the answer to a Ping or a Close frame is seen.

    The other direction, whose source is closed, ends it.
    """
    with suppress(ConnectionClosed):
        while True:
            await source.recv()


async def _end(sink: Connection, ending: Ending) -> None:
    """Close the sink like this, and wait until it is closed."""
    if ending.code is None:
        await _lose(sink)
    elif ending.code == 1005:
        sink.session.close_without_code()
        sink.flush_output()
        await sink.close()
    else:
        await sink.close(ending.code, ending.reason)


async def _lose(sink: Connection) -> None:
    """End the sink without a Close frame, once it has all that was sent: it answers a Ping behind that."""
    with suppress(ConnectionClosed, TimeoutError):
        async with asyncio.timeout(sink.options.close_timeout):
            await (await sink.ping())
    sink.abort()
    await sink.wait_closed()
