"""``taut connect``: a client from the command line.

A line of stdin is a message.  Lines are read in a thread of their own, because a terminal, a pipe and a file must all
work, and no event loop can wait for a file.  The thread is a daemon: when the connection ends while it waits for a
line, the process ends all the same.  It reads at most ``_AHEAD`` lines ahead of what has been sent.

At the end of the input comes a Ping, then the Close frame once its Pong is here: many servers answer a Close frame
before the messages that came with it, and one round trip lets the answers to the last lines overtake it.  What still
arrives is printed until the server closes.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import ssl
import sys
import threading
from contextlib import suppress
from typing import Any

import taut
from taut.types import Data

from .arguments import add_loop_option, header, seconds
from .running import interruptible, run
from .terminal import CommandError, complain, explain, hex_summary, show

__all__ = ["add_parser"]

_AHEAD = 64
_PONG_WAIT = 5.0


def add_parser(commands: Any) -> None:
    """Describe ``taut connect`` to argparse."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "connect",
        help="talk to a server",
        description="Send each line of the standard input as a text message, and print each message received: text as"
        " it is, binary as its size and first bytes. The end of the input (Ctrl-D) closes the connection, and what"
        " still arrives is printed.",
        epilog="Exit status: 0 the connection was closed normally; 1 it could not be opened, or ended in an error;"
        " 2 wrong arguments; 130 interrupted with Ctrl-C, which closes the connection with 1000 (143 for SIGTERM).",
        allow_abbrev=False,
    )
    parser.add_argument("uri", metavar="URI", help="ws://host[:port][/path] or wss://...")
    parser.add_argument(
        "-H", "--header", action="append", type=header, default=[], metavar="'NAME: VALUE'",
        help="a header to add to the handshake; may be given several times",
    )  # fmt: skip
    parser.add_argument(
        "--subprotocol", action="append", metavar="NAME", help="a subprotocol to offer; may be given several times"
    )
    parser.add_argument("--no-compression", action="store_true", help="do not offer permessage-deflate")
    parser.add_argument("--insecure", action="store_true", help="accept any certificate (wss)")
    parser.add_argument(
        "--ping-interval", type=seconds, default=20.0, metavar="SECONDS",
        help="how often to check that a silent server is alive, 0 for never (default: %(default)g)",
    )  # fmt: skip
    add_loop_option(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    return run(lambda: _connect(arguments), uvloop=arguments.uvloop)


async def _connect(arguments: argparse.Namespace) -> int:
    secure = arguments.uri.lower().startswith("wss:")
    shown = re.sub(r"//[^/?]*@", "//", arguments.uri)  # without the password
    try:
        connecting = taut.connect(
            arguments.uri,
            additional_headers=arguments.header,
            subprotocols=arguments.subprotocol,
            compression=None if arguments.no_compression else "deflate",
            ping_interval=arguments.ping_interval or None,
            ssl=_any_certificate() if arguments.insecure and secure else None,
        )
    except ValueError as exc:  # a wrong argument, refused before any I/O
        raise CommandError(str(exc), status=2) from None
    try:
        ws = await connecting
    except (taut.WebSocketException, OSError) as exc:
        raise CommandError(f"cannot connect to {shown}: {explain(exc)}") from None
    try:
        return await _Conversation(ws).run(shown)
    finally:
        await ws.close()


def _any_certificate() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class _Conversation:
    """Lines to the server, messages from it, until one side has had enough."""

    def __init__(self, ws: taut.Connection) -> None:
        self.ws = ws
        self.lines = _Lines()
        self.interrupted = 0
        self.failed = False
        self.closing: asyncio.Task[None] | None = None

    async def run(self, uri: str) -> int:
        """Talk until the connection is closed, and return the exit status."""
        subprotocol = f", subprotocol {self.ws.subprotocol}" if self.ws.subprotocol else ""
        with interruptible(self._interrupt):
            complain(f"connected to {uri}{subprotocol}")
            self.lines.start()
            sending = asyncio.create_task(self._send_lines())
            try:
                await self._print_messages()
                await self.ws.wait_closed()
            finally:
                sending.cancel()
                with suppress(asyncio.CancelledError):
                    await sending
        info = self.ws.close_info
        complain(str(info))
        if self.interrupted:
            return 128 + self.interrupted
        return 0 if info is not None and info.ok and not self.failed else 1

    def _interrupt(self, number: int) -> None:
        if self.interrupted:
            self.ws.abort()  # asked twice: do not wait for the server
        else:
            self.interrupted = number
            self.closing = asyncio.create_task(self.ws.close(1000))

    async def _print_messages(self) -> None:
        try:
            async for message in self.ws:
                _print_message(message)
        except taut.ConnectionClosed:
            pass  # close_info tells all of it

    async def _send_lines(self) -> None:
        try:
            while (line := await self.lines.next()) is not None:
                try:
                    text = line.decode()
                except UnicodeDecodeError:
                    self.failed = True
                    complain(f"not sent, because it is not UTF-8: {hex_summary(line)}")
                    continue
                await self.ws.send(text)
            async with asyncio.timeout(_PONG_WAIT):
                await (await self.ws.ping())
        except TimeoutError:
            pass
        except taut.ConnectionClosed:
            return
        await self.ws.close(1000)


def _print_message(message: Data) -> None:
    show(message if isinstance(message, str) else f"binary, {hex_summary(message)}")


class _Lines:
    """The lines of stdin, without their ends, read in a thread."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._room = threading.Semaphore(_AHEAD)

    def start(self) -> None:
        """Begin to read."""
        threading.Thread(target=self._read, name="taut-stdin", daemon=True).start()

    async def next(self) -> bytes | None:
        """The next line, None at the end of the input."""
        line = await self._queue.get()
        self._room.release()
        return line

    def _read(self) -> None:
        try:
            # A stream of its own: the thread may hold the lock of sys.stdin when the interpreter ends.
            with open(sys.stdin.fileno(), "rb", closefd=False) as stream:
                for line in stream:
                    self._put(line.removesuffix(b"\n").removesuffix(b"\r"))
            self._put(None)
        except RuntimeError:
            pass  # the loop is closed: nobody wants another line

    def _put(self, line: bytes | None) -> None:
        self._room.acquire()
        self._loop.call_soon_threadsafe(self._queue.put_nowait, line)
