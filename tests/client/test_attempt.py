"""One opening, where things go wrong at the same time."""

from __future__ import annotations

from http.cookiejar import CookieJar
from typing import Any

import pytest

from taut.client.attempt import open_connection
from taut.client.opening import Opening
from taut.client.options import ConnectOptions
from taut.errors import DialError
from taut.protocol.uri import parse_uri


async def test_a_connection_that_is_lost_while_something_else_fails_is_told_once() -> None:
    async def link(opening: Opening, *arguments: Any) -> Any:
        opening.connection_lost(None)  # nobody waits for ``done`` yet
        raise DialError("something else")

    with pytest.raises(DialError, match="something else"):
        await open_connection(parse_uri("ws://localhost/"), ConnectOptions(), CookieJar(), through=link)
