"""``subprotocol_auth``: a token that is offered as a subprotocol, the one header that a page can choose.

It is taken out of the offer before the subprotocol is negotiated, so it cannot be agreed upon, and never be echoed.
"""

from __future__ import annotations

from ...errors import InvalidHeader
from ...options import check_text
from ...protocol.handshake import offered_subprotocols
from ...protocol.headers import is_token
from ...types import Request
from .checks import Check
from .failures import Failure
from .hooks import AnyConnection
from .tokens import BearerHook

__all__ = ["SubprotocolHook", "subprotocol_auth"]

_HEADER = "Sec-WebSocket-Protocol"


class SubprotocolHook(BearerHook):
    """Finds a token among the subprotocols, and takes it from there."""

    __slots__ = ("_prefix",)

    name = "subprotocol_auth"

    def __init__(self, prefix: str, check: Check, realm: str) -> None:
        check_text("prefix", prefix)
        if not is_token(prefix):
            raise ValueError(f'prefix must begin a subprotocol, as "bearer." does, not {prefix!r}')
        super().__init__(check, realm)
        self._prefix = prefix

    def take(self, connection: AnyConnection, request: Request) -> str | Failure:
        try:
            offered = offered_subprotocols(request)
        except InvalidHeader:
            del request.headers[_HEADER]  # whatever it is, it may hold the token
            return Failure.AMBIGUOUS
        tokens = [each for each in offered if each.startswith(self._prefix)]
        if not tokens:
            return Failure.ABSENT
        others = [each for each in offered if not each.startswith(self._prefix)]
        if others:
            request.headers[_HEADER] = ", ".join(others)
        else:
            del request.headers[_HEADER]
        if len(tokens) > 1:
            return Failure.AMBIGUOUS
        return tokens[0].removeprefix(self._prefix) or Failure.ABSENT


def subprotocol_auth(prefix: str, check: Check, realm: str = "") -> SubprotocolHook:
    """Let in whoever offers a subprotocol that is a prefix and the right token: for ``process_request``.

    ``prefix``: "bearer." for example, where "bearer.TOKEN" is offered. ``check``: called with the token, as by
    ``bearer_auth``. ``realm``: for the challenge. The token is not in ``ws.request`` afterwards; the subprotocol is
    negotiated among the others.

    Raises ``TypeError`` or ``ValueError`` for a wrong argument.
    """
    return SubprotocolHook(prefix, check, realm)
