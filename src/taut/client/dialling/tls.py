"""TLS as a client: the contexts that are used when none is given, and what a failed handshake is to the user."""

from __future__ import annotations

import asyncio
import ssl
import threading
import time

from ...errors import CertificateError, TLSError

__all__ = ["context_for_loop", "default_context", "tls_error"]

_AGE = 3600.0
"""How long a default context is used: making one reads all trusted certificates (seconds)."""


class _Shared:
    """The default context of the process, made anew now and then, so that new trusted certificates are seen."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._made: tuple[int, ssl.SSLContext] | None = None

    def current(self) -> ssl.SSLContext | None:
        """The context, unless there is none that is young enough."""
        made = self._made
        return made[1] if made is not None and made[0] == int(time.monotonic() / _AGE) else None

    def make(self) -> ssl.SSLContext:
        """The context; whoever comes while it is made waits for it."""
        with self._lock:
            found = self.current()
            if found is not None:
                return found
            context = ssl.create_default_context()
            self._made = int(time.monotonic() / _AGE), context
            return context


_shared = _Shared()


def default_context() -> ssl.SSLContext:
    """A context that verifies the server against what the system trusts."""
    return _shared.current() or _shared.make()


async def context_for_loop() -> ssl.SSLContext:
    """The same without holding up the event loop, which making one does for some tens of milliseconds."""
    if (context := _shared.current()) is not None:
        return context
    return await asyncio.get_running_loop().run_in_executor(None, _shared.make)


def tls_error(exc: OSError, peer: str) -> TLSError:
    """What it is to the user that the TLS handshake with ``peer`` ended in ``exc``."""
    if isinstance(exc, ssl.SSLCertVerificationError):
        rejected = CertificateError(f"the certificate of {peer} is not accepted: {exc.verify_message}")
        rejected.verify_code, rejected.verify_message = exc.verify_code, exc.verify_message
        return rejected
    if isinstance(exc, TimeoutError):
        return TLSError(f"the TLS handshake with {peer} took too long (tls_timeout)")
    if isinstance(exc, ssl.SSLError):
        failure = TLSError(f"the TLS handshake with {peer} failed: {exc.reason or exc}")
        failure.library, failure.reason = exc.library, exc.reason
        return failure
    return TLSError(f"the connection to {peer} was lost during the TLS handshake: {exc}", errno=exc.errno)
