"""``cookie_auth``: a secret in a cookie (RFC 6265), which browsers send without being asked.

So does a page of somebody else's: only the check of the origin, which comes after the hook, keeps that out.
"""

from __future__ import annotations

from ...options import check_text
from ...protocol.headers import is_token
from ...types import Request
from .checks import Check
from .failures import Failure
from .hooks import AnyConnection
from .tokens import TokenHook

__all__ = ["CookieHook", "cookie_auth"]


class CookieHook(TokenHook):
    """Finds the value of a cookie."""

    __slots__ = ("_cookie",)

    name = "cookie_auth"

    def __init__(self, cookie: str, check: Check) -> None:
        check_text("name", cookie)
        if not is_token(cookie):
            raise ValueError(f"name must be the name of a cookie, a token, not {cookie!r}")
        super().__init__(check)
        self._cookie = cookie

    def take(self, connection: AnyConnection, request: Request) -> str | Failure:
        values: list[str] = []
        for pair in ";".join(request.headers.get_all("Cookie")).split(";"):
            name, _, value = pair.strip(" \t").partition("=")
            if name == self._cookie:
                values.append(value)
        if len(values) > 1:
            # For different paths or domains; which of them is meant cannot be known (RFC 6265, 4.2.2).
            return Failure.AMBIGUOUS
        value = values[0] if values else ""
        if len(value) > 1 and value[0] == value[-1] == '"':
            value = value[1:-1]
        return value or Failure.ABSENT


def cookie_auth(name: str, check: Check) -> CookieHook:
    """Let in whoever has the right cookie: for ``process_request``.

    ``name``: of the cookie. ``check``: called with its value, as by ``bearer_auth``. Refused with 403: HTTP has no
    challenge that asks for a cookie.

    Raises ``TypeError`` or ``ValueError`` for a wrong argument.
    """
    return CookieHook(name, check)
