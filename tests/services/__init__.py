"""Real programs that taut is tested with: proxies, reverse proxies, Redis, a browser, another WebSocket library.

Each is a fixture, started when the first test wants it and stopped at the end of the session.  They are known to every
test (tests/conftest.py imports them).  A service that is not installed or does not start fails the tests that want it:
none is skipped.  ``make services`` installs what is missing, and starts all of them for a person to try.

=================  ==================================================================================================
``tinyproxy``      HTTP CONNECT: ``.host``, ``.port``, ``.url`` (``http://127.0.0.1:PORT``), ``.log()``
``tinyproxy_auth`` the same, wanting ``.username`` and ``.password`` (Basic), which its ``.url`` contains
``dante``          SOCKS4 and SOCKS5 without authentication: ``.url`` is ``socks5://127.0.0.1:PORT``,
                   ``.url_as("socks4")`` the same with another scheme; it resolves host names, to IPv4 addresses
``dante_auth``     SOCKS5 that insists on ``.username`` and ``.password`` (RFC 1929)
``node_ws``        an echo server on Node's ``ws``; ``.uri(deflate={}, ...)`` chooses what a connection does (echo.cjs)
``node_wss``       the same over TLS; ``certificates.trusting_context()`` trusts it
``chromium``       a browser without a window: ``.devtools`` is where tests/browser.py drives it
``nginx``          a function: ``nginx(port, ...)`` is an ``Nginx`` in front of that port until the test is over
``haproxy``        the same with ``HAProxy``, which speaks the PROXY protocol
``redis``          a Redis of the test's own, at ``.url``; ``.end()`` and ``.restart()`` take what it knew from it
=================  ==================================================================================================

``.log()`` is all that a service has written since it was started; it is shared by the tests of a session.  tinyproxy
and Dante write a line for each connection, with the address that was asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from .chromium import Chromium
from .haproxy import HAProxy
from .nginx import Nginx
from .node import NodeWs
from .processes import ServiceError
from .proxies import Dante, Tinyproxy
from .redis import Redis

__all__ = [
    "Chromium",
    "Dante",
    "HAProxy",
    "Nginx",
    "NodeWs",
    "Redis",
    "ServiceError",
    "Tinyproxy",
    "chromium",
    "dante",
    "dante_auth",
    "haproxy",
    "nginx",
    "node_ws",
    "node_wss",
    "redis",
    "tinyproxy",
    "tinyproxy_auth",
]


@pytest.fixture(scope="session")
def tinyproxy() -> Iterator[Tinyproxy]:
    with Tinyproxy() as service:
        yield service


@pytest.fixture(scope="session")
def tinyproxy_auth() -> Iterator[Tinyproxy]:
    with Tinyproxy(auth=True) as service:
        yield service


@pytest.fixture(scope="session")
def dante() -> Iterator[Dante]:
    with Dante() as service:
        yield service


@pytest.fixture(scope="session")
def dante_auth() -> Iterator[Dante]:
    with Dante(auth=True) as service:
        yield service


@pytest.fixture(scope="session")
def node_ws() -> Iterator[NodeWs]:
    with NodeWs() as service:
        yield service


@pytest.fixture(scope="session")
def node_wss() -> Iterator[NodeWs]:
    with NodeWs(tls=True) as service:
        yield service


@pytest.fixture(scope="session")
def chromium() -> Iterator[Chromium]:
    with Chromium() as service:
        yield service


@pytest.fixture
def nginx() -> Iterator[Callable[..., Nginx]]:
    with ExitStack() as stack:

        def start(upstream: int, **options: Any) -> Nginx:
            return stack.enter_context(Nginx(upstream, **options))

        yield start


@pytest.fixture
def haproxy() -> Iterator[Callable[..., HAProxy]]:
    with ExitStack() as stack:

        def start(upstream: int, **options: Any) -> HAProxy:
            return stack.enter_context(HAProxy(upstream, **options))

        yield start


@pytest.fixture
def redis() -> Iterator[Redis]:
    with Redis() as service:
        yield service
