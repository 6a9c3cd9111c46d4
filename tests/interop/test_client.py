"""taut's client against servers on Node's ``ws``, the ``websockets`` package and aiohttp."""

from __future__ import annotations

import asyncio
import itertools
import json
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from network import client_context as in_process_context
from network import server_context
from services import NodeWs
from services.certificates import trusting_context

import taut
from tests.interop.echoes import EchoServer, NodeEcho, aiohttp_echo, websockets_echo

KINDS = ("node", "websockets", "aiohttp")

# Longer than the largest window, so that a window of another size than agreed would show.
HISTORY = "".join(str(number * number) for number in range(6000))
MESSAGES: list[str | bytes] = [
    "",
    b"",
    "Grüße, 世界 \N{GRINNING FACE}",
    bytes(range(256)),
    *("x" * size for size in (125, 126, 127, 65535, 65536)),
    *(bytes(size) for size in (125, 126, 65535, 65536)),
    "ab" * 500_000,
    bytes(range(256)) * 8192,
]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Servers:
    """Gives an echo server of a kind."""

    def __init__(self, request: pytest.FixtureRequest) -> None:
        self._request = request

    @asynccontextmanager
    async def of(self, kind: str, *, tls: bool = False) -> AsyncIterator[EchoServer]:
        if kind == "node":
            service: NodeWs = self._request.getfixturevalue("node_wss" if tls else "node_ws")
            yield NodeEcho(service)
            return
        start = websockets_echo if kind == "websockets" else aiohttp_echo
        async with start(server_context() if tls else None) as server:
            yield server


@pytest.fixture
def servers(request: pytest.FixtureRequest) -> Servers:
    return Servers(request)


async def exchange(ws: taut.ClientConnection) -> None:
    """Every message comes back as it was sent, when sent one by one and when sent at once."""
    for message in MESSAGES:
        await ws.send(message)
        assert await ws.recv() == message

    async def send_all() -> None:
        for message in MESSAGES:
            await ws.send(message)

    sending = asyncio.create_task(send_all())
    for message in MESSAGES:
        assert await ws.recv() == message
    await sending


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("deflate", [None, {}], ids=["uncompressed", "deflate"])
async def test_messages_come_back(servers: Servers, kind: str, deflate: dict[str, Any] | None, tls: bool) -> None:
    behaviour = {} if deflate is None else {"deflate": deflate}
    options: dict[str, Any] = {"max_size": None}
    if tls:
        options["ssl"] = trusting_context() if kind == "node" else in_process_context()
    async with servers.of(kind, tls=tls) as server, taut.connect(server.uri(**behaviour), **options) as ws:
        assert ws.response is not None
        assert ("Sec-WebSocket-Extensions" in ws.response.headers) == (deflate is not None)
        await exchange(ws)


async def test_a_certificate_of_an_unknown_authority_is_refused(servers: Servers, kind: str) -> None:
    async with servers.of(kind, tls=True) as server:
        with pytest.raises(taut.CertificateError) as caught:
            await taut.connect(server.uri())
        assert [attempt.stage for attempt in caught.value.attempts] == ["tls"]


@pytest.mark.parametrize("loop_name", ["uvloop"])  # the loop has no part in it
@pytest.mark.parametrize("takeover", [(True, True), (True, False), (False, True), (False, False)], ids=str)
async def test_every_size_of_window_that_we_ask_for(servers: Servers, kind: str, takeover: tuple[bool, bool]) -> None:
    async with servers.of(kind) as server:
        for server_bits, client_bits in itertools.product(range(8, 16), range(8, 16)):
            compression = taut.DeflateOptions(
                server_max_window_bits=server_bits,
                client_max_window_bits=client_bits,
                server_no_context_takeover=not takeover[0],
                client_no_context_takeover=not takeover[1],
                threshold=0,
            )
            async with taut.connect(server.uri(deflate={}), compression=compression) as ws:
                assert ws.response is not None
                assert "permessage-deflate" in ws.response.headers["Sec-WebSocket-Extensions"]
                for message in ("a", "a", HISTORY, HISTORY[::-1], b"", HISTORY.encode()):
                    await ws.send(message)
                    assert await ws.recv() == message, compression


@pytest.mark.parametrize("kind", ["node", "websockets"])
@pytest.mark.parametrize("bits", [9, 12, 15])
async def test_every_size_of_window_that_they_ask_for(servers: Servers, kind: str, bits: int) -> None:
    async with servers.of(kind) as server:
        for server_takeover, client_takeover in itertools.product((True, False), repeat=2):
            deflate = {
                "server_max_window_bits": bits,
                "client_max_window_bits": bits,
                "server_no_context_takeover": not server_takeover,
                "client_no_context_takeover": not client_takeover,
            }
            compression = taut.DeflateOptions(server_max_window_bits=15, client_max_window_bits=15, threshold=0)
            async with taut.connect(server.uri(deflate=deflate), compression=compression, max_size=None) as ws:
                assert ws.response is not None
                agreed = ws.response.headers["Sec-WebSocket-Extensions"]
                assert f"client_max_window_bits={bits}" in agreed
                assert ("server_no_context_takeover" in agreed) == (not server_takeover)
                for message in ("a", "a", HISTORY, HISTORY[::-1], b"", HISTORY.encode()):
                    await ws.send(message)
                    assert await ws.recv() == message, compression


@pytest.mark.parametrize("deflate", [None, {}], ids=["uncompressed", "deflate"])
async def test_our_fragments_are_one_message(servers: Servers, kind: str, deflate: dict[str, Any] | None) -> None:
    behaviour = {} if deflate is None else {"deflate": deflate}
    async with servers.of(kind) as server, taut.connect(server.uri(**behaviour)) as ws:
        for parts in (["one"], ["", ""], ["Gr", "üß", "", "e"], [b"a", b"", b"b" * 70_000], ["x" * 1000] * 50):
            await ws.send(iter(parts))
            assert await ws.recv() == type(parts[0])().join(parts)  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", ["node", "websockets"])
@pytest.mark.parametrize("deflate", [None, {}], ids=["uncompressed", "deflate"])
async def test_their_fragments_are_one_message(servers: Servers, kind: str, deflate: dict[str, Any] | None) -> None:
    behaviour = {} if deflate is None else {"deflate": deflate}
    async with servers.of(kind) as server, taut.connect(server.uri(fragments=1000, **behaviour)) as ws:
        for message in ("x" * 999, "x" * 1001, b"y" * 50_000):
            await ws.send(message)
            assert await ws.recv() == message
        await ws.send(b"z" * 3500)
        assert b"".join([bytes(part) async for part in ws.recv_streaming()]) == b"z" * 3500  # type: ignore[arg-type]


async def test_subprotocols(servers: Servers, kind: str) -> None:
    async with servers.of(kind) as server:
        for offered, chosen in ((["a", "b"], "b"), (["b"], "b"), (["c"], None)):
            async with taut.connect(server.uri(protocols="b,x"), subprotocols=offered) as ws:
                assert ws.subprotocol == chosen
                await ws.send("x")
                assert await ws.recv() == "x"


async def test_pings_both_ways(servers: Servers, kind: str) -> None:
    async with servers.of(kind) as server, taut.connect(server.uri(commands=1)) as ws:
        for data in (b"", b"ours", b"p" * 125):
            assert await (await ws.ping(data)) > 0
        for data in ("theirs", "q" * 125):
            await ws.send(json.dumps({"do": "ping", "data": data}))
            assert await ws.recv() == f"pong {data}"


CODES = [(1000, ""), (1000, "bye"), (1001, "going"), (1011, ""), (3000, "registered"), (4999, "ü" * 61)]


@pytest.mark.parametrize(("code", "reason"), CODES, ids=[str(number) for number in range(len(CODES))])
async def test_our_close_reaches_them(servers: Servers, kind: str, code: int, reason: str) -> None:
    identity = uuid.uuid4().hex
    async with servers.of(kind) as server:
        async with taut.connect(server.uri(id=identity)) as ws:
            await ws.close(code, reason)
        assert ws.close_info == taut.CloseInfo(taut.Initiator.LOCAL, code, reason, clean=True)
        seen = await server.ending(identity)
        assert seen == (code, "" if kind == "aiohttp" else reason)


@pytest.mark.parametrize(("code", "reason"), CODES, ids=[str(number) for number in range(len(CODES))])
async def test_their_close_reaches_us(servers: Servers, kind: str, code: int, reason: str) -> None:
    async with servers.of(kind) as server, taut.connect(server.uri(commands=1)) as ws:
        await ws.send(json.dumps({"do": "close", "code": code, "reason": reason}))
        with pytest.raises(taut.ConnectionClosed) as caught:
            await ws.recv()
        assert caught.value.info == taut.CloseInfo(taut.Initiator.REMOTE, code, reason, clean=True)


async def test_a_close_without_a_code(servers: Servers) -> None:
    async with servers.of("node") as server, taut.connect(server.uri(commands=1)) as ws:
        await ws.send(json.dumps({"do": "close"}))
        await ws.wait_closed()
        assert ws.close_info == taut.CloseInfo(taut.Initiator.REMOTE, 1005, "", clean=True)


async def test_an_end_without_a_close_frame(servers: Servers, kind: str) -> None:
    for command in ("terminate", "end") if kind == "node" else ("terminate",):
        async with servers.of(kind) as server, taut.connect(server.uri(commands=1)) as ws:
            await ws.send(json.dumps({"do": command}))
            with pytest.raises(taut.ConnectionClosedError) as caught:
                await ws.recv()
            assert caught.value.code == 1006
            assert caught.value.info.initiator is taut.Initiator.NETWORK


async def test_an_abort_of_ours_reaches_them(servers: Servers, kind: str) -> None:
    identity = uuid.uuid4().hex
    async with servers.of(kind) as server:
        async with taut.connect(server.uri(id=identity)) as ws:
            ws.abort()
            await ws.wait_closed()
        assert (await server.ending(identity))[0] == 1006


@pytest.mark.parametrize("status", [400, 401, 404, 429, 503])
async def test_a_refusal(servers: Servers, kind: str, status: int) -> None:
    async with servers.of(kind) as server:
        with pytest.raises(taut.InvalidStatus) as caught:
            await taut.connect(server.uri(status=status))
        assert caught.value.response is not None
        assert caught.value.response.status_code == status
        assert caught.value.response.body == b"no"


@pytest.mark.parametrize(
    "headers",
    [
        ["upgrade: WebSocket"],
        ["UPGRADE:websocket"],
        ["Upgrade: \t websocket \t "],
        ["Connection: keep-alive, uPgRaDe"],
        ["Connection: , upgrade ,,"],
        ["sec-websocket-accept:   *  "],
        ["Set-Cookie: a=1", "Set-Cookie2: b", "X-Empty:", 'X-Quoted: "a, b"; c="\\""', "X: " + "y" * 4000],
        ["X-Obsolete: caf\u00e9"],
        ["HTTP/1.1 101 "],
        ["HTTP/1.1 101 Web Socket Protocol Handshake"],
    ],
    ids=lambda headers: headers[0][:25],
)
async def test_odd_but_legal_responses(node_ws: NodeWs, headers: list[str]) -> None:
    async with taut.connect(node_ws.uri(headers=headers)) as ws:
        await ws.send("x")
        assert await ws.recv() == "x"
