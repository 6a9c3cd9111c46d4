"""The options of ``taut connect`` for the handshake, for TLS, and for the way to the server."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from commands import RawServer, Serve, Terminal, listen_to, talk
from websockets.datastructures import Headers
from websockets.http11 import Response
from websockets.sync.server import ServerConnection, unix_serve


@pytest.fixture
def seen() -> Headers:
    return Headers()


@pytest.fixture
def noting(server: Serve, seen: Headers) -> str:
    """The URI of a server that notes the headers of the request."""
    return server(lambda ws: None, process_request=lambda ws, request: seen.update(request.headers))


# -- the handshake ---------------------------------------------------------------------------------------------


def test_the_origin(start: Any, noting: str, seen: Headers) -> None:
    assert listen_to(start, noting, "--origin", "https://example.org")[0] == 0
    assert seen["Origin"] == "https://example.org"


@pytest.mark.parametrize("user", ["me:sesame", "me:", "me:a:b"])
def test_basic_authentication(start: Any, noting: str, seen: Headers, user: str) -> None:
    assert listen_to(start, noting, "--user", user)[0] == 0
    assert seen["Authorization"] == "Basic " + base64.b64encode(user.encode()).decode()


def test_a_password_is_asked_for_and_not_shown(terminal: Any, noting: str, seen: Headers) -> None:
    instance: Terminal = terminal("connect", noting, "-u", "me")
    instance.wait_for("password of me: ")
    instance.type("sesame\n")
    status, shown = instance.finish()
    assert status == 0
    assert seen["Authorization"] == "Basic " + base64.b64encode(b"me:sesame").decode()
    assert "sesame" not in shown


def test_a_password_that_is_not_given(terminal: Any) -> None:
    instance: Terminal = terminal("connect", "ws://127.0.0.1:1/", "-u", "me")
    instance.wait_for("password of me: ")
    instance.type("\x04")
    status, shown = instance.finish()
    assert (status, shown.strip()) == (2, "taut connect: --user needs a password")


def test_the_password_prompt_can_be_interrupted(terminal: Any) -> None:
    instance: Terminal = terminal("connect", "ws://127.0.0.1:1/", "-u", "me")
    instance.wait_for("password of me: ")
    instance.type("\x03")
    status, shown = instance.finish()
    assert status == 130
    assert "Traceback" not in shown


def test_bearer_authentication(start: Any, noting: str, seen: Headers) -> None:
    assert listen_to(start, noting, "--bearer", "abc")[0] == 0
    assert seen["Authorization"] == "Bearer abc"


def test_a_token_from_the_environment(run: Any, noting: str, seen: Headers) -> None:
    environment = os.environ | {"TAUT_TOKEN": "xyz"}
    assert talk(run, noting, "--bearer-env", "TAUT_TOKEN", env=environment)[0] == 0
    assert seen["Authorization"] == "Bearer xyz"


def test_redirects_are_followed_so_many_times(start: Any, server: Serve) -> None:
    def redirect(ws: ServerConnection, request: Any) -> Response | None:
        number = int(request.path.removeprefix("/") or 0)
        if number == 2:
            return None
        response = ws.respond(302, "")
        response.headers["Location"] = f"/{number + 1}"
        return response

    uri = server(lambda ws: ws.send("here"), process_request=redirect)
    assert listen_to(start, uri)[:2] == (0, "here\n")
    assert listen_to(start, uri, "--max-redirects", "2")[:2] == (0, "here\n")
    status, out, err = listen_to(start, uri, "--max-redirects", "1")
    assert (status, out, len(err)) == (4, "", 1)


def test_a_server_that_does_not_answer_in_time(start: Any, raw_server: RawServer, loop: str) -> None:
    process = start("connect", raw_server.uri, loop, "--open-timeout", "0.2")
    raw_server.read_request()
    assert process.wait() == 5
    err = process.popen.stderr.read()
    assert err.startswith(f"taut connect: cannot connect to {raw_server.uri}: ")
    assert "within 0.2 s" in err


def test_the_size_of_messages_is_limited(start: Any, server: Serve) -> None:
    uri = server(lambda ws: ws.send("x" * 11))
    assert listen_to(start, uri, "--max-size", "11")[0] == 0
    status, out, err = listen_to(start, uri, "--max-size", "10")
    assert (status, out) == (1, "")
    assert "closed by this side: 1009 (message too big)" in err[-1]


# -- TLS -------------------------------------------------------------------------------------------------------


class Secure:
    """A server with a certificate of an authority that nobody knows."""

    def __init__(self, serve: Serve, folder: Path) -> None:
        self.authority = trustme.CA()
        certificate = self.authority.issue_cert("127.0.0.1")
        self.pem = certificate.cert_chain_pems[0].bytes()
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(self.context)
        self.cacert = str(folder / "ca.pem")
        self.authority.cert_pem.write_to_path(self.cacert)
        self._serve = serve

    def serve(self) -> str:
        return self._serve(lambda ws: ws.send("secret"), ssl=self.context)


@pytest.fixture
def secure(server: Serve, tmp_path: Path) -> Secure:
    return Secure(server, tmp_path)


def test_an_authority_of_ones_own(start: Any, secure: Secure, loop: str) -> None:
    uri = secure.serve()
    assert listen_to(start, uri, loop, "--cacert", secure.cacert)[:2] == (0, "secret\n")
    status, _, err = listen_to(start, uri, loop, "-v", "--cacert", secure.cacert)
    assert status == 0
    assert any(line.startswith("TLS: TLSv1.3, TLS_") for line in err)


def test_the_certificate_of_a_client(start: Any, secure: Secure, tmp_path: Path) -> None:
    secure.context.verify_mode = ssl.CERT_REQUIRED
    secure.authority.configure_trust(secure.context)
    secure.context.maximum_version = ssl.TLSVersion.TLSv1_2  # in 1.3 a client learns of a refusal too late
    uri = secure.serve()
    client = secure.authority.issue_cert("client.example.org")
    certificate, key, both = (str(tmp_path / name) for name in ("client.pem", "key.pem", "both.pem"))
    client.cert_chain_pems[0].write_to_path(certificate)
    client.private_key_pem.write_to_path(key)
    client.private_key_and_cert_chain_pem.write_to_path(both)
    line = ["--cacert", secure.cacert, "--cert"]
    assert listen_to(start, uri, *line, certificate, "--key", key)[:2] == (0, "secret\n")
    assert listen_to(start, uri, *line, both)[:2] == (0, "secret\n")
    assert listen_to(start, uri, *line[:2])[:2] == (3, "")
    status, _, err = listen_to(start, uri, *line, certificate)
    assert (status, len(err)) == (2, 1)
    assert err[0].startswith(f"taut connect: --cert: {certificate} cannot be used: ")


def test_a_pinned_certificate(start: Any, secure: Secure) -> None:
    uri = secure.serve()
    digest = hashlib.sha256(ssl.PEM_cert_to_DER_cert(secure.pem.decode())).hexdigest()
    line = ["--cacert", secure.cacert, "--pin"]
    assert listen_to(start, uri, *line, f"sha256:{digest}")[:2] == (0, "secret\n")
    status, out, err = listen_to(start, uri, *line, f"sha256:{'0' * 64}")
    assert (status, out, len(err)) == (3, "", 1)
    wrong_then_right = [*line, f"sha256:{'0' * 64}", "--pin", f"sha256:{digest}"]
    assert listen_to(start, uri, *wrong_then_right)[:2] == (0, "secret\n")


# -- the way ---------------------------------------------------------------------------------------------------


class Proxy:
    """An HTTP proxy for CONNECT, which notes the requests."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.listener.getsockname()[1]}"
        self.requests: list[bytes] = []
        self.open = True
        self.threads = [threading.Thread(target=self.accept)]
        self.threads[0].start()

    def accept(self) -> None:
        while True:
            client, _ = self.listener.accept()
            if not self.open:
                client.close()
                return
            self.threads.append(threading.Thread(target=self.serve, args=[client]))
            self.threads[-1].start()

    def serve(self, client: socket.socket) -> None:
        request = b""
        while not request.endswith(b"\r\n\r\n") and (data := client.recv(4096)):
            request += data
        self.requests.append(request)
        host, _, port = request.split(b" ")[1].decode().rpartition(":")
        with client, contextlib.ExitStack() as stack:
            try:
                server = stack.enter_context(socket.create_connection((host, int(port))))
            except OSError:
                client.sendall(b"HTTP/1.1 502 Bad Gateway\r\n\r\n")
                return
            client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            back = threading.Thread(target=self.pump, args=[server, client])
            back.start()
            self.pump(client, server)
            back.join()

    def pump(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(4096):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def close(self) -> None:
        self.open = False
        socket.create_connection(self.listener.getsockname()).close()
        for thread in self.threads:
            thread.join()
        self.listener.close()


@pytest.fixture
def proxy() -> Iterator[Callable[[], Proxy]]:
    running: list[Proxy] = []

    def start_proxy() -> Proxy:
        running.append(Proxy())
        return running[-1]

    yield start_proxy
    for each in running:
        each.close()


def test_through_a_proxy(run: Any, echo_server: str, proxy: Any, loop: str) -> None:
    instance: Proxy = proxy()
    line = ["--proxy", f"http://me:sesame@{instance.address}", "-v"]
    status, out, err = talk(run, echo_server, loop, *line, text="hello\n")
    assert (status, out) == (0, "hello\n")
    (request,) = instance.requests
    assert request.startswith(b"CONNECT " + echo_server.split("/")[2].encode() + b" HTTP/1.1\r\n")
    assert b"\r\nProxy-Authorization: Basic " + base64.b64encode(b"me:sesame") + b"\r\n" in request
    assert not any("sesame" in line for line in err)


def test_through_a_chain_of_proxies(run: Any, echo_server: str, proxy: Any) -> None:
    near, far = proxy(), proxy()
    line = ["--proxy", f"http://{near.address}", "--proxy", f"http://{far.address}"]
    assert talk(run, echo_server, *line, text="hello\n")[:2] == (0, "hello\n")
    assert near.requests[0].startswith(b"CONNECT " + far.address.encode())
    assert far.requests[0].startswith(b"CONNECT " + echo_server.split("/")[2].encode())


def test_the_proxy_of_the_environment(run: Any, proxy: Any, server: Serve) -> None:
    instance: Proxy = proxy()
    # A proxy of the environment is not for loopback hosts, and this one reaches whatever it is told to.
    environment = os.environ | {"http_proxy": f"http://{instance.address}", "no_proxy": ""}
    uri = server(lambda ws: ws.send("here"))
    port = uri.split(":")[2]
    status, _, err = talk(run, f"ws://taut.invalid:{port}", env=environment)
    assert status == 3
    assert instance.requests[0].startswith(b"CONNECT taut.invalid:")
    instance.requests.clear()
    assert talk(run, f"ws://taut.invalid:{port}", "--no-proxy", env=environment)[0] == 3
    assert instance.requests == []


@pytest.mark.parametrize("options", [[], ["--reconnect"]])
def test_a_proxy_of_the_environment_that_cannot_be_used(run: Any, options: list[str]) -> None:
    environment = os.environ | {"http_proxy": "ftp://me:sesame@gate", "no_proxy": ""}
    status, _, err = talk(run, "ws://x.invalid/", *options, env=environment)
    assert (status, len(err)) == (2, 1)
    assert "environment variable http_proxy" in err[0]
    assert "sesame" not in err[0]


def test_a_proxy_that_is_not_there(run: Any) -> None:
    status, _, err = talk(run, "ws://x.invalid/", "--proxy", "http://me:sesame@127.0.0.1:1")
    assert (status, len(err)) == (3, 1)
    assert "sesame" not in err[0]


@pytest.mark.parametrize("options", [[], ["--reconnect"]])
def test_a_proxy_that_needs_a_package_that_is_not_there(run: Any, options: list[str]) -> None:
    code = "import sys; sys.modules['python_socks'] = None; from taut.cli import main; sys.exit(main())"
    line = ["connect", "ws://x.invalid/", "--proxy", "socks5://127.0.0.1:1", *options]
    status, _, err = run(*line, command=[sys.executable, "-c", code])
    assert status == 2
    assert err.endswith("pip install 'taut[socks]'\n")
    assert err.count("\n") == 1


def test_another_address(start: Any, noting: str, seen: Headers) -> None:
    address = noting.split("/")[2]
    assert listen_to(start, "ws://taut.invalid/", "--connect-to", address)[0] == 0
    assert seen["Host"] == "taut.invalid"


def test_a_unix_socket(start: Any, tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    instance = unix_serve(lambda ws: ws.send("here"), path)
    thread = threading.Thread(target=instance.serve_forever)
    thread.start()
    try:
        status, out, err = listen_to(start, "ws://localhost/", "--unix", path, "-v")
    finally:
        instance.shutdown()
        thread.join()
    assert (status, out) == (0, "here\n")
    assert err[0].endswith(f"remote address {path}")


def test_a_unix_socket_that_is_not_there(run: Any, tmp_path: Path) -> None:
    status, _, err = talk(run, "ws://localhost/", "--unix", str(tmp_path / "none"))
    assert (status, len(err)) == (3, 1)
    assert "No such file or directory" in err[0]


def test_one_family_of_addresses(start: Any, server: Serve) -> None:
    uri = server(lambda ws: ws.send("here")).replace("127.0.0.1", "localhost")
    assert listen_to(start, uri, "-4")[:2] == (0, "here\n")
    assert listen_to(start, uri.replace("localhost", "127.0.0.1"), "-6")[0] == 3
