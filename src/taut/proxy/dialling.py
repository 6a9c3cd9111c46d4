"""Reaching an upstream: one attempt to open a connection to it, on behalf of a client.

The socket is dialled as for any client, only that nobody has to wait for a turn: RFC 6455, 4.1 lets a client open one
connection at a time, and this is many clients.
"""

from __future__ import annotations

from dataclasses import replace
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any

from ..client.attempt import Settled, link, open_connection
from ..client.dialling.dial import dial
from ..client.dialling.turns import Deadline
from ..client.opening import ClientConnection, Opening
from ..client.redirects import Navigation
from ..errors import DialError
from ..protocol.proxy_protocol import encode_proxy_header
from ..subprotocols import Offer
from ..types import Attempt, Headers
from .upstreams import Backend

__all__ = ["open_upstream"]

_NO_COOKIES = CookieJar(DefaultCookiePolicy(allowed_domains=[]))
"""Cookies are between the client and the upstream."""


async def open_upstream(
    backend: Backend, target: str, headers: Headers, subprotocols: tuple[str, ...], addresses: tuple[Any, Any]
) -> ClientConnection:
    """Open a connection to an upstream. ``target``: path and query; ``addresses``: the client's, and ours to it.

    Raises ``ConnectError``. When it is cancelled nothing stays open.
    """
    uri = replace(backend.uri, resource=target)
    options = replace(backend.options, additional_headers=headers, subprotocols=Offer(subprotocols))
    through = _Announcing(addresses).link if backend.upstream.proxy_protocol else link
    connection = await open_connection(uri, options, _NO_COOKIES, through=through)
    connection.deliver_parts()
    return connection


class _Announcing:
    """Begins connections with the header of the PROXY protocol."""

    def __init__(self, addresses: tuple[Any, Any]) -> None:
        self._header = encode_proxy_header(*addresses)

    async def link(
        self, opening: Opening, navigation: Navigation, deadline: Deadline, attempts: list[Attempt]
    ) -> Settled:
        """Give ``opening`` a transport over the network."""
        dialled = await dial(navigation.uri, navigation.options, deadline, attempts)
        try:
            await opening.connection.loop.sock_sendall(dialled.sock, self._header)
        except OSError as exc:
            dialled.discard()
            raise DialError(f"the header of the PROXY protocol could not be sent: {exc}", errno=exc.errno) from exc
        except BaseException:
            dialled.discard()
            raise
        navigation.options = replace(navigation.options, sock=dialled.sock, path=None, host=None, port=None)
        settled = await link(opening, navigation, deadline, attempts)
        dialled.settled()
        return settled
