"""What keeps a connection alive goes on while no call is in progress, and a dead one is noticed."""

from __future__ import annotations

import logging
import threading
import time

import pytest
from peers import CLOSE, PING, PONG, TEXT, Frame, close_payload
from threads import Doing, RawServer, until

from taut import ConnectionClosedError, Initiator, State
from taut.drivers.background import connections_kept

FAST = {"ping_interval": 0.05, "ping_timeout": 0.1}


def test_pings_are_answered_while_nobody_calls(raw: RawServer) -> None:
    with raw.connected() as (_, peer):
        for i in range(5):
            peer.send(PING, str(i).encode())
            assert peer.frame() == Frame(PONG, str(i).encode(), masked=True)


def test_pings_are_answered_while_messages_wait(raw: RawServer) -> None:
    with raw.connected() as (ws, peer):
        for i in range(40):
            peer.send(TEXT, f"unread {i}".encode())
        peer.send(PING, b"?")
        assert peer.frame().payload == b"?"
        assert [ws.recv() for _ in range(40)] == [f"unread {i}" for i in range(40)]


def test_pings_are_answered_after_a_busy_time(raw: RawServer) -> None:
    """A connection that was in use is watched again soon after."""
    with raw.connected() as (ws, peer):
        for i in range(100):
            peer.send(TEXT, str(i).encode())
            assert ws.recv() == str(i)
        peer.send(PING, b"?")
        assert peer.frame().payload == b"?"


def test_pings_are_answered_in_a_call(raw: RawServer) -> None:
    with raw.connected() as (ws, peer):
        receiving = Doing(ws.recv)
        peer.send(PING, b"?")
        assert peer.frame().payload == b"?"
        peer.send(TEXT, b"done")
        assert receiving.result() == "done"


def test_pings_are_sent(raw: RawServer) -> None:
    with raw.connected(**FAST) as (ws, peer):
        for _ in range(10):
            frame = peer.frame()
            assert frame.opcode == PING
            peer.send(PONG, frame.payload)
        assert ws.state is State.OPEN
        assert ws.latency > 0


@pytest.mark.parametrize("receiving", [False, True])
def test_a_silent_peer_is_noticed(raw: RawServer, receiving: bool) -> None:
    with raw.connected(**FAST) as (ws, peer):
        call = Doing(ws.recv if receiving else ws.wait_closed)
        assert peer.frame().opcode == PING
        if receiving:
            with pytest.raises(ConnectionClosedError):
                call.result()
        else:
            call.result()
        assert ws.close_info is not None
        assert ws.close_info.code == 1011
        assert ws.close_info.initiator is Initiator.LOCAL
        for late in (ws.recv, lambda: ws.send("late"), ws.ping):
            with pytest.raises(ConnectionClosedError, match="no sign of life"):
                late()
        ws.close()


def test_a_silent_peer_ends_a_send(tcp: RawServer) -> None:
    with tcp.connected(**FAST, compression=None) as (ws, _):
        with pytest.raises(ConnectionClosedError):
            ws.send(bytes(30_000_000))
        assert ws.close_code == 1011


def test_a_reader_that_is_slow_keeps_its_connection(tcp: RawServer) -> None:
    """While reading has stopped, the peer cannot be blamed for not being heard."""
    with tcp.connected(read_limit=50_000, **FAST) as (ws, peer):

        def feed() -> None:
            for _ in range(500):
                peer.send(TEXT, b"x" * 10_000)

        feeding = Doing(feed)
        until(lambda: ws.stats.unread >= 50_000, "the limit")
        time.sleep(0.5)
        assert ws.state is State.OPEN
        for _ in range(500):
            assert ws.recv(timeout=20) == "x" * 10_000
        feeding.result()


def test_what_is_unread_is_bounded(raw: RawServer) -> None:
    with raw.connected(read_limit=10_000, ping_interval=None) as (ws, peer):

        def feed() -> None:
            for _ in range(3000):
                peer.send(TEXT, b"x" * 1000)

        feeding = Doing(feed)
        until(lambda: ws.stats.unread >= 9000, "the limit")
        time.sleep(0.3)
        assert ws.stats.unread < 12_000
        for _ in range(3000):
            assert ws.recv(timeout=20) == "x" * 1000
        feeding.result()


def test_a_disconnect_is_seen_without_a_call(raw: RawServer) -> None:
    with raw.connected() as (ws, peer):
        peer.sock.close()
        until(lambda: ws.closed, "the loss")
        assert ws.close_code == 1006


def test_a_close_frame_is_answered_without_a_call(raw: RawServer) -> None:
    with raw.connected() as (ws, peer):
        peer.send(CLOSE, close_payload(4000, "bye"))
        assert peer.frame().code == 4000
        peer.sock.close()
        until(lambda: ws.closed, "the end")
        assert (ws.close_code, ws.close_reason) == (4000, "bye")


def test_a_close_frame_behind_unread_messages_is_answered_in_the_end(raw: RawServer) -> None:
    with raw.connected(close_timeout=0.2) as (ws, peer):
        peer.send(TEXT, b"unread")
        peer.send(CLOSE, close_payload(1000))
        assert peer.frame().opcode == CLOSE
        assert ws.recv() == "unread"


def test_what_a_call_left_behind_is_sent(raw: RawServer) -> None:
    with raw.connected(compression=None, ping_interval=None) as (ws, peer):
        message = bytes(10_000_000)
        ws.send(message, timeout=0)
        assert ws.unsent > 0
        assert peer.frame().payload == message
        until(lambda: ws.unsent == 0, "the end of it")


def test_the_thread_ends_when_there_is_nothing_to_do(tcp: RawServer) -> None:
    with tcp.connected(), tcp.connected():
        assert _threads() == 1
        until(lambda: connections_kept() == 2, "both")
    until(lambda: _threads() == 0, "the end of the thread")
    with tcp.connected() as (ws, peer):
        assert _threads() == 1
        peer.send(TEXT, b"again")
        assert ws.recv() == "again"


def _threads() -> int:
    return sum(thread.name == "taut-sync" for thread in threading.enumerate())


def test_the_close_is_explained(tcp: RawServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "taut.client")
    with tcp.connected() as (ws, peer):
        peer.send(TEXT, b"message")
        ws.recv()
        closing = Doing(ws.close)
        assert peer.frame().opcode == CLOSE
        peer.send(CLOSE, close_payload(1000))
        peer.sock.close()
        closing.result()
    lines = [record.getMessage() for record in caplog.records if "connection closed" in record.getMessage()]
    assert len(lines) == 1
    assert "closed by this side: 1000" in lines[0]
    assert "received 1 messages" in lines[0]
