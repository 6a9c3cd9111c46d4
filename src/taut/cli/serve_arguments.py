"""The options of ``taut serve``, in the groups that its help shows."""

from __future__ import annotations

import argparse
from typing import Any

from ..workers.plan import FORMATS, LEVELS
from .arguments import add_loop_option, add_metrics_options, count, number, port, positive, positive_seconds, seconds

__all__ = ["add_serve_arguments", "serve_options"]


def add_serve_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe what to serve, and every option."""
    parser.add_argument(
        "app",
        nargs="?",
        metavar="APP",
        help="what to serve, MODULE:ATTRIBUTE: a router, a handler, a Listener, a server",
    )
    parser.add_argument("--echo", action="store_true", help="serve an echo in its place: every message is sent back")
    parser.add_argument(
        "--factory", action="store_true", help="APP is called to make what is served; it may be asynchronous"
    )
    parser.add_argument(
        "--app-dir", default=".", metavar="DIR", help="where modules are looked for first (default: %(default)s)"
    )
    _add_place(parser)
    _add_processes(parser)
    _add_security(parser)
    _add_limits(parser)
    _add_logging(parser)
    add_metrics_options(parser, "Of all processes together")
    add_loop_option(parser)


def _add_place(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("where to listen", "The sockets of systemd are used where it passes some.")
    group.add_argument("--host", help="name or address to listen on (default: 127.0.0.1)")
    group.add_argument("--port", type=port, help="port, 0 for any that is free (default: 8765)")
    group.add_argument("--unix", metavar="PATH", help="listen on this Unix socket instead")
    group.add_argument(
        "--fd", type=number, action="append", default=[], metavar="NUMBER",
        help="listen on this open descriptor instead; may be given several times",
    )  # fmt: skip
    group.add_argument(
        "--backlog", type=positive, metavar="N",
        help="connections that may wait to be accepted (default: 1024)",
    )  # fmt: skip


def _add_processes(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("processes")
    group.add_argument(
        "--workers", type=positive, metavar="N",
        help="serve in this many processes, which are started again when they end, and replaced on SIGHUP",
    )  # fmt: skip
    group.add_argument(
        "--drain", type=seconds, default=30.0, metavar="SECONDS",
        help="how long connections are closed over at the end (default: 30)",
    )  # fmt: skip
    group.add_argument(
        "--start-timeout", type=positive_seconds, default=60.0, metavar="SECONDS",
        help="how long a worker may take to get ready (default: 60)",
    )  # fmt: skip
    group.add_argument(
        "--worker-timeout", type=seconds, default=60.0, metavar="SECONDS",
        help="how long the event loop of a worker may be blocked before the worker is killed and started again, 0 for"
        " ever (default: 60)",
    )  # fmt: skip


def _add_security(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("TLS, browsers and proxies")
    group.add_argument("--cert", metavar="FILE", help="serve wss:// with this certificate; SIGHUP loads it anew")
    group.add_argument("--key", metavar="FILE", help="its private key, if it is in a file of its own")
    group.add_argument(
        "--origin", action="append", default=[], metavar="ORIGIN",
        help="let in browsers from this origin, * for any, else from the same only; may be given several times",
    )  # fmt: skip
    group.add_argument(
        "--trusted-proxy", action="append", default=[], metavar="ADDRESS",
        help="believe the Forwarded and X-Forwarded headers of this address, network, or unix; may be given several"
        " times",
    )  # fmt: skip
    group.add_argument(
        "--proxy-protocol", action="store_true", help="expect the header of the PROXY protocol from trusted proxies"
    )


def _add_limits(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("limits", "Those on connections are for each process.")
    group.add_argument("--no-compression", action="store_true", help="refuse permessage-deflate")
    group.add_argument("--max-size", type=count, metavar="N", help="largest message, in bytes (default: 1048576)")
    group.add_argument("--max-connections", type=positive, metavar="N", help="how many connections there may be")
    group.add_argument(
        "--max-connections-per-address", type=positive, metavar="N", help="how many of them from one address"
    )
    group.add_argument(
        "--open-timeout", type=seconds, metavar="SECONDS",
        help="how long opening a connection may take, 0 for ever (default: 10)",
    )  # fmt: skip
    group.add_argument(
        "--ping-interval", type=seconds, metavar="SECONDS",
        help="how often to check that a silent client is alive, 0 for never (default: 20)",
    )  # fmt: skip
    group.add_argument(
        "--ping-timeout", type=seconds, metavar="SECONDS",
        help="how long it may then stay silent, 0 for ever (default: 20)",
    )  # fmt: skip


def _add_logging(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the log", "On stderr, unless the application configures logging itself.")
    group.add_argument(
        "--log-format", choices=FORMATS, default="text", metavar="FORMAT",
        help="text, or json for one object a line (default: %(default)s)",
    )  # fmt: skip
    group.add_argument(
        "--log-level", choices=LEVELS, metavar="LEVEL",
        help="debug, info, warning, error or critical (default: info)",
    )  # fmt: skip


def serve_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The arguments of ``taut.serve`` that were given: what was not given may be said by the application."""
    given: dict[str, Any] = {
        "origins": arguments.origin or None,
        "trusted_proxies": arguments.trusted_proxy or None,
        "proxy_protocol": arguments.proxy_protocol or None,
        "max_size": arguments.max_size,
        "max_connections": arguments.max_connections,
        "max_connections_per_address": arguments.max_connections_per_address,
        "backlog": arguments.backlog,
    }
    options = {name: value for name, value in given.items() if value is not None}
    if arguments.no_compression:
        options["compression"] = None
    for name in ("open_timeout", "ping_interval", "ping_timeout"):
        number = getattr(arguments, name)
        if number is not None:
            options[name] = number or None
    return options
