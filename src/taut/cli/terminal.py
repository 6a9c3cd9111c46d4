"""What a person sees: messages on stdout, everything about the connection on stderr, an error in one line."""

from __future__ import annotations

import io
import os
import re
import socket
import sys
from typing import TextIO, cast

__all__ = [
    "CommandError",
    "coloured",
    "complain",
    "explain",
    "hex_summary",
    "paint",
    "prepare_streams",
    "printable",
    "show",
]

# C0 and C1 controls without tab and line feed: what a peer sends must not drive the terminal it is shown on.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class CommandError(Exception):
    """The command cannot go on; its text is one line for a person, ``status`` the exit status."""

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status


def prepare_streams() -> None:
    """Make the standard streams fit to use, whatever state the process got them in.

    A descriptor that is closed is opened on nothing, or else a socket would get its number. Characters that the
    encoding of the output lacks are escaped.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
    sys.stdin = sys.stdin or _stream(0, "r")
    sys.stdout = sys.stdout or _stream(1, "w")
    sys.stderr = sys.stderr or _stream(2, "w")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _stream(descriptor: int, mode: str) -> TextIO:
    return cast(TextIO, open(descriptor, mode, encoding="utf-8", closefd=False))


def printable(text: str) -> str:
    """The text with its control characters escaped, but for tabs and line feeds."""
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def show(text: str) -> None:
    """Print text on stdout at once: as it is to a file or a pipe, without control characters to a terminal."""
    print(printable(text) if sys.stdout.isatty() else text, flush=True)


def complain(text: str) -> None:
    """Print one line on stderr."""
    print(printable(text).replace("\n", "\\n") + "\n", end="", file=sys.stderr, flush=True)


def coloured(stream: TextIO) -> bool:
    """Whether what is printed there may have colours: on a terminal that has them, unless NO_COLOR is set."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(text: str, style: int) -> str:
    """The text in a style of ECMA-48, 8.3.117 (SGR): 1 bold, 2 faint, 31 red, 32 green, 33 yellow, 34 blue, 36 cyan."""
    return f"\x1b[{style}m{text}\x1b[0m"


def hex_summary(data: bytes, most: int = 16) -> str:
    """Binary data for a person: how many bytes, and the first of them."""
    if not data:
        return "0 bytes"
    unit = "byte" if len(data) == 1 else "bytes"
    return f"{len(data)} {unit}: {data[:most].hex(' ')}{' ...' if len(data) > most else ''}"


def explain(exc: BaseException) -> str:
    """Why the operating system refused, without the bookkeeping that the event loops put around it."""
    if isinstance(exc, socket.gaierror):
        return exc.strerror or "unknown host"
    if type(exc).__module__ == "builtins" and isinstance(exc, OSError) and exc.errno is not None:
        return os.strerror(exc.errno)
    return str(exc) or type(exc).__name__
