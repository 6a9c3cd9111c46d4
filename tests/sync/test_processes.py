"""Blocking connections at the exit of the interpreter, and across a fork."""

from __future__ import annotations

import pytest
from peers import CLOSE, TEXT, close_payload
from scripts import line, opened, running
from threads import RawServer

RECEIVING = """
def receive():
    try:
        ws.recv()
    except taut.ConnectionClosed:
        pass
threading.Thread(target=receive, daemon=True).start()
"""


@pytest.mark.parametrize("ending", ["", "sys.exit(0)", RECEIVING])
def test_exit_with_open_connections(tcp: RawServer, ending: str) -> None:
    with opened(tcp, ending) as (_, peer):
        assert peer.frame().code == 1001
        assert peer.read_to_end() == b""


def test_exit_with_a_large_message_on_its_way(tcp: RawServer) -> None:
    with opened(tcp, "ws.send(bytes(20_000_000), timeout=0.1)") as (process, peer):
        peer.read(1)
        process.wait(20)


def test_exit_right_after_closing(tcp: RawServer) -> None:
    with opened(tcp, "ws.close()") as (_, peer):
        assert peer.frame().opcode == CLOSE
        peer.send(CLOSE, close_payload(1000))
        peer.sock.close()


def test_nothing_is_opened_at_the_exit() -> None:
    script = """
import atexit
def late():
    try:
        taut.sync.connect("ws://127.0.0.1:1")
    except RuntimeError as exc:
        print(exc, flush=True)
import taut.drivers.background as module
atexit.unregister(module._exit)
atexit.register(late)
atexit.register(module._exit)
"""
    with running(script) as process:
        assert "interpreter exits" in line(process)


def test_fork(tcp: RawServer) -> None:
    """The child has a thread of its own, and the parent's connections are the parent's."""
    script = """
import os
pid = os.fork()
if pid == 0:
    signal.alarm(20)
    try:
        ws.recv()
    except taut.ConnectionClosedError:
        print("not mine", flush=True)
    ws.close()
    ws.wait_closed()
    assert ws.closed
    mine = taut.sync.connect(sys.argv[1], compression=None, close_timeout=1)
    mine.send("from the child")
    print(mine.recv(), flush=True)
    mine.abort()
    sys.exit(0)
ws.send("from the parent")
assert os.waitpid(pid, 0)[1] == 0
print(ws.recv(), flush=True)
ws.abort()
"""
    with opened(tcp, script) as (process, parent):
        assert line(process) == "not mine"
        with tcp.accept() as child:
            child.respond()
            assert child.frame().payload == b"from the child"
            child.send(TEXT, b"to the child")
            assert line(process) == "to the child"
            assert child.read_to_end() is not None
        assert parent.frame().payload == b"from the parent"
        parent.send(TEXT, b"to the parent")
        assert line(process) == "to the parent"


def test_fork_while_a_thread_is_in_a_call(tcp: RawServer) -> None:
    script = """
import os
receiving = threading.Thread(target=lambda: print(ws.recv(), flush=True))
receiving.start()
time.sleep(0.1)
pid = os.fork()
if pid == 0:
    signal.alarm(20)
    ws.close()
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
ready()
receiving.join()
ws.abort()
"""
    with opened(tcp, script) as (process, peer):
        assert line(process) == "ready"
        peer.send(TEXT, b"still mine")
        assert line(process) == "still mine"
