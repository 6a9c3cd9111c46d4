"""Subprotocols as objects, with threads: values come and go, and what does not decode ends the connection."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import taut
import taut.sync

JSON: taut.JSONSubprotocol[Any] = taut.JSONSubprotocol("json.v1")
UPPER: taut.JSONSubprotocol[Any] = taut.JSONSubprotocol("json.bin", text=False)


@contextmanager
def serving(handler: Any, **options: Any) -> Iterator[str]:
    with taut.sync.serve(handler, "127.0.0.1", 0, **options) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"ws://127.0.0.1:{server.port}/"
    thread.join(10)


def echo(ws: taut.sync.ServerConnection) -> None:
    for value in ws:
        ws.send(value)


def test_both_sides_exchange_values() -> None:
    with serving(echo, subprotocols=[JSON, UPPER, "plain"]) as uri:
        for subprotocol in (JSON, UPPER):
            with taut.sync.connect(uri, subprotocols=[subprotocol]) as ws:
                assert (ws.subprotocol, ws.codec) == (subprotocol.name, subprotocol)
                for value in ({"a": [1, "é"]}, None, "text", []):
                    ws.send(value, timeout=10)
                    assert ws.recv(timeout=10) == value
                ws.send([1], compress=True)
                assert next(iter(ws)) == [1]
        with taut.sync.connect(uri, subprotocols=["plain"]) as ws:
            assert ws.codec is None
            assert type(ws) is taut.sync.ClientConnection
            ws.send("{")
            assert ws.recv(timeout=10) == "{"


def test_a_codec_without_negotiation() -> None:
    with serving(echo, codec=JSON) as uri, taut.sync.connect(uri, codec=JSON) as ws:
        assert (ws.subprotocol, ws.codec) == (None, JSON)
        ws.send({"a": 1})
        assert ws.recv(timeout=10) == {"a": 1}


@pytest.mark.parametrize(("message", "code"), [('{"token": "secret"', 1007), (b"{}", 1003)])
@pytest.mark.parametrize("iterating", [True, False])
def test_a_message_that_does_not_decode(message: Any, code: int, iterating: bool) -> None:
    ended: queue.SimpleQueue[Any] = queue.SimpleQueue()
    go = threading.Event()

    def handler(ws: taut.sync.ServerConnection) -> None:
        go.wait(10)
        seen = [ws.recv(timeout=10)]
        for _ in range(2):
            with pytest.raises(taut.ConnectionClosedError) as caught:
                if iterating:
                    seen.extend(ws)
                seen.append(ws.recv(timeout=10))
            ended.put(caught.value)
        ended.put(seen)

    with serving(handler, subprotocols=[JSON]) as uri, taut.sync.connect(uri, subprotocols=["json.v1"]) as ws:
        for each in ("1", message, "2"):
            ws.send(each)
        go.set()
        with pytest.raises(taut.ConnectionClosedError) as caught:
            ws.recv(timeout=10)
        assert caught.value.code == code
        assert "secret" not in caught.value.reason
        first, second, seen = (ended.get(timeout=10) for _ in range(3))
    assert seen == [1]
    for error in (first, second):
        assert error.code == code
        assert isinstance(error.info.cause, taut.DecodeError)
    assert first.info.cause.preview == message
    assert first.__cause__ is first.info.cause


def test_what_is_no_value_is_not_sent() -> None:
    with serving(echo, subprotocols=[JSON]) as uri, taut.sync.connect(uri, subprotocols=[JSON]) as ws:
        for value, error in ((object(), TypeError), (float("nan"), ValueError), ("\ud800", ValueError)):
            with pytest.raises(error):
                ws.send(value)
        with pytest.raises(TypeError, match="text is for messages"):
            ws.send({}, text=True)
        with pytest.raises(TypeError, match="decode is for messages"):
            ws.recv(decode=True)
        with pytest.raises(TimeoutError):
            ws.recv(timeout=0)
        ws.send("after all")
        assert ws.recv(timeout=10) == "after all"


def test_parts_of_messages_are_not_decoded() -> None:
    @taut.first_message_auth(lambda message: "ann" if message == '"token"' else None)
    def handler(ws: taut.sync.ServerConnection) -> None:
        ws.send([ws.principal, ws.recv(timeout=10)])

    with serving(handler, subprotocols=[JSON]) as uri, taut.sync.connect(uri, subprotocols=[JSON]) as ws:
        ws.send("token")
        ws.send({"a": 1})
        assert "".join(map(str, ws.recv_streaming())) == '["ann",{"a":1}]'


def test_wrong_arguments() -> None:
    with pytest.raises(TypeError, match=r"codec must be a .* or None, not 'json'"):
        taut.sync.serve(echo, "127.0.0.1", 0, codec="json")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="subprotocols must hold only str or Subprotocol, not 7"):
        taut.sync.connect("ws://127.0.0.1:1/", subprotocols=[7])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="unexpected option middleware"):
        taut.sync.serve(echo, "127.0.0.1", 0, middleware=[])
