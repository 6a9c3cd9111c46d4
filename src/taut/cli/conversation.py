"""A conversation: input to the server, messages from it, until one side has had enough.

Two tasks: one sends, the other, which runs ``run``, prints; it ends when the connection does, and then all is over.
Whoever wants an end closes the connection, and the printing goes on until it is closed:

- the input ends: a Ping, then the Close frame once its Pong is here. Many servers answer a Close frame before the
  messages that came with it, and one round trip lets the answers to the last lines overtake it;
- as many messages as were asked for have been received, or the time for them is over;
- a signal comes; a second one does not wait for the server any more.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

import taut
from taut.types import Data

from .connecting import FAILED, TIMED_OUT
from .links import Link
from .presenting import Presenter
from .running import interruptible
from .slash import HELP, Close, Help, Ping, Send, parse_line
from .terminal import hex_summary

__all__ = ["Conversation", "Input", "Script"]

_ANSWER_WAIT = 10.0


class Input(Protocol):
    """Where messages come from. ``typed``: by a person, who may give commands as well."""

    typed: bool

    async def next(self) -> Data | None:
        """The next line or piece, None at the end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """What is to be done.

    ``first``: messages to send before any input. ``binary``: as Binary messages, all of them. ``answers``: end after so
    many messages received. ``wait``: how long to wait for them, or to stay after the end of the input (seconds, 0 for
    no end, None for the default). ``ping``: how often to measure the round trip (seconds), None for never.
    """

    first: tuple[str, ...] = ()
    binary: bool = False
    answers: int | None = None
    wait: float | None = None
    ping: float | None = None


class Conversation:
    """What runs over ``link``. ``source``: None if there is no input."""

    def __init__(self, link: Link, source: Input | None, presenter: Presenter, script: Script) -> None:
        self._link = link
        self._source = source
        self._presenter = presenter
        self._script = script
        self._interrupted = 0
        self._failed = False
        self._timed_out = False
        self._missing = script.answers
        self._first_sent = asyncio.Event()
        self._printing: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None

    async def run(self) -> int:
        """Talk until the connection is closed, and return the exit status."""
        with interruptible(self._interrupt):
            try:
                await self._link.begin()
            except taut.ConnectionClosed:
                return self._status()  # interrupted before there was a connection
            try:
                async with asyncio.TaskGroup() as group:
                    others = [group.create_task(self._send_all(group))]
                    if self._script.ping is not None:
                        others.append(group.create_task(self._measure(self._script.ping)))
                    self._printing = group.create_task(self._print_messages())
                    await asyncio.wait([self._printing])
                    for task in others:
                        task.cancel()
            except BaseExceptionGroup as failures:
                raise failures.exceptions[0] from None
            finally:
                if self._closing is not None:
                    self._closing.cancel()
            await self._link.wait_closed()
        return self._status()

    def _status(self) -> int:
        info = self._link.close_info
        self._presenter.summary()
        if info is not None:
            self._presenter.closed(info)
        if self._interrupted:
            return 128 + self._interrupted
        if self._missing and self._timed_out:
            self._presenter.problem("no answer in time")
            return TIMED_OUT
        if self._missing:
            self._presenter.problem("closed before the answer")
            return FAILED
        return 0 if info is not None and info.ok and not (self._failed or self._link.lost) else FAILED

    def _interrupt(self, number: int) -> None:
        if self._interrupted:
            # Asked twice: wait neither for the server, nor for whoever reads the output.
            self._link.abort()
            if self._printing is not None:
                self._printing.cancel()
        else:
            self._interrupted = number
            self._closing = asyncio.create_task(self._link.close())

    # -- receiving ---------------------------------------------------------------------------------------------

    async def _print_messages(self) -> None:
        try:
            async for message in self._link.messages():
                await self._presenter.received(message)
                if self._missing is not None:
                    self._missing -= 1
                    if not self._missing:
                        await self._first_sent.wait()
                        await self._link.close()
                        return
        except taut.ConnectionClosed:
            pass  # close_info tells all of it

    # -- sending -----------------------------------------------------------------------------------------------

    async def _send_all(self, group: asyncio.TaskGroup) -> None:
        with suppress(taut.ConnectionClosed):
            for text in self._script.first:
                await self._send(text)
            self._first_sent.set()
            if self._source is not None:
                await self._send_input(self._source, group)
            await self._leave()

    async def _send_input(self, source: Input, group: asyncio.TaskGroup) -> None:
        try:
            while (piece := await source.next()) is not None:
                if self._script.binary:
                    await self._send(piece)
                elif (text := self._decoded(piece)) is None:
                    pass
                elif source.typed:
                    await self._obey(text, group)
                else:
                    await self._send(text)
        except OSError as exc:
            self._failed = True
            self._presenter.problem(f"cannot read the input: {exc.strerror}")

    def _decoded(self, piece: Data) -> str | None:
        if isinstance(piece, str):
            return piece
        try:
            return piece.decode()
        except UnicodeDecodeError:
            self._failed = True
            self._presenter.problem(f"not sent, because it is not UTF-8: {hex_summary(piece)}")
            return None

    async def _obey(self, line: str, group: asyncio.TaskGroup) -> None:
        """Do what was typed."""
        try:
            action = parse_line(line)
        except (ValueError, OSError) as exc:
            self._presenter.problem(str(exc))
            return
        match action:
            case Send(message):
                await self._send(message)
            case Ping():
                group.create_task(self._ping_once())
            case Close(code, reason):
                await self._link.close(code, reason)
            case Help():
                for each in HELP.splitlines():
                    self._presenter.answer(each)

    async def _send(self, message: Data) -> None:
        if self._script.binary and isinstance(message, str):
            message = message.encode()
        await self._presenter.sent(message)  # first, or else its answer might be shown before it
        await self._link.send(message)

    async def _leave(self) -> None:
        """Everything has been sent: close in time."""
        wait = self._script.wait
        if self._missing is not None:
            wait = _ANSWER_WAIT if wait is None else wait
            if wait:
                await asyncio.sleep(wait)
                self._timed_out = True
                await self._link.close()
        elif wait is None:
            await self._link.settle()
            await self._link.close()
        elif wait:
            await asyncio.sleep(wait)
            await self._link.close()

    # -- pings -------------------------------------------------------------------------------------------------

    async def _measure(self, interval: float) -> None:
        while True:
            await self._ping_once()
            await asyncio.sleep(interval)

    async def _ping_once(self) -> None:
        with suppress(taut.ConnectionClosed):
            self._presenter.round_trip(await self._link.ping())
