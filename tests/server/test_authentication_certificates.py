"""Certificates of clients, over real TLS."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

import pytest
import trustme
from door import ask, bearer, door, refusal, said
from network import Driver

import taut

AUTHORITY = trustme.CA()
ANN = AUTHORITY.issue_cert("ann@example.com", common_name="ann")
BOB = AUTHORITY.issue_cert("bob@example.com", common_name="bob")


@pytest.fixture
def tls() -> Driver:
    driver = Driver("tls", "")
    context = driver.server_context
    assert context is not None
    AUTHORITY.configure_trust(context)
    context.verify_mode = ssl.CERT_OPTIONAL
    return driver


def shown_by(driver: Driver, certificate: trustme.LeafCert | None) -> Driver:
    if certificate is not None:
        assert driver.client_context is not None
        certificate.configure_cert(driver.client_context)
    return driver


def common_name(certificate: dict[str, Any]) -> str | None:
    """A check that knows everybody whose name is short."""
    names = dict(pair for (pair,) in certificate["subject"])
    if names["commonName"] == "bob":
        raise PermissionError
    return str(names["commonName"])


async def test_the_certificate_is_the_principal(tls: Driver) -> None:
    async with door(shown_by(tls, ANN), taut.certificate_auth()) as at:
        told = said(await at.ask())
    assert "(('commonName', 'ann'),)" in told
    assert "('email', 'ann@example.com')" in told


@pytest.mark.parametrize("later", [False, True])
async def test_a_check_of_the_certificate(tls: Driver, later: bool) -> None:
    async def check_later(certificate: dict[str, Any]) -> str | None:
        await asyncio.sleep(0)
        return common_name(certificate)

    async with door(tls, taut.certificate_auth(check_later if later else common_name)) as at:
        assert await at.ask() == refusal(403)
        shown_by(tls, BOB)
        assert await at.ask() == refusal(403)
        shown_by(tls, ANN)
        assert said(await at.ask()) == "'ann' / None"


async def test_a_check_that_knows_nobody_or_fails(tls: Driver) -> None:
    shown_by(tls, ANN)
    async with door(tls, taut.certificate_auth(lambda _: None)) as at:
        assert await at.ask() == refusal(403)
    async with door(tls, taut.certificate_auth(lambda certificate: certificate["nothing"])) as at:
        assert await at.ask() == refusal(500)


async def test_without_a_certificate_another_way(tls: Driver) -> None:
    hook = taut.any_of(taut.certificate_auth(common_name), taut.bearer_auth(lambda token: token))
    async with door(tls, hook) as at:
        assert await at.ask() == refusal(401, 'Bearer realm=""')
        assert said(await at.ask(bearer("abc"))) == "'abc' / None"
        shown_by(tls, ANN)
        assert said(await at.ask(bearer("abc"))) == "'ann' / None"


@pytest.mark.parametrize("transport", ["tcp", "tls"])
async def test_where_no_certificate_is_asked_for(transport: str) -> None:
    async with door(shown_by(Driver("tls", ""), ANN), taut.certificate_auth()) as at:
        assert await at.ask() == refusal(403)
    async with door(Driver("tcp", ""), taut.certificate_auth()) as at:
        assert await at.ask() == refusal(403)


async def test_a_certificate_of_somebody_else(tls: Driver) -> None:
    """It ends in the TLS handshake, before any hook."""
    stranger = trustme.CA().issue_cert("ann@example.com", common_name="ann")
    asked: list[Any] = []
    async with door(shown_by(tls, stranger), taut.certificate_auth(asked.append)) as at:
        with pytest.raises((OSError, EOFError)):
            async with at.driver.peer(at.server) as peer:
                await ask(peer)
    assert asked == []


def test_wrong_arguments() -> None:
    with pytest.raises(TypeError, match=r"^check must be a function or a coroutine function, not str$"):
        taut.certificate_auth("ann")  # type: ignore[arg-type]
