"""How fast a peer may send, for threads: the clock is asked only once it matters."""

from __future__ import annotations

import time

import pytest
from peers import TEXT
from threads import RawServer

from taut import ConnectionClosedError, RateExceeded, RateLimits


def test_a_peer_that_keeps_to_the_rate_stays(tcp: RawServer) -> None:
    with tcp.connected(rate_limits=RateLimits(messages=200, burst=0.05)) as (ws, peer):
        for _ in range(4):
            for i in range(10):
                peer.send(TEXT, str(i).encode())
            assert [ws.recv() for _ in range(10)] == [str(i) for i in range(10)]
            time.sleep(0.06)  # which is what fills ten more


def test_a_peer_that_sends_too_fast_is_closed_with_1008(tcp: RawServer) -> None:
    with tcp.connected(rate_limits=RateLimits(messages=10, burst=1)) as (ws, peer):
        for _ in range(100):
            peer.send(TEXT, b"x")
        received = 0
        with pytest.raises(ConnectionClosedError) as caught:
            while ws.recv():
                received += 1
        assert received >= 10
        assert caught.value.code == 1008
        assert isinstance(caught.value.info.cause, RateExceeded)
