"""The end of a connection, whoever begins it."""

from __future__ import annotations

import socket

import pytest
from peers import CLOSE, TEXT, close_payload
from threads import Doing, RawServer, until

from taut import ConnectionClosedError, ConnectionClosedOK, Initiator, State


def test_by_this_side(raw: RawServer) -> None:
    with raw.connected() as (ws, peer):
        closing = Doing(ws.close, 3001, "enough")
        frame = peer.frame()
        assert (frame.opcode, frame.payload) == (CLOSE, close_payload(3001, "enough"))
        assert ws.state is State.CLOSING
        with pytest.raises(TimeoutError):
            ws.send("late", timeout=0.01)
        peer.send(CLOSE, close_payload(3001))
        peer.sock.close()
        closing.result()
        assert ws.state is State.CLOSED
        assert ws.close_info is not None
        assert ws.close_info.clean
        assert ws.close_info.initiator is Initiator.LOCAL
        for call in (ws.recv, lambda: ws.send("late"), ws.ping, ws.pong):
            with pytest.raises(ConnectionClosedError):
                call()
        ws.close()  # again is as good as once
        ws.abort()


def test_by_the_peer(raw: RawServer) -> None:
    with raw.connected() as (ws, peer):
        receiving = Doing(ws.recv)
        peer.send(CLOSE, close_payload(1001, "away"))
        with pytest.raises(ConnectionClosedOK) as caught:
            receiving.result()
        assert (caught.value.code, caught.value.reason) == (1001, "away")
        assert peer.frame().code == 1001
        assert ws.state is State.CLOSING  # until the server ends the stream (RFC 6455, 7.1.1)
        peer.sock.close()
        ws.wait_closed(20)
        assert ws.close_info is not None
        assert ws.close_info.initiator is Initiator.REMOTE


def test_what_still_arrives_is_received(raw: RawServer) -> None:
    with raw.connected() as (ws, peer):
        receiving = Doing(lambda: list(ws))
        until(lambda: ws.unsent == 0, "quiet")
        closing = Doing(ws.close)
        assert peer.frame().opcode == CLOSE
        peer.send(TEXT, b"one")
        peer.send(TEXT, b"two")
        peer.send(CLOSE, close_payload(1000))
        peer.sock.close()
        closing.result()
        assert receiving.result() == ["one", "two"]


def test_a_flood_does_not_prolong_it(tcp: RawServer) -> None:
    with tcp.connected(close_timeout=0.3, read_limit=1000) as (ws, peer):

        def flood() -> None:
            while True:
                peer.send(TEXT, b"x" * 1000)

        flooding = Doing(flood)
        ws.close()
        assert ws.closed
        with pytest.raises(OSError, match=r"reset|pipe"):
            flooding.result()


def test_a_context_manager_closes(raw: RawServer) -> None:
    with raw.connected() as (ws, peer):

        def use() -> None:
            with ws as same:
                assert same is ws
                raise KeyError("mine")

        using = Doing(use)
        assert peer.frame().code == 1000
        peer.send(CLOSE, close_payload(1000))
        peer.sock.close()
        with pytest.raises(KeyError):
            using.result()
        assert ws.closed


def test_wrong_codes(tcp: RawServer) -> None:
    with tcp.connected() as (ws, _):
        for code in (0, 999, 1005, 1006, 1015, 5000):
            with pytest.raises(ValueError, match="close code must be"):
                ws.close(code)
        assert ws.state is State.OPEN


def test_a_long_reason_is_cut(tcp: RawServer) -> None:
    with tcp.connected(close_timeout=0.1) as (ws, peer):
        ws.close(1000, "é" * 100)
        assert peer.frame().payload == close_payload(1000, "é" * 61)


def test_aborted(raw: RawServer) -> None:
    with raw.connected() as (ws, peer):
        ws.abort()
        assert ws.closed
        with pytest.raises((EOFError, OSError)):
            peer.frame()
        assert ws.close_info is not None
        assert ws.close_info.initiator is Initiator.LOCAL
        assert ws.close_code == 1006


def test_reset(tcp: RawServer) -> None:
    with tcp.connected() as (ws, peer):
        peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        receiving = Doing(ws.recv)
        peer.sock.close()
        with pytest.raises(ConnectionClosedError) as caught:
            receiving.result()
        assert caught.value.code == 1006
        assert isinstance(caught.value.info.cause, ConnectionResetError)


def test_a_failed_connection_gives_the_peer_time_to_read(raw: RawServer) -> None:
    with raw.connected() as (ws, peer):
        peer.write(b"\xff\x00")
        with pytest.raises(ConnectionClosedError) as caught:
            ws.recv()
        assert caught.value.code == 1002
        assert peer.frame().code == 1002
        with pytest.raises(EOFError):
            peer.frame()
        peer.sock.close()
        ws.wait_closed(20)


def test_messages_sent_before_are_delivered_first(raw: RawServer) -> None:
    with raw.connected(compression=None) as (ws, peer):
        message = bytes(5_000_000)
        sending = Doing(ws.send, message)
        until(lambda: ws.unsent > 0, "pressure")
        closing = Doing(ws.close)
        assert peer.frame().payload == message
        assert peer.frame().opcode == CLOSE
        sending.result()
        peer.send(CLOSE, close_payload(1000))
        peer.sock.close()
        closing.result()
