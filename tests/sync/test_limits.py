"""How many connections, each with its thread, a server for threads has at a time."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from network import server_context
from peers import PING, PONG
from threads import Doing, RawPeer, sync_echo, trusting, until

import taut.sync


@contextmanager
def serving(**options: Any) -> Iterator[taut.sync.Server]:
    with taut.sync.serve(sync_echo, "127.0.0.1", 0, **options) as server:
        accepting = Doing(server.serve_forever)
        yield server
        server.shutdown()
        accepting.result()


def raw(server: taut.sync.Server) -> RawPeer:
    return RawPeer(socket.create_connection(("127.0.0.1", server.port)), client=True)


def test_one_too_many_is_answered_with_503() -> None:
    with serving(max_connections=2) as server:
        uri = f"ws://127.0.0.1:{server.port}/"
        for _ in range(2):
            with taut.sync.connect(uri) as ws, raw(server):  # one that says nothing counts as well
                until(lambda: len(server._threads) == 2)
                for sent in (b"", b"GET / HTTP/1.1\r\n" + b"X: " + b"x" * 20_000):
                    with raw(server) as third:
                        third.write(sent)
                        head = third.read_head()
                        assert head.startswith("HTTP/1.1 503 ")
                        assert "\r\nRetry-After: 5\r\n" in head
                        assert third.read_to_end() == b""
                assert len(server._threads) == 2
                ws.send("x")
                assert ws.recv() == "x"
            until(lambda: not server._threads)


def test_in_a_flood_nobody_is_waited_for() -> None:
    """Clients that neither read nor leave are no threads, and gone after a while, or when the server is shut down."""
    threads = threading.active_count()
    with serving(max_connections=1, backlog=512) as server, raw(server) as only, ExitStack() as stack:
        until(lambda: len(server._threads) == 1)
        flood = [stack.enter_context(raw(server)) for _ in range(100)]
        assert only.request().startswith("HTTP/1.1 101 ")
        assert threading.active_count() <= threads + 4  # this one's, the one that accepts, the one in the background
        answers = [peer.read_to_end() for peer in flood]
        answered = [answer for answer in answers if answer.startswith(b"HTTP/1.1 503 ")]
        assert 1 <= len(answered) < len(flood)
        assert answers.count(b"") == len(flood) - len(answered)
        until(lambda: refused_once_more(server))
        only.send(PING)
        assert only.frame().opcode == PONG


def refused_once_more(server: taut.sync.Server) -> bool:
    """Whether those who were answered have had their time, so that another can be answered."""
    with raw(server) as another:
        return another.read_to_end().startswith(b"HTTP/1.1 503 ")


def test_with_tls_there_is_no_answer() -> None:
    with serving(max_connections=1, ssl=server_context()) as server, ExitStack() as stack:
        ws = stack.enter_context(taut.sync.connect(f"wss://127.0.0.1:{server.port}/", ssl=trusting()))
        with raw(server) as second:
            assert second.read_to_end() == b""
        ws.send("x")
        assert ws.recv() == "x"


def test_a_wrong_limit_is_refused() -> None:
    with pytest.raises(ValueError, match="max_connections must be a whole number, at least 1, or None"):
        taut.sync.serve(sync_echo, "127.0.0.1", 0, max_connections=0)
