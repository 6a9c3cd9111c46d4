"""One process that serves an application: what it loads, where it listens, how it ends."""

from __future__ import annotations

import json
import signal
import socket
import ssl
import time
from pathlib import Path

import pytest
import trustme
from commands import PYTHON, TIMEOUT
from supervised import APP, Supervised

import taut
import taut.sync

from .conftest import Start


def ask(uri: str, message: str, **options: object) -> tuple[int, str]:
    """What the application answers: its process, and the message."""
    with taut.sync.connect(uri, **options) as ws:
        ws.send(message)
        process, _, answer = str(ws.recv()).partition(" ")
        return int(process), answer


@pytest.mark.parametrize("loop", ["uvloop", "no-uvloop"])
def test_a_handler_is_served_by_this_very_process(start: Start, loop: str) -> None:
    server = start("app:handler", "--port", "0", f"--{loop}")
    assert ask(server.uri, "hello") == (server.popen.pid, "hello")
    assert server.finish() == 0
    name = "uvloop" if loop == "uvloop" else "asyncio"
    assert f"serving app:handler on {server.uri} ({name}; Ctrl-C stops it)\n" in server.text


@pytest.mark.parametrize(
    ("workers", "number"), [([], signal.SIGTERM), (["--workers", "1"], signal.SIGINT)], ids=["alone", "worker"]
)
def test_a_signal_drains(start: Start, workers: list[str], number: int) -> None:
    server = start("app:handler", "--port", "0", *workers)
    with taut.sync.connect(server.uri) as ws:
        ws.send("hello")
        ws.recv()
        server.interrupt(number)
        with pytest.raises(taut.ConnectionClosed):
            ws.recv()
        assert ws.close_code == 1012
    assert server.finish(None) == 0
    assert "Traceback" not in server.text


LINGERING = """
import asyncio
async def handler(ws):
    await ws.send("hello")
    try:
        await asyncio.sleep(600)
    finally:
        await asyncio.sleep(600)
"""


@pytest.mark.parametrize(("workers", "status"), [([], -signal.SIGTERM), (["--workers", "2"], 0)])
def test_a_second_signal_closes_and_a_third_one_ends(start: Start, app: Path, workers: list[str], status: int) -> None:
    app.write_text(LINGERING)
    server = start("app:handler", "--port", "0", "--drain", "600", *workers)
    with taut.sync.connect(server.uri) as ws:
        ws.recv()
        server.interrupt(signal.SIGTERM)
        with pytest.raises(taut.ConnectionClosed):
            ws.recv()
        server.interrupt(signal.SIGTERM)
        wait_until_nobody_listens(server)
        assert server.finish() == status


@pytest.mark.parametrize(
    ("module", "status", "text"),
    [
        ("", 2, "taut serve: app has no attribute 'x'\n"),
        ("x = 1", 2, "taut serve: app:x is no factory: 1 cannot be called\n"),
        ("def x(): return 1", 2, "taut serve: app:x cannot be served: handler must be"),
        ("1 / 0", 1, "ZeroDivisionError: division by zero\n"),
        ("def x(): return 1 / 0", 1, "ZeroDivisionError: division by zero\n"),
    ],
)
@pytest.mark.parametrize("workers", [[], ["--workers", "2"]], ids=["alone", "workers"])
def test_what_cannot_be_started_is_told_once(
    start: Start, app: Path, workers: list[str], module: str, status: int, text: str
) -> None:
    app.write_text(module)
    server = start("app:x", "--factory", "--port", "0", *workers)
    assert server.finish(None) == status
    assert server.text.count(text) == 1
    assert server.text.count("Traceback") == (status == 1)
    if status == 1:  # the way through the library is left out
        assert "/taut/" not in server.text
        assert str(app) in server.text
    else:
        assert server.text.count("\n") == 1


def wait_until_nobody_listens(server: Supervised) -> None:
    port = int(server.uri.rstrip("/").rpartition(":")[2])
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline:
        with socket.socket() as sock:
            if sock.connect_ex(("127.0.0.1", port)) != 0:
                return
        time.sleep(0.01)
    raise AssertionError("somebody still listens")


@pytest.mark.parametrize("workers", [[], ["--workers", "1"]], ids=["alone", "worker"])
def test_the_log_as_json(start: Start, workers: list[str]) -> None:
    server = start("app:handler", "--port", "0", "--log-format", "json", *workers)
    ask(server.uri, "hello")
    assert server.finish() == 0
    lines = [json.loads(line) for line in server.text.splitlines() if not line.startswith("serving ")]
    assert "taut.server" in {line["logger"] for line in lines}
    assert any(line.get("close_code") == 1000 for line in lines)


def test_an_application_that_logs_by_itself(start: Start, app: Path) -> None:
    app.write_text(f"import logging\nlogging.basicConfig(format='mine: %(message)s', level=logging.INFO)\n{APP}")
    server = start("app:handler", "--port", "0")
    server.wait_for("^mine: server listening on ")
    assert server.finish() == 0
    assert all(line.startswith(("mine: ", "serving ")) for line in server.text.splitlines())


PROGRAM = """
import taut.workers

if __name__ == "__main__":
    taut.workers.run("app:handler", "127.0.0.1", 0, workers=2, max_size=5)
    print("over")
"""


def test_workers_of_a_program(start: Start, app: Path) -> None:
    (app.parent / "program.py").write_text(PROGRAM)
    server = start(command=[*PYTHON, "program.py"])
    port = server.wait_for(r"server listening on 127\.0\.0\.1:(\d+)", 2)[0][1]
    with taut.sync.connect(f"ws://127.0.0.1:{port}/") as ws:
        ws.send("hello!")
        with pytest.raises(taut.ConnectionClosed):
            ws.recv()
        assert ws.close_code == 1009
    assert server.finish() == 0
    assert server.text.endswith("over\n")


SERVER = """
import taut
async def handler(ws):
    await ws.send(await ws.recv())
def process_request(ws, request):
    return ws.respond(403, "not you") if request.path == "/no" else None
server = taut.serve(handler, "192.0.2.1", 1, process_request=process_request, max_size=5)
"""


def test_a_whole_server(start: Start, app: Path) -> None:
    """It has options of its own, but for the address."""
    app.write_text(SERVER)
    server = start("app:server", "--port", "0")
    with taut.sync.connect(server.uri) as ws:
        ws.send("large?")
        with pytest.raises(taut.ConnectionClosed):
            ws.recv()
        assert ws.close_code == 1009
    with pytest.raises(taut.InvalidStatus, match="403"):
        taut.sync.connect(f"{server.uri}no")
    assert server.finish() == 0
    server = start("app:server", "--port", "0", "--max-size", "10", "--ping-interval", "0")
    assert server.finish(None) == 2
    assert (
        "app:server is a server with options of its own, and these would be in vain: max_size, ping_interval\n"
        in server.text
    )


FACTORY = """
from contextlib import asynccontextmanager

async def handler(ws):
    await ws.send(STATE)
    await ws.wait_closed()

def plain():
    global STATE
    STATE = "plain"
    return handler

async def awaitable():
    global STATE
    STATE = "awaitable"
    return handler

@asynccontextmanager
async def context():
    global STATE
    STATE = "context"
    yield handler
    print("left", flush=True)
"""


@pytest.mark.parametrize("name", ["plain", "awaitable", "context"])
def test_a_factory(start: Start, app: Path, name: str) -> None:
    app.write_text(FACTORY)
    server = start(f"app:{name}", "--factory", "--port", "0")
    with taut.sync.connect(server.uri) as ws:
        assert ws.recv() == name
    assert server.finish() == 0
    assert ("left\n" in server.text) == (name == "context")


def test_a_module_in_another_folder(start: Start, app: Path) -> None:
    folder = app.parent / "deeper" / "package"
    folder.mkdir(parents=True)
    app.rename(folder / "module.py")
    server = start("package.module:handler", "--port", "0", "--app-dir", "deeper")
    assert ask(server.uri, "hello")[1] == "hello"
    assert server.finish() == 0


@pytest.mark.parametrize("workers", [[], ["--workers", "2"]], ids=["alone", "workers"])
def test_a_unix_socket(start: Start, app: Path, workers: list[str]) -> None:
    path = app.parent / "socket"
    server = start("app:handler", "--unix", str(path), *workers)
    server.wait_for(rf"serving app:handler on ws\+unix:{path} ")
    with taut.sync.unix_connect(str(path)) as ws:
        ws.send("hello")
        assert str(ws.recv()).endswith(" hello")
    assert server.finish() == 0
    assert not path.exists()


def test_a_descriptor(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        server = start("app:handler", "--fd", str(sock.fileno()), pass_fds=[sock.fileno()])
        assert server.uri == f"ws://127.0.0.1:{sock.getsockname()[1]}/"
        assert ask(server.uri, "hello")[1] == "hello"
    assert server.finish() == 0


def certify(server: Path, authority: trustme.CA) -> None:
    issued = authority.issue_cert("127.0.0.1")
    issued.private_key_and_cert_chain_pem.write_to_path(str(server))


def serial(server: Supervised, authority: trustme.CA) -> str:
    """The number of the certificate that new connections get."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    context.set_alpn_protocols(["h2", "http/1.1"])
    port = int(server.uri.rstrip("/").rpartition(":")[2])
    with (
        socket.create_connection(("127.0.0.1", port)) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as secured,
    ):
        assert secured.selected_alpn_protocol() == "http/1.1"
        certificate = secured.getpeercert()
        assert certificate is not None
        return str(certificate["serialNumber"])


@pytest.mark.parametrize("workers", [[], ["--workers", "1"]], ids=["alone", "worker"])
def test_a_new_certificate(start: Start, app: Path, workers: list[str]) -> None:
    """New connections have it, those that are open stay; one that is broken changes nothing."""
    authority, pem = trustme.CA(), app.parent / "server.pem"
    certify(pem, authority)
    server = start("app:handler", "--port", "0", "--cert", str(pem), *workers)
    number = signal.SIGUSR2 if workers else signal.SIGHUP
    context = ssl.create_default_context()
    authority.configure_trust(context)
    with taut.sync.connect(server.uri, ssl=context) as ws:
        first = serial(server, authority)
        pem.write_text("broken")
        server.interrupt(number)
        server.wait_for("the certificate in use stays, .*server.pem cannot be loaded: ")
        assert serial(server, authority) == first
        certify(pem, authority)
        server.interrupt(number)
        server.wait_for("certificate .*server.pem loaded anew")
        assert serial(server, authority) != first
        ws.send("still here")
        assert str(ws.recv()).endswith("still here")
    assert server.finish() == 0


def test_a_certificate_that_is_not_there(start: Start) -> None:
    server = start("app:handler", "--port", "0", "--cert", "nothing.pem")
    assert server.finish(None) == 2
    assert server.text.startswith("taut serve: the certificate nothing.pem cannot be loaded: ")
    assert server.text.count("\n") == 1
