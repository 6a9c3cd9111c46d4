"""What proxies say in headers of a request: Forwarded (RFC 7239), and X-Forwarded-For, -Proto and -Host before it.

Anybody can send such headers, so they are only looked at when the request comes from a proxy that is trusted, and read
from the right: each proxy adds what it sees at the end.  The last element was written by the proxy that we see, and
names its peer; if that is a trusted proxy too, the element before it was written by that one, and so on.  The first
peer that is not trusted is the client, and nothing to the left of it is believed.

Nothing is guessed: what is malformed where it has to be read, or says two different things, raises ``InvalidHeader``.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from taut.errors import InvalidHeader
from taut.protocol.headers import TOKEN
from taut.types import Headers

__all__ = ["Address", "Forwarding", "read_forwarding"]

Address: TypeAlias = tuple[str, int] | tuple[str, int, int, int]
"""An address as ``getpeername`` gives it; the port is 0 where it is not known."""

_element_end = re.compile(r"[ \t]*(,)[ \t]*|[ \t]*\Z")
_pair = re.compile(rf'({TOKEN})=(?:({TOKEN})|"((?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*)")')
_pair_end = re.compile(r"[ \t]*;[ \t]*")
_quoted_pair = re.compile(r"\\(.)")
_node = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+))(?::([0-9]{1,5}|_[0-9A-Za-z._-]+))?")
_hidden = re.compile(r"(?:unknown|_[0-9A-Za-z._-]+)(?::(?:[0-9]{1,5}|_[0-9A-Za-z._-]+))?", re.IGNORECASE)
_SCHEMES = {"http": False, "https": True, "ws": False, "wss": True}


@dataclass(frozen=True, slots=True)
class Forwarding:
    """What trusted proxies say of a request; None for what they do not say.

    ``client``: who made it.  ``secure``: whether it was made through TLS.  ``host``: the Host that it was made for.
    """

    client: Address | None = None
    secure: bool | None = None
    host: str | None = None


def read_forwarding(headers: Headers, is_trusted: Callable[[Address], bool]) -> Forwarding | None:
    """What the headers of a request that comes from a trusted proxy say; None when they say nothing.

    ``is_trusted`` tells of further addresses whether they are trusted proxies.  Raises ``InvalidHeader``.
    """
    standard = _read_standard(headers, is_trusted)
    customary = _read_customary(headers, is_trusted)
    if standard is None or customary is None:
        return standard or customary
    return _joined(standard, customary)


def _joined(standard: Forwarding, customary: Forwarding) -> Forwarding:
    """A proxy that writes one kind may let the other pass, as the client wrote it: they must not differ."""
    pairs = [
        (standard.client and standard.client[0], customary.client and customary.client[0]),
        (standard.secure, customary.secure),
        (standard.host and standard.host.lower(), customary.host and customary.host.lower()),
    ]
    for one, other in pairs:
        if one is not None and other is not None and one != other:
            raise InvalidHeader("Forwarded", problem="Forwarded and X-Forwarded headers say different things")
    client = standard.client
    if client is None or (customary.client is not None and client[1] == 0):
        client = customary.client
    secure = customary.secure if standard.secure is None else standard.secure
    return Forwarding(client, secure, standard.host or customary.host)


# Forwarded.


def _read_standard(headers: Headers, is_trusted: Callable[[Address], bool]) -> Forwarding | None:
    value = headers.get("Forwarded")
    if value is None:
        return None
    found = Forwarding()
    # All of it has to be read: a quoted string that somebody left open would swallow what follows.
    for element in reversed(_parse_elements(value)):
        node = _parse_node(element["for"]) if "for" in element else None
        if "for" in element and node is None and not _hidden.fullmatch(element["for"]):
            raise InvalidHeader("Forwarded", value)
        secure = _parse_scheme("Forwarded", element["proto"]) if "proto" in element else None
        found = Forwarding(node or found.client, secure, element.get("host"))
        if node is None or not is_trusted(node):
            break
    return found


def _parse_elements(value: str) -> list[dict[str, str]]:
    elements: list[dict[str, str]] = []
    element: dict[str, str] = {}
    position, after_pair = 0, False
    while True:
        if not after_pair and (pair := _pair.match(value, position)):
            name, token, quoted = pair[1].lower(), pair[2], pair[3]
            if name in element:
                raise InvalidHeader("Forwarded", value)
            element[name] = token if quoted is None else _quoted_pair.sub(r"\1", quoted)
            position, after_pair = pair.end(), True
        elif end := _pair_end.match(value, position):
            position, after_pair = end.end(), False
        elif end := _element_end.match(value, position):
            if element:  # an empty one is skipped, as in every list
                elements.append(element)
            if end[1] is None:
                return elements
            element, position, after_pair = {}, end.end(), False
        else:
            raise InvalidHeader("Forwarded", value)


def _parse_node(text: str) -> Address | None:
    """The address, None if there is none in it."""
    found = _node.fullmatch(text)
    if found is None:
        return None
    port = int(found[3]) if found[3] and found[3][0] != "_" else 0
    try:
        if found[1]:
            return (str(ipaddress.IPv6Address(found[1])), port, 0, 0) if port <= 65535 else None
        return (str(ipaddress.IPv4Address(found[2])), port) if port <= 65535 else None
    except ValueError:
        return None


def _parse_scheme(name: str, value: str) -> bool:
    try:
        return _SCHEMES[value.lower()]
    except KeyError:
        raise InvalidHeader(name, value) from None


# X-Forwarded-For, X-Forwarded-Proto, X-Forwarded-Host.


def _read_customary(headers: Headers, is_trusted: Callable[[Address], bool]) -> Forwarding | None:
    hops, schemes, hosts = (_items(headers, f"X-Forwarded-{name}") for name in ("For", "Proto", "Host"))
    if not hops and not schemes and not hosts:
        return None
    client: Address | None = None
    back = 0  # which element, from the right, was written by the outermost trusted proxy
    for hop in reversed(hops):
        back += 1
        node = _parse_bare(hop)
        if node is None and not _hidden.fullmatch(hop):
            raise InvalidHeader("X-Forwarded-For", ", ".join(hops))
        client = node or client
        if node is None or not is_trusted(node):
            break
    scheme = _choose("X-Forwarded-Proto", schemes, back, len(hops))
    host = _choose("X-Forwarded-Host", hosts, back, len(hops))
    return Forwarding(client, None if scheme is None else _parse_scheme("X-Forwarded-Proto", scheme), host)


def _items(headers: Headers, name: str) -> list[str]:
    value = headers.get(name)
    return [] if value is None else [item for item in (item.strip(" \t") for item in value.split(",")) if item]


def _parse_bare(text: str) -> Address | None:
    """An address as X-Forwarded-For has it: of IPv6, without brackets as a rule."""
    return _parse_node(f"[{text}]" if text.count(":") > 1 and not text.startswith("[") else text)


def _choose(name: str, items: list[str], back: int, hops: int) -> str | None:
    """The one that belongs to the hop: there may be a single one for all hops, or one for each."""
    if not items:
        return None
    if len(items) == 1:
        return items[0]
    if len(items) != hops:
        raise InvalidHeader(name, ", ".join(items), problem=f"{name} must hold one value, or one for each hop")
    return items[-back]
