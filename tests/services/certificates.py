"""A certificate for the services that speak TLS, and the authority that signed it."""

from __future__ import annotations

import functools
import ssl
from pathlib import Path

import trustme


@functools.cache
def authority() -> trustme.CA:
    return trustme.CA()


def write_certificate(folder: Path) -> tuple[str, str]:
    """Write a certificate for localhost and 127.0.0.1, and its key; the paths of both."""
    issued = authority().issue_cert("localhost", "127.0.0.1")
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    key.write_bytes(issued.private_key_pem.bytes())
    return str(certificate), str(key)


def trusting_context() -> ssl.SSLContext:
    """A context for clients that trusts this authority only."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority().configure_trust(context)
    return context
