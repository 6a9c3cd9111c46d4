"""The transport pair in memory: what asyncio's protocols may expect of a transport, and backpressure that is real."""

from __future__ import annotations

import asyncio
import gc
import sys
from typing import Any

import pytest
from running import pytest_pyfunc_call

from taut.drivers.memory import MemoryTransport, connect_in_memory

__all__ = ["pytest_pyfunc_call"]


@pytest.fixture(params=["asyncio", "debug"], autouse=True)
def loop_name(request: pytest.FixtureRequest) -> str:
    """Here is nothing that depends on the loop."""
    return str(request.param)


class Log(asyncio.Protocol):
    """Writes down what happens to it."""

    def __init__(self, *, keeps_open: bool = False) -> None:
        self.calls: list[Any] = []
        self.data = bytearray()
        self.keeps_open = keeps_open
        self.lost = asyncio.Event()
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.calls.append("made")

    def data_received(self, data: bytes) -> None:
        assert type(data) is bytes
        self.data += data

    def eof_received(self) -> bool:
        self.calls.append("eof")
        return self.keeps_open

    def pause_writing(self) -> None:
        self.calls.append("pause")

    def resume_writing(self) -> None:
        self.calls.append("resume")

    def connection_lost(self, exc: Exception | None) -> None:
        self.calls.append(("lost", exc))
        self.lost.set()


class BufferedLog(Log, asyncio.BufferedProtocol):  # type: ignore[misc]
    """The same, reading into a buffer of its own."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.buffer = bytearray(size)

    def get_buffer(self, sizehint: int) -> bytearray:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.data += self.buffer[:nbytes]


async def turns(count: int = 10) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def pair(a: Log, b: Log, **options: Any) -> tuple[MemoryTransport, MemoryTransport]:
    return connect_in_memory(asyncio.get_running_loop(), a, b, **options)


async def end(*protocols: Log) -> None:
    for protocol in protocols:
        protocol.transport.abort()
    for protocol in protocols:
        await protocol.lost.wait()


async def test_a_write_never_runs_the_peers_code() -> None:
    a, b = Log(), Log()
    left, _ = pair(a, b)
    assert (a.calls, b.calls) == (["made"], ["made"])
    left.write(b"one")
    left.writelines([b"two", bytearray(b"three"), memoryview(b"four")])
    left.write(b"")
    assert b.data == b""
    await turns()
    assert b.data == b"onetwothreefour"
    await end(a, b)


@pytest.mark.parametrize("size", [1, 7, 1 << 16])
async def test_a_buffered_protocol_gets_what_its_buffer_holds(size: int) -> None:
    a, b = Log(), BufferedLog(size)
    left, _ = pair(a, b, capacity=50)
    data = bytes(range(200))
    left.write(data)
    while len(b.data) < len(data):
        await asyncio.sleep(0)
    assert b.data == data
    await end(a, b)


async def test_what_was_written_may_be_changed() -> None:
    a, b = Log(), Log()
    left, _ = pair(a, b)
    data = bytearray(b"before")
    left.write(data)
    data[:] = b"after!"
    await turns()
    assert b.data == b"before"
    await end(a, b)


async def test_a_paused_reader_makes_the_writer_pause() -> None:
    a, b = Log(), Log()
    left, right = pair(a, b, capacity=100)
    left.set_write_buffer_limits(high=50, low=20)
    assert left.get_write_buffer_limits() == (20, 50)
    right.pause_reading()
    assert not right.is_reading()
    left.write(b"x" * 150)
    await turns()
    assert left.get_write_buffer_size() == 50
    assert "pause" not in a.calls
    left.write(b"x")
    assert a.calls[-1] == "pause"
    await turns()
    assert b.data == b""
    right.resume_reading()
    await turns()
    assert b.data == b"x" * 151
    assert left.get_write_buffer_size() == 0
    assert a.calls == ["made", "pause", "resume"]
    await end(a, b)


@pytest.mark.parametrize(("high", "low"), [(1, 2), (10, -1), (-1, None)])
async def test_write_limits_must_make_sense(high: int, low: int | None) -> None:
    a, b = Log(), Log()
    left, _ = pair(a, b)
    with pytest.raises(ValueError, match=str(high)):
        left.set_write_buffer_limits(high, low)
    left.set_write_buffer_limits()
    assert left.get_write_buffer_limits() == (1 << 14, 1 << 16)
    await end(a, b)


async def test_close_sends_what_is_left() -> None:
    a, b = Log(), Log()
    left, right = pair(a, b, capacity=10)
    right.pause_reading()
    left.write(b"x" * 100)
    left.close()
    left.close()
    assert left.is_closing()
    await turns()
    assert not a.lost.is_set()
    right.resume_reading()
    await a.lost.wait()
    await b.lost.wait()
    assert b.data == b"x" * 100
    assert b.calls == ["made", "eof", ("lost", None)]
    assert a.calls == ["made", ("lost", None)]


async def test_abort_drops_what_is_left() -> None:
    a, b = Log(), Log()
    left, right = pair(a, b, capacity=10)
    right.pause_reading()
    left.write(b"x" * 100)
    left.abort()
    left.abort()
    await a.lost.wait()
    right.resume_reading()
    await b.lost.wait()
    assert b.data == b"x" * 10
    assert a.calls == ["made", ("lost", None)]


async def test_a_half_closed_stream_still_flows_the_other_way() -> None:
    a, b = Log(), Log(keeps_open=True)
    left, right = pair(a, b)
    assert left.can_write_eof()
    left.write(b"question")
    left.write_eof()
    left.write_eof()
    with pytest.raises(RuntimeError):
        left.write(b"more")
    await turns()
    assert (b.data, b.calls) == (b"question", ["made", "eof"])
    right.write(b"answer")
    await turns()
    assert a.data == b"answer"
    right.close()
    await a.lost.wait()
    assert a.calls == ["made", "eof", ("lost", None)]
    assert b.calls == ["made", "eof", ("lost", None)]


async def test_the_end_of_the_stream_comes_behind_the_data() -> None:
    a, b = Log(), Log()
    left, right = pair(a, b, capacity=10)
    left.write(b"x" * 35)
    left.write_eof()
    await b.lost.wait()
    assert b.data == b"x" * 35
    await a.lost.wait()


async def test_writing_to_a_peer_that_is_gone_is_an_error_once_all_is_read() -> None:
    a, b = Log(keeps_open=True), Log()
    left, right = pair(a, b)
    right.write(b"last words")
    right.abort()
    await turns()
    assert (a.data, a.calls) == (b"last words", ["made", "eof"])
    left.write(b"anybody there?")
    await a.lost.wait()
    assert isinstance(a.calls[-1][1], BrokenPipeError)


async def test_a_protocol_that_fails_ends_its_connection() -> None:
    class Failing(Log):
        def data_received(self, data: bytes) -> None:
            raise KeyError("protocol")

    complaints: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: complaints.append(context))
    a, b = Log(), Failing()
    left, _ = pair(a, b)
    left.write(b"x")
    await a.lost.wait()
    assert isinstance(b.calls[-1][1], KeyError)
    (complaint,) = complaints
    assert complaint["protocol"] is b


async def test_the_protocol_can_be_changed() -> None:
    a, b, c = Log(), Log(), Log()
    left, right = pair(a, b)
    assert right.get_protocol() is b
    right.set_protocol(c)
    left.write(b"x")
    await turns()
    assert (b.data, c.data) == (b"", b"x")
    left.abort()
    await c.lost.wait()
    await a.lost.wait()


async def test_facts_are_given_by_name() -> None:
    a, b = Log(), Log()
    left, right = pair(a, b, first_extra={"peername": "right"}, second_extra={"peername": "left"})
    assert left.get_extra_info("peername") == "right"
    assert right.get_extra_info("peername") == "left"
    assert left.get_extra_info("socket") is None
    assert left.get_extra_info("socket", 1) == 1
    assert repr(left) == "<MemoryTransport open unread=0 unsent=0>"
    await end(a, b)
    assert repr(left) == "<MemoryTransport ended unread=0 unsent=0>"


async def test_wrong_arguments_are_refused() -> None:
    a, b = Log(), Log()
    with pytest.raises(ValueError, match="capacity"):
        pair(a, b, capacity=0)
    left, _ = pair(a, b)
    with pytest.raises(TypeError):
        left.write("text")  # type: ignore[arg-type]
    await end(a, b)


async def test_a_pair_that_is_forgotten_warns() -> None:
    problems: list[Any] = []
    hook, sys.unraisablehook = sys.unraisablehook, problems.append
    try:
        pair(Log(), Log())
        gc.collect()
    finally:
        sys.unraisablehook = hook
    assert [type(problem.exc_value) for problem in problems] == [ResourceWarning] * 2
