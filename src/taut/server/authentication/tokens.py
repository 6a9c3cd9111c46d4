"""Hooks for one secret that says everything: a token, wherever in the request it is."""

from __future__ import annotations

from ...types import Request
from .checks import Check, check_function, is_coroutine_function, judge
from .failures import Failure, Refusal
from .hooks import AnyConnection, Hook, quoted

__all__ = ["BearerHook", "TokenHook"]


class TokenHook(Hook):
    """Finds a token in the request, and asks its check who that is."""

    __slots__ = ("check",)

    def __init__(self, check: Check) -> None:
        check_function("check", check)
        self.check = check

    async def decide(self, connection: AnyConnection, request: Request, taken: str | Failure) -> Refusal | None:
        if isinstance(taken, Failure):
            return self.refusal(taken)
        failure, principal = await judge(connection, self.name, self.check, taken, secrets=(taken,))
        if failure is not None:
            return self.refusal(failure)
        connection.principal = principal
        return None

    @property
    def is_asynchronous(self) -> bool:
        return is_coroutine_function(self.check)


class BearerHook(TokenHook):
    """One for what RFC 6750 calls a bearer token."""

    __slots__ = ("_realm",)

    def __init__(self, check: Check, realm: str) -> None:
        super().__init__(check)
        self._realm = quoted("realm", realm)

    def challenge(self, failure: Failure) -> str | None:
        # RFC 6750, 3: no error for somebody who has shown nothing.
        if failure is Failure.BROKEN:
            return None
        error = "" if failure.error is None else f', error="{failure.error}"'
        return f"Bearer realm={self._realm}{error}"
