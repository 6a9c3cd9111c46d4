"""Any number of threads may use a connection at any time."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from typing import Any

import pytest
from peers import BINARY, CONT, PONG, TEXT, Frame
from threads import Doing, RawServer, asyncio_server, echo, until

import taut.sync
from taut import ConcurrencyError, ConnectionClosedError, ConnectionClosedOK


@pytest.mark.parametrize("compression", ["deflate", None])
def test_messages_of_many_senders_are_whole(compression: str | None) -> None:
    threads, each = 12, 120
    with (
        asyncio_server(echo, "127.0.0.1", 0) as server,
        taut.sync.connect(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}", compression=compression) as ws,
    ):

        def send(name: int) -> None:
            for i in range(each):
                body = f"{name}:{i}:" + chr(97 + name) * (i * 97 % 3000)
                ws.send([body[:5], body[5:]] if i % 10 == 0 else body)

        senders = [Doing(send, name) for name in range(threads)]
        received: dict[int, list[int]] = defaultdict(list)
        for _ in range(threads * each):
            message = ws.recv(timeout=20)
            assert isinstance(message, str)
            name, number, body = message.split(":")
            assert body == chr(97 + int(name)) * (int(number) * 97 % 3000)
            received[int(name)].append(int(number))
        for sender in senders:
            sender.result()
        assert all(received[name] == list(range(each)) for name in range(threads))


def test_large_messages_of_many_senders_to_a_slow_reader(raw: RawServer) -> None:
    with raw.connected(compression=None, ping_interval=None) as (ws, peer):
        senders = [Doing(ws.send, bytes([name]) * 1_000_000) for name in range(6)]
        frames = []
        for _ in range(6):
            time.sleep(0.01)
            frames.append(peer.frame())
        for sender in senders:
            sender.result()
        assert sorted(frame.payload for frame in frames) == [bytes([name]) * 1_000_000 for name in range(6)]
        assert ws.unsent == 0


def test_a_message_waits_for_the_end_of_one_in_fragments(raw: RawServer) -> None:
    with raw.connected(compression=None) as (ws, peer):
        go_on = threading.Event()

        def parts() -> Any:
            yield "one "
            yield "two "
            go_on.wait(20)
            yield "three"

        fragments = Doing(ws.send, parts())
        first = peer.frame()
        whole, more = Doing(ws.send, "whole"), Doing(ws.send, ["more"])
        ws.ping(b"between")  # control frames do not wait (RFC 6455, 5.4)
        assert peer.frame().payload == b"between"
        with pytest.raises(TimeoutError):
            ws.send("late", timeout=0.02)
        go_on.set()
        for each in (fragments, whole, more):
            each.result()
        frames = [first, *(peer.frame() for _ in range(4))]
        assert [frame.payload for frame in frames[:3]] == [b"one ", b"two ", b"three"]
        assert [frame.opcode for frame in frames[:3]] == [TEXT, CONT, CONT]
        assert sorted(frame.payload for frame in frames[3:]) == [b"more", b"whole"]


def test_a_fragment_that_sends(tcp: RawServer) -> None:
    with tcp.connected() as (ws, peer):

        def parts() -> Any:
            yield "one"
            ws.send("another")
            yield "two"

        with pytest.raises(ConcurrencyError):
            ws.send(parts())
        ws.send("whole")
        assert peer.frame().payload == b"whole"


@pytest.mark.parametrize("begun", [False, True])
def test_a_fragment_that_fails(tcp: RawServer, begun: bool) -> None:
    with tcp.connected(close_timeout=0.1) as (ws, peer):

        def parts() -> Any:
            if begun:
                yield "one"
                yield "two"
            raise KeyError("broken")

        with pytest.raises(KeyError):
            ws.send(parts())
        if begun:
            assert peer.frame().fin is False
            assert peer.frame().code == 1011
        else:
            ws.send("whole")
            assert peer.frame() == Frame(TEXT, b"whole", masked=True)


def test_one_thread_receives(raw: RawServer) -> None:
    with raw.connected() as (ws, peer):
        receiving = Doing(ws.recv)
        until(lambda: _refuses(ws), "the first recv")
        with pytest.raises(ConcurrencyError, match="recv"):
            next(iter(ws))
        with pytest.raises(ConcurrencyError):
            next(ws.recv_streaming())
        peer.send(TEXT, b"for the first")
        assert receiving.result() == "for the first"
        peer.send(TEXT, b"for anyone")
        assert ws.recv(timeout=20) == "for anyone"


def _refuses(ws: taut.sync.Connection) -> bool:
    try:
        ws.recv(timeout=0)
    except ConcurrencyError:
        return True
    except TimeoutError:
        return False
    raise AssertionError("there is nothing to receive")


def test_everyone_waits_at_once(raw: RawServer) -> None:
    """Of those who wait for input one reads for all, and another one goes on when it has what it waited for."""
    with raw.connected(compression=None, ping_interval=None) as (ws, peer):
        pongs = [ws.ping(str(i).encode()) for i in range(5)]
        waiting = [Doing(pong.wait, 20) for pong in pongs]
        receiving = Doing(ws.recv, 20)
        ending = Doing(ws.wait_closed, 20)
        sending = Doing(ws.send, bytes(20_000_000))
        for i in (0, 1):
            peer.send(PONG, str(i).encode())
            assert waiting[i].result() > 0
        peer.send(TEXT, b"message")
        assert receiving.result() == "message"
        again = Doing(ws.recv, 20)
        peer.send(PONG, b"4")  # answers the ones before it as well (RFC 6455, 5.5.3)
        for each in waiting[2:]:
            assert each.result() > 0
        frames = [peer.frame() for _ in range(6)]
        assert len(frames[5].payload) == 20_000_000
        sending.result()
        peer.close()
        peer.sock.close()
        with pytest.raises(ConnectionClosedOK):
            again.result()
        ending.result()


def test_two_that_only_send_do_not_wait_for_each_other(directory: str) -> None:
    """Each reads while it waits, up to its ``read_limit``."""
    count, message = 40, bytes(200_000)
    options: dict[str, Any] = {"read_limit": 1 << 24, "compression": None, "ping_interval": None}
    results: list[int] = []

    def handler(ws: taut.sync.ServerConnection) -> None:
        for _ in range(count):
            ws.send(message)
        results.append(sum(len(ws.recv(timeout=20)) for _ in range(count)))

    path = f"{directory}/s"
    with taut.sync.unix_serve(handler, path, **options) as server:
        Doing(server.serve_forever)
        with taut.sync.unix_connect(path, **options) as ws:
            for _ in range(count):
                ws.send(message, timeout=20)
            assert sum(len(ws.recv(timeout=20)) for _ in range(count)) == count * len(message)
            until(lambda: results == [count * len(message)], "the other side")


def test_closing_while_others_wait(raw: RawServer) -> None:
    with raw.connected(close_timeout=0.2) as (ws, peer):
        receiving, ponging = Doing(ws.recv), Doing(ws.ping().wait)
        sending = [Doing(ws.send, bytes(30_000_000)) for _ in range(2)]
        until(lambda: ws.unsent > 0, "pressure")
        ws.close()
        for each in (receiving, ponging, *sending):
            with pytest.raises(ConnectionClosedError):
                each.result()
        assert peer.read(1)


def test_aborting_while_others_wait(raw: RawServer) -> None:
    with raw.connected() as (ws, _):
        receiving, ending = Doing(ws.recv), Doing(ws.wait_closed)
        sending = Doing(ws.send, bytes(30_000_000))
        until(lambda: ws.unsent > 0, "pressure")
        ws.abort()
        for each in (receiving, sending):
            with pytest.raises(ConnectionClosedError) as caught:
                each.result()
            assert caught.value.code == 1006
        ending.result()


def test_a_connection_handed_from_thread_to_thread(tcp: RawServer) -> None:
    with tcp.connected() as (ws, peer):
        for i in range(20):
            peer.send(BINARY, bytes([i]))
            assert Doing(ws.recv, 20).result() == bytes([i])
