"""Which proxies a connection goes through: their URLs, and what the environment says.

A proxy of the environment is for servers elsewhere: loopback hosts are always reached directly.  The lower-case name of
a variable is read before the upper-case one, and hides it even when it is empty, as ``urllib.request`` has it.
"""

from __future__ import annotations

import ipaddress
import os
import re
import urllib.request
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

from ...errors import InvalidProxy, InvalidURI, MissingExtra
from ...protocol.headers import basic_authorization
from ...protocol.uri import WebSocketURI, parse_authority

__all__ = ["ProxyURL", "need_socks", "parse_proxies", "proxies_from_environment"]

DEFAULT_PORTS = {"http": 80, "https": 443, "socks4": 1080, "socks4a": 1080, "socks5": 1080, "socks5h": 1080}

# What desktops write into their settings, and curl and urllib3 do not agree on.  The name of the server goes to the
# proxy: whoever sits behind one often cannot resolve it.
_ALIASES = {"socks": "socks5h"}
_ACCEPTED = ", ".join(f"{scheme}://" for scheme in DEFAULT_PORTS)

_forbidden = re.compile(r"[\x00-\x20\x7f]")
_scheme = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://")
_separators = re.compile(r"[\s,]+")
_entry_with_port = re.compile(r"(?P<host>\[[^\[\]]*\]|[^:\[\]]*):(?P<port>[0-9]+)")

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class ProxyURL:
    """A parsed proxy URL.

    ``scheme``: "http", "https", "socks4", "socks4a", "socks5" or "socks5h".  ``host``: in ASCII and lower case, an IPv6
    address without brackets.  ``port``: as given, else 80, 443 or 1080.  ``username``, ``password``: percent-decoded,
    None when absent; ``str()`` has neither.
    """

    scheme: str
    host: str
    port: int
    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)

    @property
    def socks(self) -> bool:
        """Whether it speaks SOCKS, and not HTTP."""
        return self.scheme.startswith("socks")

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


def parse_proxies(value: object) -> tuple[ProxyURL, ...]:
    """Read the chain of proxies to go through: the URL of one, several with the nearest first, or None or False.

    Accepted are http://, https://, socks4:// and socks5:// (which are told the server's address: its name is resolved
    here), socks4a:// and socks5h:// (which are told its name), and socks://, which means socks5h://.  The port is 80,
    443 or 1080 by default; credentials are percent-encoded.  Raises ``TypeError``, or ``InvalidProxy``.
    """
    if value is None or value is False:
        return ()
    if isinstance(value, str):
        return (_parse(value),)
    wanted = "proxy must be a URL, a sequence of URLs (the nearest proxy first), True for the environment, or None"
    if not isinstance(value, Sequence):
        raise TypeError(f"{wanted}, not {value!r}")
    chain: list[ProxyURL] = []
    for url in cast("Sequence[object]", value):
        if not isinstance(url, str):
            raise TypeError(f"{wanted}, not one with {url!r}")
        chain.append(_parse(url))
    return tuple(chain)


def _parse(url: str) -> ProxyURL:
    found = _scheme.match(url)
    if found is None:
        raise InvalidProxy(_shown(url), f"it must begin with {_ACCEPTED}")
    scheme = found["scheme"].lower()
    scheme = _ALIASES.get(scheme, scheme)
    if scheme not in DEFAULT_PORTS:
        raise InvalidProxy(_shown(url), f"the scheme {scheme!r} is not one of {_ACCEPTED}")
    if _forbidden.search(url):
        raise InvalidProxy(_shown(url), "spaces and control characters must be percent-encoded")
    rest = url[found.end() :].removesuffix("/")
    if separator := re.search(r"[/?#]", rest):
        problem = "no path, query or fragment may follow the host and the port"
        if "@" in rest[separator.start() :]:
            problem = "/, ? and # in a user name or a password must be percent-encoded"
        raise InvalidProxy(_shown(url), problem)
    try:
        authority = parse_authority(_shown(url), rest)
    except InvalidURI as exc:
        raise InvalidProxy(_shown(url), exc.problem) from None
    proxy = ProxyURL(
        scheme, authority.host, authority.port or DEFAULT_PORTS[scheme], authority.username, authority.password
    )
    if (refusal := _credentials_problem(proxy)) is not None:
        raise InvalidProxy(_shown(url), refusal)
    return proxy


def _credentials_problem(proxy: ProxyURL) -> str | None:
    """Why this kind of proxy cannot be given these credentials, None if it can."""
    username, password = proxy.username, proxy.password
    if username is None:
        return None
    if not proxy.socks:
        try:
            basic_authorization(username, password or "")
        except ValueError as exc:
            return str(exc)
    elif proxy.scheme.startswith("socks4"):
        if password is not None:
            return "SOCKS4 knows a user name but no password; socks5:// or socks5h:// does"
    elif not 1 <= len(username) <= 255 or not 1 <= len(password or "") <= 255:
        return "SOCKS5 takes a user name and a password, each of 1 to 255 bytes (RFC 1929, 2)"
    if proxy.socks and not (username + (password or "")).isascii():
        return "user names and passwords for SOCKS must be ASCII"
    return None


def _shown(url: str) -> str:
    """``url`` as it may be shown, however broken: whatever stands before an @ may be a secret."""
    credentials, at, rest = url.rpartition("@")
    if not at:
        return url
    found = _scheme.match(credentials)
    return f"{found[0] if found else ''}***@{rest}"


def need_socks(chain: Iterable[ProxyURL]) -> None:
    """Raise ``MissingExtra`` if one of these proxies speaks SOCKS, and there is nobody here who does."""
    if not any(proxy.socks for proxy in chain):
        return
    try:
        from python_socks.async_.asyncio import Proxy  # noqa: PLC0415 - an extra
    except ImportError:
        raise MissingExtra("a SOCKS proxy", "socks") from None
    del Proxy


# -- the environment -------------------------------------------------------------------------------------------------


def proxies_from_environment(uri: WebSocketURI) -> tuple[ProxyURL, ...]:
    """The proxy that the environment wants for ``uri``, in a tuple, which is empty when there is none.

    For wss: ``wss_proxy``, ``https_proxy``, ``all_proxy``; for ws: ``ws_proxy``, ``http_proxy``, ``all_proxy``; where
    none of them is set, the settings of macOS or Windows.  A URL without a scheme means http://.

    Never for localhost and its subdomains, 127.0.0.0/8 and ::1; nor for what ``no_proxy`` lists, separated by commas or
    spaces: a domain with its subdomains (with or without a leading dot), an IP address, a network as 10.0.0.0/8, each
    perhaps with a port, or * for everything.

    Raises ``InvalidProxy``, which names the variable, when that holds no usable URL.
    """
    if _is_loopback(uri.host) or _excluded(uri, _read("no_proxy")[1]):
        return ()
    for name in ("wss", "https", "all") if uri.secure else ("ws", "http", "all"):
        variable, value = _read(f"{name}_proxy")
        if value:
            return (_parse_from(value, f"from the environment variable {variable}"),)
    return _proxies_from_system(uri)


def _read(variable: str) -> tuple[str, str]:
    """The name and the value of an environment variable in lower or else upper case; empty when it is not set."""
    value = os.environ.get(variable)
    if value is not None:
        return variable, value.strip()
    upper = variable.upper()
    # A web server hands the Proxy header of a request to CGI scripts under this name (CVE-2016-5385, "httpoxy").
    if upper == "HTTP_PROXY" and "REQUEST_METHOD" in os.environ:
        return upper, ""
    return upper, os.environ.get(upper, "").strip()


def _parse_from(value: str, origin: str) -> ProxyURL:
    try:
        return _parse(value if _scheme.match(value) else f"http://{value}")
    except InvalidProxy as exc:
        raise InvalidProxy(exc.proxy, f"{exc.problem} ({origin})") from None


def _proxies_from_system(uri: WebSocketURI) -> tuple[ProxyURL, ...]:
    """What is set in the system's preferences, where there is such a thing: elsewhere only variables are looked at."""
    if urllib.request.getproxies is urllib.request.getproxies_environment:
        return ()
    settings: Mapping[str, str] = urllib.request.getproxies()
    for name in ("https" if uri.secure else "http", "socks"):
        if settings.get(name) and not urllib.request.proxy_bypass(uri.host):
            return (_parse_from(settings[name], f"from the system's settings, {name}"),)
    return ()


def _is_loopback(host: str) -> bool:
    name = host.removesuffix(".")
    address = _address(host)
    return name == "localhost" or name.endswith(".localhost") or (address is not None and address.is_loopback)


def _address(host: str) -> _Address | None:
    """``host`` as an IP address, without its zone; an IPv4 address wrapped in an IPv6 one is the former."""
    try:
        address = ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _excluded(uri: WebSocketURI, no_proxy: str) -> bool:
    """Whether the value of ``no_proxy`` has an entry for ``uri``."""
    return any(
        (port is None or port == uri.port) and (entry == "*" or _covers(entry, uri.host))
        for entry, port in _entries(no_proxy)
    )


def _entries(no_proxy: str) -> Iterator[tuple[str, int | None]]:
    for entry in _separators.split(no_proxy.lower()):
        found = _entry_with_port.fullmatch(entry)
        if found is not None:
            yield found["host"], int(found["port"])
        elif entry:
            yield entry, None


def _covers(entry: str, host: str) -> bool:
    address = _address(host)
    if address is not None:
        if "/" not in entry:
            return address == _address(entry)
        try:
            return address in ipaddress.ip_network(entry, strict=False)
        except ValueError:
            return False
    domain = entry.removeprefix("*").strip(".")
    if not domain.isascii():
        try:
            domain = domain.encode("idna").decode("ascii")
        except UnicodeError:
            return False
    name = host.removesuffix(".")
    return bool(domain) and (name == domain or name.endswith(f".{domain}"))
