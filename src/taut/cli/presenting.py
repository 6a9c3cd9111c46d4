"""What a person sees of a connection: its messages on stdout, everything about it on stderr.

On a terminal the control characters of the peer are escaped, before anything is coloured: what it sends must not drive
the terminal.  To a file or a pipe messages go as they are.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol, cast

import taut
from taut.types import CloseInfo, Data, Headers

from .json_layout import lay_out
from .output import Streams
from .terminal import coloured, hex_summary, paint, printable

__all__ = ["Presenter", "Printer", "View"]

_FAINT, _RED, _GREEN, _CYAN = 2, 31, 32, 36
_SECRETS = ("authorization", "proxy-authorization")


class Printer(Protocol):
    """Where it goes: the streams, or above a prompt."""

    async def show(self, text: str) -> None:
        """Print on stdout."""

    def note(self, text: str) -> None:
        """Print a line on stderr."""


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """How it is shown. ``raw``: payloads as they are, unless that is on a terminal."""

    raw: bool = False
    json: bool = False
    timestamps: bool = False
    verbose: bool = False
    quiet: bool = False


class Presenter:
    """Shows messages, and tells of the connection, on the streams, or above a prompt if there is one."""

    def __init__(self, view: View, streams: Streams, prompt: Printer | None) -> None:
        self.view = view
        self._streams = streams
        self._printer = prompt or streams
        # What is typed at a prompt and what is received have to differ.
        self._marked = prompt is not None or view.timestamps
        self._on_terminal = sys.stdout.isatty()
        self._colours = coloured(sys.stdout)
        self._note_colours = coloured(sys.stderr)
        self._round_trips: list[float] = []

    # -- messages ----------------------------------------------------------------------------------------------

    async def received(self, message: Data) -> None:
        """Show a message of the peer."""
        if self.view.raw and not self._on_terminal:
            await self._streams.write(message.encode() if isinstance(message, str) else message)
        else:
            await self._printer.show(self._mark("<", _GREEN) + self._text(message))

    async def sent(self, message: Data) -> None:
        """Show a message of this side, where both sides are shown."""
        if self.view.timestamps:
            await self._printer.show(self._mark(">", _CYAN) + self._text(message))

    def _mark(self, sign: str, style: int) -> str:
        mark = f"{sign} " if self._marked else ""
        if self.view.timestamps:
            mark = f"{datetime.now():%H:%M:%S.%f}"[:-3] + f" {mark}"
        return paint(mark, style) if mark and self._colours else mark

    def _text(self, message: Data) -> str:
        if not isinstance(message, str):
            return f"binary, {hex_summary(message)}"
        if self.view.json:
            laid_out = lay_out(message, escape=self._on_terminal, colours=self._colours)
            if laid_out is not None:
                return laid_out
        return printable(message) if self._on_terminal else message

    # -- the connection ----------------------------------------------------------------------------------------

    def note(self, text: str) -> None:
        """Tell something about the connection."""
        if not self.view.quiet:
            self._note(text, _FAINT)

    def detail(self, text: str) -> None:
        """Tell something that only some want to know."""
        if self.view.verbose:
            self._note(text, _FAINT)

    def answer(self, text: str) -> None:
        """Tell what was asked for."""
        self._note(text)

    def problem(self, text: str) -> None:
        """Tell what went wrong."""
        self._note(text, _RED)

    def _note(self, text: str, style: int | None = None) -> None:
        text = printable(text).replace("\n", "\\n")
        self._printer.note(paint(text, style) if self._note_colours and style is not None else text)

    def round_trip(self, seconds: float) -> None:
        """Tell how long a Pong took."""
        self._round_trips.append(seconds)
        self.answer(f"ping: {seconds * 1000:.2f} ms")

    def connected(self, ws: taut.Connection, shown: str, *, again: bool = False) -> None:
        """Tell that there is a connection."""
        self._handshake(ws)
        subprotocol = f", subprotocol {ws.subprotocol}" if ws.subprotocol else ""
        self.note(f"connected {'again ' if again else ''}to {shown}{subprotocol}")

    def closed(self, info: CloseInfo) -> None:
        """Tell how the connection ended."""
        if info.ok:
            self.note(str(info))
        else:
            self.problem(str(info))

    def summary(self) -> None:
        """Tell what the round trips were, all in all."""
        times = [seconds * 1000 for seconds in self._round_trips]
        if len(times) > 1:
            mean = sum(times) / len(times)
            self.note(f"{len(times)} pings: least {min(times):.2f} ms, mean {mean:.2f} ms, most {max(times):.2f} ms")

    def _handshake(self, ws: taut.Connection) -> None:
        """Tell everything about the opening handshake."""
        if not self.view.verbose:
            return
        self.detail(f"local address {_address(ws.local_address)}, remote address {_address(ws.remote_address)}")
        tls = ws.transport.get_extra_info("ssl_object") if ws.transport is not None else None
        if tls is not None:
            self.detail(f"TLS: {tls.version()}, {tls.cipher()[0]}")
        self._exchange(ws.request, ws.response)
        extensions = None if ws.response is None else ws.response.headers.get("Sec-WebSocket-Extensions")
        self.detail(f"subprotocol: {ws.subprotocol or 'none'}; extensions: {extensions or 'none'}")

    def failed(self, exc: BaseException) -> None:
        """Tell everything about a connection that could not be opened."""
        if isinstance(exc, taut.ConnectError):
            for attempt in exc.attempts:
                self.detail(f"failed: {attempt}")
        if isinstance(exc, taut.InvalidHandshake):
            self._exchange(exc.request, exc.response)

    def _exchange(self, request: taut.Request | None, response: taut.Response | None) -> None:
        """Tell what was asked, and what was answered."""
        if request is not None:
            self._head(">", f"{request.method} {request.path} HTTP/1.1", request.headers)
        if response is not None:
            self._head("<", f"HTTP/1.1 {response.status_code} {response.reason_phrase}", response.headers)
            for line in response.body.decode("utf-8", "replace").splitlines():
                self.detail(f"< {line}")

    def _head(self, sign: str, first: str, headers: Headers) -> None:
        for line in (first, *_lines(headers), ""):
            self.detail(f"{sign} {line}".rstrip())


def _lines(headers: Headers) -> Iterable[str]:
    """The header lines; what is shown is often passed on, and so credentials are left out."""
    for name, value in headers.raw_items():
        yield f"{name}: {value.partition(' ')[0]} ***" if name.lower() in _SECRETS else f"{name}: {value}"


def _address(address: Any) -> str:
    """An address as ``socket.getsockname`` gives it: a tuple, or the path of a Unix socket."""
    if isinstance(address, tuple):
        host, port = str(cast(Any, address)[0]), cast(Any, address)[1]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return str(address) if address else "none"
