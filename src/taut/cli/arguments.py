"""The types of option values, whose errors say what would be accepted, and the options that commands share."""

from __future__ import annotations

import argparse
import math
import re

__all__ = [
    "add_loop_option",
    "add_metrics_options",
    "address",
    "count",
    "header",
    "number",
    "port",
    "positive",
    "positive_seconds",
    "seconds",
]

# RFC 9110, 5.6.2 and 5.5: a token, and a value without controls.
_HEADER = re.compile(r"(?P<name>[!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*(?P<value>[^\x00-\x08\x0a-\x1f\x7f]*)")


def port(text: str) -> int:
    """A TCP port; 0 lets the system choose."""
    number = int(text) if text.isascii() and text.isdigit() and len(text) <= 5 else -1
    if not 0 <= number <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port: 0 to 65535, 0 for any that is free")
    return number


def count(text: str) -> int:
    """A positive number of bytes."""
    number = int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of bytes: 1 or more")
    return number


def number(text: str) -> int:
    """A whole number, 0 or more."""
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number: 0 or more")
    return int(text)


def positive(text: str) -> int:
    """A whole number, 1 or more."""
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and int(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number: 1 or more")
    return int(text)


def address(text: str) -> tuple[str, int]:
    """A host and a port, an IPv6 address in brackets."""
    host, _, digits = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        host = ""
    if not host or not (digits.isascii() and digits.isdigit() and len(digits) <= 5 and 0 < int(digits) <= 65535):
        raise argparse.ArgumentTypeError(f"{text!r} is not an address: write HOST:PORT, or [IPV6]:PORT")
    return host, int(digits)


def seconds(text: str) -> float:
    """A number of seconds; 0 stands for never."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds: 0 or more, 0 for never")
    return number


def positive_seconds(text: str) -> float:
    """A number of seconds that is not 0."""
    number = seconds(text) if not text.startswith(("ws:", "wss:")) else 0.0
    if not number:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0; the URI has to come first")
    return number


def header(text: str) -> tuple[str, str]:
    """A header line of the opening handshake."""
    found = _HEADER.fullmatch(text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a header: write 'Name: value'")
    return found["name"], found["value"].rstrip(" \t")


def add_metrics_options(parser: argparse.ArgumentParser, title: str) -> None:
    """``--metrics-port`` and ``--metrics-host``, in a group of their own."""
    group = parser.add_argument_group("metrics", f"{title}: /metrics, /healthz and /readyz.")
    group.add_argument("--metrics-port", type=port, metavar="PORT", help="show them here; 0 for any port that is free")
    group.add_argument(
        "--metrics-host", default="127.0.0.1", metavar="HOST", help="name or address to do so (default: %(default)s)"
    )


def add_loop_option(parser: argparse.ArgumentParser) -> None:
    """``--uvloop`` and ``--no-uvloop``."""
    parser.add_argument(
        "--uvloop",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="run on uvloop, or on asyncio's own event loop (default: uvloop where it is installed)",
    )
