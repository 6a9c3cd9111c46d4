"""Log lines as JSON: what taut gives its records, and that a line is written whatever a record holds."""

from __future__ import annotations

import datetime
import io
import json
import logging
import math
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import pytest
from network import Driver

import taut
from taut.observability import JSONFormatter


@contextmanager
def lines_of(name: str, level: int = logging.INFO, **options: Any) -> Generator[list[dict[str, Any]]]:
    """What a logger writes as JSON; complete once the block is left."""
    logger, stream, lines = logging.getLogger(name), io.StringIO(), list[dict[str, Any]]()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JSONFormatter(**options))
    before = logger.level
    logger.setLevel(level)
    logger.addHandler(handler)
    try:
        yield lines
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
        lines += [json.loads(line, parse_constant=pytest.fail) for line in stream.getvalue().splitlines()]


async def echo(ws: taut.ServerConnection) -> None:
    async for message in ws:
        await ws.send(message)


async def test_the_end_of_a_connection_is_explained(tcp: Driver) -> None:
    ids: list[str] = []

    async def handler(ws: taut.ServerConnection) -> None:
        ids.append(str(ws.id))
        await echo(ws)

    with lines_of("taut.server") as lines, lines_of("taut.client") as of_client:
        options: dict[str, Any] = {"compression": None, "subprotocols": ["chat"]}
        server = await tcp.serve(handler, **options)
        async with tcp.connect(server, "/room?token=sesame", **options) as ws:
            host, port = ws.local_address
            await ws.send("hello")
            assert await ws.recv() == "hello"
            await ws.close(4001, "enough")
        server.close()
        await server.wait_closed()
    (line,) = [line for line in lines if line["message"].startswith("connection closed")]
    assert line["logger"] == "taut.server"
    assert line["level"] == "INFO"
    age = datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(line["time"])
    assert 0 <= age.total_seconds() < 60
    assert line["time"].endswith("Z")
    expected = {
        "connection_id": ids[0],
        "remote_address": f"{host}:{port}",
        "path": "/room",
        "subprotocol": "chat",
        "close_code": 4001,
        "close_reason": "enough",
        "close_initiator": "remote",
        "close_clean": True,
        "close_cause": None,
        "messages_received": 1,
        "messages_sent": 1,
        "bytes_received": 11 + 14,
        "bytes_sent": 5 + 2,
    }
    assert {name: line[name] for name in expected} == expected
    assert 0 < line["duration"] < 60
    assert "sesame" not in json.dumps(lines) + json.dumps(of_client)
    (line,) = [line for line in of_client if line["message"].startswith("connection closed")]
    assert (line["path"], line["close_initiator"]) == ("/room", "local")
    assert line["remote_address"] == lines[0]["message"].removeprefix("server listening on ")


async def test_a_connection_that_was_reset_has_an_address_and_a_cause(tcp: Driver) -> None:
    with lines_of("taut.server") as lines:
        async with tcp.serve(echo) as server, tcp.opened(server) as peer:
            address = "{}:{}".format(*peer.transport.get_extra_info("sockname"))
            peer.write(b"\xff\x80mask")  # reserved bits
            await peer.read_to_end()
    (line,) = [line for line in lines if line["message"].startswith("connection closed")]
    assert line["remote_address"] == address
    assert (line["close_code"], line["close_initiator"]) == (1002, "local")
    assert line["close_cause"].startswith("ProtocolError: ")


async def test_a_handler_that_fails_names_its_connection(tcp: Driver) -> None:
    async def handler(ws: taut.ServerConnection) -> None:
        logging.getLogger("taut.server").warning("mine", extra=ws.log_fields())
        raise LookupError("not\nhere")

    with lines_of("taut.server") as lines:
        async with tcp.connected(handler, client={"compression": None}) as (_, ws):
            await ws.wait_closed()
    mine, failed, closed = lines[1:]
    assert failed["message"] == "connection handler failed"
    assert failed["exception"].startswith("Traceback ")
    assert failed["exception"].endswith("LookupError: not\nhere")
    assert mine["connection_id"] == failed["connection_id"] == closed["connection_id"]
    assert failed["path"] == "/"


async def test_a_refusal_names_who_was_refused(tcp: Driver) -> None:
    with lines_of("taut.server") as lines:
        async with tcp.serve(echo, origins=["https://a.test"]) as server, tcp.peer(server) as peer:
            head = await peer.request("/x?token=sesame", [("Origin", "https://b.test")])
    assert head.startswith("HTTP/1.1 403 ")
    (line,) = [line for line in lines if line["message"].startswith("opening handshake refused")]
    assert line["path"] == "/x"
    assert line["remote_address"].startswith("127.0.0.1:")
    assert "sesame" not in json.dumps(lines)


async def test_nothing_is_kept_for_a_log_that_nobody_reads(tcp: Driver, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "taut.server")
    async with tcp.connected(echo) as (server, _):
        (connection,) = server.connections
        assert connection._peer is connection._id is None
        await connection.close()
        assert connection._id is None


class Unprintable:
    def __str__(self) -> str:
        raise RuntimeError

    __repr__ = __str__


def record(message: object = "text", *args: object, **extra: object) -> logging.LogRecord:
    return logging.makeLogRecord({"msg": message, "args": args, "name": "x", "levelname": "INFO"} | extra)


def formatted(made: logging.LogRecord, **options: Any) -> Any:
    line = JSONFormatter(**options).format(made)
    assert "\n" not in line
    return json.loads(line, parse_constant=pytest.fail)


def test_every_value_becomes_json() -> None:
    circle: list[Any] = []
    circle.append(circle)
    line = formatted(
        record(
            "a\nb %s",
            1,
            number=1,
            real=0.5,
            flag=True,
            nothing=None,
            infinite=math.inf,
            nan=math.nan,
            many=(1, [2, {3}]),
            mapping={1: {"a": b"x"}},
            code=taut.CloseCode(1000),
            odd=Unprintable(),
            circle=circle,
            half="\ud800",
        )
    )
    assert line["message"] == "a\nb 1"
    expected = {"number": 1, "real": 0.5, "flag": True, "nothing": None, "infinite": "inf", "nan": "nan"}
    expected |= {"many": [1, [2, [3]]], "mapping": {"1": {"a": "b'x'"}}, "odd": "<Unprintable>", "half": "\ud800"}
    assert {name: line[name] for name in expected} == expected
    assert set(line) - set(expected) == {"time", "level", "logger", "message", "code", "circle"}
    assert "asctime" not in line


def test_names_that_are_taken_are_kept_apart() -> None:
    line = formatted(record(level="mine", time=1), fields={"logger": "own", "service": "s", "level": "l"})
    assert (line["level"], line["level_"], line["time_"], line["logger_"]) == ("INFO", "mine", 1, "own")
    assert (line["logger"], line["service"]) == ("x", "s")


def test_a_message_that_does_not_fit_its_arguments_is_a_line_still() -> None:
    assert formatted(record("%d", "x"))["message"] == "%d ('x',)"
    assert formatted(record(Unprintable()))["message"] == "<Unprintable> ()"


def test_exceptions_and_stacks() -> None:
    line = formatted(record(exc_text="as text", stack_info="Stack:\n  here"))
    assert (line["exception"], line["stack"]) == ("as text", "Stack:\n  here")
    assert "exception" not in formatted(record(exc_info=(None, None, None)))


@pytest.mark.parametrize("fields", ["service", [("a", 1)], {1: "a"}])
def test_wrong_fields(fields: Any) -> None:
    with pytest.raises(TypeError, match="fields must"):
        JSONFormatter(fields)
