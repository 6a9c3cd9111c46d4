from __future__ import annotations

import signal
import socket
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect


def test_echoes_text_and_binary(echo_server: str) -> None:
    with connect(echo_server) as ws:
        for message in ("héllo", b"\x00\xff", "", "x" * 100_000):
            ws.send(message)
            assert ws.recv(timeout=30) == message


@pytest.mark.parametrize(("options", "extensions"), [([], 1), (["--no-compression"], 0)])
def test_compression(start: Any, options: list[str], extensions: int) -> None:
    uri = start("serve", "--echo", "--port", "0", *options).wait_for(r"ws://\S+")[0]
    with connect(uri) as ws:
        assert len(ws.protocol.extensions) == extensions


def test_max_size(start: Any, loop: str) -> None:
    uri = start("serve", "--echo", "--port", "0", "--max-size", "10", loop).wait_for(r"ws://\S+")[0]
    with connect(uri, compression=None) as ws:
        ws.send("x" * 10)
        assert ws.recv(timeout=30) == "x" * 10
        ws.send("x" * 11)
        with pytest.raises(ConnectionClosed):
            ws.recv(timeout=30)
        assert ws.close_code == 1009


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_closes_every_connection(start: Any, loop: str, number: int) -> None:
    server = start("serve", "--echo", "--port", "0", loop)
    uri = server.wait_for(r"ws://\S+")[0]
    with connect(uri) as ws:
        server.interrupt(number)
        with pytest.raises(ConnectionClosed):
            ws.recv(timeout=30)
        assert ws.close_code == 1012
    assert server.finish() == (0, "", "")


def test_a_port_that_is_taken_is_one_line(run: Any, loop: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, out, err = run("serve", "--echo", "--port", str(port), loop)
    assert (status, out) == (1, "")
    assert err == f"taut serve: cannot listen on 127.0.0.1:{port}: Address already in use; choose another with --port\n"


@pytest.mark.parametrize("host", ["192.0.2.1", "fe80::1%no-such-interface", "a" * 64])
def test_a_bad_host_is_one_line(run: Any, loop: str, host: str) -> None:
    status, out, err = run("serve", "--echo", "--host", host, "--port", "0", loop)
    assert (status, out) == (1, "")
    assert err.startswith("taut serve: cannot listen on ")
    assert host in err
    assert err.count("\n") == 1
