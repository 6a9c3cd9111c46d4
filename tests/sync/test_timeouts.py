"""Every call may be limited in time, and loses nothing when the time is over."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from typing import Any

import pytest
from peers import BINARY, CONT, PING, PONG, TEXT
from threads import Doing, RawPeer, RawServer, asyncio_server, echo

import taut.sync
from taut import ConnectionClosedError, ConnectionClosedOK

SHORT = 0.02
LIMITS = {"ping_interval": None, "compression": None, "max_size": None}


def test_recv(raw: RawServer) -> None:
    with raw.connected() as (ws, peer):
        with pytest.raises(TimeoutError, match=r"no message within 0\.02 s"):
            ws.recv(timeout=SHORT)
        with pytest.raises(TimeoutError):
            ws.recv(timeout=0)
        peer.send(TEXT, b"half ", fin=False)
        with pytest.raises(TimeoutError):
            ws.recv(timeout=SHORT)
        peer.send(CONT, b"and half")
        assert ws.recv(timeout=20) == "half and half"


def test_recv_of_what_is_there(raw: RawServer) -> None:
    with raw.connected() as (ws, peer):
        ws.ping()
        peer.send(TEXT, b"there")
        payload = peer.frame().payload
        peer.send(PONG, payload)
        while ws.latency == 0.0:
            time.sleep(0.001)
        assert ws.recv(timeout=0) == "there"


def test_ping(raw: RawServer) -> None:
    with raw.connected() as (ws, peer):
        pong = ws.ping(b"?")
        with pytest.raises(TimeoutError):
            pong.wait(SHORT)
        assert not pong.is_set()
        assert peer.frame().payload == b"?"
        peer.send(PONG, b"?")
        assert 0 < pong.wait(20) == ws.latency
        assert pong.is_set()
        with pytest.raises(ValueError, match="125"):
            ws.ping(b"x" * 126)


def test_wait_closed(raw: RawServer) -> None:
    with raw.connected() as (ws, peer):
        with pytest.raises(TimeoutError):
            ws.wait_closed(timeout=SHORT)
        peer.sock.close()
        ws.wait_closed(timeout=20)
        assert ws.close_code == 1006


def test_send_to_a_peer_that_does_not_read(raw: RawServer) -> None:
    with raw.connected(**LIMITS) as (ws, peer):
        sent = 0
        message = bytes(1 << 20)
        with pytest.raises(TimeoutError, match="room"):
            for _ in range(100):
                ws.send(message, timeout=0.1)
                sent += 1
        assert 0 < ws.unsent < 2 << 20
        assert ws.state is taut.State.OPEN
        # What was taken arrives, whole, without another call; what was not taken does not.
        for _ in range(sent):
            frame = peer.frame()
            assert (frame.opcode, frame.payload) == (BINARY, message)
        ws.send("after", timeout=20)
        assert peer.frame().payload == b"after"


def test_fragments_to_a_peer_that_does_not_read(tcp: RawServer) -> None:
    with tcp.connected(**LIMITS, close_timeout=0.2) as (ws, peer):
        with pytest.raises(TimeoutError):
            ws.send((bytes(1 << 20) for _ in range(100)), timeout=0.2)
        # What was begun cannot be taken back.
        with pytest.raises(ConnectionClosedError) as caught:
            ws.send("after")
        assert caught.value.code == 1006  # a peer that reads nothing does not see our Close frame in time either
        assert peer.frame().fin is False


def test_close_of_a_peer_that_does_not_answer(raw: RawServer) -> None:
    with raw.connected(close_timeout=0.1) as (ws, peer):
        ws.close(3000, "bye")
        assert ws.closed
        assert ws.close_info is not None
        assert not ws.close_info.clean
        assert peer.frame().code == 3000


@pytest.mark.parametrize("wrong", ["1", True, [1]])
def test_of_the_wrong_type(tcp: RawServer, wrong: Any) -> None:
    with tcp.connected() as (ws, _):
        pong = ws.ping()
        for call in (ws.recv, ws.wait_closed, pong.wait):
            with pytest.raises(TypeError, match="timeout must be a number of seconds or None"):
                call(timeout=wrong)
        for message in ("whole", ["parts"]):
            with pytest.raises(TypeError, match="timeout must be"):
                ws.send(message, timeout=wrong)


@pytest.mark.parametrize("wrong", [-1, float("nan"), -0.1])
def test_of_a_wrong_value(tcp: RawServer, wrong: float) -> None:
    with tcp.connected() as (ws, _):
        with pytest.raises(ValueError, match="at least 0"):
            ws.recv(timeout=wrong)
        with pytest.raises(ValueError, match="at least 0"):
            ws.send(["parts"], timeout=wrong)


def test_long_and_infinite_limits(tcp: RawServer) -> None:
    with tcp.connected() as (ws, peer):
        peer.send(TEXT, b"one")
        assert ws.recv(timeout=1e12) == "one"
        peer.send(TEXT, b"two")
        assert ws.recv(timeout=float("inf")) == "two"


def test_the_end_comes_before_the_limit(raw: RawServer) -> None:
    with raw.connected() as (ws, peer):
        receiving = Doing(ws.recv, timeout=1000)
        waiting = Doing(ws.wait_closed, timeout=1000)
        pong = Doing(ws.ping(b"x").wait, 1000)
        peer.close()
        peer.sock.close()
        for each in (receiving, pong):
            with pytest.raises(ConnectionClosedOK):
                each.result()
        waiting.result()


@pytest.mark.parametrize("seed", range(4))
def test_a_storm_of_timeouts_loses_nothing(transport: str, directory: str, seed: int) -> None:
    """Whole and fragmented messages, compressed and not, against limits of any size: each arrives once, in order."""
    raw = RawServer(transport, directory)
    chance = random.Random(seed)
    count, sizes = 300, [0, 10, 1000, 100_000]
    messages = [f"{i} " + "x" * chance.choice(sizes) for i in range(count)]

    def feed(peer: RawPeer) -> None:
        for message in messages:
            data, cut = message.encode(), chance.randrange(len(message))
            encoded = peer.encode(TEXT, data[:cut], fin=False) + peer.encode(PING, b"!") + peer.encode(CONT, data[cut:])
            split = chance.randrange(len(encoded))
            peer.write(encoded[:split])
            if chance.random() < 0.3:
                time.sleep(chance.random() / 500)
            peer.write(encoded[split:])

    with raw.sock, raw.connected() as (ws, peer):
        feeding = Doing(feed, peer)
        received: list[Any] = []
        timeouts = 0
        while len(received) < count:
            try:
                received.append(ws.recv(timeout=random.choice([0, 0, 0.0001, 0.001, 0.01])))
            except TimeoutError:
                timeouts += 1
        assert received == messages
        assert timeouts > 0
        feeding.result()
        assert [peer.frame().payload for _ in range(count)] == [b"!"] * count


def test_a_storm_of_limited_sends(directory: str) -> None:
    """A send that timed out has sent nothing, any other one message: to a reader that dawdles."""
    raw = RawServer("tcp", directory)
    with raw.sock, raw.connected(ping_interval=None, max_size=None) as (ws, peer):
        taken: list[bytes] = []
        stop = threading.Event()

        def read() -> list[bytes]:
            received = []
            while not stop.is_set() or len(received) < len(taken):
                received.append(peer.frame().payload)
                time.sleep(0.002)
            return received

        reading = Doing(read)
        refused = 0
        for i in range(150):
            message = f"{i} ".encode() + bytes(200_000)
            try:
                ws.send(message, timeout=random.choice([0, 0.0005, 0.005]), compress=False)
            except TimeoutError:
                refused += 1
            else:
                taken.append(message)
        ws.send(b"last")
        taken.append(b"last")
        stop.set()
        assert reading.result() == taken
        assert refused > 0


def test_echoes_under_timeouts() -> None:
    with (
        asyncio_server(echo, "127.0.0.1", 0) as server,
        taut.sync.connect(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}") as ws,
    ):
        sent = [f"{i} " + "y" * (i * 37 % 5000) for i in range(500)]
        received: list[Any] = []
        for message in sent:
            ws.send(message)
            with contextlib.suppress(TimeoutError):
                received.append(ws.recv(timeout=0.00005))
        while len(received) < len(sent):
            received.append(ws.recv(timeout=20))
        assert received == sent
