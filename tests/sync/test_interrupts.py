"""Ctrl-C ends every call at once, and what is left is a connection that works or one that is closed."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import time

import pytest
from network import server_context
from peers import BINARY, CLOSE, TEXT, close_payload
from scripts import interrupt, line, opened, running
from threads import RawPeer, RawServer, asyncio_server, echo


def test_recv(tcp: RawServer) -> None:
    script = """
interrupted(ws.recv)
print(ws.recv())
ws.send("goes on")
interrupted(ws.recv, timeout=1000)
interrupted(next, iter(ws))
interrupted(list, ws.recv_streaming())
print(ws.recv())
ws.abort()
"""
    with opened(tcp, script) as (process, peer):
        interrupt(process)
        peer.send(TEXT, b"after")
        assert line(process) == "after"
        assert peer.frame().payload == b"goes on"
        for _ in range(3):
            interrupt(process)
        peer.send(TEXT, b"after")
        assert line(process) == "after"


def test_recv_while_another_thread_reads(tcp: RawServer) -> None:
    script = """
pong = ws.ping()
threading.Thread(target=ws.recv).start()
interrupted(pong.wait)
ws.wait_closed()
"""
    with opened(tcp, script) as (process, peer):
        interrupt(process)
        peer.send(TEXT, b"for the thread")
        peer.send(CLOSE, close_payload(1000))
        peer.read_until_close()


def test_send(tcp: RawServer) -> None:
    script = """
interrupted(ws.send, bytes(20_000_000))
ws.send("after")
print(ws.recv())
ws.abort()
"""
    with opened(tcp, script) as (process, peer):
        interrupt(process)
        assert len(peer.frame().payload) == 20_000_000  # whole, as if nothing had happened
        assert peer.frame().payload == b"after"
        peer.send(TEXT, b"fine")
        assert line(process) == "fine"


def test_fragments(tcp: RawServer) -> None:
    script = """
def parts():
    yield "one"
    yield "two"
    ready()
    time.sleep(100)
try:
    ws.send(parts())
except KeyboardInterrupt:
    print("interrupted", flush=True)
ws.close()
print(ws.close_code)
"""
    with opened(tcp, script) as (process, peer):
        interrupt(process)
        assert peer.frame().payload == b"one"
        frame = peer.frame()
        assert (frame.opcode, frame.code) == (CLOSE, 1011)
        peer.send(CLOSE, close_payload(1011))
        peer.sock.close()
        assert line(process) == "1011"


@pytest.mark.parametrize("call", ["ws.close", "ws.wait_closed", "ws.ping().wait"])
def test_other_waits(tcp: RawServer, call: str) -> None:
    script = f"""
interrupted({call})
print(ws.state.name)
ws.abort()
"""
    with opened(tcp, script) as (process, peer):
        interrupt(process)
        assert line(process) == ("CLOSING" if call == "ws.close" else "OPEN")
        peer.read_to_end()


@pytest.mark.parametrize("tls", [False, True])
def test_connect(tcp: RawServer, tls: bool) -> None:
    script = """
interrupted(taut.sync.connect, sys.argv[1])
for _ in range(3):
    try:
        taut.sync.connect(sys.argv[1], open_timeout=0.1)
    except taut.OpenTimeout:
        print("timed out", flush=True)
"""
    scheme = "wss" if tls else "ws"
    with running(script, f"{scheme}://127.0.0.1:{tcp.sock.getsockname()[1]}") as process:
        interrupt(process)
        tcp.accept_nothing()  # the interrupted one is gone
        for _ in range(3):
            assert line(process) == "timed out"
            tcp.accept_nothing()


def test_serve_forever() -> None:
    script = """
def handler(ws):
    for message in ws:
        ws.send(message)
with taut.sync.serve(handler, "127.0.0.1", 0) as server:
    print(server.port, flush=True)
    interrupted(server.serve_forever)
"""
    with running(script) as process:
        address = "127.0.0.1", int(line(process))
        with RawPeer(socket.create_connection(address), client=True) as peer:
            peer.request()
            peer.send(TEXT, b"echo")
            assert peer.frame().payload == b"echo"
            interrupt(process)
            assert peer.frame().code == 1001
            peer.send(CLOSE, close_payload(1001))
            assert peer.read_to_end() == b""


def test_a_signal_handler_may_use_the_connection(tcp: RawServer) -> None:
    script = """
def handler(number, frame):
    ws.send("from the handler")
    try:
        ws.recv(timeout=0)
    except taut.ConcurrencyError as exc:
        print(exc, flush=True)
    ws.ping().wait(5)
    ws.close(4000)
signal.signal(signal.SIGUSR1, handler)
ready()
try:
    ws.recv()
except taut.ConnectionClosedError as exc:
    print(exc.code)
"""
    with opened(tcp, script) as (process, peer):
        assert line(process) == "ready"
        time.sleep(0.2)
        process.send_signal(signal.SIGUSR1)
        assert peer.frame().payload == b"from the handler"
        assert "recv" in line(process)
        peer.send(10, peer.frame().payload)
        assert peer.frame().code == 4000
        peer.send(CLOSE, close_payload(4000))
        peer.sock.close()
        assert line(process) == "4000"


@pytest.mark.parametrize(("compression", "context"), [("None", None), ("'deflate'", None), ("None", server_context())])
def test_a_storm_of_interrupts(compression: str, context: ssl.SSLContext | None) -> None:
    """Messages echoed under a signal every other millisecond: none is lost, doubled or damaged, or it is all over."""
    script = f"""
import itertools
class Interrupt(Exception):
    pass
inside = False
def handler(number, frame):
    global inside
    if inside:
        inside = False
        raise Interrupt
import ssl
unverified = None
if sys.argv[1].startswith("wss:"):
    unverified = ssl.create_default_context()
    unverified.check_hostname = False
    unverified.verify_mode = ssl.CERT_NONE
ws = taut.sync.connect(sys.argv[1], compression={compression}, ssl=unverified)
received, interrupts, count = [], 0, itertools.count()
def body(i):
    return f"{{i}} " + "z" * (i * 131 % 3000)
signal.signal(signal.SIGALRM, handler)
end = time.monotonic() + 3
signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)
while time.monotonic() < end and not ws.closed:
    try:
        inside = True
        try:
            ws.send(body(next(count)))
            received.append(ws.recv(timeout=0.001))
        except TimeoutError:
            pass
        except taut.ConnectionClosed as exc:
            inside = False
            print("closed", exc, flush=True)
            break
        inside = False
    except Interrupt:
        interrupts += 1
signal.setitimer(signal.ITIMER_REAL, 0)
try:
    ws.send("the end")
    received.extend(itertools.takewhile(lambda message: message != "the end", ws))
    ws.close()
except taut.ConnectionClosed:
    pass
numbers = [int(message.split()[0]) for message in received]
assert [body(i) for i in numbers] == received
assert numbers == sorted(set(numbers))
assert interrupts > 20 or ws.close_code == 1006, interrupts
print("checked", len(received), interrupts, flush=True)
"""
    scheme = "ws" if context is None else "wss"
    with (
        asyncio_server(echo, "127.0.0.1", 0, ssl=context) as server,
        running(script, f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}") as process,
    ):
        output = line(process)
        while not output.startswith("checked"):
            assert output.startswith("closed"), output
            output = line(process)


def test_the_thread_in_the_background_takes_no_signals(tcp: RawServer) -> None:
    script = """
names = {each.name: each.native_id for each in threading.enumerate()}
with open(f"/proc/self/task/{names['taut-sync']}/status") as status:
    blocked = next(text for text in status if text.startswith("SigBlk")).split()[1]
print(bool(int(blocked, 16) & 1 << signal.SIGINT - 1))
ws.abort()
"""
    with opened(tcp, script) as (process, _):
        if os.path.exists("/proc/self/task"):
            assert line(process) == "True"


def test_what_was_sent_before_an_interrupt_arrives(tcp: RawServer) -> None:
    script = """
try:
    while True:
        ws.send(bytes(100_000))
        if ws.stats.messages_sent == 1:
            ready()
except KeyboardInterrupt:
    print("interrupted", flush=True)
print(ws.stats.messages_sent, flush=True)
ws.close()
"""
    with opened(tcp, script) as (process, peer):
        interrupt(process)
        count = int(line(process))
        for _ in range(count):
            frame = peer.frame()
            assert (frame.opcode, len(frame.payload)) == (BINARY, 100_000)
        assert peer.frame().opcode == CLOSE
        peer.send(CLOSE, close_payload(1000))
        peer.sock.close()
