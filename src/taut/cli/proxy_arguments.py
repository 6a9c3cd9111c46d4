"""The options of ``taut proxy``, in the groups that its help shows."""

from __future__ import annotations

import argparse
import re

from ..proxy import Route, Upstream
from ..workers.plan import FORMATS, LEVELS
from .arguments import add_loop_option, add_metrics_options, count, header, positive, positive_seconds, seconds

__all__ = ["add_proxy_arguments", "listen_address", "target"]

_UNIX = re.compile(r"unix:(?P<path>[^:]+)(?::(?P<base>/.*))?")
_ADDRESS = re.compile(r"(?P<host>\[[0-9A-Fa-f:.%]+\]|[^:]*):(?P<port>[0-9]{1,5})")


def add_proxy_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe where to listen, where to, and every option."""
    parser.add_argument(
        "--listen", type=listen_address, required=True, metavar="ADDRESS",
        help="HOST:PORT, :PORT for every address, unix:PATH for a Unix socket; port 0 for any that is free",
    )  # fmt: skip
    parser.add_argument(
        "--to", action="append", default=[], metavar="URI",
        help="an upstream: ws:// or wss://, whose path is put before every path, or unix:PATH[:/BASE]; may be given"
        " several times",
    )  # fmt: skip
    parser.add_argument(
        "--route", type=_route, action="append", default=[], metavar="PATH=URI",
        help="an upstream for PATH and what is below it; the longest PATH counts; may be given several times",
    )  # fmt: skip
    _add_rewriting(parser)
    _add_upstreams(parser)
    _add_security(parser)
    _add_limits(parser)
    group = parser.add_argument_group("the log", "On stderr: a line for each connection, and for what goes wrong.")
    group.add_argument("--log-format", choices=FORMATS, default="text", metavar="FORMAT", help="text, or json")
    group.add_argument(
        "--log-level", choices=LEVELS, default="info", metavar="LEVEL",
        help="debug, info, warning, error or critical (default: %(default)s)",
    )  # fmt: skip
    add_metrics_options(parser, "Of the proxy and of its upstreams")
    add_loop_option(parser)


def _add_rewriting(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("paths and headers", "The same for every route.")
    group.add_argument("--strip-prefix", action="store_true", help="leave the PATH of a route out of what is asked for")
    group.add_argument(
        "--rewrite", nargs=2, metavar=("REGEX", "REPLACEMENT"), help="replace what matches in the path, after that"
    )
    group.add_argument(
        "--host-header", default="preserve", metavar="HOST",
        help="send this Host; preserve for the client's (the default), upstream for that of the URI",
    )  # fmt: skip
    for of, name in (("request", "header"), ("response", "response-header")):
        what = f"the {of} as it is passed on; may be given several times"
        group.add_argument(
            f"--set-{name}", type=header, action="append", default=[], metavar="LINE", help=f"a header of {what}"
        )
        group.add_argument(
            f"--add-{name}", type=header, action="append", default=[], metavar="LINE", help=f"one more header of {what}"
        )
        group.add_argument(
            f"--remove-{name}", action="append", default=[], metavar="NAME", help=f"a header to leave out of {what}"
        )
    group.add_argument(
        "--forwards", choices=("x-forwarded", "forwarded", "both", "none"), default="x-forwarded", metavar="HOW",
        help="how to tell who the client is: x-forwarded (the default), forwarded, both or none",
    )  # fmt: skip


def _add_upstreams(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("several upstreams")
    group.add_argument(
        "--balance", default="least_connections", metavar="HOW",
        help="least_connections (the default), round_robin, address, or cookie:NAME",
    )  # fmt: skip
    group.add_argument(
        "--tries", type=positive, default=2, metavar="N", help="how many to dial for one client (default: 2)"
    )
    group.add_argument(
        "--pause", type=positive_seconds, default=1.0, metavar="SECONDS",
        help="how long to leave one alone after a failed dial; doubles with each further failure (default: 1)",
    )  # fmt: skip
    group.add_argument(
        "--dial-timeout", type=positive_seconds, default=5.0, metavar="SECONDS",
        help="how long opening a connection to one may take (default: 5)",
    )  # fmt: skip
    group.add_argument(
        "--health", choices=("tcp", "http", "websocket"), metavar="KIND", help="check them: tcp, http or websocket"
    )
    group.add_argument(
        "--health-path", default="/", metavar="PATH", help="what http and websocket ask for (default: /)"
    )
    group.add_argument(
        "--health-interval",
        type=positive_seconds,
        default=5.0,
        metavar="SECONDS",
        help="time between two checks (default: 5)",
    )
    group.add_argument(
        "--health-timeout",
        type=positive_seconds,
        default=2.0,
        metavar="SECONDS",
        help="for a check to succeed (default: 2)",
    )
    group.add_argument(
        "--unhealthy-after", type=positive, default=2, metavar="N", help="failures in a row (default: 2)"
    )
    group.add_argument("--healthy-after", type=positive, default=1, metavar="N", help="successes in a row (default: 1)")
    group.add_argument("-k", "--insecure", action="store_true", help="accept any certificate of an upstream")
    group.add_argument("--cacert", metavar="FILE", help="accept certificates signed by one of this file (PEM) only")
    group.add_argument(
        "--send-proxy", action="store_true", help="begin connections with the header of the PROXY protocol, version 2"
    )


def _add_security(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("clients")
    group.add_argument("--cert", metavar="FILE", help="serve wss:// with this certificate (PEM)")
    group.add_argument("--key", metavar="FILE", help="its private key, if it is in a file of its own")
    group.add_argument(
        "--origin", action="append", default=[], metavar="ORIGIN",
        help="let in browsers from this origin only, or from the same one for same; by default the upstream decides;"
        " may be given several times",
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
    group = parser.add_argument_group("limits")
    group.add_argument("--no-compression", action="store_true", help="agree on permessage-deflate with neither side")
    group.add_argument("--max-size", type=count, metavar="N", help="largest message, in bytes, else any")
    group.add_argument("--max-connections", type=positive, metavar="N", help="how many connections there may be")
    group.add_argument(
        "--max-connections-per-address", type=positive, metavar="N", help="how many of them from one address"
    )
    group.add_argument(
        "--ping-interval", type=seconds, default=20.0, metavar="SECONDS",
        help="how often to check that a silent client or upstream is alive, 0 for never (default: 20)",
    )  # fmt: skip
    group.add_argument(
        "--drain", type=positive_seconds, default=30.0, metavar="SECONDS",
        help="how long connections are closed over at the end (default: 30)",
    )  # fmt: skip


def listen_address(text: str) -> tuple[str | None, int] | str:
    """Host and port, or the path of a Unix socket."""
    if text.startswith("unix:") and len(text) > len("unix:"):
        return text.removeprefix("unix:")
    found = _ADDRESS.fullmatch(text)
    if found is None or int(found["port"]) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not an address: write HOST:PORT, :PORT or unix:PATH")
    return found["host"].strip("[]") or None, int(found["port"])


def _route(text: str) -> tuple[str, str]:
    path, equals, uri = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not a route: write PATH=URI")
    try:
        Route(Upstream(uri="ws://localhost"), path)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(str(exc)) from None
    return path, uri


def target(text: str) -> tuple[str, str | None]:
    """The URI of an upstream, and the path of its Unix socket if it has one."""
    found = _UNIX.fullmatch(text)
    return (text, None) if found is None else (f"ws://localhost{found['base'] or '/'}", found["path"])
