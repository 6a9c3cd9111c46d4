"""The TLS context that is used when none is given: one for all, made where it holds up nobody."""

from __future__ import annotations

import asyncio
import ssl
import threading

import pytest

from taut.client.dialling import tls


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[threading.Thread]:
    """In which threads contexts were made."""
    threads: list[threading.Thread] = []

    def make() -> ssl.SSLContext:
        threads.append(threading.current_thread())
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

    monkeypatch.setattr(tls.ssl, "create_default_context", make)
    monkeypatch.setattr(tls, "_shared", tls._Shared())
    return threads


async def test_it_is_made_once_and_not_on_the_event_loop(made: list[threading.Thread]) -> None:
    contexts = await asyncio.gather(*[tls.context_for_loop() for _ in range(10)])
    assert len(set(map(id, contexts))) == 1
    assert len(made) == 1
    assert made[0] is not threading.current_thread()
    assert tls.default_context() is contexts[0]


def test_it_is_made_again_now_and_then(made: list[threading.Thread], monkeypatch: pytest.MonkeyPatch) -> None:
    now = 10_000.0
    monkeypatch.setattr(tls.time, "monotonic", lambda: now)
    first = tls.default_context()
    assert tls.default_context() is first
    now += 3600
    assert tls.default_context() is not first
    assert len(made) == 2
