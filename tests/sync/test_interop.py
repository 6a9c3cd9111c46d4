"""With the asyncio API of taut, and with ``websockets.sync``, both ways."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import websockets.sync.client
import websockets.sync.server
from threads import Doing, asyncio_server, echo, sync_echo

import taut
import taut.sync

MESSAGES: list[Any] = ["", "text", "é€😀" * 5000, b"", b"binary", bytes(range(256)) * 4000]
COMPRESSION = pytest.mark.parametrize("compression", ["deflate", None])


def talk(ws: Any) -> None:
    """The calls that both libraries have, with the same meaning."""
    for message in MESSAGES:
        ws.send(message)
        assert ws.recv(timeout=20) == message
    ws.send(["in ", "three ", "parts"])
    assert "".join(ws.recv_streaming()) == "in three parts"
    assert ws.ping().wait(20)
    ws.ping(b"mine")
    with pytest.raises(TimeoutError):
        ws.recv(timeout=0.01)
    ws.close(1000, "done")
    assert ws.close_code == 1000
    assert ws.state.name == "CLOSED"


@COMPRESSION
def test_sync_client_of_an_asyncio_server(compression: Any) -> None:
    with (
        asyncio_server(echo, "127.0.0.1", 0, compression=compression) as server,
        taut.sync.connect(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}", compression=compression) as ws,
    ):
        talk(ws)


@COMPRESSION
def test_asyncio_client_of_a_sync_server(compression: Any) -> None:
    async def main(port: int) -> None:
        async with taut.connect(f"ws://127.0.0.1:{port}", compression=compression) as ws:
            for message in MESSAGES:
                await ws.send(message)
                assert await ws.recv() == message
            assert await (await ws.ping()) > 0

    with taut.sync.serve(sync_echo, "127.0.0.1", 0, compression=compression) as server:
        Doing(server.serve_forever)
        asyncio.run(main(server.port))


@COMPRESSION
def test_client_of_websockets(compression: Any) -> None:
    with websockets.sync.server.serve(sync_echo, "127.0.0.1", 0, compression=compression) as server:
        accepting = Doing(server.serve_forever)
        port = server.socket.getsockname()[1]
        with taut.sync.connect(f"ws://127.0.0.1:{port}", compression=compression) as ws:
            talk(ws)
        server.shutdown()
        accepting.result()


@COMPRESSION
def test_server_of_websockets(compression: Any) -> None:
    with taut.sync.serve(sync_echo, "127.0.0.1", 0, compression=compression) as server:
        Doing(server.serve_forever)
        with websockets.sync.client.connect(f"ws://127.0.0.1:{server.port}", compression=compression) as ws:
            talk(ws)


@COMPRESSION
def test_both(compression: Any) -> None:
    with taut.sync.serve(sync_echo, "127.0.0.1", 0, compression=compression) as server:
        Doing(server.serve_forever)
        with taut.sync.connect(f"ws://127.0.0.1:{server.port}", compression=compression) as ws:
            talk(ws)


def test_the_same_names() -> None:
    """What a program that uses ``websockets.sync`` calls."""
    names = [name for name in vars(websockets.sync.client.Connection) if not name.startswith("_")]
    private = {
        "acknowledge_pings", "close_socket", "keepalive", "maybe_raise_legacy_warning", "process_event",
        "recv_bufsize", "recv_events", "send_context", "send_data", "set_connection_exc", "start_keepalive",
        "terminate_pending_pings",
    }  # fmt: skip
    ours = {*dir(taut.sync.ClientConnection), "subprotocol", "logger"}  # the last two belong to each object
    assert set(names) - private - ours == {"close_exc"}  # where taut has close_info
