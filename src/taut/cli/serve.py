"""``taut serve``: a server from the command line. Today it echoes."""

from __future__ import annotations

import argparse
from typing import Any

import taut

from .arguments import add_loop_option, count, port
from .running import authority, listening, loop_name, run, stop_event
from .terminal import CommandError, show

__all__ = ["add_parser"]


def add_parser(commands: Any) -> None:
    """Describe ``taut serve`` to argparse."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "serve",
        help="start a server",
        description="Start a server, and serve until SIGINT or SIGTERM: then every connection is closed, and the exit"
        " status is 0. It is 1 when the address cannot be had.",
        allow_abbrev=False,
    )
    parser.add_argument("--echo", action="store_true", help="send every message back (the only server there is today)")
    parser.add_argument("--host", default="127.0.0.1", help="name or address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=port, default=8765, help="port, 0 for any that is free (default: %(default)s)")
    parser.add_argument("--no-compression", action="store_true", help="refuse permessage-deflate")
    parser.add_argument(
        "--max-size", type=count, default=1 << 20, metavar="N", help="largest message, in bytes (default: %(default)s)"
    )
    add_loop_option(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    if not arguments.echo:
        raise CommandError("say what to serve: --echo is all there is today", status=2)
    return run(lambda: _serve(arguments), uvloop=arguments.uvloop)


async def echo(ws: taut.ServerConnection) -> None:
    """Send every message back as it came."""
    async for message in ws:
        await ws.send(message)


async def _serve(arguments: argparse.Namespace) -> int:
    host, number = arguments.host, arguments.port
    compression = None if arguments.no_compression else "deflate"
    serving = taut.serve(echo, host, number, compression=compression, max_size=arguments.max_size)
    with stop_event() as stop:
        async with listening(serving, host, number) as server:
            for sock in server.sockets:
                show(f"echo server on ws://{authority(*sock.getsockname()[:2])}/ ({loop_name()}; Ctrl-C stops it)")
            await stop.wait()
    return 0
