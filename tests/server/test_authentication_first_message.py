"""The first message authenticates: nothing reaches the handler before, and nothing is told after."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from typing import Any

import pytest
from network import Driver
from peers import BINARY, CLOSE, CONT, TEXT, Peer, close_payload

import taut

TOKEN = "let-me-in-please"


def know(message: str | bytes) -> str | None:
    if message == "forbidden":
        raise PermissionError("no scope")
    if message == "raise":
        return str({}[TOKEN])
    return "ann" if message in (TOKEN, TOKEN.encode()) else None


async def know_later(message: str | bytes) -> str | None:
    await asyncio.sleep(0)
    return know(message)


class House:
    """A handler that says who is in, and echoes."""

    def __init__(self) -> None:
        self.calls = 0

    async def handler(self, ws: taut.ServerConnection) -> None:
        self.calls += 1
        await ws.send(f"hello, {ws.principal}")
        async for message in ws:
            await ws.send(message)


async def closed_with(peer: Peer) -> bytes:
    """The payload of the only frame, a Close frame."""
    (frame,) = await peer.frames_until_close()
    peer.send(CLOSE, frame.payload)
    await peer.read_to_end()
    return frame.payload


@pytest.mark.parametrize("check", [know, know_later])
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("deflate", ["deflate", None])
async def test_the_right_message_lets_the_handler_have_the_connection(
    tcp: Driver, check: Any, opcode: int, deflate: str | None
) -> None:
    house = House()
    guarded = taut.first_message_auth(check)(house.handler)
    async with tcp.serve(guarded, compression=deflate) as server, tcp.connect(server) as ws:
        await ws.send(TOKEN if opcode == TEXT else TOKEN.encode())
        await ws.send("first")
        await ws.send("second")
        assert [await ws.recv() for _ in range(3)] == ["hello, ann", "first", "second"]
    assert house.calls == 1


async def test_it_is_a_decorator(tcp: Driver) -> None:
    @taut.first_message_auth(know, 5.0, max_size=100)
    async def handler(ws: taut.ServerConnection) -> None:
        """Greet."""
        await ws.send(f"hello, {ws.principal}")

    assert handler.__name__ == "handler"
    assert handler.__doc__ == "Greet."
    async with tcp.serve(handler) as server, tcp.connect(server) as ws:
        await ws.send(TOKEN)
        assert await ws.recv() == "hello, ann"


async def test_the_message_may_be_in_fragments_and_in_front(tcp: Driver) -> None:
    """In the same write as the request, followed by what is for the handler."""
    house = House()
    async with (
        tcp.serve(taut.first_message_auth(know)(house.handler), compression=None) as server,
        tcp.opened(server) as peer,
    ):
        peer.write(
            peer.encode(TEXT, TOKEN[:5].encode(), fin=False)
            + peer.encode(CONT, b"", fin=False)
            + peer.encode(CONT, TOKEN[5:].encode())
            + peer.encode(TEXT, b"behind")
        )
        assert [(await peer.frame()).payload for _ in range(2)] == [b"hello, ann", b"behind"]
        await peer.close()


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        (b"wrong", "wrong credentials"),
        (b"", "wrong credentials"),
        (b"forbidden", "not permitted"),
        (b"x" * 4097, "the message is too large"),
        ("é".encode() * 2049, "the message is too large"),
    ],
)
async def test_a_wrong_message_closes_without_detail(
    tcp: Driver, message: bytes, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    house = House()
    with caplog.at_level(logging.DEBUG):
        async with tcp.serve(taut.first_message_auth(know)(house.handler)) as server, tcp.opened(server) as peer:
            peer.send(TEXT, message)
            peer.send(TEXT, TOKEN.encode())
            assert await closed_with(peer) == close_payload(1008)
    assert house.calls == 0
    (line,) = [r.getMessage() for r in caplog.records if r.getMessage().startswith("authentication failed")]
    assert line.startswith(f"authentication failed: first_message_auth: {kind}; answered with 1008, to 127.0.0.1:")
    assert TOKEN not in caplog.text


async def test_the_largest_message(tcp: Driver) -> None:
    house = House()
    guarded = taut.first_message_auth(lambda message: message, max_size=4)(house.handler)
    async with tcp.serve(guarded, compression=None) as server, tcp.opened(server) as peer:
        peer.send(TEXT, b"abcd")
        assert (await peer.frame()).payload == b"hello, abcd"
        await peer.close()


async def test_a_message_that_never_ends_is_not_collected(tcp: Driver) -> None:
    """It is refused at the limit, not at its end."""
    house = House()
    async with tcp.serve(taut.first_message_auth(know)(house.handler)) as server, tcp.opened(server) as peer:
        peer.send(TEXT, b"x" * 4000, fin=False)
        peer.send(CONT, b"x" * 97, fin=False)
        assert await closed_with(peer) == close_payload(1008)
    assert house.calls == 0


@pytest.mark.parametrize("drip", [False, True])
async def test_the_deadline(tcp: Driver, drip: bool) -> None:
    """It is for the whole message: one that drips does not prolong it."""
    house = House()
    async with tcp.serve(taut.first_message_auth(know, 0.2)(house.handler)) as server, tcp.opened(server) as peer:
        closing = asyncio.ensure_future(peer.frames_until_close())
        peer.send(TEXT, b"x", fin=False)
        begun = asyncio.get_running_loop().time()
        while not closing.done():
            if drip:
                peer.send(CONT, b"", fin=False)
            await asyncio.wait([closing], timeout=0.02)
        assert asyncio.get_running_loop().time() - begun < 5
        assert [frame.payload for frame in closing.result()] == [close_payload(1008)]
    assert house.calls == 0


async def test_the_deadline_is_for_the_check_as_well(tcp: Driver) -> None:
    house = House()

    async def never(_: str | bytes) -> str:
        await asyncio.Event().wait()
        return "ann"

    async with tcp.serve(taut.first_message_auth(never, 0.1)(house.handler)) as server, tcp.opened(server) as peer:
        peer.send(TEXT, b"x")
        assert await closed_with(peer) == close_payload(1008)
    assert house.calls == 0


async def test_a_check_that_raises(tcp: Driver, caplog: pytest.LogCaptureFixture) -> None:
    """A TimeoutError of its own is not the deadline."""

    async def late(_: str | bytes) -> str:
        raise TimeoutError("the database")

    for check, message in ((know, b"raise"), (late, b"x")):
        house = House()
        caplog.clear()
        async with tcp.serve(taut.first_message_auth(check)(house.handler)) as server, tcp.opened(server) as peer:
            peer.send(TEXT, message)
            assert await closed_with(peer) == close_payload(1011)
        assert house.calls == 0
        (error,) = [r for r in caplog.records if r.levelno >= logging.ERROR]
        assert "Traceback" in logging.Formatter().format(error)


async def test_the_message_is_not_in_the_traceback(tcp: Driver, caplog: pytest.LogCaptureFixture) -> None:
    guarded = taut.first_message_auth(lambda message: {}[message])(House().handler)
    async with tcp.serve(guarded) as server, tcp.opened(server) as peer:
        peer.send(TEXT, TOKEN.encode())
        assert await closed_with(peer) == close_payload(1011)
    assert "KeyError: '***'" in caplog.text
    assert TOKEN not in caplog.text


@pytest.mark.parametrize("part", [b"", b"\x01\x80", b"\x01\x85abcd12345"])
async def test_who_leaves_first(tcp: Driver, part: bytes) -> None:
    house = House()
    async with tcp.serve(taut.first_message_auth(know)(house.handler)) as server:
        async with tcp.opened(server) as peer:
            peer.write(part)
        async with tcp.opened(server) as peer:
            peer.send(CLOSE, close_payload(1000))
            assert (await peer.frames_until_close())[-1].payload == close_payload(1000)
    assert house.calls == 0


async def test_a_handler_that_raises_is_as_ever(tcp: Driver, caplog: pytest.LogCaptureFixture) -> None:
    @taut.first_message_auth(know)
    async def handler(ws: taut.ServerConnection) -> None:
        raise RuntimeError("mine")

    async with tcp.serve(handler) as server, tcp.connect(server) as ws:
        await ws.send(TOKEN)
        await ws.wait_closed()
        assert ws.close_code == 1011
    assert "connection handler failed" in caplog.text
    assert "authentication failed" not in caplog.text


@pytest.mark.parametrize("kind", ["object", "partial", "lambda"])
async def test_any_kind_of_handler(tcp: Driver, kind: str) -> None:
    async def greet(greeting: str, ws: taut.ServerConnection) -> None:
        await ws.send(f"{greeting}, {ws.principal}")

    class Greeter:
        async def __call__(self, ws: taut.ServerConnection) -> None:
            await greet("hi", ws)

    handlers = {"object": Greeter(), "partial": functools.partial(greet, "hi"), "lambda": lambda ws: greet("hi", ws)}
    guard = taut.first_message_auth(know)
    async with tcp.serve(guard(handlers[kind])) as server:
        async with tcp.connect(server) as ws:
            await ws.send(TOKEN)
            assert await ws.recv() == "hi, ann"
        async with tcp.connect(server) as ws:
            await ws.send("x")
            with contextlib.suppress(taut.ConnectionClosed):
                raise AssertionError(await ws.recv())
            assert ws.close_code == 1008


@pytest.mark.parametrize(
    ("arguments", "kind", "text"),
    [
        ((7,), TypeError, "check must be a function or a coroutine function, not int"),
        ((know, 0), ValueError, "deadline must be a number above 0, not 0"),
        ((know, None), TypeError, "deadline must be a number above 0, not None"),
        ((know, "5"), TypeError, "deadline must be a number above 0, not '5'"),
    ],
)
def test_wrong_arguments(arguments: Any, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind) as caught:
        taut.first_message_auth(*arguments)
    assert str(caught.value) == text


@pytest.mark.parametrize("value", [0, 1.5, None])
def test_wrong_max_size(value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"^max_size must be a whole number, at least 1, not "):
        taut.first_message_auth(know, max_size=value)


@pytest.mark.parametrize("handler", [7, taut.Listener, object()])
def test_wrong_handlers(handler: Any) -> None:
    with pytest.raises(TypeError, match=r"^handler must be a function or a coroutine function, not "):
        taut.first_message_auth(know)(handler)
