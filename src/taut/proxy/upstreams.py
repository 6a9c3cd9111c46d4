"""The servers behind a proxy: ``Upstream``, and what is known of each while the proxy runs.

An upstream is out for one of two reasons.  Dials fail: then it is left alone for a pause that doubles with every
failure, after which a single dial may try it again; the first that succeeds forgets all of that.  Or its health check
says so, until it says otherwise.  The only upstream of a route is never left alone for failed dials: nothing would be
gained.
"""

from __future__ import annotations

import os
import ssl as ssl_module
import time
from dataclasses import dataclass
from typing import Any

from ..client.options import ConnectOptions, connect_options
from ..options import check_text
from ..protocol.uri import WebSocketURI, parse_uri
from .paths import split_target

__all__ = ["Backend", "Upstream", "UpstreamStats", "as_upstream"]

_LONGEST_PAUSE = 32
"""The longest pause after failed dials, in units of the first."""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Upstream:
    """A server behind the proxy.

    ``uri``: ws:// or wss://; its path is put before every path that is asked for. Credentials in it are sent instead of
    the client's. ``path``: a Unix socket to connect to. ``ssl``: a client context for wss, by default one that verifies
    the server; ``server_hostname``: the name to verify. ``proxy_protocol``: whether each connection begins with the
    header of the PROXY protocol, version 2, which names the client.

    Raises ``TypeError`` or ``ValueError`` (``InvalidURI`` among them) for a wrong argument.
    """

    uri: str
    path: str | os.PathLike[str] | None = None
    ssl: ssl_module.SSLContext | None = None
    server_hostname: str | None = None
    proxy_protocol: bool = False

    def __post_init__(self) -> None:
        check_text("uri", self.uri)
        parsed = parse_uri(self.uri)
        if split_target(parsed.resource)[1]:
            raise ValueError(f"uri: {str(parsed)!r} has a query, which is the client's to send")
        if not isinstance(self.proxy_protocol, bool):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"proxy_protocol must be True or False, not {self.proxy_protocol!r}")
        connect_options(parsed, self.address_options())

    def __repr__(self) -> str:
        where = "" if self.path is None else f" at {os.fspath(self.path)}"
        return f"<Upstream {parse_uri(self.uri)}{where}>"  # without credentials

    def address_options(self) -> dict[str, Any]:
        """The options of ``connect`` that say where it is and who it has to be."""
        options: dict[str, Any] = {"proxy": None, "path": self.path, "ssl": self.ssl}
        return options | {"server_hostname": self.server_hostname}


def as_upstream(value: object) -> Upstream:
    """An upstream, given as one or as its URI."""
    if isinstance(value, Upstream):
        return value
    if not isinstance(value, str):
        raise TypeError(f"an upstream must be a URI or an Upstream, not {value!r}")
    return Upstream(uri=value)


@dataclass(frozen=True, slots=True)
class UpstreamStats:
    """One upstream: ``connections`` that are open, ``available``, whether it would be dialled; and counters.

    ``opened``: connections; ``failed``: dials that came to nothing; ``refused``: handshakes that it answered otherwise.
    ``messages_up``, ``bytes_up``: to the upstream, ``messages_down``, ``bytes_down``: from it, of connections that have
    ended. ``problem``: why it is out, as its health check or the last dial has it.
    """

    name: str
    available: bool
    connections: int
    opened: int
    failed: int
    refused: int
    messages_up: int
    messages_down: int
    bytes_up: int
    bytes_down: int
    problem: str | None = None


class Backend:
    """An upstream of a running proxy: how to reach it, whether to, and what has become of it."""

    def __init__(self, upstream: Upstream, options: dict[str, Any], pause: float, *, only: bool) -> None:
        self.upstream = upstream
        self.uri: WebSocketURI = parse_uri(upstream.uri)
        self.options: ConnectOptions = connect_options(self.uri, upstream.address_options() | options)
        self.base = split_target(self.uri.resource)[0]
        shown = str(self.uri)
        self.name = shown if upstream.path is None else f"{shown} at {os.fspath(upstream.path)}"
        self.healthy = True
        self.problem: str | None = None
        self.connections = self.opened = self.failed = self.refused = 0
        self.messages_up = self.messages_down = self.bytes_up = self.bytes_down = 0
        self._pause = pause
        self._only = only
        self._dialling = 0
        self._failures = 0  # in a row
        self._back_at = 0.0

    def is_available(self, now: float | None = None) -> bool:
        """Whether it may be dialled."""
        if not self.healthy:
            return False
        if self._only or not self._failures:
            return True
        return not self._dialling and (time.monotonic() if now is None else now) >= self._back_at

    @property
    def load(self) -> int:
        """Connections that are open, or being opened."""
        return self.connections + self._dialling

    def back_in(self) -> float | None:
        """The seconds until it is tried again after failed dials; None if that is not what keeps it out."""
        return max(self._back_at - time.monotonic(), 0.0) if self.healthy and self._failures else None

    # -- what becomes of dials ---------------------------------------------------------------------------------

    def dialling(self) -> None:
        """A dial begins; ``dialled`` has to follow."""
        self._dialling += 1

    def dialled(self) -> None:
        """A dial is over, whatever came of it."""
        self._dialling -= 1

    def answered(self) -> None:
        """It answered a handshake: it is there."""
        self._failures, self._back_at = 0, 0.0
        if self.healthy:
            self.problem = None

    def unreachable(self, problem: str) -> None:
        """A dial failed: leave it alone for a while."""
        self.failed += 1
        self.problem = problem
        pause = self._pause * min(1 << min(self._failures, 16), _LONGEST_PAUSE)
        self._failures += 1
        self._back_at = time.monotonic() + pause

    # -- what its health check says ----------------------------------------------------------------------------

    def checked(self, healthy: bool, problem: str | None) -> None:
        """The health check has come to a conclusion."""
        self.healthy, self.problem = healthy, problem
        if healthy:
            self._failures, self._back_at = 0, 0.0

    def stats(self) -> UpstreamStats:
        """What is known of it."""
        return UpstreamStats(
            self.name,
            self.is_available(),
            self.connections,
            self.opened,
            self.failed,
            self.refused,
            self.messages_up,
            self.messages_down,
            self.bytes_up,
            self.bytes_down,
            self.problem,
        )
