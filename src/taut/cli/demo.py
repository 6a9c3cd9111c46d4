"""``taut demo``: a server, and clients that show what travels between them.

The clients reach the server through a relay (``tap``) that reads the frames off the wire, so every size printed has
been measured.  After the exchange the server stays, for whoever wants to talk to it.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import sys
from collections.abc import Awaitable, Iterable
from pathlib import Path
from typing import Any

import taut
from taut.types import Data, Opcode, Request, Response

from .arguments import add_loop_option, port
from .running import listening, loop_name, run, stop_event
from .serve import echo
from .tap import Frame, Tap
from .terminal import CommandError, hex_summary, show

__all__ = ["add_parser"]

_HOST = "127.0.0.1"
_PATIENCE = 30.0
"""How long the exchange may take before it counts as failed (seconds)."""
_VERSE = "Buffalo buffalo Buffalo buffalo buffalo buffalo Buffalo buffalo. "


def add_parser(commands: Any) -> None:
    """Describe ``taut demo`` to argparse."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "demo",
        help="see messages travel",
        description="Start a server on 127.0.0.1 with an echo endpoint / and a broadcast endpoint /chat, exchange"
        " messages with it over both, print what travelled, and serve until SIGINT or SIGTERM. The exit status is 1"
        " when the port cannot be had or the exchange fails, else 0.",
        allow_abbrev=False,
    )
    parser.add_argument("--port", type=port, default=8765, help="port, 0 for any that is free (default: %(default)s)")
    parser.add_argument("--once", action="store_true", help="end after the exchange")
    add_loop_option(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    return run(lambda: _demo(arguments.port, arguments.once), uvloop=arguments.uvloop)


async def _demo(number: int, once: bool) -> int:
    endpoints = _Endpoints()
    serving = taut.serve(endpoints.handle, _HOST, number, process_request=endpoints.refuse_others)
    with stop_event() as stop:
        async with listening(serving, _HOST, number) as server:
            number = server.port
            show(f"taut {taut.__version__} on {loop_name()}: echo at ws://{_HOST}:{number}/, broadcast at /chat\n")
            if not await _unless(stop, _exchange(number)) or once:
                return 0
            command = _command()
            show(f"Serving until Ctrl-C. Talk to it from another terminal:\n  {command} connect ws://{_HOST}:{number}/")
            show(f"  {command} connect ws://{_HOST}:{number}/chat   (twice, to chat)")
            await stop.wait()
            show("closing")
    return 0


async def _unless(stop: asyncio.Event, work: Awaitable[None]) -> bool:
    """Do the work, but drop it when ``stop`` is set first; tells whether it was done."""
    task = asyncio.ensure_future(work)
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait((task, stopped), return_when=asyncio.FIRST_COMPLETED)
    done = task.done()
    for other in (task, stopped):
        other.cancel()
    await asyncio.gather(task, stopped, return_exceptions=True)
    if done:
        task.result()
    return done


def _command() -> str:
    """How the ``taut`` command is called from here."""
    script = str(Path(sys.executable).with_name("taut"))
    if not Path(script).exists():
        return f"{sys.executable} -m taut"
    return "taut" if shutil.which("taut") == script else min(os.path.relpath(script), script, key=len)


# -- the server ------------------------------------------------------------------------------------------------


class _Endpoints:
    """What the server offers: / echoes, /chat tells everyone there what one of them says."""

    def __init__(self) -> None:
        self._members: set[taut.ServerConnection] = set()

    def refuse_others(self, ws: taut.ServerConnection, request: Request) -> Response | None:
        """The HTTP answer to a request for any other path."""
        if _path(request) in ("/", "/chat"):
            return None
        return ws.respond(404, "There is an echo at /, and a chat at /chat.\n")

    async def handle(self, ws: taut.ServerConnection) -> None:
        """Serve one connection."""
        await (self._chat(ws) if _path(ws.request) == "/chat" else echo(ws))

    async def _chat(self, ws: taut.ServerConnection) -> None:
        self._members.add(ws)
        try:
            taut.broadcast(self._members, f"someone joined, {len(self._members)} here")
            async for message in ws:
                taut.broadcast(self._members, message)
        finally:
            self._members.discard(ws)


def _path(request: Request | None) -> str:
    return "" if request is None else request.path.partition("?")[0]


# -- the clients -----------------------------------------------------------------------------------------------


async def _exchange(number: int) -> None:
    try:
        async with asyncio.timeout(_PATIENCE), Tap(number) as tap:
            await _show_echo(tap)
            await _show_chat(tap)
            await _show_refusal(tap)
    except TimeoutError:
        raise CommandError(f"the exchange did not end within {_PATIENCE:g} s") from None
    except (taut.WebSocketException, OSError) as exc:
        raise CommandError(f"the exchange failed: {exc}") from exc


async def _show_echo(tap: Tap) -> None:
    async with taut.connect(f"ws://{_HOST}:{tap.port}/") as ws:
        extensions = "none" if ws.response is None else ws.response.headers.get("Sec-WebSocket-Extensions", "none")
        show(f"echo: connected, extensions agreed: {extensions}")
        await _echo(tap, ws, "text", "héllo, wörld")
        await _echo(tap, ws, "binary", bytes(range(32)))
        await _echo(tap, ws, "in three fragments", ("once ", "upon ", "a time"), compress=False)
        await _echo(tap, ws, "compressible text", _VERSE * 64)
        await _echo(tap, ws, "the same, sent uncompressed", _VERSE * 64, compress=False)
        round_trip = await (await ws.ping())
        show(f"  ping: round trip {round_trip * 1000:.3f} ms, through the relay that reads these frames")
        _show_frames(tap.take())
        await ws.close(1000, "that was all")
    show(f"  close: {ws.close_info}")
    _show_frames(tap.take())
    show("")


async def _echo(
    tap: Tap, ws: taut.Connection, title: str, message: Data | tuple[str, ...], *, compress: bool | None = None
) -> None:
    await ws.send(message, compress=compress)
    whole = "".join(message) if isinstance(message, tuple) else message
    if await ws.recv() != whole:
        raise CommandError(f"the echo of {title} differs from what was sent")
    show(f"  {title}: {_summary(whole)}")
    _show_frames(tap.take())


async def _show_chat(tap: Tap) -> None:
    uri = f"ws://{_HOST}:{tap.port}/chat"
    async with taut.connect(uri) as ann:
        heard = [("ann", await ann.recv())]
        async with taut.connect(uri) as bob:
            show("chat: ann and bob are connected; whatever one says goes to both")
            heard += [("ann", await ann.recv()), ("bob", await bob.recv())]
            for speaker, line in ((ann, "ann: hello, bob"), (bob, "bob: hello, ann")):
                await speaker.send(line)
                heard += [("ann", await ann.recv()), ("bob", await bob.recv())]
            for name, message in heard:
                show(f"  {name} received {_summary(message)}")
            _show_frames(tap.take(), {2: "ann", 3: "bob"})
    show(f"  close: ann {ann.close_code}, bob {bob.close_code}\n")
    tap.take()


async def _show_refusal(tap: Tap) -> None:
    try:
        async with taut.connect(f"ws://{_HOST}:{tap.port}/nowhere"):
            raise CommandError("the server accepted a connection to /nowhere")
    except taut.InvalidStatus as exc:
        body = exc.response.body.decode().strip()
        show(f"refused: /nowhere is answered with HTTP {exc.response.status_code}: {body}\n")


# -- what is printed -------------------------------------------------------------------------------------------


def _summary(message: Data) -> str:
    if isinstance(message, bytes):
        return hex_summary(message)
    size = len(message.encode())
    return f"{message[:40]!r}{' ...' if len(message) > 40 else ''}, {size} bytes of UTF-8"


def _show_frames(frames: Iterable[Frame], names: dict[int, str] | None = None) -> None:
    """One line a frame: direction, kind, payload and size on the wire, in bytes."""
    compressed = set[tuple[int, bool]]()  # where a compressed message is going on
    for frame in frames:
        stream = (frame.connection, frame.from_client)
        if frame.opcode in (Opcode.TEXT, Opcode.BINARY) and frame.compressed:
            compressed.add(stream)
        data = frame.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT)
        marks = [
            "FIN" * frame.final,
            "masked" * frame.masked,
            "compressed" * (data and stream in compressed),
        ]
        if data and frame.final:
            compressed.discard(stream)
        name = "client" if names is None else names[frame.connection]
        way = f"{name} -> server" if frame.from_client else f"server -> {name}"
        show(
            f"    {way:<17} {frame.opcode.name:<6} {' '.join(filter(None, marks)):<21}"
            f" payload {frame.payload:>4}, on the wire {frame.size:>4} bytes"
        )
