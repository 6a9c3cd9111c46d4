"""From the options of ``taut connect`` to those of ``taut.connect``, and from its exceptions to exit statuses."""

from __future__ import annotations

import argparse
import errno
import getpass
import os
import socket
import ssl
import sys
from typing import Any

import taut
from taut.errors import ReconnectFailed

from .terminal import CommandError, explain

__all__ = [
    "FAILED",
    "REFUSED",
    "TIMED_OUT",
    "UNREACHABLE",
    "WRONG_USE",
    "cannot_connect",
    "connect_options",
    "status_of",
]

FAILED, WRONG_USE, UNREACHABLE, REFUSED, TIMED_OUT = 1, 2, 3, 4, 5
"""Exit statuses: an error later on, a wrong argument, no way to the server, its refusal, no answer in time."""


def connect_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """What ``taut.connect`` is given beside the URI. Asks for a password where one is missing."""
    options: dict[str, Any] = {
        "additional_headers": arguments.header,
        "subprotocols": arguments.subprotocol,
        "origin": arguments.origin,
        "basic_auth": _basic(arguments.user),
        "bearer_token": _bearer(arguments),
        "compression": None if arguments.no_compression else "deflate",
        "max_redirects": arguments.max_redirects,
        "ssl": _tls(arguments),
        "pins": arguments.pin,
        "path": arguments.unix,
        "open_timeout": arguments.open_timeout or None,
        "ping_interval": arguments.ping_interval or None,
        "max_size": arguments.max_size,
    }
    if arguments.connect_to:
        options["host"], options["port"] = arguments.connect_to
    if arguments.ipv4 or arguments.ipv6:
        options["family"] = socket.AF_INET if arguments.ipv4 else socket.AF_INET6
    if arguments.proxy or arguments.no_proxy:
        options["proxy"] = arguments.proxy  # None for --no-proxy
    return options


def cannot_connect(exc: BaseException, shown: str) -> CommandError:
    """What to tell of a connection to ``shown`` that could not be opened."""
    return CommandError(f"cannot connect to {shown}: {explain(exc)}", status=status_of(exc))


def status_of(exc: BaseException) -> int:
    """The exit status that tells of this."""
    match exc:
        case ReconnectFailed():
            return status_of(exc.reason)
        case taut.MissingExtra() | taut.ProxyError(__cause__=taut.MissingExtra() | taut.InvalidProxy()):
            return WRONG_USE
        case TimeoutError() | OSError(errno=errno.ETIMEDOUT):
            return TIMED_OUT
        case taut.InvalidHandshake():
            return REFUSED
        case taut.ConnectionClosed():
            return FAILED
        case _:
            return UNREACHABLE


def _tls(arguments: argparse.Namespace) -> ssl.SSLContext | None:
    given = [name for name in ("cacert", "cert", "key") if getattr(arguments, name) is not None]
    if not arguments.uri.lower().startswith("wss:"):
        if given:
            raise CommandError(f"--{given[0]} is for wss:// URIs", status=WRONG_USE)
        return None  # --insecure is content with a connection that is not secured at all
    if arguments.key and not arguments.cert:
        raise CommandError("--key needs --cert", status=WRONG_USE)
    if arguments.insecure and arguments.cacert:
        raise CommandError("--insecure and --cacert exclude each other", status=WRONG_USE)
    if not (given or arguments.insecure):
        return None
    try:
        context = ssl.create_default_context(cafile=arguments.cacert)
    except OSError as exc:
        raise CommandError(f"--cacert: {_unusable(arguments.cacert, exc)}", status=WRONG_USE) from None
    if arguments.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if arguments.cert:
        try:
            context.load_cert_chain(arguments.cert, arguments.key)
        except OSError as exc:
            files = " and ".join(file for file in (arguments.cert, arguments.key) if file)
            raise CommandError(f"--cert: {_unusable(files, exc)}", status=WRONG_USE) from None
    return context


def _unusable(file: str, exc: OSError) -> str:
    """``ssl.SSLError`` is an OSError as well: what is in the file is no certificate, or no key for it."""
    return f"{file} cannot be used: {exc.reason if isinstance(exc, ssl.SSLError) and exc.reason else exc.strerror}"


def _basic(user: str | None) -> tuple[str, str] | None:
    if user is None:
        return None
    name, colon, password = user.partition(":")
    if not colon:
        if not sys.stdin.isatty():
            problem = "--user needs NAME:PASSWORD where there is no terminal to ask for the password"
            raise CommandError(problem, status=WRONG_USE)
        try:
            password = getpass.getpass(f"password of {name}: ", sys.stderr)
        except EOFError:
            raise CommandError("--user needs a password", status=WRONG_USE) from None
    return name, password


def _bearer(arguments: argparse.Namespace) -> str | None:
    if arguments.bearer_env is None:
        token: str | None = arguments.bearer
        return token
    try:
        return os.environ[arguments.bearer_env]
    except KeyError:
        raise CommandError(f"--bearer-env: {arguments.bearer_env} is not set", status=WRONG_USE) from None
