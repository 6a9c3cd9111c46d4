"""A reverse proxy for WebSocket: connections of clients are passed on to upstreams, message by message.

``serve`` starts one; a ``Proxy`` also fits into the routes of a ``taut.Router``.
"""

from __future__ import annotations

from .headers import HeaderRules
from .health import HealthCheck
from .proxy import Proxy
from .routes import Route
from .serving import ProxyServer, serve
from .upstreams import Upstream, UpstreamStats

__all__ = ["HeaderRules", "HealthCheck", "Proxy", "ProxyServer", "Route", "Upstream", "UpstreamStats", "serve"]
