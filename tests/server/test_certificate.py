"""A certificate in files that change while a server uses it."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import pytest
import trustme

import taut


async def echo(ws: taut.ServerConnection) -> None:
    async for message in ws:
        await ws.send(message)


class Files:
    """A certificate and its key in files."""

    def __init__(self, folder: Path) -> None:
        self.authority = trustme.CA()
        self.certificate, self.key = folder / "certificate.pem", folder / "key.pem"
        self.issue()

    def issue(self) -> None:
        issued = self.authority.issue_cert("127.0.0.1")
        issued.cert_chain_pems[0].write_to_path(str(self.certificate))
        issued.private_key_pem.write_to_path(str(self.key))

    def trusting(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        self.authority.configure_trust(context)
        context.set_alpn_protocols(["http/1.1"])
        return context


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def certificate_of(ws: taut.Connection) -> Any:
    secured = ws.transport.get_extra_info("ssl_object")
    assert secured.selected_alpn_protocol() == "http/1.1"
    return secured.getpeercert()["serialNumber"]


async def test_new_connections_get_the_new_certificate_and_old_ones_go_on(files: Files) -> None:
    certificate = taut.ServerCertificate(files.certificate, files.key)
    async with taut.serve(echo, "127.0.0.1", 0, ssl=certificate.context) as server:
        uri = f"wss://127.0.0.1:{server.port}/"
        async with taut.connect(uri, ssl=files.trusting()) as first:
            files.issue()
            certificate.reload()
            async with taut.connect(uri, ssl=files.trusting()) as second:
                assert certificate_of(first) != certificate_of(second)
            await first.send("still here")
            assert await first.recv() == "still here"


@pytest.mark.parametrize("broken", ["certificate", "key", "pair", "gone"])
async def test_what_cannot_be_loaded_changes_nothing(files: Files, broken: str) -> None:
    certificate = taut.ServerCertificate(str(files.certificate), str(files.key))
    async with taut.serve(echo, "127.0.0.1", 0, ssl=certificate.context) as server:
        uri = f"wss://127.0.0.1:{server.port}/"
        async with taut.connect(uri, ssl=files.trusting()) as ws:
            before = certificate_of(ws)
        if broken == "gone":
            files.key.unlink()
        elif broken == "pair":  # one of the two was renewed, the other not yet
            old = files.key.read_bytes()
            files.issue()
            files.key.write_bytes(old)
        else:
            getattr(files, broken).write_text("nothing of use")
        with pytest.raises(OSError):  # noqa: PT011 - of many kinds
            certificate.reload()
        async with taut.connect(uri, ssl=files.trusting()) as ws:
            assert certificate_of(ws) == before


def test_a_key_that_is_encrypted(files: Files, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        PrivateFormat,
        load_pem_private_key,
    )

    key = load_pem_private_key(files.key.read_bytes(), None)
    files.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")))
    with pytest.raises(ValueError, match="the private key is encrypted, and there is no password"):
        taut.ServerCertificate(files.certificate, files.key)
    with pytest.raises(ssl.SSLError):
        taut.ServerCertificate(files.certificate, files.key, password="wrong")
    taut.ServerCertificate(files.certificate, files.key, password="secret").reload()


def test_wrong_arguments(files: Files) -> None:
    wrong: Any
    for wrong in (None, b"x", 5):
        with pytest.raises(TypeError, match="certificate must be a path, not"):
            taut.ServerCertificate(wrong)
    with pytest.raises(TypeError, match="key must be a path, not 5"):
        taut.ServerCertificate(files.certificate, 5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="password must be a str or None, not bytes"):
        taut.ServerCertificate(files.certificate, files.key, password=b"secret")  # type: ignore[arg-type]
