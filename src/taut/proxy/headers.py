"""Which headers a proxy passes on, and what it says of itself and of the client.

Hop-by-hop headers stay behind (RFC 9110, 7.6.1), and so does everything of the opening handshake itself: each side has
one of its own, with its own extensions.  What says who the client is (Forwarded, X-Forwarded-For and their kind) is
only kept if the peer is a trusted proxy; from anybody else it is dropped, in any spelling that a program behind might
take for it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, cast

from ..protocol.forwarded import Forwarding
from ..protocol.headers import is_token, parse_token_list
from ..protocol.http1 import encode_response
from ..types import Headers, Response

__all__ = ["Forwards", "HeaderRules", "Peer", "headers_for_client", "headers_for_upstream", "host_of"]

Forwards: TypeAlias = Literal["x-forwarded", "forwarded", "both"]

_HOP_BY_HOP = frozenset(
    (
        "connection",
        "content-length",
        "expect",
        "http2-settings",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authentication-info",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    )
)
_ABOUT_THE_CLIENT = frozenset(
    (
        "forwarded",
        "x-client-ip",
        "x-forwarded",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-port",
        "x-forwarded-prefix",
        "x-forwarded-proto",
        "x-forwarded-server",
        "x-forwarded-ssl",
        "x-real-ip",
    )
)
_WRITTEN_HERE = frozenset(("forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto"))


@dataclass(frozen=True, slots=True)
class HeaderRules:
    """What is changed about the headers of a request or a response, in this order.

    ``remove``: names of headers that are not passed on.  ``set``: headers that replace those of the same name.
    ``add``: headers in addition, as pairs.  Headers of the opening handshake cannot be changed.
    """

    set: Mapping[str, str] = field(default_factory=dict[str, str])
    add: Sequence[tuple[str, str]] = ()
    remove: Sequence[str] = ()

    def __post_init__(self) -> None:
        rules: Any = self.set
        if not isinstance(rules, Mapping):
            raise TypeError(f"set must be a mapping of names to values, not {self.set!r}")
        for name in ("add", "remove"):
            value: object = getattr(self, name)
            if isinstance(value, str | bytes) or not isinstance(value, Sequence):
                raise TypeError(f"{name} must be a sequence, not {value!r}")
        for name in self.remove:
            _check_name("remove", name)
        for option, pairs in (("set", self.set.items()), ("add", self.add)):
            for pair in pairs:
                _check_pair(option, pair)

    def __bool__(self) -> bool:
        return bool(self.set or self.add or self.remove)

    def apply(self, headers: Headers) -> None:
        """Change these headers."""
        for name in self.remove:
            headers.pop(name, None)
        for name, value in self.set.items():
            headers[name] = value
        for name, value in self.add:
            headers.add(name, value)


def _check_pair(option: str, pair: object) -> None:
    parts = cast("tuple[object, ...]", pair) if isinstance(pair, tuple) else ()
    if len(parts) != 2 or not all(isinstance(part, str) for part in parts):
        raise TypeError(f"{option} must hold names and values, both str, not {pair!r}")
    name, value = cast("tuple[str, str]", parts)
    _check_name(option, name)
    try:
        encode_response(Response(200, "", Headers([(name, value)])))
    except ValueError as exc:
        raise ValueError(f"{option}: {exc}") from None


def _check_name(option: str, name: object) -> None:
    if not isinstance(name, str):
        raise TypeError(f"{option} must hold names of headers, not {name!r}")
    if not is_token(name):
        raise ValueError(f"{option}: {name!r} is not the name of a header")
    if name.lower() in _HOP_BY_HOP or name.lower().startswith("sec-websocket-"):
        raise ValueError(f"{option}: {name} belongs to one connection, and is not for rules")


@dataclass(frozen=True, slots=True)
class Peer:
    """Who sent a request: its ``address`` as ``getpeername`` gives it, and what it says.

    ``secure``: whether it came through TLS.  ``trusted``: whether it is a trusted proxy, whose word on the client is
    taken; then ``forwarding`` is its word.
    """

    address: Any
    secure: bool
    trusted: bool = False
    forwarding: Forwarding | None = None

    @property
    def host(self) -> str | None:
        """The address without the port, None for a Unix socket."""
        return host_of(self.address)


def host_of(address: Any) -> str | None:
    """The host of an address as ``getpeername`` gives it, None for that of a Unix socket."""
    if not isinstance(address, tuple):
        return None
    host = cast("tuple[object, ...]", address)[0]
    return str(host).partition("%")[0]


def headers_for_upstream(request: Headers, peer: Peer, forwards: Forwards | None, host: str | None) -> Headers:
    """The headers of a request as an upstream is to see them, but for the rules of the route.

    ``forwards``: how it is told who the client is, None for not at all. ``host``: the Host to send, None for the
    client's. Raises ``InvalidHeader`` for a Connection header that cannot be read.
    """
    headers = Headers()
    dropped = _named_by_connection(request)
    written = _WRITTEN_HERE if forwards else frozenset[str]()
    for name, value in request.raw_items():
        plain = name.lower()
        about = plain.replace("_", "-")
        if plain in _HOP_BY_HOP or plain in dropped or about.startswith("sec-websocket-"):
            continue
        if about in _ABOUT_THE_CLIENT and (not peer.trusted or about in written):
            continue
        headers.add(name, value)
    if host is not None:
        headers["Host"] = host
    if forwards in ("x-forwarded", "both"):
        _add_customary(headers, request, peer)
    if forwards in ("forwarded", "both"):
        _add_standard(headers, request, peer)
    headers.add("Via", "1.1 taut")  # RFC 9110, 7.6.3: a gateway says so
    return headers


def headers_for_client(response: Headers, *, answer: bool) -> Headers:
    """The headers of an upstream's response as the client is to see them, but for the rules of the route.

    ``answer``: whether it refuses the handshake, and has a body.
    """
    dropped = _named_by_connection(response)
    return Headers(
        (name, value)
        for name, value in response.raw_items()
        if not (
            (plain := name.lower()) in _HOP_BY_HOP
            or plain in dropped
            or plain.startswith("sec-websocket-")
            or (not answer and plain in ("content-type", "content-encoding", "server", "date"))
        )
    )


def _named_by_connection(headers: Headers) -> frozenset[str]:
    return frozenset(option.lower() for option in parse_token_list(headers.get("Connection", "")))


# What is said of the client.


def _add_customary(headers: Headers, request: Headers, peer: Peer) -> None:
    """X-Forwarded-For, to which every proxy adds its peer; -Proto and -Host, of which the first proxy's stand."""
    said = request.get("X-Forwarded-For", "") if peer.trusted else ""
    hops = [said] if said.strip(" \t,") else []
    forwarding = peer.forwarding
    if not hops and forwarding is not None and forwarding.client is not None:
        hops.append(str(forwarding.client[0]))  # it was said in Forwarded only
    if peer.host is not None:
        hops.append(peer.host)
    if hops:
        headers["X-Forwarded-For"] = ", ".join(hops)
    secure, host = peer.secure, request.get("Host", "")
    if forwarding is not None:
        secure = secure if forwarding.secure is None else forwarding.secure
        host = forwarding.host or host
    headers["X-Forwarded-Proto"] = "https" if secure else "http"
    headers["X-Forwarded-Host"] = host


def _add_standard(headers: Headers, request: Headers, peer: Peer) -> None:
    """Forwarded (RFC 7239), to which every proxy adds an element about its peer and what that asked for."""
    elements: list[str] = []
    forwarding = peer.forwarding
    if peer.trusted and (said := request.get("Forwarded")) is not None:
        elements.append(said)
    elif forwarding is not None and forwarding.client is not None:
        elements.append(_element(str(forwarding.client[0]), forwarding.secure, forwarding.host))
    elements.append(_element(peer.host, peer.secure, request.get("Host")))
    headers["Forwarded"] = ", ".join(elements)


def _element(client: str | None, secure: bool | None, host: str | None) -> str:
    pairs = [] if client is None else [f"for={_node(client)}"]
    if secure is not None:
        pairs.append(f"proto={'https' if secure else 'http'}")
    if host:
        pairs.append(f"host={host if is_token(host) else _quoted(host)}")
    return ";".join(pairs)


def _node(host: str) -> str:
    try:
        return f'"[{host}]"' if ipaddress.ip_address(host).version == 6 else host
    except ValueError:
        return "unknown"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
