"""The public face of ``taut.sync``."""

from __future__ import annotations

import inspect
import subprocess
import sys
from typing import Any

import pytest
from threads import Doing

import taut
import taut.sync

NAMES = taut.sync.__all__


def test_it_is_imported_only_when_asked_for() -> None:
    script = "import sys, taut; assert not [name for name in sys.modules if name.startswith('taut.sync')]"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_names() -> None:
    assert list(NAMES) == sorted(NAMES)
    for name in ("connect", "serve", "unix_connect", "unix_serve", "ClientConnection", "ServerConnection", "Server"):
        assert name in NAMES
        assert hasattr(taut, name)


@pytest.mark.parametrize("name", NAMES)
def test_everything_is_documented(name: str) -> None:
    thing = getattr(taut.sync, name)
    assert thing.__doc__
    if not isinstance(thing, type):
        return
    undocumented = [
        member
        for owner in thing.__mro__
        if owner.__module__.startswith("taut.")
        for member, value in vars(owner).items()
        if not member.startswith("_")
        and (callable(value) or isinstance(value, property | staticmethod | classmethod))
        and not getattr(value, "__doc__", None)
    ]
    assert not undocumented


@pytest.mark.parametrize("name", ["send", "recv", "recv_streaming", "ping", "pong", "close", "wait_closed", "abort"])
def test_calls_take_what_those_of_asyncio_take(name: str) -> None:
    """And a ``timeout`` beside it, where they wait; but not what is for messages that are not waited for."""

    def arguments(kind: Any) -> set[str]:
        return set(inspect.signature(getattr(kind, name)).parameters)

    more = arguments(taut.sync.ClientConnection) - arguments(taut.ClientConnection)
    assert more == ({"timeout"} if name in ("send", "recv", "recv_streaming", "wait_closed") else set())
    without = {"overflow", "key", "urgent"} if name == "send" else set[str]()
    assert arguments(taut.ClientConnection) - arguments(taut.sync.ClientConnection) == without


def test_a_connection_that_is_not_open_yet() -> None:
    """What a hook of a server is given."""
    seen: list[str] = []

    def hook(ws: taut.sync.ServerConnection, request: taut.Request) -> taut.Response:
        for call in (ws.recv, ws.ping, ws.wait_closed, lambda: ws.send("early")):
            with pytest.raises(AttributeError):
                call()
        seen.append(f"{ws.state.name} {ws.close_info} {ws.latency}")
        return ws.respond(404)

    with taut.sync.serve(print, "127.0.0.1", 0, process_request=hook) as server:
        Doing(server.serve_forever)
        with pytest.raises(taut.InvalidStatus) as caught:
            taut.sync.connect(f"ws://127.0.0.1:{server.port}")
        assert caught.value.response.status_code == 404
    assert seen == ["CONNECTING None 0.0"]
