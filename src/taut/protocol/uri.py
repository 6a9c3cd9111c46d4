"""WebSocket URIs (RFC 6455, section 3), on the generic syntax of RFC 3986."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import quote, unquote

from taut.errors import InvalidURI

__all__ = ["Authority", "WebSocketURI", "parse_authority", "parse_uri"]

_forbidden = re.compile(r"[\x00-\x20\x7f]")
_control = re.compile(r"[\x00-\x1f\x7f]")
_authority = re.compile(r"(?:(?P<userinfo>.*)@)?(?P<host>\[[^\[\]]*\]|[^:\[\]@]*)(?::(?P<port>[^:]*))?")
_reg_name = re.compile(r"[0-9a-z_-]{1,63}(?:\.[0-9a-z_-]{1,63})*\.?")
_port = re.compile(r"[0-9]{1,5}")
_split = re.compile(r"[/?]")

# Everything RFC 3986 lets into a path or a query, and "%": what is already escaped stays as it is.
_SAFE = "%/?:@!$&'()*+,;=-._~[]"


@dataclass(frozen=True, slots=True)
class WebSocketURI:
    """A parsed WebSocket URI.

    ``secure``: whether TLS is used (wss).  ``host``: in ASCII and lower case, an IPv6 address without brackets.
    ``port``: as given, else 80 or 443.  ``resource``: path and query, percent-encoded, at least "/".
    ``username``, ``password``: percent-decoded, None when absent; the password is left out of ``repr``.
    """

    secure: bool
    host: str
    port: int
    resource: str
    username: str | None = None
    password: str | None = field(default=None, repr=False)

    @property
    def host_header(self) -> str:
        """The value of the Host header: brackets around IPv6, the port unless it is the default one."""
        host = f"[{self.host.partition('%')[0]}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.secure else 80) else f"{host}:{self.port}"

    def __str__(self) -> str:
        """The URI without credentials, as it may be shown."""
        return f"{'wss' if self.secure else 'ws'}://{self.host_header}{self.resource}"


class Authority(NamedTuple):
    """The part of a URI that names a server (RFC 3986, 3.2); ``port`` is None when it is left to the scheme."""

    host: str
    port: int | None
    username: str | None
    password: str | None


def parse_uri(uri: str) -> WebSocketURI:
    """Read a ``ws://`` or ``wss://`` URI.

    A host outside ASCII is encoded with IDNA, a path or query outside ASCII is percent-encoded as UTF-8.
    Raises ``InvalidURI`` with what is wrong: the scheme, a fragment, spaces, the host, the port.
    """
    if _forbidden.search(uri):
        raise InvalidURI(uri, "spaces and control characters must be percent-encoded")
    scheme, separator, rest = uri.partition("://")
    secure = _is_secure(uri, scheme.lower() if separator else "")
    if "#" in rest:
        raise InvalidURI(uri, "a fragment is not allowed (RFC 6455, 3); write # as %23")
    found = _split.search(rest)
    authority, resource = (rest[: found.start()], rest[found.start() :]) if found else (rest, "/")
    if resource.startswith("?"):
        resource = "/" + resource
    host, port, username, password = parse_authority(uri, authority)
    try:
        resource = quote(resource, safe=_SAFE)
    except UnicodeError:
        raise InvalidURI(uri, "the path cannot be encoded as UTF-8") from None
    return WebSocketURI(secure, host, port or (443 if secure else 80), resource, username, password)


def parse_authority(uri: str, authority: str) -> Authority:
    """Read the authority of ``uri``, which an error names: host, port and percent-encoded credentials.

    Raises ``InvalidURI`` as ``parse_uri`` does.
    """
    parts = _authority.fullmatch(authority)
    if parts is None:
        raise InvalidURI(uri, "the host is malformed (an IPv6 address needs brackets)")
    username, password = _read_userinfo(uri, parts["userinfo"])
    return Authority(_read_host(uri, parts["host"]), _read_port(uri, parts["port"]), username, password)


def _is_secure(uri: str, scheme: str) -> bool:
    if scheme in ("ws", "wss"):
        return scheme == "wss"
    if scheme in ("http", "https"):
        raise InvalidURI(uri, f"the scheme must be ws or wss; write {'wss' if scheme == 'https' else 'ws'}://")
    raise InvalidURI(uri, "it must begin with ws:// or wss://")


def _read_userinfo(uri: str, userinfo: str | None) -> tuple[str | None, str | None]:
    if not userinfo:
        return None, None
    name, colon, word = userinfo.partition(":")
    try:
        username, password = unquote(name, errors="strict"), unquote(word, errors="strict")
    except UnicodeError:
        raise InvalidURI(uri, "the user name or password is not UTF-8") from None
    if _control.search(username + password):
        raise InvalidURI(uri, "the user name or password holds a control character")
    return username, password if colon else None


def _read_host(uri: str, host: str) -> str:
    if not host:
        raise InvalidURI(uri, "the host is missing")
    if host.startswith("["):
        # RFC 6874: the zone of a link-local address follows an escaped percent sign.
        address, _, zone = host[1:-1].partition("%25")
        try:
            return str(ipaddress.IPv6Address(f"{address}%{zone}" if zone else address))
        except ValueError:
            raise InvalidURI(uri, f"{host} is not an IPv6 address") from None
    if len(host) > 253:
        raise InvalidURI(uri, "the host is longer than 253 characters")
    try:
        ascii_host = (host if host.isascii() else host.encode("idna").decode("ascii")).lower()
    except UnicodeError:
        raise InvalidURI(uri, f"{host!r} is not a host name") from None
    # Checked after IDNA, whose normalisation can produce separators out of other characters.
    if not _reg_name.fullmatch(ascii_host):
        raise InvalidURI(uri, f"{host!r} is not a host name")
    return ascii_host


def _read_port(uri: str, port: str | None) -> int | None:
    if not port:
        return None
    number = int(port) if _port.fullmatch(port) else 0
    if not 1 <= number <= 65535:
        raise InvalidURI(uri, f"{port!r} is not a port (1 to 65535)")
    return number
