"""``certificate_auth``: the certificate that a client has shown in the TLS handshake, which has verified it."""

from __future__ import annotations

from typing import Any

from ...types import Request
from .checks import Check, check_function, is_coroutine_function, judge
from .failures import Failure, Refusal
from .hooks import AnyConnection, Hook

__all__ = ["CertificateHook", "certificate_auth"]


class CertificateHook(Hook):
    """Looks for a certificate of the client."""

    __slots__ = ("check",)

    name = "certificate_auth"

    def __init__(self, check: Check | None) -> None:
        if check is not None:
            check_function("check", check)
        self.check = check

    def take(self, connection: AnyConnection, request: Request) -> dict[str, Any] | Failure:
        transport: Any = getattr(connection, "transport", None)
        tls: Any = getattr(connection, "tls", None) if transport is None else transport.get_extra_info("ssl_object")
        # It is empty when the context did not verify it.
        return (None if tls is None else tls.getpeercert()) or Failure.ABSENT

    async def decide(
        self, connection: AnyConnection, request: Request, taken: dict[str, Any] | Failure
    ) -> Refusal | None:
        if isinstance(taken, Failure):
            return self.refusal(taken)
        principal: Any = taken
        if self.check is not None:
            failure, principal = await judge(connection, self.name, self.check, taken, secrets=())
            if failure is not None:
                return self.refusal(failure)
        connection.principal = principal
        return None

    @property
    def is_asynchronous(self) -> bool:
        return self.check is not None and is_coroutine_function(self.check)


def certificate_auth(check: Check | None = None) -> CertificateHook:
    """Let in whoever has shown a certificate that the server's context has verified: for ``process_request``.

    The context must ask for one: its ``verify_mode`` is ``ssl.CERT_REQUIRED`` or ``ssl.CERT_OPTIONAL``. ``check``:
    called with the certificate, a dict as ``ssl.SSLSocket.getpeercert`` gives it, and returns the principal, or None;
    it may be a coroutine function. Without it, the dict is the principal. Refused with 403.

    Raises ``TypeError`` for a wrong argument.
    """
    return CertificateHook(check)
