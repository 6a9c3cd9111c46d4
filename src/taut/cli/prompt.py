"""The prompt, with a history and the editing of lines; needs prompt_toolkit.

What is printed meanwhile goes above the line that is being typed: the line is erased, the text printed, and the line
drawn again in the next turn of the event loop.  The terminal stays in the mode of the prompt all the while, so no key
is taken for something else.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import suppress
from typing import TextIO

from prompt_toolkit import PromptSession
from prompt_toolkit.history import DummyHistory, FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

from .history import history_file
from .terminal import complain

__all__ = ["Prompt"]


class Prompt:
    """Lines typed by a person, as an input and as the place where everything is printed."""

    typed = True

    def __init__(self, *, history: bool, erase: bool) -> None:
        """``history``: whether to keep one; ``erase``: whether what was typed vanishes, to be shown otherwise."""
        self._session: PromptSession[str] = PromptSession(
            "> ",
            history=_history() if history else DummyHistory(),
            erase_when_done=erase,
            enable_suspend=True,
            key_bindings=_key_bindings(),
        )

    async def next(self) -> str | None:
        """The next line, None at the end of the input. Ctrl-C counts as the signal of that name."""
        try:
            return await self._session.prompt_async(set_exception_handler=False, handle_sigint=False)
        except EOFError:
            return None
        except KeyboardInterrupt:
            signal.raise_signal(signal.SIGINT)
        what_the_signal_brings: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        return await what_the_signal_brings  # never done, but cancelled

    async def show(self, text: str) -> None:
        """Print text on stdout, above the prompt."""
        self._print(sys.stdout, text)
        await asyncio.sleep(0)  # however much there is to print, keys are not left waiting

    def note(self, text: str) -> None:
        """Print one line on stderr, above the prompt if that is the terminal as well."""
        if sys.stderr.isatty():
            self._print(sys.stderr, text)
        else:
            print(f"{text}\n", end="", file=sys.stderr, flush=True)

    def _print(self, stream: TextIO, text: str) -> None:
        app = self._session.app
        if app.is_running:
            app.renderer.erase()
        # uvloop makes what it watches non-blocking, and the terminal is one thing for all three streams.
        os.set_blocking(stream.fileno(), True)
        print(text, file=stream, flush=True)
        if app.is_running:
            app.renderer.request_absolute_cursor_position()
            app.invalidate()


def _history() -> History:
    try:
        return _File(str(history_file()))
    except OSError as exc:
        complain(f"no history is kept: {exc.filename}: {exc.strerror}")
        return InMemoryHistory()


class _File(FileHistory):
    def store_string(self, string: str) -> None:
        with suppress(OSError):  # the disk may be full, which is no reason to stop talking
            super().store_string(string)


def _key_bindings() -> KeyBindings:
    bindings = KeyBindings()

    @bindings.add("c-c")
    def _(event: KeyPressEvent) -> None:
        """Ctrl-C drops what has been typed; with nothing typed it interrupts."""
        if event.current_buffer.text:
            event.current_buffer.reset()
        else:
            event.app.exit(exception=KeyboardInterrupt())

    return bindings
