"""A route of a running proxy: its upstreams, and requests as they are sent to them."""

from __future__ import annotations

from typing import Any

from ..types import Headers, Request
from .balancing import Balance
from .headers import Forwards, Peer, headers_for_upstream
from .paths import rewritten
from .routes import Route
from .upstreams import Backend

__all__ = ["ServedRoute"]


class ServedRoute:
    """A route of a running proxy."""

    def __init__(self, route: Route, connecting: dict[str, Any]) -> None:
        upstreams = route.upstreams()
        only = len(upstreams) == 1
        backends = [Backend(upstream, connecting, route.pause, only=only) for upstream in upstreams]
        self.route = route
        self.path = route.path
        self.balance = Balance(backends, route.balance)
        self._rewriting = route.rewriting()

    def target(self, backend: Backend, path: str, query: str) -> str:
        """What an upstream is asked for."""
        route = self.route
        path = rewritten(
            path, prefix=route.path, strip_prefix=route.strip_prefix, rewrite=self._rewriting, base=backend.base
        )
        return path + query

    def headers(self, backend: Backend, request: Request, peer: Peer, forwards: Forwards | None) -> Headers:
        """The headers that an upstream is sent."""
        host = None if self.route.host == "preserve" else self.route.host
        headers = headers_for_upstream(
            request.headers, peer, forwards, backend.uri.host_header if host == "upstream" else host
        )
        if backend.uri.username is not None:
            headers.pop("Authorization", None)
        self.route.request_headers.apply(headers)
        return headers
