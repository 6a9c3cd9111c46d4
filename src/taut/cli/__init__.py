"""The ``taut`` command: ``taut serve``, ``taut connect``, ``taut demo``, ``taut proxy``.

A subcommand is a module with ``add_parser``, which describes its options and names the function that runs it.  That
function returns the exit status, and raises ``CommandError`` for what a person has to be told in one line.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence

import taut

from . import connect, demo, proxy, serve
from .terminal import CommandError, complain, prepare_streams

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the ``taut`` command and return its exit status.

    ``argv``: the arguments without the name of the command (default: those of the process). The status is 0 when all
    went well, 128 plus the number of the signal that interrupted it, or else tells what went wrong (docs/command.md).
    Raises ``SystemExit`` with status 2 for a wrong argument, after a message on stderr, and with 0 for ``--help`` and
    ``--version``.
    """
    prepare_streams()
    arguments = _parser().parse_args(argv)
    try:
        status: int = arguments.run(arguments)
        sys.stdout.flush()
    except CommandError as exc:
        complain(f"taut {arguments.command}: {exc}")
        status = exc.status
    except KeyboardInterrupt:
        status = 128 + signal.SIGINT
    except BrokenPipeError:
        # Whoever read our output has gone. What is still buffered must not fail once more when Python exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 128 + signal.SIGPIPE
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="taut", description="WebSocket servers and clients from the command line.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"taut {taut.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command in (serve, connect, demo, proxy):
        command.add_parser(commands)
    return parser
