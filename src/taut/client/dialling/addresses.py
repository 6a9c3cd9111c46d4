"""Addresses of sockets: read from literals and from what a resolver answers, put in order, and shown."""

from __future__ import annotations

import ipaddress
import itertools
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

__all__ = ["IP_FAMILIES", "Address", "address_text", "addresses_of", "interleaved", "is_literal", "literal_addresses"]

IP_FAMILIES = (socket.AF_INET, socket.AF_INET6)


@dataclass(frozen=True, slots=True)
class Address:
    """Where a socket can be connected to; ``text`` is how it is shown: "127.0.0.1:80", "[::1]:443", a path."""

    family: int
    sockaddr: Any
    text: str

    @property
    def is_ip(self) -> bool:
        """Whether it is an IP address, and not the path of a Unix socket."""
        return self.family in IP_FAMILIES


def address_text(host: str, port: int) -> str:
    """Host and port as they are written, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_literal(host: str) -> bool:
    """Whether this is an IP address, which needs no resolver."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def literal_addresses(host: str, port: int, family: int = socket.AF_UNSPEC) -> list[Address]:
    """The address that an IP address stands for, with its zone; ``OSError`` if it is of another family."""
    return addresses_of(
        socket.getaddrinfo(host, port, family, socket.SOCK_STREAM, socket.IPPROTO_TCP, socket.AI_NUMERICHOST)
    )


def addresses_of(answer: Iterable[tuple[Any, ...]]) -> list[Address]:
    """The addresses in the answer of ``getaddrinfo``, each once."""
    found: dict[Any, Address] = {}
    for family, _, _, _, sockaddr in answer:
        if family in IP_FAMILIES:
            host, port, *rest = sockaddr
            zone = f"%{rest[1]}" if len(rest) > 1 and rest[1] else ""
            found.setdefault(sockaddr, Address(family, sockaddr, address_text(host + zone, port)))
    return list(found.values())


def interleaved(addresses: list[Address]) -> list[Address]:
    """In the same order, but the families take turns, beginning with that of the first address (RFC 8305, 4)."""
    families: dict[int, list[Address]] = {}
    for address in addresses:
        families.setdefault(address.family, []).append(address)
    rounds = itertools.zip_longest(*families.values())
    return [address for each in rounds for address in each if address is not None]
