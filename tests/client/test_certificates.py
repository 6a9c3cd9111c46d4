"""Certificate pins, against certificates and digests made by other software."""

from __future__ import annotations

import base64
import hashlib
import ssl
from typing import Any

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from hypothesis import given
from hypothesis import strategies as st

from taut.client.dialling.certificates import check_pins, parse_pins
from taut.errors import CertificateError, ConnectError

_authority = trustme.CA()


def _issue(key_type: trustme.KeyType = trustme.KeyType.ECDSA, name: str = "localhost") -> x509.Certificate:
    pem = _authority.issue_cert(name, key_type=key_type).cert_chain_pems[0].bytes()
    return x509.load_pem_x509_certificate(pem)


def _der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)


def _key_pin(certificate: x509.Certificate, separator: str = "/") -> str:
    info = certificate.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return f"sha256{separator}{base64.b64encode(hashlib.sha256(info).digest()).decode()}"


def _fingerprint(certificate: x509.Certificate) -> bytes:
    return certificate.fingerprint(hashes.SHA256())


CERTIFICATE, OTHER = _issue(), _issue(name="other.example")
DER = _der(CERTIFICATE)
_ZEROS = base64.b64encode(bytes(32)).decode()


# -- the option --------------------------------------------------------------------------------------------------------


def test_no_pins() -> None:
    assert parse_pins(None) == frozenset()
    check_pins(b"whatever it is", parse_pins(None))


def test_the_forms_of_a_pin() -> None:
    digest = bytes(range(32))
    encoded = base64.b64encode(digest).decode()
    assert parse_pins([f"sha256/{encoded}"]) == parse_pins([f"sha256//{encoded}"]) == {("key", digest)}
    colons = ":".join(f"{byte:02X}" for byte in digest)
    assert parse_pins([f"sha256:{digest.hex()}"]) == parse_pins((f"sha256:{colons}",)) == {("certificate", digest)}
    assert len(parse_pins([f"sha256/{encoded}", f"sha256:{colons}", f"sha256//{encoded}"])) == 2
    slashes = bytes([0xFF]) * 32  # its encoding begins with slashes
    encoded = base64.b64encode(slashes).decode()
    assert parse_pins([f"sha256/{encoded}"]) == parse_pins([f"sha256//{encoded}"]) == {("key", slashes)}


@pytest.mark.parametrize(
    "pin",
    [
        "",
        "sha256",
        "sha256:",
        "sha256/",
        "sha256///" + _ZEROS,
        f"sha1/{_ZEROS}",
        f"SHA256/{_ZEROS}",
        _ZEROS,
        f"sha256/{_ZEROS[:-1]}",
        f"sha256/{_ZEROS}=",
        f"sha256/{_ZEROS[:-4]}",
        f"sha256/ {_ZEROS}",
        f"sha256/{_ZEROS}\n",
        "sha256/" + "é" * 44,
        "sha256/" + base64.urlsafe_b64encode(b"\xff" * 32).decode(),
        "sha256:" + "0" * 63,
        "sha256:" + "0" * 65,
        "sha256:" + "0" * 66,
        "sha256:" + "g" * 64,
        "sha256:" + "\u0660" * 64,  # a digit, but not one of these
        "sha256:" + "0:" * 32,
        "sha256:" + "00::" * 31 + "00",
        "sha256:" + "00" * 32 + "\n",
    ],
)
def test_wrong_pins(pin: str) -> None:
    with pytest.raises(ValueError, match=r"pins must hold only 'sha256/BASE64'.* or 'sha256:HEX'.*, not ") as caught:
        parse_pins([f"sha256/{_ZEROS}", pin])
    assert repr(pin) in str(caught.value)


@pytest.mark.parametrize("value", ["sha256/" + _ZEROS, b"x", 1, True, [1], [None], {"sha256/" + _ZEROS}])
def test_wrong_types(value: Any) -> None:
    with pytest.raises(TypeError, match="pins must "):
        parse_pins(value)


def test_no_pin_in_the_sequence_is_not_no_pins() -> None:
    with pytest.raises(ValueError, match=r"pins must hold at least one pin, .*or be None"):
        parse_pins([])


# -- the check ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key_type", list(trustme.KeyType))
def test_the_key_of_every_kind(key_type: trustme.KeyType) -> None:
    certificate = _issue(key_type)
    check_pins(_der(certificate), parse_pins([_key_pin(certificate)]))
    check_pins(_der(certificate), parse_pins([_key_pin(certificate, "//")]))
    with pytest.raises(CertificateError):
        check_pins(_der(certificate), parse_pins([_key_pin(OTHER)]))


def test_the_key_of_an_authority() -> None:
    certificate = x509.load_pem_x509_certificate(_authority.cert_pem.bytes())
    check_pins(_der(certificate), parse_pins([_key_pin(certificate)]))


def test_the_fingerprint() -> None:
    check_pins(DER, parse_pins([f"sha256:{_fingerprint(CERTIFICATE).hex()}"]))
    check_pins(DER, parse_pins([f"sha256:{_fingerprint(CERTIFICATE).hex(':').upper()}"]))
    with pytest.raises(CertificateError):
        check_pins(DER, parse_pins([f"sha256:{_fingerprint(OTHER).hex()}"]))


def test_one_match_is_enough() -> None:
    check_pins(DER, parse_pins([_key_pin(OTHER), f"sha256:{bytes(32).hex()}", _key_pin(CERTIFICATE)]))
    check_pins(DER, parse_pins([_key_pin(OTHER), f"sha256:{_fingerprint(CERTIFICATE).hex()}"]))


def test_a_digest_of_the_one_is_none_of_the_other() -> None:
    key = base64.b64decode(_key_pin(CERTIFICATE).removeprefix("sha256/"))
    swapped = [f"sha256:{key.hex()}", f"sha256/{base64.b64encode(_fingerprint(CERTIFICATE)).decode()}"]
    with pytest.raises(CertificateError):
        check_pins(DER, parse_pins(swapped))


def test_the_error_tells_the_pins_that_would_match() -> None:
    with pytest.raises(CertificateError) as caught:
        check_pins(DER, parse_pins([_key_pin(OTHER)]))
    error = caught.value
    assert isinstance(error, ConnectError)
    assert isinstance(error, ssl.SSLCertVerificationError)
    own = [_key_pin(CERTIFICATE), f"sha256:{_fingerprint(CERTIFICATE).hex()}"]
    for pin in own:
        assert repr(pin) in str(error)
        check_pins(DER, parse_pins([pin]))


# -- certificates that are none ----------------------------------------------------------------------------------------

_PINS = parse_pins([_key_pin(OTHER)])


def test_cut_off() -> None:
    for size in range(len(DER)):
        with pytest.raises(CertificateError, match="malformed"):
            check_pins(DER[:size], _PINS)


def test_with_something_behind_it() -> None:
    with pytest.raises(CertificateError, match="malformed: something follows it"):
        check_pins(DER + b"\x00", _PINS)


@pytest.mark.parametrize(
    ("certificate", "problem"),
    [
        (b"\x30\x80\x30\x00\x00\x00", "a length is wrong"),  # indefinite, as BER has it
        (b"\x30\x85\x00\x00\x00\x00\x00", "a length is wrong"),
        (b"\x30\x84\xff\xff\xff\xff", "a length goes beyond the end"),
        (b"\x30\x82\x01", "a length is wrong"),
        (b"\x31\x00", "Certificate has the tag 0x31, not 0x30"),
        (b"\x30\x02\x02\x00", "TBSCertificate has the tag 0x02, not 0x30"),
        (b"\x30\x04\x30\x02\xa0\x05", "a length goes beyond the end"),
        (b"\x30\x04\x30\x02\xa0\x00", "it is cut off"),
        (b"\x30\x04\x30\x02\x05\x00", "serialNumber has the tag 0x05"),
        (b"\x30\x06\x30\x04\x02\x00\x02\x00", "signature has the tag 0x02"),
    ],
)
def test_wrong_lengths_and_tags(certificate: bytes, problem: str) -> None:
    with pytest.raises(CertificateError) as caught:
        check_pins(certificate, _PINS)
    assert problem in str(caught.value)


def test_version_1_has_no_version_field() -> None:
    key = b"\x30\x03\x02\x01\x05"
    fields = b"\x02\x01\x01" + b"\x30\x00" * 4 + key
    inner = b"\x30" + bytes([len(fields)]) + fields
    pin = f"sha256/{base64.b64encode(hashlib.sha256(key).digest()).decode()}"
    check_pins(b"\x30" + bytes([len(inner)]) + inner, parse_pins([pin]))


@given(st.lists(st.tuples(st.integers(0, len(DER) - 1), st.integers(0, 255)), min_size=1, max_size=8))
def test_mutated(changes: list[tuple[int, int]]) -> None:
    mutated = bytearray(DER)
    for index, value in changes:
        mutated[index] = value
    with pytest.raises(CertificateError):
        check_pins(bytes(mutated), _PINS)


# The first bytes hold the lengths that everything depends on.
@given(st.integers(0, 300), st.binary(max_size=6), st.integers(0, 4))
def test_spliced(index: int, inserted: bytes, removed: int) -> None:
    with pytest.raises(CertificateError):
        check_pins(DER[:index] + inserted + DER[index + removed :], _PINS)


@given(st.binary(max_size=100))
def test_anything(junk: bytes) -> None:
    with pytest.raises(CertificateError, match="malformed"):
        check_pins(junk, _PINS)
