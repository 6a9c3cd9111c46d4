"""taut's server with clients on Node's ``ws``, aiohttp and the ``websockets`` package."""

from __future__ import annotations

import asyncio
import base64
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
import websockets
from network import client_context, server_context
from services.node import NodeClient, node_client

import taut

# Longer than the largest window, so that a window of another size than agreed would show.
HISTORY = "".join(str(number * number) for number in range(6000))
MESSAGES: list[str | bytes] = [
    "",
    b"",
    "Grüße, 世界 \N{GRINNING FACE}",
    bytes(range(256)),
    *("x" * size for size in (125, 126, 127, 65535, 65536)),
    *(bytes(size) for size in (125, 126, 65535, 65536)),
    HISTORY,
    HISTORY.encode(),
    HISTORY[::-1],
    "ab" * 400_000,
]
BITS = range(8, 16)


class Echo:
    """A server of ours, and how its connections have ended."""

    def __init__(self) -> None:
        self.uri = ""
        self.connections: asyncio.Queue[taut.ServerConnection] = asyncio.Queue()

    async def handle(self, ws: taut.ServerConnection) -> None:
        self.connections.put_nowait(ws)
        async for message in ws:
            await ws.send(message)


@asynccontextmanager
async def serving(**options: Any) -> AsyncIterator[Echo]:
    echo = Echo()
    async with taut.serve(echo.handle, "127.0.0.1", 0, **options) as server:
        scheme = "wss" if "ssl" in options else "ws"
        echo.uri = f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        yield echo


async def echoed(client: NodeClient, message: str | bytes, **options: Any) -> str | bytes:
    """What comes back to a client on Node."""
    if isinstance(message, str):
        client.command("send", text=message, **options)
    else:
        client.command("send", base64=base64.b64encode(message).decode(), **options)
    event = await client.event()
    assert event["event"] == "message", event
    return str(event["text"]) if "text" in event else base64.b64decode(event["base64"])


@pytest.mark.parametrize("compression", [None, "deflate"])
async def test_messages_of_node_come_back(compression: str | None) -> None:
    async with (
        serving(compression=compression) as echo,
        node_client(echo.uri, perMessageDeflate={"threshold": 0}) as client,
    ):
        opened = await client.event()
        assert opened["event"] == "open"
        assert ("permessage-deflate" in opened["extensions"]) == (compression is not None)
        for message in MESSAGES:
            assert await echoed(client, message) == message
        client.command("send", text="Gr", fin=False)
        client.command("send", text="", fin=False)
        assert await echoed(client, "üße") == "Grüße"
        client.command("close", code=1000)


async def test_messages_of_node_over_tls() -> None:
    async with (
        serving(ssl=server_context()) as echo,
        node_client(echo.uri, rejectUnauthorized=False) as client,
    ):
        assert (await client.event())["event"] == "open"
        for message in MESSAGES:
            assert await echoed(client, message) == message


@pytest.mark.parametrize("loop_name", ["uvloop"])  # the loop has no part in it
@pytest.mark.parametrize("takeover", [(True, True), (True, False), (False, True), (False, False)], ids=str)
async def test_every_size_of_window_that_node_asks_for(takeover: tuple[bool, bool]) -> None:
    compression = taut.DeflateOptions(server_max_window_bits=15, client_max_window_bits=15, threshold=0)
    async with serving(compression=compression) as echo, node_client(echo.uri) as client:
        assert (await client.event())["event"] == "open"
        for server_bits, client_bits in itertools.product(BITS, BITS):
            offer = {
                "serverMaxWindowBits": server_bits,
                "clientMaxWindowBits": client_bits,
                "serverNoContextTakeover": not takeover[0],
                "clientNoContextTakeover": not takeover[1],
                "threshold": 0,
            }
            client.command("close")
            assert (await client.event())["event"] == "close"
            client.command("open", url=echo.uri, perMessageDeflate=offer)
            opened = await client.event()
            assert opened["extensions"].startswith("permessage-deflate"), opened
            for message in ("a", "a", HISTORY, HISTORY[::-1], b"", HISTORY.encode()):
                assert await echoed(client, message) == message, offer


async def test_subprotocols_of_node() -> None:
    async with serving(subprotocols=["b", "x"]) as echo:
        async with node_client(echo.uri, protocols=["a", "b"]) as client:
            assert (await client.event())["protocol"] == "b"
        async with node_client(echo.uri) as client:
            assert (await client.event())["protocol"] == ""


async def test_pings_of_node_and_to_it() -> None:
    async with serving() as echo, node_client(echo.uri) as client:
        ws = await echo.connections.get()
        assert (await client.event())["event"] == "open"
        client.command("ping", data="theirs")
        assert await client.event() == {"event": "pong", "data": "theirs"}
        answered = await ws.ping("ours")
        assert await client.event() == {"event": "ping", "data": "ours"}
        assert await answered > 0


@pytest.mark.parametrize(
    ("code", "reason"), [(1000, "bye"), (1011, ""), (4999, "ü" * 61)], ids=["1000", "1011", "4999"]
)
async def test_closes_of_node_and_towards_it(code: int, reason: str) -> None:
    async with serving() as echo:
        async with node_client(echo.uri) as client:
            ws = await echo.connections.get()
            assert (await client.event())["event"] == "open"
            client.command("close", code=code, reason=reason)
            # Our answer repeats the code (RFC 6455, 5.5.1), not the reason.
            assert await client.event() == {"event": "close", "code": code, "reason": ""}
            await ws.wait_closed()
            assert ws.close_info == taut.CloseInfo(taut.Initiator.REMOTE, code, reason, clean=True)
        async with node_client(echo.uri) as client:
            ws = await echo.connections.get()
            assert (await client.event())["event"] == "open"
            await ws.close(code, reason)
            assert await client.event() == {"event": "close", "code": code, "reason": reason}
            assert ws.close_info == taut.CloseInfo(taut.Initiator.LOCAL, code, reason, clean=True)


async def test_node_vanishes() -> None:
    async with serving() as echo, node_client(echo.uri) as client:
        ws = await echo.connections.get()
        assert (await client.event())["event"] == "open"
        client.command("terminate")
        await ws.wait_closed()
        assert ws.close_code == 1006


async def test_node_is_refused() -> None:
    def refuse(*_: object) -> taut.Response:
        return taut.Response(403, "Forbidden", taut.Headers(), b"no")

    async with serving(process_request=refuse) as echo, node_client(echo.uri) as client:
        assert await client.event() == {"event": "refused", "status": 403}


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("bits", [0, *range(9, 16)])
async def test_messages_of_aiohttp_come_back(bits: int, tls: bool) -> None:
    options: dict[str, Any] = {"ssl": server_context()} if tls else {}
    async with (
        serving(compression=taut.DeflateOptions(threshold=0), **options) as echo,
        aiohttp.ClientSession() as session,
        session.ws_connect(echo.uri, compress=bits, max_msg_size=0, ssl=client_context() if tls else True) as client,
    ):
        assert bool(client.compress) == bool(bits)
        for message in MESSAGES:
            if isinstance(message, str):
                await client.send_str(message)
                assert await client.receive_str() == message
            else:
                await client.send_bytes(message)
                assert await client.receive_bytes() == message
        ws = await echo.connections.get()
        await client.close(code=3000, message=b"bye")
        await ws.wait_closed()
        assert ws.close_info == taut.CloseInfo(taut.Initiator.REMOTE, 3000, "bye", clean=True)


async def test_aiohttp_negotiates_pings_and_is_closed() -> None:
    async with (
        serving(subprotocols=["b"]) as echo,
        aiohttp.ClientSession() as session,
        session.ws_connect(echo.uri, protocols=["a", "b"], autoping=False) as client,
    ):
        assert client.protocol == "b"
        ws = await echo.connections.get()
        await client.ping(b"theirs")
        assert await client.receive() == (aiohttp.WSMsgType.PONG, b"theirs", "")
        answered = await ws.ping(b"ours")
        assert await client.receive() == (aiohttp.WSMsgType.PING, b"ours", "")
        await client.pong(b"ours")
        assert await answered > 0
        closing = asyncio.create_task(ws.close(4000, "enough"))
        assert await client.receive() == (aiohttp.WSMsgType.CLOSE, 4000, "enough")
        await closing
        assert ws.close_info == taut.CloseInfo(taut.Initiator.LOCAL, 4000, "enough", clean=True)


@pytest.mark.parametrize("compression", [None, "deflate"])
async def test_messages_of_websockets_come_back(compression: str | None) -> None:
    async with (
        serving(subprotocols=["b"]) as echo,
        websockets.connect(echo.uri, compression=compression, subprotocols=["a", "b"], max_size=None) as client,  # type: ignore[list-item]
    ):
        assert client.subprotocol == "b"
        for message in MESSAGES:
            await client.send(message)
            assert await client.recv() == message
        await client.send(["in ", "", "fragments"])
        assert await client.recv() == "in fragments"
        await (await client.ping(b"theirs"))
        ws = await echo.connections.get()
        assert await (await ws.ping(b"ours")) > 0
        await client.close(4321, "bye")
        assert ws.close_info == taut.CloseInfo(taut.Initiator.REMOTE, 4321, "bye", clean=True)
