"""Certificate pins: a server is accepted only with a certificate, or a public key, that the user named.

Two forms are accepted, the two that other tools print: ``sha256/BASE64`` is the digest of the SubjectPublicKeyInfo
(RFC 7469, 2.4), which survives a renewal with the same key, and ``sha256:HEX`` that of the whole certificate, its
fingerprint.  One match is enough.  Pins come on top of the verification that the TLS context does, never instead of it.

The standard library does not give the public key away, so it is found by walking through the first few fields of the
certificate (RFC 5280, 4.1; DER as in X.690).  Only lengths and tags are looked at, each length is checked against what
is there, and anything unexpected ends in a ``CertificateError``.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Sequence
from typing import cast

from ...errors import CertificateError
from ...options import check_sequence

__all__ = ["check_pins", "parse_pins"]

KEY, CERTIFICATE = "key", "certificate"
"""What a pin is the digest of."""

_WANTED = "'sha256/BASE64' (of the public key, RFC 7469) or 'sha256:HEX' (of the certificate)"
_hex_digest = re.compile(r"[0-9A-Fa-f]{2}(?::?[0-9A-Fa-f]{2}){31}")

_SEQUENCE, _INTEGER, _VERSION = 0x30, 0x02, 0xA0


def parse_pins(value: object) -> frozenset[tuple[str, bytes]]:
    """The pins of the option ``pins``: what each is the digest of, and the digest. None for no pins.

    Raises ``TypeError`` or ``ValueError`` naming the option, the value and what is accepted; an empty sequence is
    refused, since it does not say whether any certificate is accepted, or none.
    """
    pins = cast("Sequence[str] | None", check_sequence("pins", value, (str,)))
    if pins is None:
        return frozenset()
    if not pins:
        raise ValueError(f"pins must hold at least one pin, {_WANTED}, or be None for no pins")
    return frozenset(_parse_pin(pin) for pin in pins)


def _parse_pin(pin: str) -> tuple[str, bytes]:
    if pin.startswith("sha256:"):
        if _hex_digest.fullmatch(pin, len("sha256:")) is not None:
            return CERTIFICATE, bytes.fromhex(pin.removeprefix("sha256:").replace(":", ""))
    elif pin.startswith("sha256/"):
        encoded = pin.removeprefix("sha256/")
        if len(encoded) == 45:  # curl writes two slashes; without them, the first character of the digest may be one
            encoded = encoded.removeprefix("/")
        try:
            digest = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):  # ValueError: not ASCII
            digest = b""
        if len(digest) == 32:
            return KEY, digest
    raise ValueError(f"pins must hold only {_WANTED}, 32 bytes each, not {pin!r}")


def check_pins(certificate: bytes, pins: frozenset[tuple[str, bytes]]) -> None:
    """Raise ``CertificateError`` unless ``certificate`` (DER) is one that ``pins`` accept, or there are no pins."""
    if not pins:
        return
    fingerprint = hashlib.sha256(certificate).digest()
    if (CERTIFICATE, fingerprint) in pins:
        return
    key = hashlib.sha256(_public_key(certificate)).digest()
    if (KEY, key) in pins:
        return
    raise CertificateError(
        "the certificate is not one of pins; its own would be "
        f"'sha256/{base64.b64encode(key).decode()}' for its public key and 'sha256:{fingerprint.hex()}' for itself"
    )


def _public_key(certificate: bytes) -> memoryview:
    """The SubjectPublicKeyInfo, with its tag and length."""
    view = memoryview(certificate)
    tag, start, end = _element(view, 0, len(view))
    if end != len(view):
        raise _malformed("something follows it")
    _expect(tag, _SEQUENCE, "Certificate")
    tag, start, end = _element(view, start, end)
    _expect(tag, _SEQUENCE, "TBSCertificate")
    if start < end and view[start] == _VERSION:  # DEFAULT v1, so it may be absent
        _, _, start = _element(view, start, end)
    tag, _, start = _element(view, start, end)
    _expect(tag, _INTEGER, "serialNumber")
    for name in ("signature", "issuer", "validity", "subject"):
        tag, _, start = _element(view, start, end)
        _expect(tag, _SEQUENCE, name)
    tag, _, after = _element(view, start, end)
    _expect(tag, _SEQUENCE, "subjectPublicKeyInfo")
    return view[start:after]


def _element(view: memoryview, start: int, end: int) -> tuple[int, int, int]:
    """The tag of the element at ``start``, and where its content starts and ends; it lies within ``end``."""
    if end - start < 2:
        raise _malformed("it is cut off")
    tag, length, content = view[start], view[start + 1], start + 2
    if length >= 0x80:
        size = length & 0x7F
        # DER has no indefinite length (X.690, 10.1), and no certificate needs more than four bytes for one.
        if not 1 <= size <= 4 or end - content < size:
            raise _malformed("a length is wrong")
        length = int.from_bytes(view[content : content + size], "big")
        content += size
    if length > end - content:
        raise _malformed("a length goes beyond the end")
    return tag, content, content + length


def _expect(tag: int, wanted: int, name: str) -> None:
    if tag != wanted:
        raise _malformed(f"{name} has the tag 0x{tag:02x}, not 0x{wanted:02x}")


def _malformed(problem: str) -> CertificateError:
    return CertificateError(f"the certificate is malformed: {problem}")
