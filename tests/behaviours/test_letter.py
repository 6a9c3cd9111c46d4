"""Correct to the letter: what is refused, with which code, and when."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest
from network import Driver
from peers import CLOSE, CONT, PING, PONG, TEXT, Frame, Peer, close_payload, head

import taut
from taut import CloseInfo, DeflateOptions, Initiator

KEY = b"\x01\x02\x03\x04"


async def echo(ws: Any) -> None:
    async for message in ws:
        await ws.send(message)


def masked(peer: Peer, first: int, payload: bytes = b"") -> bytes:
    """A frame with any first byte."""
    return bytes([first]) + peer.encode(0, payload)[1:]


VIOLATIONS: dict[str, tuple[Any, int]] = {
    "RSV1 without an extension": (lambda p: masked(p, 0xC1, b"x"), 1002),
    "RSV2": (lambda p: masked(p, 0xA1, b"x"), 1002),
    "RSV3": (lambda p: masked(p, 0x91, b"x"), 1002),
    **{f"opcode {opcode:#x}": (lambda p, o=opcode: p.encode(o, b"x"), 1002) for opcode in (3, 7, 0xB, 0xF)},
    "a frame that is not masked": (lambda p: head(TEXT, 1) + b"x", 1002),
    "a fragmented ping": (lambda p: p.encode(PING, b"x", fin=False), 1002),
    "a fragmented close frame": (lambda p: p.encode(CLOSE, close_payload(1000), fin=False), 1002),
    "a long ping": (lambda p: p.encode(PING, b"x" * 126), 1002),
    "a long close frame": (lambda p: p.encode(CLOSE, close_payload(1000, "x" * 124)), 1002),
    "a compressed ping": (lambda p: p.encode(PING, b"x", rsv=0x40), 1002),
    "a continuation of nothing": (lambda p: p.encode(CONT, b"x"), 1002),
    "a message within a message": (lambda p: p.encode(TEXT, b"x", fin=False) + p.encode(TEXT, b"y"), 1002),
    "a length of 16 bits that 7 would hold": (lambda p: bytes([0x82, 0xFE, 0, 125]) + KEY, 1002),
    "a length of 64 bits that 16 would hold": (lambda p: bytes([0x82, 0xFF]) + (65535).to_bytes(8, "big") + KEY, 1002),
    "a close payload of one byte": (lambda p: p.encode(CLOSE, b"\x03"), 1002),
    **{
        f"close code {code}": (lambda p, c=code: p.encode(CLOSE, close_payload(c)), 1002)
        for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535)
    },
    "a close reason that is not UTF-8": (lambda p: p.encode(CLOSE, close_payload(1000) + b"\xff"), 1007),
    "text that is not UTF-8": (lambda p: p.encode(TEXT, b"abc\xff"), 1007),
    "text with a surrogate": (lambda p: p.encode(TEXT, b"\xed\xa0\x80"), 1007),
    "overlong text": (lambda p: p.encode(TEXT, b"\xc0\xaf"), 1007),
    "text that ends within a character": (lambda p: p.encode(TEXT, b"\xe2\x82"), 1007),
}


@pytest.mark.parametrize("violation", VIOLATIONS)
async def test_a_violation_fails_the_connection(tcp: Driver, violation: str) -> None:
    """What came before it is answered; the Close frame is the last there is (RFC 6455, 7.1.7)."""
    make, code = VIOLATIONS[violation]
    async with tcp.serve(echo, compression=None) as server, tcp.opened(server) as peer:
        peer.write(peer.encode(TEXT, b"before") + make(peer) + peer.encode(TEXT, b"after"))
        assert await peer.frame() == Frame(TEXT, b"before")
        frame = await peer.frame()
        assert (frame.opcode, frame.code) == (CLOSE, code)
        assert len(frame.payload) > 2  # a reason, for whoever has to find out
        assert await peer.read_to_end() == b""


@pytest.mark.parametrize("what", ["masked", "not deflate", "fragmented pong"])
async def test_a_client_is_as_strict(tcp: Driver, what: str) -> None:
    async with tcp.raw_serve() as raw:
        opening = asyncio.ensure_future(raw.connect(close_timeout=1).open())
        peer = await raw.accept()
        await peer.respond([("Sec-WebSocket-Extensions", "permessage-deflate")] if what == "not deflate" else ())
        ws = await opening
        match what:
            case "masked":
                peer.write(head(TEXT, 1, key=KEY) + b"x")
            case "not deflate":
                peer.send(TEXT, b"\xff\xff\xff\xff", rsv=0x40)
            case _:
                peer.send(PONG, b"x", fin=False)
        frame = await peer.frame()
        assert frame.masked
        assert frame.code == (1007 if what == "not deflate" else 1002)
        with pytest.raises(taut.ConnectionClosedError) as caught:
            await ws.recv()
        assert caught.value.info.initiator is Initiator.LOCAL
        assert isinstance(caught.value.info.cause, taut.ProtocolError)
        peer.transport.close()
        await ws.wait_closed()


@pytest.mark.parametrize(
    "start", [b"valid \xff", b"\xc0", b"\xe0\x80", b"\xed\xa0", b"\xf0\x80", b"\xf4\x90", b"\xf5", b"ok \xe2\x28"]
)
@pytest.mark.parametrize("fragmented", [False, True])
async def test_invalid_utf8_fails_at_the_first_impossible_byte(tcp: Driver, start: bytes, fragmented: bool) -> None:
    """The message is far from complete, and the answer does not wait for the rest of it."""
    async with tcp.serve(echo) as server, tcp.opened(server) as peer:
        if fragmented:
            peer.send(TEXT, start[:1], fin=False)
            for i in range(1, len(start)):
                peer.send(CONT, start[i : i + 1], fin=False)
        else:
            peer.write(peer.encode(TEXT, start + b"x" * (1000 - len(start)))[: -1000 + len(start)])
        frame = await peer.frame()
        assert (frame.opcode, frame.code) == (CLOSE, 1007)


HANDSHAKES: dict[str, tuple[str, int]] = {
    "the least there must be": ("", 101),
    "Connection as a list": ("Connection: keep-alive, Upgrade\r\n", 101),
    "Connection on two lines": ("Connection: keep-alive\r\nConnection: upgrade\r\n", 101),
    "Connection without spaces": ("Connection: keep-alive,Upgrade\r\n", 101),
    "names in any case": ("CONNECTION: UPGRADE\r\nupgrade: WebSocket\r\nSEC-WEBSOCKET-VERSION: 13\r\n", 101),
    "Upgrade as a list": ("Upgrade: websocket, h2c\r\n", 101),
    "Connection without upgrade": ("Connection: keep-alive\r\n", 426),
    "Upgrade to something else": ("Upgrade: h2c\r\n", 426),
    "an old version": ("Sec-WebSocket-Version: 8\r\n", 426),
    "a short key": ("Sec-WebSocket-Key: AAAA\r\n", 400),
    "a key that is not base64": ("Sec-WebSocket-Key: ************************\r\n", 400),
    "two keys": ("Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n", 400),
    "two hosts": ("Host: one.example\r\nHost: two.example\r\n", 400),
    "a folded header": ("X-Folded: one\r\n two\r\n", 400),
    "a bare line feed": ("X-Bare: one\nX-Other: two\r\n", 400),
    "a bare carriage return": ("X-Bare: one\rtwo\r\n", 400),
    "a space before the colon": ("X-Space : one\r\n", 400),
    "no name": (": one\r\n", 400),
    "a NUL": ("X-Nul: a\0b\r\n", 400),
    "two lengths": ("Content-Length: 0\r\nContent-Length: 5\r\n", 400),
    "a length and chunks": ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", 400),
    "a cross-site origin": ("Origin: https://evil.example\r\n", 403),
    "its own origin": ("Origin: http://localhost\r\n", 101),
}


@pytest.mark.parametrize("name", HANDSHAKES)
async def test_requests_are_read_as_http_says(tcp: Driver, name: str) -> None:
    given, status = HANDSHAKES[name]
    names = {line.split(":")[0].strip().lower() for line in given.split("\r\n")}
    least = {
        "host": "Host: localhost\r\n",
        "upgrade": "Upgrade: websocket\r\n",
        "connection": "Connection: Upgrade\r\n",
        "sec-websocket-key": "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n",
        "sec-websocket-version": "Sec-WebSocket-Version: 13\r\n",
    }
    lines = "".join(line for key, line in least.items() if key not in names)
    async with tcp.serve(echo) as server, tcp.peer(server) as peer:
        peer.write(f"GET / HTTP/1.1\r\n{lines}{given}\r\n".encode("latin-1"))
        response = await peer.read_head()
        assert response.startswith(f"HTTP/1.1 {status} "), response
        if status == 101:
            peer.send(TEXT, b"x")
            assert (await peer.frame()).payload == b"x"
        else:
            assert "Sec-WebSocket-Accept" not in response


@pytest.mark.parametrize(
    ("supported", "offered", "chosen"),
    [
        ((), ["chat"], None),
        (("chat",), [], None),
        (("chat",), ["other"], None),
        (("chat", "superchat"), ["superchat", "chat"], "chat"),
        (("chat",), ["authorization.bearer", "secret-token", "chat"], "chat"),
        (("chat",), ["authorization.bearer", "secret-token"], None),
    ],
)
async def test_only_a_subprotocol_that_both_sides_name_is_echoed(
    tcp: Driver, supported: tuple[str, ...], offered: list[str], chosen: str | None
) -> None:
    async with tcp.serve(echo, subprotocols=supported or None) as server, tcp.peer(server) as peer:
        response = await peer.request("/", [("Sec-WebSocket-Protocol", ", ".join(offered))] if offered else [])
        if chosen is None and supported and offered:
            # A server may require one of its own, or serve without; it never makes one up.
            assert "Sec-WebSocket-Protocol" not in response
            return
        assert response.startswith("HTTP/1.1 101 "), response
        echoed = [line for line in response.split("\r\n") if line.lower().startswith("sec-websocket-protocol")]
        assert echoed == ([] if chosen is None else [f"Sec-WebSocket-Protocol: {chosen}"])


async def test_a_hook_cannot_make_up_a_subprotocol(tcp: Driver, caplog: pytest.LogCaptureFixture) -> None:
    async with (
        tcp.serve(echo, select_subprotocol=lambda ws, offered: "made-up") as server,
        tcp.peer(server) as peer,
    ):
        response = await peer.request("/", [("Sec-WebSocket-Protocol", "chat, token")])
        assert not response.startswith("HTTP/1.1 101 "), response
        assert "made-up" not in response


@pytest.mark.parametrize("answer", ["other", "chat, superchat", ""])
async def test_a_client_refuses_a_subprotocol_that_it_did_not_offer(tcp: Driver, answer: str) -> None:
    async with tcp.raw_serve() as raw:
        opening = asyncio.ensure_future(raw.connect(subprotocols=["chat"]).open())
        await (await raw.accept()).respond([("Sec-WebSocket-Protocol", answer)])
        with pytest.raises(taut.InvalidHandshake):
            await opening


COMBINATIONS = list(itertools.product([False, True], [False, True], [9, 15], [9, 12]))


@pytest.mark.parametrize(("server_fresh", "client_fresh", "server_bits", "client_bits"), COMBINATIONS)
async def test_every_combination_of_compression_parameters_works(
    tcp: Driver, server_fresh: bool, client_fresh: bool, server_bits: int, client_bits: int
) -> None:
    options = DeflateOptions(
        server_max_window_bits=server_bits,
        client_max_window_bits=client_bits,
        server_no_context_takeover=server_fresh,
        client_no_context_takeover=client_fresh,
        threshold=0,
    )
    text = "".join(f"line {i}, which is like the others\n" for i in range(400))
    for client, server in [(options, "deflate"), ("deflate", options), (options, options)]:
        async with tcp.connected(echo, client={"compression": client}, server={"compression": server}) as (_, ws):
            assert "permessage-deflate" in ws.response.headers["Sec-WebSocket-Extensions"]
            for message in (text, "", "x", text.encode(), text[::-1], "x" * 100_000):
                await ws.send(message)
                assert await ws.recv() == message
            await ws.send([text, "", text])
            assert await ws.recv() == text + text


@pytest.mark.parametrize(
    ("offer", "answer"),
    [
        ("permessage-deflate", "permessage-deflate"),
        ("permessage-deflate; server_no_context_takeover", "server_no_context_takeover"),
        ("permessage-deflate; unknown", None),
        ("permessage-deflate; server_max_window_bits=7", None),
        ("permessage-deflate; server_max_window_bits=010", None),
        ("permessage-deflate; server_max_window_bits", None),
        ("permessage-deflate; client_no_context_takeover; client_no_context_takeover", None),
        ("permessage-deflate; client_no_context_takeover=1", None),
        ("x-webkit-deflate-frame", None),
        ("permessage-deflate; unknown, permessage-deflate", "permessage-deflate"),
        ('permessage-deflate; server_max_window_bits="10"', "server_max_window_bits=10"),
    ],
)
async def test_offers_are_accepted_or_declined_as_the_rfc_says(tcp: Driver, offer: str, answer: str | None) -> None:
    async with tcp.serve(echo) as server, tcp.opened(server) as probe:
        await probe.close()
        async with tcp.peer(server) as peer:
            response = await peer.request("/", [("Sec-WebSocket-Extensions", offer)])
            assert response.startswith("HTTP/1.1 101 "), response
            lines = [line for line in response.split("\r\n") if line.lower().startswith("sec-websocket-extensions")]
            if answer is None:
                assert lines == []
            else:
                assert len(lines) == 1
                assert lines[0].count("permessage-deflate") == 1
                assert answer in lines[0]


@pytest.mark.parametrize(
    "answer",
    [
        "permessage-deflate; unknown",
        "permessage-deflate; server_max_window_bits=16",
        "permessage-deflate, permessage-deflate",
        "x-webkit-deflate-frame",
        "permessage-deflate; server_no_context_takeover=1",
    ],
)
async def test_a_client_refuses_an_extension_that_it_did_not_offer_so(tcp: Driver, answer: str) -> None:
    async with tcp.raw_serve() as raw:
        opening = asyncio.ensure_future(raw.connect().open())
        await (await raw.accept()).respond([("Sec-WebSocket-Extensions", answer)])
        with pytest.raises(taut.InvalidHandshake):
            await opening
    async with tcp.raw_serve() as raw:
        opening = asyncio.ensure_future(raw.connect(compression=None).open())
        await (await raw.accept()).respond([("Sec-WebSocket-Extensions", "permessage-deflate")])
        with pytest.raises(taut.InvalidHandshake):
            await opening


async def test_close_info_tells_who_closed_with_what_and_why(tcp: Driver) -> None:
    infos: asyncio.Queue[CloseInfo] = asyncio.Queue()

    async def handler(ws: Any) -> None:
        try:
            command = await ws.recv()
            if command == "close":
                await ws.close(4001, "as asked")
            else:
                await ws.wait_closed()
        except taut.ConnectionClosed:
            pass
        await ws.wait_closed()
        infos.put_nowait(ws.close_info)

    async with tcp.serve(handler, close_timeout=0.1) as server:
        async with tcp.opened(server) as peer:
            peer.send(TEXT, b"close")
            assert (await peer.frame()) == Frame(CLOSE, close_payload(4001, "as asked"))
            peer.send(CLOSE, close_payload(4002, "answered"))
            assert await infos.get() == CloseInfo(Initiator.LOCAL, 4001, "as asked", clean=True)
        async with tcp.opened(server) as peer:
            peer.send(CLOSE, close_payload(4003, "from the peer"))
            assert (await peer.frame()).code == 4003
            peer.transport.close()
            assert await infos.get() == CloseInfo(Initiator.REMOTE, 4003, "from the peer", clean=True)
        async with tcp.opened(server) as peer:
            peer.send(CLOSE)
            # 1005 stands for the absence of a code and is never sent.
            assert await peer.frame() == Frame(CLOSE, b"")
            peer.transport.close()
            assert await infos.get() == CloseInfo(Initiator.REMOTE, 1005, "", clean=True)
        async with tcp.opened(server) as peer:
            peer.transport.close()
            info = await infos.get()
            assert (info.initiator, info.code, info.clean) == (Initiator.NETWORK, 1006, False)
        async with tcp.opened(server) as peer:
            peer.send(3)
            assert (await peer.frame()).code == 1002
            peer.transport.close()
            info = await infos.get()
            assert (info.initiator, info.code, info.clean) == (Initiator.LOCAL, 1002, False)
            assert isinstance(info.cause, taut.ProtocolError)
            assert info.reason == str(info.cause)


async def test_handshake_keys_are_fresh_for_every_connection(tcp: Driver) -> None:
    keys = set()
    async with tcp.raw_serve() as raw:
        connecting = raw.connect()
        for _ in range(20):
            opening = asyncio.ensure_future(connecting.open())
            peer = await raw.accept()
            request = await peer.respond()
            keys.add(next(line for line in request.split("\r\n") if line.startswith("Sec-WebSocket-Key")))
            (await opening).abort()
            await peer.read_to_end()
    assert len(keys) == 20


async def test_connecting_again_starts_from_nothing(tcp: Driver) -> None:
    """Nothing of a connection, a broken one even, is left in the next one made from the same settings."""
    async with tcp.serve(echo) as server:
        connecting = tcp.connect(server)
        first = await connecting
        await first.send("x" * 1000)
        assert await first.recv() == "x" * 1000
        await first.ping(b"unanswered")
        first.abort()
        await first.wait_closed()
        second = await connecting
        assert second.id != first.id
        assert second.stats.messages_sent == 0
        assert second.close_info is None
        assert second.request.headers["Sec-WebSocket-Key"] != first.request.headers["Sec-WebSocket-Key"]
        await second.send("x" * 1000)
        assert await second.recv() == "x" * 1000
        await second.close()
        assert (first.close_code, second.close_code) == (1006, 1000)
