from __future__ import annotations

import json
import signal
import socket
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from services.certificates import trusting_context, write_certificate
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect, unix_connect
from websockets.sync.server import ServerConnection


def seen(ws: ServerConnection) -> None:
    """Tell what request came."""
    assert ws.request is not None
    ws.send(ws.request.path)
    ws.send(json.dumps([list(pair) for pair in ws.request.headers.raw_items()]))
    for message in ws:
        ws.send(message)


def request_seen(uri: str, **options: Any) -> tuple[str, dict[str, str]]:
    with connect(uri, **options) as ws:
        return str(ws.recv(timeout=30)), {name.lower(): value for name, value in json.loads(ws.recv(timeout=30))}


def front(start: Any, *options: str) -> Any:
    return start("proxy", "--listen", "127.0.0.1:0", *options)


def uri_of(process: Any) -> str:
    return str(process.wait_for(r"proxy on (\S+)/ to ")[1])


def test_messages_and_headers(start: Any, server: Any, loop: str) -> None:
    process = front(
        start, "--route", f"/app={server(seen)}base", loop, "--strip-prefix", "--rewrite", "^/v1", "/v2",
        "--set-header", "X-A: b", "--add-header", "X-C: d", "--remove-header", "User-Agent",
        "--host-header", "app.example", "--forwards", "both",
    )  # fmt: skip
    uri = uri_of(process)
    path, headers = request_seen(uri + "/app/v1/x?y=/v1")
    assert path == "/base/v2/x?y=/v1"
    assert (headers["x-a"], headers["x-c"], headers["host"]) == ("b", "d", "app.example")
    assert "user-agent" not in headers
    assert headers["x-forwarded-for"] == "127.0.0.1"
    assert headers["forwarded"].startswith("for=127.0.0.1;proto=http;host=")
    with pytest.raises(InvalidStatus) as failure:
        connect(uri)
    assert failure.value.response.status_code == 404


def test_one_line_for_each_connection_and_1012_at_the_end(start: Any, server: Any, loop: str) -> None:
    upstream = server(seen)
    process = front(start, "--to", upstream, loop)
    uri = uri_of(process)
    with connect(uri + "/path?token=secret") as ws:
        ws.recv(timeout=30)
        ws.recv(timeout=30)
        ws.send("x")
        assert ws.recv(timeout=30) == "x"
        process.interrupt(signal.SIGTERM)
        with pytest.raises(ConnectionClosed):
            ws.recv(timeout=30)
        assert ws.close_code == 1012
    status, _, err = process.finish()
    lines = err.splitlines()
    assert status == 0
    (line,) = [line for line in lines if "/path to " in line]
    assert f" INFO taut.proxy: /path to {upstream}: client closed by this side: 1012" in line
    assert "secret" not in err
    assert not [line for line in lines if "connection closed:" in line]


def test_several_upstreams_one_of_them_dead(start: Any, server: Any) -> None:
    with socket.socket() as dead:
        dead.bind(("127.0.0.1", 0))
        process = front(
            start, "--to", f"ws://127.0.0.1:{dead.getsockname()[1]}", "--to", server(seen), "--balance", "round_robin",
            "--pause", "60", "--log-format", "json",
        )  # fmt: skip
        uri = uri_of(process)
        for _ in range(3):
            assert request_seen(uri)[0] == "/"
        process.interrupt()
        status, _, err = process.finish()
    assert status == 0
    warnings = [record for line in err.splitlines() if (record := json.loads(line))["level"] == "WARNING"]
    assert len(warnings) == 1


def test_health_checks(start: Any, server: Any) -> None:
    with socket.socket() as dead:
        dead.bind(("127.0.0.1", 0))
        process = front(start, "--to", f"ws://127.0.0.1:{dead.getsockname()[1]}", "--health", "tcp")
        process.wait_for_error(r"upstream \S+ is out: .*Connection refused")
        with pytest.raises(InvalidStatus) as failure:
            connect(uri_of(process))
    assert failure.value.response.status_code == 503


def test_tls_and_unix_sockets(start: Any, tmp_path: Path) -> None:
    certificate, key = write_certificate(tmp_path)
    behind = start("serve", "--echo", "--unix", str(tmp_path / "a"))
    behind.wait_for("echo server")
    middle = start(
        "proxy", "--listen", "127.0.0.1:0", "--to", f"unix:{tmp_path}/a:/base", "--cert", certificate, "--key", key
    )
    uri = uri_of(middle)
    assert uri.startswith("wss://")
    with connect(uri, ssl=trusting_context(), server_hostname="localhost") as ws:
        ws.send("through TLS")
        assert ws.recv(timeout=30) == "through TLS"
    path = tmp_path / "b"
    for options in (["--insecure"], []):
        last = start("proxy", "--listen", f"unix:{path}", "--to", uri, *options)
        last.wait_for("proxy on ")
        if options:
            with unix_connect(str(path)) as ws:
                ws.send("through all of it")
                assert ws.recv(timeout=30) == "through all of it"
        else:
            with pytest.raises(InvalidStatus) as failure:
                unix_connect(str(path))
            assert failure.value.response.status_code == 502
        last.interrupt()
        assert last.finish()[0] == 0
        assert not path.exists()
    middle.interrupt(signal.SIGHUP)
    middle.wait_for_error("the certificate was loaded anew")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--listen", "127.0.0.1:0"], "say where to: --to URI, or --route PATH=URI"),
        (["--listen", "x", "--to", "ws://a"], "'x' is not an address: write HOST:PORT, :PORT or unix:PATH"),
        (["--to", "ws://a"], "the following arguments are required: --listen"),
        (["--listen", ":0", "--to", "http://a"], "'http://a' is not a WebSocket URI: the scheme must be ws or wss"),
        (["--listen", ":0", "--route", "a"], "'a' is not a route: write PATH=URI"),
        (["--listen", ":0", "--route", "a=ws://b"], 'path must be "/", or begin with /'),
        (["--listen", ":0", "--to", "ws://a", "--balance", "x"], "balance must be"),
        (["--listen", ":0", "--to", "ws://a", "--rewrite", "(", "x"], "rewrite: ('(', 'x') cannot be used"),
        (["--listen", ":0", "--to", "ws://a", "--set-header", "x"], "'x' is not a header: write 'Name: value'"),
        (["--listen", ":0", "--to", "ws://a", "--set-header", "TE: x"], "set: TE belongs to one connection"),
        (["--listen", ":0", "--to", "ws://a", "--key", "x"], "--key needs --cert"),
        (["--listen", ":0", "--to", "ws://a", "--cert", "/nothing"], "--cert: /nothing cannot be used: No such file"),
        (["--listen", ":0", "--to", "wss://a", "--cacert", "/nothing"], "--cacert: /nothing cannot be used: No such"),
        (["--listen", ":0", "--to", "wss://a", "-k", "--cacert", "x"], "--insecure and --cacert exclude each other"),
        (["--listen", ":0", "--to", "ws://a", "--proxy-protocol"], "proxy_protocol=True needs trusted_proxies"),
        (["--listen", ":0", "--to", "ws://a", "--trusted-proxy", "x"], "trusted_proxies must hold addresses"),
    ],
)
def test_wrong_use_is_told_before_anything_is_done(run: Any, options: list[str], said: str) -> None:
    status, out, err = run("proxy", *options)
    assert (status, out) == (2, "")
    assert said in err.splitlines()[-1]


def test_a_port_that_is_taken_is_one_line(run: Any, loop: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, out, err = run("proxy", "--listen", f"127.0.0.1:{port}", "--to", "ws://localhost", loop)
    assert (status, out) == (1, "")
    problem = f"cannot listen on 127.0.0.1:{port}: Address already in use; choose another with --listen"
    assert err == f"taut proxy: {problem}\n"


def shown_at(where: str) -> str:
    with urllib.request.urlopen(where, timeout=30) as response:
        return str(response.read().decode())


def test_metrics_of_upstreams(start: Any, server: Any, loop: str) -> None:
    upstream = server(seen)
    process = front(start, "--to", upstream, "--metrics-port", "0", loop)
    uri = uri_of(process)
    shown = process.wait_for_error(r"metrics on (http://127\.0\.0\.1:\d+)/metrics")[1]
    assert shown_at(f"{shown}/readyz") == "ready\n"
    with connect(uri) as ws:
        ws.recv(timeout=30)
        text = shown_at(f"{shown}/metrics")
    assert 'taut_connections{route=""} 1.0' in text
    labels = f'{{path="/",upstream="{upstream}"}}'
    assert f"taut_upstream_available{labels} 1.0" in text
    assert f"taut_upstream_connections{labels} 1.0" in text
    assert f"taut_upstream_connections_opened_total{labels} 1.0" in text
    process.interrupt()
    status, _, err = process.finish()
    assert status == 0
    assert "taut.proxy.metrics" not in err


def test_a_port_for_metrics_that_is_taken_is_one_line(run: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        options = ("--listen", "127.0.0.1:0", "--to", "ws://localhost", "--metrics-port", str(port))
        status, out, err = run("proxy", *options)
    assert (status, out) == (1, "")
    problem = f"cannot listen on 127.0.0.1:{port}: Address already in use; choose another with --metrics-port"
    assert err == f"taut proxy: {problem}\n"
