"""``query_auth``: a token in the query of the request target (RFC 6750, 2.3).

Addresses end up in logs. So the token is taken out of the request before anybody else sees it: not even the handler
finds it in ``ws.request.path``.
"""

from __future__ import annotations

from urllib.parse import unquote_plus

from ...options import check_text
from ...types import Request
from .checks import Check
from .failures import Failure
from .hooks import AnyConnection
from .tokens import BearerHook

__all__ = ["QueryHook", "query_auth"]

_CONCEALED = "***"


class QueryHook(BearerHook):
    """Finds a token in the query, and conceals it there."""

    __slots__ = ("_parameter",)

    name = "query_auth"

    def __init__(self, parameter: str, check: Check, realm: str) -> None:
        check_text("parameter", parameter)
        if not parameter:
            raise ValueError("parameter must be the name of a parameter, not ''")
        super().__init__(check, realm)
        self._parameter = parameter

    def take(self, connection: AnyConnection, request: Request) -> str | Failure:
        path, mark, query = request.path.partition("?")
        values: list[str] = []
        pairs = query.split("&")
        for index, pair in enumerate(pairs):
            name, _, value = pair.partition("=")
            if unquote_plus(name) == self._parameter:
                values.append(value)
                pairs[index] = f"{name}={_CONCEALED}"
        if values:
            request.path = path + mark + "&".join(pairs)
        if len(values) > 1:
            return Failure.AMBIGUOUS
        try:
            return unquote_plus(values[0], errors="strict") if values and values[0] else Failure.ABSENT
        except UnicodeDecodeError:
            return Failure.WRONG


def query_auth(parameter: str, check: Check, realm: str = "") -> QueryHook:
    """Let in whoever has the right token in the query of the address: for ``process_request``.

    ``parameter``: the name before it, "token" for example. ``check``: called with the token, as by ``bearer_auth``.
    ``realm``: for the challenge. The token is not in ``ws.request`` afterwards, nor in anything that is logged.

    Raises ``TypeError`` or ``ValueError`` for a wrong argument.
    """
    return QueryHook(parameter, check, realm)
