"""``bearer_auth``: a token in the Authorization header (RFC 6750, 2.1)."""

from __future__ import annotations

import re

from ...types import Request
from .authorization import authorization
from .checks import Check
from .failures import Failure
from .hooks import AnyConnection
from .tokens import BearerHook

__all__ = ["AuthorizationHook", "bearer_auth"]

_b64token = re.compile(r"[0-9A-Za-z._~+/-]+=*")


class AuthorizationHook(BearerHook):
    """Finds a token in ``Authorization: Bearer``."""

    __slots__ = ()

    name = "bearer_auth"

    def take(self, connection: AnyConnection, request: Request) -> str | Failure:
        token = authorization(request, "bearer")
        if isinstance(token, Failure) or _b64token.fullmatch(token):
            return token
        return Failure.WRONG


def bearer_auth(check: Check, realm: str = "") -> AuthorizationHook:
    """Let in whoever shows a token in the Authorization header: for ``process_request`` (RFC 6750).

    ``check``: called with the token, returns the principal, for ``ws.principal``, or None; it may be a coroutine
    function. Raising ``PermissionError`` answers with 403, any other exception with 500. ``realm``: for the challenge.

    Raises ``TypeError`` or ``ValueError`` for a wrong argument.
    """
    return AuthorizationHook(check, realm)
