"""An unopened connection: a URI with all its options, checked, to be opened as often as wanted."""

from __future__ import annotations

from collections.abc import Mapping
from http.cookiejar import CookieJar
from typing import Any

from ..options import check_text
from ..protocol.uri import parse_uri
from ..types import Attempt
from .attempt import Settled, link, open_connection
from .dialling.turns import Deadline
from .handshake import ClientHandshake
from .opening import ClientConnection, Opening
from .options import connect_options
from .redirects import Navigation

__all__ = ["Connecting"]


class Connecting:
    """What ``connect`` is made of: where to, and how.

    ``cookies``: one jar for every connection that is opened from here, so that a server knows its clients again.
    """

    def __init__(self, uri: str, options: Mapping[str, Any]) -> None:
        check_text("uri", uri)
        self.uri = parse_uri(uri)
        self.options = connect_options(self.uri, options)
        self.cookies = CookieJar() if self.options.cookies is None else self.options.cookies
        # So that a header that cannot be sent is refused here, before any I/O.
        ClientHandshake(Navigation(self.uri, self.options, self.cookies))

    async def open(self) -> ClientConnection:
        """Open a connection. Raises ``ConnectError``; when it is cancelled nothing stays open."""
        return await open_connection(self.uri, self.options, self.cookies, through=self._link)

    async def _link(
        self, opening: Opening, navigation: Navigation, deadline: Deadline, attempts: list[Attempt]
    ) -> Settled:
        return await link(opening, navigation, deadline, attempts)
