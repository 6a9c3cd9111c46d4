"""The options of a client, validated once and passed whole.

``ConnectOptions`` is the record; ``ConnectArguments`` is the same for type checkers, for every function that takes
these options by name: ``connect``, ``unix_connect``, ``Session``, ``Pool`` and ``taut.sync.connect``.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import socket as socket_module
import ssl as ssl_module
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from http.cookiejar import CookieJar
from typing import Any, TypedDict, cast

from .._version import __version__
from ..connection.watching import check_events
from ..events import Events
from ..options import (
    CONNECTION_OPTIONS,
    check_choice,
    check_count,
    check_deflate,
    check_number,
    check_port,
    check_sequence,
    check_ssl,
    check_text,
    connection_options,
)
from ..protocol.headers import basic_authorization
from ..protocol.http1 import encode_connect
from ..protocol.uri import WebSocketURI
from ..subprotocols import Offer, Subprotocol, check_codec, check_subprotocols
from ..types import ConnectionOptions, DeflateOptions, Headers, HeadersLike, Overflow, RateLimits
from .dialling.certificates import parse_pins
from .dialling.proxies import ProxyURL, need_socks, parse_proxies

__all__ = ["ConnectArguments", "ConnectOptions", "PooledArguments", "connect_options"]

USER_AGENT = f"taut/{__version__}"

_FAMILIES = (socket_module.AF_UNSPEC, socket_module.AF_INET, socket_module.AF_INET6)


class PooledArguments(TypedDict, total=False):
    """The options of ``connect`` that ``Pool`` takes as they are."""

    host: str | None
    port: int | None
    sock: socket_module.socket | None
    path: str | os.PathLike[str] | None
    local_addr: tuple[str, int] | None
    family: int
    socket_options: Sequence[tuple[int, int, int | bytes]] | None
    happy_eyeballs_delay: float | None
    connecting_limit: int | None
    proxy: str | Sequence[str] | bool | None
    proxy_ssl: ssl_module.SSLContext | None
    proxy_headers: HeadersLike | None
    ssl: ssl_module.SSLContext | None
    server_hostname: str | None
    pins: Sequence[str] | None
    origin: str | None
    subprotocols: Sequence[str | Subprotocol[Any]] | None
    codec: Subprotocol[Any] | None
    compression: str | DeflateOptions | None
    additional_headers: HeadersLike | None
    user_agent_header: str | None
    basic_auth: tuple[str, str] | None
    bearer_token: str | None
    cookies: CookieJar | None
    max_redirects: int
    events: Events | Sequence[Events] | None
    logger: logging.Logger | str | None
    open_timeout: float | None
    dns_timeout: float | None
    connect_timeout: float | None
    tls_timeout: float | None
    max_head: int
    max_headers: int
    max_size: int | None
    max_frame_size: int | None
    max_fragments: int | None
    read_limit: int
    write_limit: int
    outbox_limit: int
    overflow: Overflow
    fragment_size: int | None
    ping_interval: float | None
    ping_timeout: float | None
    close_timeout: float | None
    strict_pongs: bool
    rate_limits: RateLimits
    idle_timeout: float | None


class ConnectArguments(PooledArguments, total=False):
    """The options of ``connect`` by name; ``connect`` says what each means."""

    max_lifetime: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectOptions:
    """What governs the opening of a connection; ``connection`` governs it once it is open."""

    host: str | None = None
    port: int | None = None
    sock: socket_module.socket | None = None
    path: str | None = None
    local_addr: tuple[str, int] | None = None
    family: int = socket_module.AF_UNSPEC
    socket_options: tuple[tuple[int, int, int | bytes], ...] = ()
    happy_eyeballs_delay: float | None = 0.25
    connecting_limit: int | None = 1
    proxy: tuple[ProxyURL, ...] | None = None
    """The chain to go through, the nearest first; None to ask the environment."""
    proxy_ssl: ssl_module.SSLContext | None = None
    proxy_headers: Headers = field(default_factory=Headers, repr=False)
    ssl: ssl_module.SSLContext | None = None
    server_hostname: str | None = None
    pins: frozenset[tuple[str, bytes]] = frozenset()
    origin: str | None = None
    subprotocols: Offer = field(default_factory=Offer)
    codec: Subprotocol[Any] | None = None
    deflate: DeflateOptions | None = field(default_factory=DeflateOptions)
    additional_headers: Headers = field(default_factory=Headers, repr=False)
    user_agent_header: str | None = USER_AGENT
    authorization: str | None = field(default=None, repr=False)
    cookies: CookieJar | None = None
    max_redirects: int = 5
    events: tuple[Events, ...] = ()
    logger: logging.Logger = field(default_factory=lambda: logging.getLogger("taut.client"))
    open_timeout: float | None = 10.0
    dns_timeout: float | None = None
    connect_timeout: float | None = None
    tls_timeout: float | None = None
    max_head: int = 16384
    max_headers: int = 128
    connection: ConnectionOptions = field(default_factory=ConnectionOptions)

    def codec_for(self, subprotocol: str | None) -> Subprotocol[Any] | None:
        """What encodes and decodes once this subprotocol is agreed on."""
        return self.codec if subprotocol is None else self.subprotocols.codecs.get(subprotocol, self.codec)

    def refuse_codecs(self, what: str) -> None:
        """Raise ``TypeError`` where values cannot be encoded and decoded: what takes these options takes names only."""
        for codec in (*self.subprotocols.codecs.values(), self.codec):
            if codec is not None:
                raise TypeError(f"{what} takes the names of subprotocols, and no objects that decode, not {codec!r}")

    @property
    def fixed_address(self) -> bool:
        """Whether the address was given by hand, and not by the URI."""
        return not (self.host is None and self.port is None and self.sock is None and self.path is None)


_ACCEPTED = {each.name for each in fields(ConnectOptions)} - {"deflate", "authorization", "connection"}
_OWN = _ACCEPTED | {"compression", "basic_auth", "bearer_token"}
_TIMEOUTS = ("open_timeout", "dns_timeout", "connect_timeout", "tls_timeout", "happy_eyeballs_delay")


def connect_options(uri: WebSocketURI, given: Mapping[str, Any]) -> ConnectOptions:
    """The record of what was given by name for a connection to ``uri``.

    Raises ``TypeError`` for an unknown name or a wrong type, ``ValueError`` (``InvalidProxy`` among them) for a wrong
    value; each names the option, the value and what is accepted. ``MissingExtra`` for a SOCKS proxy without its extra.
    """
    unknown = given.keys() - _OWN - CONNECTION_OPTIONS
    if unknown:
        known = ", ".join(sorted(_OWN | CONNECTION_OPTIONS))
        raise TypeError(f"unexpected option {min(unknown)}; known are {known}")
    record: dict[str, Any] = {name: value for name, value in given.items() if name in _ACCEPTED}
    _check_address(record)
    for name in _TIMEOUTS:
        if name in record:
            check_number(name, record[name], above=0, optional=True)
    for name in ("max_head", "max_headers"):
        if name in record:
            check_count(name, record[name], least=1)
    if "max_redirects" in record:
        check_count("max_redirects", record["max_redirects"], least=0)
    if "connecting_limit" in record:
        check_count("connecting_limit", record["connecting_limit"], least=1, optional=True)
    _check_security(uri, record)
    _check_proxies(record)
    _check_request(uri, given, record)
    if "compression" in given:
        record["deflate"] = check_deflate(given["compression"])
    record["events"] = check_events(given.get("events"))
    logger = given.get("logger")
    if logger is not None and not isinstance(logger, logging.Logger | str):
        raise TypeError(f"logger must be a logging.Logger, the name of one, or None, not {logger!r}")
    if not isinstance(logger, logging.Logger):
        record["logger"] = logging.getLogger(logger or "taut.client")
    record["connection"] = connection_options({name: given[name] for name in given.keys() & CONNECTION_OPTIONS})
    return ConnectOptions(**record)


def _check_address(record: dict[str, Any]) -> None:
    if (host := record.get("host")) is not None:
        check_text("host", host)
    check_port(record.get("port"))
    sock = record.get("sock")
    if sock is not None and not isinstance(sock, socket_module.socket):
        raise TypeError(f"sock must be a connected socket.socket or None, not {sock!r}")
    if record.get("path") is not None:
        path = cast(object, os.fspath(record["path"]))
        check_text("path", path)
        record["path"] = path
    ways = [name for name in ("sock", "path") if record.get(name) is not None]
    ways += [name for name in ("host", "port") if record.get(name) is not None]
    if len(ways) > 1 and ways[0] in ("sock", "path"):
        raise ValueError(f"{ways[0]} and {ways[1]} exclude each other: each names the server's address")
    if (family := record.get("family", socket_module.AF_UNSPEC)) not in _FAMILIES:
        raise ValueError(f"family must be socket.AF_INET, AF_INET6 or AF_UNSPEC (0), not {family!r}")
    _check_local_address(record)
    _check_socket_options(record)


def _check_local_address(record: dict[str, Any]) -> None:
    if record.get("local_addr") is None:
        return
    wanted = "local_addr must be a tuple of an IP address and a port (0 for any), or None"
    given = _pair(record["local_addr"])
    if given is None or not isinstance(given[0], str):
        raise TypeError(f"{wanted}, not {record['local_addr']!r}")
    try:
        ipaddress.ip_address(given[0])
        check_port(given[1])
    except ValueError as exc:
        raise ValueError(f"{wanted}, not {given!r}") from exc


def _check_socket_options(record: dict[str, Any]) -> None:
    options = check_sequence("socket_options", record.get("socket_options"), (tuple,)) or ()
    for option in options:
        if len(option) != 3 or not all(isinstance(part, int) for part in option[:2]):
            raise ValueError(f"socket_options must be tuples of level, name and value, not {option!r}")
        if not isinstance(option[2], int | bytes):
            raise TypeError(f"socket_options: a value must be int or bytes, not {option[2]!r}")
    record["socket_options"] = options


def _check_security(uri: WebSocketURI, record: dict[str, Any]) -> None:
    ssl = record.get("ssl")
    check_ssl(ssl)
    if ssl is not None and not uri.secure:
        raise ValueError("ssl is for wss:// URIs, and this one is ws://")
    pins = record.get("pins")
    if pins is not None and not uri.secure:
        raise ValueError("pins are for wss:// URIs, and this one is ws://")
    record["pins"] = parse_pins(pins)
    if (name := record.get("server_hostname")) is not None:
        check_text("server_hostname", name)


def _check_proxies(record: dict[str, Any]) -> None:
    given = record.get("proxy", True)
    # A connection over a given socket, or a Unix socket, goes nowhere else: the environment is not for it.
    by_hand = record.get("sock") is not None or record.get("path") is not None
    if given is True:
        record["proxy"] = () if by_hand else None
    else:
        record["proxy"] = parse_proxies(given)
        if record["proxy"] and by_hand:
            raise ValueError("proxy cannot be combined with sock or path")
        need_socks(record["proxy"])
    check_ssl(record.get("proxy_ssl"), "proxy_ssl")
    record["proxy_headers"] = _headers_for_proxies(record.get("proxy_headers"))


def _headers_for_proxies(given: Any) -> Headers:
    try:
        headers = Headers(given or ())
        encode_connect("proxy:80", headers)
    except ValueError as exc:
        raise ValueError(f"proxy_headers: {exc}") from None
    except (TypeError, AttributeError):
        # Not shown: it may well hold credentials.
        raise TypeError("proxy_headers must hold str only, as a mapping or in pairs, or be None") from None
    return headers


def _check_request(uri: WebSocketURI, given: Mapping[str, Any], record: dict[str, Any]) -> None:
    for name in ("origin", "user_agent_header"):
        if record.get(name) is not None:
            check_text(name, record[name])
    record["subprotocols"] = check_subprotocols(record.get("subprotocols"))
    record["codec"] = check_codec(record.get("codec"))
    record["additional_headers"] = Headers(record.get("additional_headers") or ())  # once: it may be an iterator
    cookies = record.get("cookies")
    if cookies is not None and not isinstance(cookies, CookieJar):
        raise TypeError(f"cookies must be an http.cookiejar.CookieJar or None, not {cookies!r}")
    record["authorization"] = _authorization(uri, given.get("basic_auth"), given.get("bearer_token"))


def _authorization(uri: WebSocketURI, basic: Any, bearer: Any) -> str | None:
    ways = ["basic_auth"] * (basic is not None) + ["bearer_token"] * (bearer is not None)
    ways += ["credentials in the URI"] * (uri.username is not None)
    check_choice(ways)
    if basic is not None:
        pair = _pair(basic)
        if pair is None or not isinstance(pair[0], str) or not isinstance(pair[1], str):
            raise TypeError("basic_auth must be a tuple of a user name and a password, both str")  # not shown: a secret
        return basic_authorization(pair[0], pair[1])
    if bearer is None:
        return None
    if not isinstance(bearer, str):
        raise TypeError(f"bearer_token must be a str or None, not a {type(bearer).__name__}")
    if not bearer or not bearer.isascii() or not bearer.isprintable() or " " in bearer:
        raise ValueError("bearer_token must be printable ASCII without spaces (RFC 6750, 2.1)")
    return f"Bearer {bearer}"


def _pair(value: object) -> tuple[object, object] | None:
    """``value`` if it is a tuple of two."""
    if not isinstance(value, tuple):
        return None
    parts = cast("tuple[object, ...]", value)
    return (parts[0], parts[1]) if len(parts) == 2 else None
