"""``taut connect``: a client from the command line."""

from __future__ import annotations

import argparse
import logging
import os
import re
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import taut
from taut.errors import ReconnectFailed

from .connect_arguments import add_connect_arguments
from .connecting import WRONG_USE, cannot_connect, connect_options, status_of
from .conversation import Conversation, Input, Script
from .lines import StandardInput, blocks, lines, whole
from .links import ConnectionLink, Link, SessionLink
from .output import Streams
from .presenting import Presenter, View
from .running import run
from .terminal import CommandError, complain

if TYPE_CHECKING:
    from .prompt import Prompt

__all__ = ["add_parser"]

T = TypeVar("T")


def add_parser(commands: Any) -> None:
    """Describe ``taut connect`` to argparse."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "connect",
        help="talk to a server",
        usage="taut connect URI [OPTION ...]",
        description="Send each line of the standard input as a Text message, and print each message received: text as"
        " it is, binary as its size and first bytes. On a terminal there is a prompt with a history; /help lists its"
        " commands. The end of the input (Ctrl-D) closes the connection, and what still arrives is printed.",
        epilog="Exit status: 0 the connection was closed normally; 1 it ended in an error, or without the answers asked"
        " for; 2 wrong arguments; 3 the server could not be reached; 4 it refused the handshake; 5 it did not answer in"
        " time; 130 interrupted with Ctrl-C, which closes the connection with 1000 (143 for SIGTERM); 141 nobody reads"
        " the output any more.",
        allow_abbrev=False,
    )
    add_connect_arguments(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    if arguments.binary and (arguments.json or arguments.timestamps):
        shown = "--json" if arguments.json else "--timestamps"
        raise CommandError(f"--binary and {shown} exclude each other", status=WRONG_USE)
    # Nothing is logged to stderr behind the back of the presenter.
    logging.getLogger("taut.client").addHandler(logging.NullHandler())
    options = connect_options(arguments)  # before there is a loop: it may have to ask for a password
    prompt = _prompt(arguments) if _wants_prompt(arguments) else None
    # uvloop makes what it watches non-blocking, and the terminal is not ours alone.
    uvloop = False if arguments.uvloop is None and prompt is not None else arguments.uvloop
    return run(lambda: _connect(arguments, options, prompt), uvloop=uvloop)


async def _connect(arguments: argparse.Namespace, options: dict[str, Any], prompt: Prompt | None) -> int:
    shown = re.sub(r"//[^/?]*@", "//", arguments.uri)  # without the password
    presenter = _presenter(arguments, prompt)
    link: Link | None = None
    try:
        if arguments.reconnect:
            link = _checked(lambda: SessionLink(arguments.uri, options, shown, presenter))
        else:
            link = ConnectionLink(await _checked(lambda: taut.connect(arguments.uri, **options)), shown, presenter)
        return await Conversation(link, prompt or _input(arguments), presenter, _script(arguments)).run()
    except ReconnectFailed as exc:
        raise CommandError(str(exc), status=status_of(exc)) from None
    except (taut.ConnectError, taut.MissingExtra) as exc:
        presenter.failed(exc)
        raise cannot_connect(exc, shown) from None
    finally:
        if link is not None:
            await link.close()


def _checked(make: Callable[[], T]) -> T:
    """What ``make`` makes of the arguments, all of which are checked before any I/O."""
    try:
        return make()
    except (TypeError, ValueError) as exc:
        raise CommandError(str(exc), status=WRONG_USE) from None


def _script(arguments: argparse.Namespace) -> Script:
    return Script(
        first=tuple(arguments.exec),
        binary=arguments.binary,
        answers=arguments.answers,
        wait=arguments.wait,
        ping=arguments.ping,
    )


# -- input and output ------------------------------------------------------------------------------------------


def _reads_input(arguments: argparse.Namespace) -> bool:
    """With -1 and -n everything is said beforehand, or comes from a file or a pipe."""
    return arguments.answers is None or not (arguments.exec or sys.stdin.isatty())


def _wants_prompt(arguments: argparse.Namespace) -> bool:
    on_terminal = sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
    return on_terminal and _reads_input(arguments) and not (arguments.binary or arguments.whole)


def _prompt(arguments: argparse.Namespace) -> Prompt | None:
    try:
        from .prompt import Prompt  # noqa: PLC0415 - an extra, imported only where it is used
    except ImportError:
        if not arguments.quiet:
            complain("prompt_toolkit is not installed, so there is no history: pip install 'taut[cli]'")
        return None
    return Prompt(history=not arguments.no_history, erase=arguments.timestamps)


def _input(arguments: argparse.Namespace) -> Input | None:
    """Where messages come from when there is no prompt."""
    if not _reads_input(arguments):
        return None
    by_the_piece = arguments.binary or arguments.whole
    cut = whole if arguments.whole else blocks if arguments.binary else lines
    return StandardInput(cut, typed=sys.stdin.isatty() and not by_the_piece)


def _presenter(arguments: argparse.Namespace, prompt: Prompt | None) -> Presenter:
    """Where messages go."""
    view = View(
        raw=arguments.binary,
        json=arguments.json,
        timestamps=arguments.timestamps,
        verbose=arguments.verbose,
        quiet=arguments.quiet,
    )
    return Presenter(view, Streams(), prompt)
