"""``taut serve``: a server from the command line, in one process or in several."""

from __future__ import annotations

import argparse
import errno
import socket
import traceback
from collections.abc import Sequence
from typing import Any

import taut

from ..workers.loading import LoadError, StartError, of_the_module
from ..workers.loops import loop_factory
from ..workers.plan import Plan
from ..workers.run import Place, launch, prepare
from .running import authority
from .serve_arguments import add_serve_arguments, serve_options
from .terminal import CommandError, explain, show

__all__ = ["add_parser", "echo"]

_ECHO = "taut.cli.serve:echo"


def add_parser(commands: Any) -> None:
    """Describe ``taut serve`` to argparse."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "serve",
        help="start a server",
        description="Serve APP until SIGINT or SIGTERM: then every connection is closed, and the exit status is 0. It"
        " is 1 when the address cannot be had or the application fails to start, and 2 when there is none.",
        allow_abbrev=False,
    )
    add_serve_arguments(parser)
    parser.set_defaults(run=_run)


async def echo(ws: taut.ServerConnection) -> None:
    """Send every message back as it came."""
    async for message in ws:
        await ws.send(message)


def _run(arguments: argparse.Namespace) -> int:
    plan = _plan(arguments)
    try:
        place = Place(arguments.host, arguments.port, arguments.unix, arguments.fd)
        binding = prepare(plan, place, arguments.workers)
    except LoadError as exc:  # a certificate
        raise CommandError(str(exc), status=2) from None
    except (OSError, UnicodeError) as exc:
        raise _cannot_listen(arguments, exc) from None
    except (TypeError, ValueError) as exc:
        raise CommandError(str(exc), status=2) from None
    try:
        launch(plan, binding, arguments.workers, lambda sockets: _announce(arguments, plan, sockets))
    except StartError as exc:
        raise CommandError(str(exc), status=2 if isinstance(exc, LoadError) else 1) from None
    except Exception as exc:  # of the application
        traceback.print_exception(type(exc), exc, of_the_module(exc))
        return 1
    return 0


def _plan(arguments: argparse.Namespace) -> Plan:
    if (arguments.app is None) != arguments.echo:
        raise CommandError("say what to serve, and only that: MODULE:ATTRIBUTE, or --echo", status=2)
    try:
        return Plan(
            app=arguments.app or _ECHO,
            factory=arguments.factory,
            app_dir=arguments.app_dir,
            certificate=arguments.cert,
            key=arguments.key,
            drain=arguments.drain,
            start_timeout=arguments.start_timeout,
            worker_timeout=arguments.worker_timeout,
            uvloop=arguments.uvloop,
            log_format=arguments.log_format,
            log_level=arguments.log_level or ("warning" if arguments.echo else "info"),
            metrics_port=arguments.metrics_port,
            metrics_host=arguments.metrics_host,
            options=serve_options(arguments),
        )
    except taut.MissingExtra as exc:
        option = "--uvloop" if exc.extra == "uvloop" else "--metrics-port"
        raise CommandError(str(taut.MissingExtra(option, exc.extra)), status=2) from None
    except (TypeError, ValueError) as exc:
        raise CommandError(str(exc), status=2) from None


def _cannot_listen(arguments: argparse.Namespace, exc: Exception) -> CommandError:
    if arguments.unix is not None:
        return CommandError(str(exc))
    where = authority(arguments.host or "127.0.0.1", 8765 if arguments.port is None else arguments.port)
    advice = "; choose another with --port" if isinstance(exc, OSError) and exc.errno == errno.EADDRINUSE else ""
    return CommandError(f"cannot listen on {where}: {explain(exc)}{advice}")


def _announce(arguments: argparse.Namespace, plan: Plan, sockets: Sequence[socket.socket]) -> None:
    what = "echo server" if arguments.echo else f"serving {plan.app}"
    loop = "asyncio" if loop_factory(plan.uvloop) is None else "uvloop"
    workers = "" if arguments.workers is None else f"{arguments.workers} workers, "
    scheme = "ws" if plan.certificate is None else "wss"
    for sock in sockets:
        name: tuple[Any, ...] | str | bytes = sock.getsockname()
        if isinstance(name, tuple):
            where = f"{scheme}://{authority(name[0], name[1])}/"
        else:
            where = f"{scheme}+unix:{name if isinstance(name, str) else repr(name)}"
        show(f"{what} on {where} ({workers}{loop}; Ctrl-C stops it)")
