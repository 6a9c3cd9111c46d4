"""Which proxies a server believes, and what they said of one connection."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

from ..protocol.forwarded import Forwarding, read_forwarding
from ..protocol.proxy_protocol import ProxyHeader
from ..types import Headers

__all__ = ["Proxied", "Trusted", "TrustedProxies", "check_proxy_protocol", "proxied_by_header", "proxied_by_request"]

Trusted: TypeAlias = (
    "str | ipaddress.IPv4Address | ipaddress.IPv6Address | ipaddress.IPv4Network | ipaddress.IPv6Network"
)
"""An address, a network, or "unix" for whoever connects through a Unix socket."""


class TrustedProxies:
    """The addresses whose word is taken."""

    __slots__ = ("_networks", "_unix")

    def __init__(self, given: Iterable[Trusted]) -> None:
        """Raises ``TypeError`` or ``ValueError`` for what is no address, network or "unix"."""
        if isinstance(given, str | bytes) or not isinstance(given, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"trusted_proxies must be a sequence of addresses, networks or 'unix', not {given!r}")
        self._unix = False
        self._networks: list[ipaddress.IPv4Network | ipaddress.IPv6Network] = []
        for entry in given:
            if entry == "unix":
                self._unix = True
            else:
                self._networks.append(_network(entry))

    def __bool__(self) -> bool:
        return self._unix or bool(self._networks)

    def __contains__(self, address: Any) -> bool:
        """Whether this is one of them; ``address`` as ``getpeername`` gives it."""
        if not isinstance(address, tuple):
            return self._unix and isinstance(address, str | bytes)
        try:
            host = ipaddress.ip_address(str(address[0]).partition("%")[0])  # pyright: ignore[reportUnknownArgumentType]
        except ValueError:
            return False
        if isinstance(host, ipaddress.IPv6Address) and host.ipv4_mapped is not None:
            host = host.ipv4_mapped  # a socket for both families sees IPv4 like this
        return any(host in network for network in self._networks)


def check_proxy_protocol(value: object, trusted: TrustedProxies) -> bool:
    """Refuse what is no bool, and the PROXY protocol without a proxy that may speak it."""
    if not isinstance(value, bool):
        raise TypeError(f"proxy_protocol must be True or False, not {value!r}")
    if value and not trusted:
        raise ValueError("proxy_protocol=True needs trusted_proxies, which may say who is at the other end")
    return value


def _network(entry: object) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    kinds = (ipaddress.IPv4Address, ipaddress.IPv6Address, ipaddress.IPv4Network, ipaddress.IPv6Network)
    if not isinstance(entry, str | ipaddress.IPv4Address | ipaddress.IPv6Address) and not isinstance(entry, kinds):
        raise TypeError(f"trusted_proxies must hold addresses, networks or 'unix', not {entry!r}")
    try:
        return ipaddress.ip_network(entry)
    except ValueError as exc:
        raise ValueError(f"trusted_proxies must hold addresses, networks or 'unix', not {entry!r}: {exc}") from None


@dataclass(slots=True)
class Proxied:
    """What trusted proxies say of a connection; None for what they do not say.

    ``header``: of the PROXY protocol.  ``forwarding``: of the request.  ``remote``, ``local``: the addresses to show.
    """

    header: ProxyHeader | None = None
    forwarding: Forwarding | None = None
    remote: Any = None
    local: Any = None

    def secure_or(self, seen: bool) -> bool:
        """Whether the client uses TLS; ``seen`` is what the connection itself does."""
        if self.forwarding is not None and self.forwarding.secure is not None:
            return self.forwarding.secure
        # A proxy that saw no TLS may have forwarded ours, which it cannot look into.
        return seen or (self.header is not None and self.header.secure is True)

    @property
    def host(self) -> str | None:
        """The Host that the client asked for."""
        return None if self.forwarding is None else self.forwarding.host


def proxied_by_header(header: ProxyHeader) -> Proxied:
    """What the header of the PROXY protocol says."""
    return Proxied(header, None, header.source, header.destination)


def proxied_by_request(proxied: Proxied | None, headers: Headers, peer: Any, trusted: TrustedProxies) -> Proxied | None:
    """The same with what the headers of the request add, if they come from a trusted proxy.

    ``peer``: who is at the other end, as the transport knows.  Raises ``InvalidHeader``.
    """
    if proxied is not None and proxied.remote is not None:
        peer = proxied.remote  # a proxy that forwards bytes has written no header, its peer may have
    if peer not in trusted:
        return proxied
    forwarding = read_forwarding(headers, trusted.__contains__)
    if forwarding is None:
        return proxied
    proxied = proxied or Proxied()
    proxied.forwarding = forwarding
    if forwarding.client is not None:
        proxied.remote = forwarding.client
    return proxied
