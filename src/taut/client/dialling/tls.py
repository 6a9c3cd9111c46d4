"""TLS as a client: the contexts that are used when none is given, and what a failed handshake is to the user."""

from __future__ import annotations

import functools
import ssl
import time

from ...errors import CertificateError, TLSError

__all__ = ["default_context", "tls_error"]

_AGE = 3600.0
"""How long a default context is used: making one reads all trusted certificates (seconds)."""


def default_context() -> ssl.SSLContext:
    """A context that verifies the server against what the system trusts."""
    return _context_of(int(time.monotonic() / _AGE))


@functools.lru_cache(maxsize=1)
def _context_of(period: int) -> ssl.SSLContext:
    """Made anew in each ``period``, so that a process that runs for months sees new trusted certificates."""
    return ssl.create_default_context()


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
