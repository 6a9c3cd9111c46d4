"""Subprotocols as objects: what is negotiated decodes what is received and encodes what is sent, on both sides."""

from __future__ import annotations

import asyncio
import dataclasses
import sys
from collections.abc import Iterator
from typing import Any, assert_type

import pytest
from network import Driver
from peers import TEXT

import taut
from taut.subprotocols import Values


@dataclasses.dataclass
class Order:
    """What the typed tests send."""

    item: str
    count: int = 1


JSON: taut.JSONSubprotocol[Any] = taut.JSONSubprotocol("json.v1")
BINARY: taut.JSONSubprotocol[Any] = taut.JSONSubprotocol("json.bin", text=False)
ORDERS = taut.JSONSubprotocol("orders.v1", type=Order)


class Lines(taut.Subprotocol[list[str]]):
    """Text or Binary, one item a line; "bug" meets a bug of it."""

    def encode(self, value: list[str]) -> str:
        return "\n".join(value)

    def decode(self, message: taut.Data) -> list[str]:
        text = message if isinstance(message, str) else message.decode()
        if text == "bug":
            raise ZeroDivisionError
        if text == "rude":
            raise taut.MessageRejected("no such words", 4001)
        return text.split("\n")


LINES = Lines("lines")


async def echo(ws: taut.ServerConnection) -> None:
    async for message in ws:
        await ws.send(message)


class Echo(taut.Listener):
    """The same with callbacks."""

    def on_message(self, ws: taut.Connection, message: Any) -> None:
        ws.send_nowait(message)


# -- negotiation -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("handler", [echo, Echo])
async def test_both_sides_exchange_values(tcp: Driver, handler: Any) -> None:
    async with tcp.connected(handler, subprotocols=[JSON]) as (server, ws):
        assert (ws.subprotocol, ws.codec) == ("json.v1", JSON)
        (served,) = server.connections
        assert (served.subprotocol, served.codec) == ("json.v1", JSON)
        assert isinstance(served, taut.ServerConnection)
        for value in ({"a": [1, 2.5, None, True]}, "text", None, 7, []):
            await ws.send(value)
            assert await ws.recv() == value
        ws.send_nowait({"nowait": "é"})
        async for value in ws:
            assert value == {"nowait": "é"}
            break


@pytest.mark.parametrize(
    ("offered", "sent", "agreed", "received"),
    [
        (["plain", JSON], [1], "json.v1", [1]),
        ([LINES, JSON], [1], "json.v1", [1]),
        ([BINARY, JSON], [1], "json.v1", [1]),
        (["json.v1"], "[1]", "json.v1", [1]),
        (["plain", LINES], "[1]", "plain", "[1]"),
        ([LINES], ["1", "2"], "lines", ["1", "2"]),
        (["other", BINARY], "[1]", None, "[1]"),
        ([], "[1]", None, "[1]"),
    ],
)
async def test_the_server_prefers(
    tcp: Driver, offered: list[Any], sent: Any, agreed: str | None, received: Any
) -> None:
    seen: list[Any] = []

    async def handler(ws: taut.ServerConnection) -> None:
        seen.extend([ws.subprotocol, await ws.recv()])

    preferred = {"subprotocols": [JSON, "plain", LINES]}
    async with tcp.connected(handler, server=preferred, client={"subprotocols": offered}) as (server, ws):
        await ws.send(sent)
        await ws.wait_closed()
        assert ws.subprotocol == agreed
    assert seen == [agreed, received]


async def test_a_hook_may_choose(tcp: Driver) -> None:
    def choose(ws: taut.ServerConnection, offered: Any) -> str | None:
        assert list(offered) == ["json.v1", "lines"]
        return "lines"

    options = {"subprotocols": [JSON, LINES]}
    async with tcp.connected(echo, server={"select_subprotocol": choose}, **options) as (server, ws):
        assert ws.codec is LINES
        await ws.send(["a", "b"])
        assert await ws.recv() == ["a", "b"]


async def test_a_codec_without_negotiation(tcp: Driver) -> None:
    async with tcp.connected(echo, codec=JSON) as (server, ws):
        assert (ws.subprotocol, ws.codec) == (None, JSON)
        await ws.send({"a": 1})
        assert await ws.recv() == {"a": 1}
    async with tcp.connected(echo, codec=JSON, subprotocols=["graph"]) as (server, ws):
        assert (ws.subprotocol, ws.codec) == ("graph", JSON)
    async with tcp.connected(echo, codec=JSON, subprotocols=[LINES]) as (server, ws):
        assert ws.codec is LINES


async def test_routes_have_subprotocols_of_their_own(tcp: Driver) -> None:
    router = taut.Router(subprotocols=[JSON])
    router.add("/json", echo)
    router.add("/lines", echo, subprotocols=[LINES])
    router.add("/codec", echo, subprotocols=None, codec=BINARY)
    async with tcp.serve(router, subprotocols=["plain"]) as server:
        for target, codec, value in (("/json", JSON, {"a": 1}), ("/lines", LINES, ["a"])):
            async with tcp.connect(server, target, subprotocols=["plain", JSON, LINES]) as ws:
                assert ws.codec is codec
                await ws.send(value)
                assert await ws.recv() == value
        async with tcp.connect(server, "/codec") as ws:
            await ws.send(b"[1]")
            assert await ws.recv() == b"[1]"


async def test_without_a_codec_nothing_is_different(tcp: Driver) -> None:
    async with tcp.connected(echo, subprotocols=["plain"]) as (server, ws):
        (served,) = server.connections
        assert type(ws) is taut.ClientConnection
        assert type(served) is taut.ServerConnection
        assert ws.codec is None


# -- what does not decode ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["coroutine", "iteration", "listener"])
@pytest.mark.parametrize(
    ("message", "code", "reason", "preview"),
    [
        ('{"token": "secret', 1007, "not a valid json.v1 message", '{"token": "secret'),
        ("[" * 100_000, 1007, "not a valid json.v1 message", "[" * 64),
        (b"{}", 1003, "json.v1 has no Binary messages", b"{}"),
    ],
)
async def test_a_message_that_does_not_decode(
    tcp: Driver, kind: str, message: Any, code: int, reason: str, preview: Any, caplog: pytest.LogCaptureFixture
) -> None:
    ended: asyncio.Future[tuple[list[Any], Any]] = asyncio.get_running_loop().create_future()
    seen: list[Any] = []
    causes: list[Any] = []

    async def handler(ws: taut.ServerConnection) -> None:
        try:
            if kind == "iteration":
                async for value in ws:
                    seen.append(value)
            while True:
                seen.append(await ws.recv())
        except taut.ConnectionClosed as exc:
            with pytest.raises(taut.ConnectionClosedError):
                await ws.recv()
            causes.append(exc.__cause__)
            ended.set_result((seen, exc.info))
            raise

    class Listening(taut.Listener):
        def on_message(self, ws: taut.Connection, message: Any) -> None:
            seen.append(message)

        def on_close(self, ws: taut.Connection, info: taut.CloseInfo) -> None:
            ended.set_result((seen, info))

    target: Any = Listening if kind == "listener" else handler
    async with tcp.serve(target, subprotocols=[JSON]) as server:
        async with tcp.connect(server, subprotocols=["json.v1"]) as ws:
            for each in ("1", message, "2"):
                await ws.send(each)
            with pytest.raises(taut.ConnectionClosedError) as caught:
                await ws.recv()
            assert (caught.value.code, caught.value.reason) == (code, reason)
        values, info = await ended
    assert values == [1]
    assert (info.code, info.reason, info.initiator) == (code, reason, taut.Initiator.LOCAL)
    error = info.cause
    assert causes == ([] if kind == "listener" else [error])
    assert isinstance(error, taut.DecodeError)
    assert (error.code, error.subprotocol, error.preview) == (code, "json.v1", preview)
    assert (error.__cause__ is None) == (code == 1003)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
    assert "secret" not in caplog.text


async def test_what_came_before_is_answered_first(tcp: Driver) -> None:
    headers = [("Sec-WebSocket-Protocol", "json.v1")]
    async with tcp.serve(echo, subprotocols=[JSON]) as server, tcp.opened(server, headers) as peer:
        peer.write(b"".join(peer.encode(TEXT, each) for each in (b"1", b"2", b"{", b"3")))
        answers = await peer.frames_until_close()
        assert [frame.payload for frame in answers[:2]] == [b"1", b"2"]
        assert [frame.code for frame in answers[2:]] == [1007]


@pytest.mark.parametrize("handler", [echo, Echo])
async def test_what_is_behind_a_bad_message_is_not_taken(tcp: Driver, handler: Any) -> None:
    """However much there is of it, and whether reading is paused or not."""
    headers = [("Sec-WebSocket-Protocol", "json.v1")]
    options = {"subprotocols": [JSON], "read_limit": 4096, "close_timeout": 5.0}
    async with tcp.serve(handler, **options) as server, tcp.opened(server, headers) as peer:
        good = [b'"' + b"x" * 1000 + b'"'] * 100
        peer.write(b"".join(peer.encode(TEXT, each) for each in [*good, b"{", *good, *good]))
        answers = await peer.frames_until_close()
        assert [frame.payload for frame in answers[:-1]] == good
        assert answers[-1].code == 1007


async def test_a_bad_message_before_a_close(tcp: Driver) -> None:
    ended: asyncio.Future[taut.ConnectionClosed] = asyncio.get_running_loop().create_future()
    begun = asyncio.Event()

    async def handler(ws: taut.ServerConnection) -> None:
        await begun.wait()
        try:
            await ws.recv()
        except taut.ConnectionClosed as exc:
            ended.set_result(exc)

    async with tcp.serve(handler, subprotocols=[JSON]) as server:
        async with tcp.connect(server, subprotocols=["json.v1"]) as ws:
            await ws.send("{")
            closing = asyncio.create_task(ws.close(1000))
            (served,) = server.connections
            while served.state is taut.State.OPEN:
                await asyncio.sleep(0.001)
            begun.set()
            await closing
        error = await ended
        assert isinstance(error, taut.ConnectionClosedError)
        assert isinstance(error.__cause__, taut.DecodeError)


@pytest.mark.parametrize("handler", [echo, Echo])
async def test_a_fault_of_a_codec(tcp: Driver, handler: Any, caplog: pytest.LogCaptureFixture) -> None:
    async with tcp.serve(handler, subprotocols=[LINES]) as server:
        for message, code, reason in (("rude", 4001, "no such words"), ("bug", 1011, "internal error")):
            async with tcp.connect(server, subprotocols=["lines"]) as ws:
                await ws.send(message)
                with pytest.raises(taut.ConnectionClosedError) as caught:
                    await ws.recv()
                assert (caught.value.code, caught.value.reason) == (code, reason)
    errors = [record for record in caplog.records if record.levelname == "ERROR"]
    assert [record.exc_info and record.exc_info[0] for record in errors] == [ZeroDivisionError]


async def test_the_client_refuses_what_does_not_decode(tcp: Driver) -> None:
    async def handler(ws: taut.ServerConnection) -> None:
        await ws.send("no JSON")
        await ws.wait_closed()
        assert ws.close_code == 1007

    async with tcp.serve(handler, subprotocols=["json.v1"]) as server, tcp.connect(server, subprotocols=[JSON]) as ws:
        with pytest.raises(taut.ConnectionClosedError) as caught:
            await ws.recv()
        assert isinstance(caught.value.info.cause, taut.DecodeError)
        assert ws.close_code == 1007


# -- what does not encode ----------------------------------------------------------------------------------------------


async def test_what_is_no_value_is_not_sent(tcp: Driver) -> None:
    async with tcp.connected(echo, subprotocols=[JSON]) as (server, ws):
        loop: list[Any] = []
        loop.append(loop)
        for value, error in (
            (object(), TypeError),
            (float("nan"), ValueError),
            (loop, ValueError),
            ("\ud800", ValueError),
        ):
            with pytest.raises(error):
                await ws.send(value)
            with pytest.raises(error):
                ws.send_nowait(value)
        assert ws.stats.messages_sent == 0
        await ws.send("after all")
        assert await ws.recv() == "after all"


async def test_a_codec_must_make_messages(tcp: Driver) -> None:
    class Wrong(taut.Subprotocol[Any]):
        def encode(self, value: Any) -> Any:
            return value

        def decode(self, message: taut.Data) -> Any:
            return message

    async with tcp.connected(echo, subprotocols=[Wrong("wrong")]) as (server, ws):
        with pytest.raises(TypeError, match=r"Wrong\('wrong'\) must encode a value as str or bytes-like, not dict"):
            await ws.send({})


async def test_options_for_messages_are_refused(tcp: Driver) -> None:
    async with tcp.connected(echo, subprotocols=[JSON]) as (server, ws):
        with pytest.raises(TypeError, match="text is for messages"):
            await ws.send({}, text=True)
        with pytest.raises(TypeError, match="decode is for messages"):
            await ws.recv(decode=True)
        await ws.send("compressed " * 1000, compress=True)
        assert await ws.recv() == "compressed " * 1000


# -- parts, fragments, broadcast ---------------------------------------------------------------------------------------


async def test_parts_of_messages_are_not_decoded(tcp: Driver) -> None:
    async def handler(ws: taut.ServerConnection) -> None:
        parts = [part async for part in ws.recv_streaming()]
        assert "".join(map(str, parts)) == '{"a":1}'
        assert await ws.recv() == {"b": 2}
        await ws.send("done")

    async with tcp.connected(handler, subprotocols=[JSON]) as (server, ws):
        await ws.send({"a": 1})
        await ws.send({"b": 2})
        assert await ws.recv() == "done"


async def test_first_message_authentication(tcp: Driver) -> None:
    @taut.first_message_auth(lambda message: "ann" if message == '"token"' else None)
    async def handler(ws: taut.ServerConnection) -> None:
        await ws.send({"principal": ws.principal, "got": await ws.recv()})

    async with tcp.connected(handler, subprotocols=[JSON]) as (server, ws):
        await ws.send("token")
        await ws.send([1])
        assert await ws.recv() == {"principal": "ann", "got": [1]}


async def test_a_list_is_a_value_and_not_fragments(tcp: Driver) -> None:
    async with tcp.connected(echo, subprotocols=[JSON]) as (server, ws):
        await asyncio.gather(*(ws.send(["a", n]) for n in range(3)))
        assert [await ws.recv() for _ in range(3)] == [["a", 0], ["a", 1], ["a", 2]]


async def test_broadcast_encodes_once_for_each_codec(tcp: Driver) -> None:
    encoded: list[Any] = []

    class Counting(taut.JSONSubprotocol[Any]):
        def encode(self, value: Any) -> str | bytes:
            encoded.append(value)
            return super().encode(value)

    counting = Counting("counting")
    async with tcp.serve(echo, subprotocols=[counting, BINARY, "plain"]) as server:
        clients = [
            await tcp.connect(server, subprotocols=[name], compression=compression)
            for name in ("counting", "json.bin", "plain", "counting")
            for compression in ("deflate", None)
        ]
        taut.broadcast(server.connections, "héllo" * 1000)
        assert encoded == ["héllo" * 1000]
        text = '"' + "héllo" * 1000 + '"'
        expected = {"counting": text, "json.bin": text.encode(), "plain": "héllo" * 1000}
        for client in clients:
            assert await client.recv() == expected[str(client.subprotocol)]
        coded = {ws for ws in server.connections if ws.codec}
        taut.broadcast(coded, {"a": 1})
        assert len(encoded) == 2
        for client in clients:
            if client.subprotocol != "plain":
                assert await client.recv() in ('{"a":1}', b'{"a":1}')
        with pytest.raises(TypeError, match="must be str or bytes-like, not dict"):
            taut.broadcast(server.connections, {"a": 1})  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="not JSON serializable"):
            taut.broadcast(coded, object())  # type: ignore[arg-type]
        taut.broadcast(server.connections, "end")
        for client in clients:
            assert await client.recv() in ("end", '"end"', b'"end"')
            await client.close()


# -- JSON --------------------------------------------------------------------------------------------------------------

BACKENDS = ["json", "msgspec", "orjson", "auto"]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("text", [True, False])
async def test_backends_agree(tcp: Driver, backend: Any, text: bool) -> None:
    subprotocol = taut.JSONSubprotocol("json", text=text, backend=backend)
    assert subprotocol.backend == ("msgspec" if backend == "auto" else backend)
    async with tcp.connected(echo, subprotocols=[subprotocol]) as (server, ws):
        for value in ({"a": [1, -2.5, None, True, "é\u2028😀"]}, "", 0, [[]], {}):
            await ws.send(value)
            assert await ws.recv() == value
    message = subprotocol.encode({"a": [1, "é"], "b": None})
    plain = message if isinstance(message, str) else message.decode()
    assert plain == '{"a":[1,"é"],"b":null}'
    for wrong in (
        "",
        "NaN",
        "[Infinity]",
        "-Infinity",
        "1e400",
        '"\\ud800"',
        '"\\uDC00\\ud800"',
        "{'a':1}",
        "[1,]",
        "\ufeff1",
        "[" * 100_000,
    ):
        with pytest.raises(ValueError):  # noqa: PT011 - each says it in words of its own
            subprotocol.decode(wrong if text else wrong.encode())
    for wrong_bytes in (b"\xff", b'"\xed\xa0\x80"', "[1]".encode("utf-16")):
        with pytest.raises(ValueError):  # noqa: PT011
            subprotocol.decode(wrong_bytes)
    assert subprotocol.decode('"\\ud83d\\ude00"') == "😀"


@pytest.mark.parametrize("extra", ["msgspec", "orjson"])
async def test_a_missing_extra_is_named(extra: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, extra, None)
    with pytest.raises(taut.MissingExtra, match=rf"pip install 'taut\[{extra}\]'"):
        taut.JSONSubprotocol("json", backend=extra)
    other = {"msgspec": "orjson", "orjson": "msgspec"}[extra]
    assert taut.JSONSubprotocol("json", backend="auto").backend == other
    monkeypatch.setitem(sys.modules, other, None)
    assert taut.JSONSubprotocol("json", backend="auto").backend == "json"
    assert taut.JSONSubprotocol("json").backend == "json"


async def test_typed_values(tcp: Driver) -> None:
    async def handler(ws: taut.ServerConnection) -> None:
        orders = ORDERS.typed(ws)
        assert_type(orders, Values[Order])
        assert orders is ws
        async for order in orders:
            assert_type(order, Order)
            await orders.send(Order(order.item, order.count + 1))
        with pytest.raises(TypeError, match=r"does not speak json\.v1"):
            JSON.typed(ws)

    async with tcp.connected(handler, subprotocols=[ORDERS]) as (server, ws):
        orders = ORDERS.typed(ws)
        orders.send_nowait(Order("tea", 2))
        assert_type(await orders.recv(), Order)
        await orders.send({"item": "milk"})
        assert await orders.recv() == Order("milk", 2)
        await orders.send({"item": 7})
        with pytest.raises(taut.ConnectionClosedError, match=r"1007 .* not a valid orders\.v1 message"):
            await orders.recv()


# -- wrong arguments ---------------------------------------------------------------------------------------------------


def wrong_arguments() -> Iterator[Any]:
    def case(make: Any, error: type[Exception], match: str) -> Any:
        return pytest.param(make, error, match, id=match)

    yield case(lambda: taut.JSONSubprotocol("a b"), ValueError, "name must be an HTTP token, .* not 'a b'")
    yield case(lambda: taut.JSONSubprotocol(7), TypeError, "name must be a str, not 7")  # type: ignore[call-overload]
    yield case(lambda: taut.JSONSubprotocol("a", text=1), TypeError, "text must be True or False, not 1")  # type: ignore[call-overload]
    yield case(lambda: taut.JSONSubprotocol("a", backend="x"), ValueError, "backend must be one of .* not 'x'")  # type: ignore[call-overload]
    yield case(lambda: taut.JSONSubprotocol("a", type=int, backend="orjson"), ValueError, "type needs the backend")
    yield case(lambda: taut.JSONSubprotocol("a", type=5), TypeError, "type must be one that msgspec can decode, not 5")
    for of in (
        lambda **o: taut.serve(echo, **o),
        lambda **o: taut.connect("ws://x", **o),
        taut.Router,
    ):
        yield case(
            lambda of=of: of(subprotocols=[JSON, "json.v1"]), ValueError, "subprotocols must not name 'json.v1' twice"
        )
        yield case(
            lambda of=of: of(subprotocols=[7]), TypeError, "subprotocols must hold only str or Subprotocol, not 7"
        )
        yield case(lambda of=of: of(subprotocols=["a b"]), ValueError, "subprotocols must be HTTP tokens, not 'a b'")
        yield case(lambda of=of: of(codec="json"), TypeError, "codec must be a taut.Subprotocol or None, not 'json'")


async def test_where_only_names_are_taken() -> None:
    uri = "ws://127.0.0.1:1/"
    for options in ({"subprotocols": [JSON]}, {"codec": JSON}):
        for make in (
            lambda options=options: taut.Session(uri, **options),
            lambda options=options: taut.Session(lambda attempt: uri, **options),
            lambda options=options: taut.Session(taut.connect(uri, **options)),
        ):
            with pytest.raises(TypeError, match="takes the names of subprotocols, and no objects that decode"):
                make()
    with pytest.raises(TypeError, match="a session takes the names"):
        async with taut.Session(lambda attempt: taut.connect(uri, codec=JSON)):
            raise AssertionError("never opened")


@pytest.mark.parametrize(("make", "error", "match"), list(wrong_arguments()))
async def test_wrong_arguments(make: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        make()
