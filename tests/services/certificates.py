"""A certificate for the services that speak TLS, and the authority that signed it."""

from __future__ import annotations

import base64
import functools
import hashlib
import ssl
from pathlib import Path

import trustme
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat


@functools.cache
def authority() -> trustme.CA:
    return trustme.CA()


def write_certificate(folder: Path) -> tuple[str, str]:
    """Write a certificate for localhost and 127.0.0.1, the authority's behind it, and its key; the paths of both."""
    issued = authority().issue_cert("localhost", "127.0.0.1")
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    certificate.write_bytes(b"".join(blob.bytes() for blob in [*issued.cert_chain_pems, authority().cert_pem]))
    key.write_bytes(issued.private_key_pem.bytes())
    return str(certificate), str(key)


def trusting_context() -> ssl.SSLContext:
    """A context for clients that trusts this authority only."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority().configure_trust(context)
    return context


def serving_context(*names: str) -> ssl.SSLContext:
    """A context for servers, with a certificate for these names and the authority's behind it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    issued = authority().issue_cert(*names)
    chain = [authority().cert_pem.bytes()]
    trustme.LeafCert(issued.private_key_pem.bytes(), issued.cert_chain_pems[0].bytes(), chain).configure_cert(context)
    return context


def authority_pin() -> str:
    """The SHA-256 of the authority's public key, in base64 (RFC 7469, section 2.4)."""
    certificate = x509.load_pem_x509_certificate(authority().cert_pem.bytes())
    key = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(hashlib.sha256(key).digest()).decode()
