"""The way through proxies: what is asked of them, and everything that they may do instead."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import socket
import ssl
import struct
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from network import client_context, server_context
from proxying import ConnectProxy, FakeProxy, Script, SocksProxy

import taut
from taut.client.dialling import pump
from taut.client.dialling.proxies import parse_proxies
from taut.client.dialling.tunnels import open_tunnel
from taut.client.options import ConnectOptions
from taut.errors import CertificateError, MissingExtra, ProxyError, TLSError

OPENED = b"HTTP/1.1 200 Connection established\r\n\r\n"


class Reach:
    """Connects to the first proxy, and keeps its sockets."""

    def __init__(self) -> None:
        self.sockets: list[socket.socket] = []

    async def __call__(self, host: str, port: int) -> socket.socket:
        sock = socket.socket()
        sock.setblocking(False)
        self.sockets.append(sock)
        try:
            await asyncio.get_running_loop().sock_connect(sock, (host, port))
        except BaseException:
            sock.close()
            raise
        return sock

    @property
    def closed(self) -> bool:
        return all(sock.fileno() == -1 for sock in self.sockets)


async def tunnel(*urls: str, host: str = "example.com", port: int = 443, **options: Any) -> socket.socket:
    options.setdefault("user_agent_header", None)
    return await open_tunnel(parse_proxies(urls), host, port, Reach(), ConnectOptions(**options))


async def fails(*urls: str, host: str = "example.com", port: int = 443, **options: Any) -> Any:
    """The error that ends it; nothing is open then."""
    reach = Reach()
    with pytest.raises(taut.ConnectError) as caught:
        await open_tunnel(parse_proxies(urls), host, port, reach, ConnectOptions(**options))
    assert reach.sockets
    assert reach.closed
    return caught.value


def answering(*pieces: bytes, stay: bool = True) -> Script:
    """Read a request, write each piece by itself, and stay there or leave."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        if stay:
            await reader.read()

    return serve


def reset(writer: asyncio.StreamWriter) -> None:
    """End a connection with RST."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@asynccontextmanager
async def echoing() -> AsyncIterator[int]:
    """A server that sends back what it gets, up to the end; its port."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()

    async with FakeProxy(echo) as server:
        yield server.port


async def quiet() -> None:
    """Wait until nothing runs beside this test."""
    while len(asyncio.all_tasks()) > 1:
        await asyncio.sleep(0.001)


async def exchange(sock: socket.socket, data: bytes) -> bytes:
    """Send, end this direction, and read to the end."""
    loop = asyncio.get_running_loop()

    async def send() -> None:
        await loop.sock_sendall(sock, data)
        sock.shutdown(socket.SHUT_WR)

    sending = asyncio.create_task(send())
    received = bytearray()
    while piece := await loop.sock_recv(sock, 65536):
        received += piece
    await sending
    return bytes(received)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pump, "_PATIENCE", 0.05)


# ---- HTTP ----


async def test_connect_request() -> None:
    async with FakeProxy(answering(OPENED)) as proxy, echoing() as port, ConnectProxy() as real:
        with await tunnel(real.url, host="127.0.0.1", port=port) as sock:
            assert not sock.getblocking()
            assert await exchange(sock, b"hello") == b"hello"
        assert real.requests == [f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n"]
        with await tunnel(proxy.url):
            pass
        await proxy.until_ended()


@pytest.mark.parametrize(
    ("host", "port", "authority"),
    [
        ("example.com", 80, "example.com:80"),
        ("xn--bcher-kva.example", 443, "xn--bcher-kva.example:443"),
        ("::1", 443, "[::1]:443"),
        ("fe80::1%eth0", 8080, "[fe80::1]:8080"),
    ],
)
async def test_authority(host: str, port: int, authority: str) -> None:
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(OPENED)

    async with FakeProxy(serve) as proxy:
        (await tunnel(proxy.url, host=host, port=port, user_agent_header="me/1")).close()
    assert heads == [f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: me/1\r\n\r\n".encode()]


async def test_headers_for_the_proxy() -> None:
    async with echoing() as port, ConnectProxy() as proxy:
        url = proxy.url_as("http", "user:secret@")
        address = {"host": "127.0.0.1", "port": port}
        (await tunnel(url, **address)).close()
        (await tunnel(url, proxy_headers={"X-Team": "a"}, user_agent_header="me/1", **address)).close()
        headers = [("proxy-authorization", "Bearer b"), ("user-agent", "c"), ("host", "d"), ("X", "1"), ("X", "2")]
        (await tunnel(url, proxy_headers=headers, user_agent_header="me/1", **address)).close()
        await proxy.until_ended(3)
    first = f"CONNECT 127.0.0.1:{port} HTTP/1.1"
    host, basic = f"Host: 127.0.0.1:{port}", "Proxy-Authorization: Basic dXNlcjpzZWNyZXQ="
    assert [head.split("\r\n") for head in proxy.requests] == [
        [first, host, basic, "", ""],
        [first, host, "User-Agent: me/1", basic, "X-Team: a", "", ""],
        [first, "proxy-authorization: Bearer b", "user-agent: c", "host: d", "X: 1", "X: 2", "", ""],
    ]


@pytest.mark.parametrize(
    ("headers", "error"),
    [
        ({"A": "b\r\nC: d"}, ValueError),
        ({"A B": "c"}, ValueError),
        ({"A": 1}, TypeError),
        (5, TypeError),
        (["a"], ValueError),
    ],
)
def test_wrong_headers_for_the_proxy(headers: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="proxy_headers"):
        taut.connect("ws://example.com", proxy="http://proxy", proxy_headers=headers)


async def test_environment_is_asked_for_the_address_given_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    async def handler(ws: taut.ServerConnection) -> None:
        await ws.send("hello")

    for name in ("ws_proxy", "WS_PROXY", "http_proxy", "HTTP_PROXY", "ALL_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    async with ConnectProxy() as proxy, taut.serve(handler, "127.0.0.1", 0) as server:
        monkeypatch.setenv("all_proxy", proxy.url)
        port = server.sockets[0].getsockname()[1]
        async with taut.connect("ws://example.com/", host="127.0.0.1", port=port) as ws:
            assert await ws.recv() == "hello"
        assert proxy.accepted == 0
        with pytest.raises(ProxyError):
            await taut.connect("ws://localhost/", host="nowhere.invalid", port=port)
        assert proxy.accepted == 1


async def test_credentials() -> None:
    async with echoing() as port, ConnectProxy(credentials=("us\u00e9r", "s:cret")) as proxy:
        url = proxy.url_as("http", "us%C3%A9r:s%3Acret@")
        with await tunnel(url, host="127.0.0.1", port=port) as sock:
            assert await exchange(sock, b"hello") == b"hello"
        for wrong in ("", "us%C3%A9r@", "us%C3%A9r:wrong@"):
            error = await fails(proxy.url_as("http", wrong), host="127.0.0.1", port=port)
            assert error.proxy == proxy.url
            assert "HTTP 407 Proxy Authentication Required" in str(error)
            assert str(error).startswith(f"proxy {proxy.url}: ")
            assert (error.response.status_code, error.response.body) == (407, b"who are you?")
            assert error.response.headers["Proxy-Authenticate"] == "Basic realm=x"


@pytest.mark.parametrize(
    "answer",
    [
        OPENED,
        b"HTTP/1.0 200 OK\r\n\r\n",
        b"HTTP/1.1 200\r\nContent-Length: 10\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nVia: a\r\n\r\n",
    ],
)
async def test_answer_byte_by_byte(answer: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await answering(*(answer[index : index + 1] for index in range(len(answer))), stay=False)(reader, writer)
        writer.write(await reader.readexactly(5))

    async with FakeProxy(serve) as proxy:
        with await tunnel(proxy.url) as sock:
            assert await exchange(sock, b"hello") == b"hello"


@pytest.mark.parametrize(
    ("answer", "status", "body"),
    [
        (b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy", 503, b"busy"),
        (b"HTTP/1.1 403 No\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n", 403, b"no"),
        (b"HTTP/1.1 302 Elsewhere\r\nLocation: http://x\r\nContent-Length: 0\r\n\r\n", 302, b""),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", 101, b""),
        (b"HTTP/1.1 403\r\nContent-Length: 0\r\n\r\n", 403, b""),
    ],
)
async def test_refusal(answer: bytes, status: int, body: bytes) -> None:
    async with FakeProxy(answering(answer)) as proxy:
        error = await fails(proxy.url)
        await proxy.until_ended()
    assert isinstance(error, ProxyError)
    assert f"answered CONNECT example.com:443 with HTTP {status}" in error.problem
    assert (error.response.status_code, error.response.body) == (status, body)


async def test_refusal_with_a_body_up_to_the_end() -> None:
    async with FakeProxy(answering(b"HTTP/1.0 502 Bad Gateway\r\n\r\nsor", b"ry", stay=False)) as proxy:
        error = await fails(proxy.url)
    assert (error.response.status_code, error.response.body) == (502, b"sorry")


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (b"", "closed before the response was complete"),
        (b"HTTP/1.1 200 OK\r\n", "closed before the response was complete"),
        (OPENED[:-1], "closed before the response was complete"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "malformed HTTP response"),
        (b"\x15\x03\x01\x00\x02\x02\x46\r\n", "malformed HTTP response"),
        (b"\x00" * 100_000, "malformed HTTP response"),
        (b"HTTP/1.1 200 " + b"x" * 100_000, "over the limit"),
        (b"HTTP/1.1 200 OK\r\nBad Header\r\n\r\n", "malformed HTTP response"),
        (b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 1000 + b"\r\n", "header lines"),
        (b"HTTP/1.1 403 No\r\nContent-Length: 10\r\n\r\nhell", "before the body of the response was complete"),
        (b"HTTP/1.1 403 No\r\n\r\n" + b"x" * 70_000, "the body of the response is over the limit"),
    ],
)
async def test_garbage(answer: bytes, problem: str) -> None:
    async with FakeProxy(answering(answer, stay=False)) as proxy:
        error = await fails(proxy.url)
    assert isinstance(error, ProxyError)
    assert problem in error.problem
    assert isinstance(error.__cause__, taut.InvalidMessage)
    assert (error.response is not None) == ("403" in answer[:20].decode("latin-1"))


@pytest.mark.parametrize("early", [b"x", b"\x16\x03\x03", b"HTTP/1.1 200 OK\r\n\r\n"])
async def test_bytes_behind_the_answer_are_refused(early: bytes) -> None:
    async with FakeProxy(answering(OPENED + early)) as proxy:
        error = await fails(proxy.url)
    assert isinstance(error, ProxyError)
    assert f"{len(early)} bytes behind its answer" in error.problem
    assert error.response.status_code == 200


async def test_limits_of_the_answer_are_those_of_any_response() -> None:
    async with FakeProxy(answering(b"HTTP/1.1 200 OK\r\nA: b\r\nA: b\r\nA: b\r\n\r\n")) as proxy:
        assert "more than 2 header lines" in (await fails(proxy.url, max_headers=2)).problem
        assert "over the limit of 20 bytes" in (await fails(proxy.url, max_head=20)).problem
        (await tunnel(proxy.url, max_headers=3)).close()


async def test_reset_while_answering() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        reset(writer)

    async with FakeProxy(serve) as proxy:
        error = await fails(proxy.url)
    assert isinstance(error, ProxyError)
    assert "the connection to it was lost" in error.problem
    assert isinstance(error.__cause__, ConnectionResetError)
    assert error.response is None


@pytest.mark.parametrize("answer", [b"", OPENED[:-1]])
@pytest.mark.parametrize("how", ["timeout", "cancel"])
async def test_stalled_proxy_is_left(answer: bytes, how: str) -> None:
    reach, asked = Reach(), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        asked.set()
        assert await reader.read() == b""

    async with FakeProxy(serve) as proxy:
        opening = asyncio.create_task(open_tunnel(parse_proxies(proxy.url), "a", 1, reach, ConnectOptions()))
        await asked.wait()
        if how == "timeout":
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(opening, 0.05)
        else:
            opening.cancel()
            with pytest.raises(asyncio.CancelledError):
                await opening
        assert reach.closed
        await proxy.until_ended()


@pytest.mark.parametrize("scheme", ["http", "https", "socks5h"])
async def test_stalled_proxy_is_bounded_by_open_timeout(scheme: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with FakeProxy(serve) as proxy:
        with pytest.raises(taut.OpenTimeout):
            await taut.connect("ws://example.com/", proxy=proxy.url_as(scheme), open_timeout=0.05)
        await proxy.until_ended()


async def test_failure_to_reach_the_proxy_is_left_as_it_is() -> None:
    failure = taut.ConnectRefused("nobody there")

    async def reach(host: str, port: int) -> socket.socket:
        assert (host, port) == ("proxy", 3128)
        raise failure

    with pytest.raises(taut.ConnectRefused) as caught:
        await open_tunnel(parse_proxies(["http://proxy:3128", "http://b"]), "a", 1, reach, ConnectOptions())
    assert caught.value is failure


# ---- HTTPS ----


def secure(**options: Any) -> Any:
    return {"host": "127.0.0.1", "proxy_ssl": client_context(), **options}


async def test_inside_tls() -> None:
    async with echoing() as port, ConnectProxy(ssl=server_context(), credentials=("user", "secret")) as proxy:
        url = proxy.url_as("https", "user:secret@")
        with await tunnel(url, **secure(port=port)) as sock:
            assert not sock.getblocking()
            assert await exchange(sock, b"hello") == b"hello"
        await proxy.until_ended()
        await quiet()
        error = await fails(proxy.url, **secure(port=port))
        assert isinstance(error, ProxyError)
        assert error.response.status_code == 407
        assert error.proxy == proxy.url


@pytest.mark.parametrize("size", [1, 16384, 65537, 5_000_000])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_much_both_ways_inside_tls(size: int, version: ssl.TLSVersion) -> None:
    context = server_context()
    context.maximum_version = version
    data = os.urandom(size)
    async with echoing() as port, ConnectProxy(ssl=context) as proxy:
        with await tunnel(proxy.url, **secure(port=port)) as sock:
            loop = asyncio.get_running_loop()
            sending = asyncio.create_task(loop.sock_sendall(sock, data))
            received, digest = 0, hashlib.sha256()
            while received < size:
                piece = await loop.sock_recv(sock, 65536)
                assert piece
                received += len(piece)
                digest.update(piece)
            await sending
            assert digest.digest() == hashlib.sha256(data).digest()
        await proxy.until_ended()
        await quiet()


async def test_backpressure_inside_tls() -> None:
    """Neither direction is read ahead of what is taken."""
    sent, taken = 0, asyncio.Event()

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OPENED)
        await reader.readexactly(1)
        while not taken.is_set():
            writer.write(bytes(65536))
            sent += 65536
            await writer.drain()
        writer.write(b"end")

    async with FakeProxy(flood, ssl=server_context()) as proxy:
        loop = asyncio.get_running_loop()
        with await tunnel(proxy.url, **secure()) as sock:
            await loop.sock_sendall(sock, b"x")
            before = -1
            while sent != before:
                before = sent
                await asyncio.sleep(0.05)
            assert 0 < sent < 64 << 20
            stuck = sent
            taken.set()
            received = 0
            while piece := await loop.sock_recv(sock, 65536):
                received += len(piece)
                last = piece
            assert last.endswith(b"end")
            assert received == sent + 3 >= stuck
        await quiet()


async def test_backpressure_upwards_inside_tls() -> None:
    got, go = 0, asyncio.Event()

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal got
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OPENED)
        await go.wait()
        while data := await reader.read(1 << 20):
            got += len(data)

    async with FakeProxy(slow, ssl=server_context()) as proxy:
        with await tunnel(proxy.url, **secure()) as sock:
            sent = idle = 0
            while idle < 50:
                try:
                    sent += sock.send(bytes(65536))
                    idle = 0
                except BlockingIOError:
                    idle += 1
                    await asyncio.sleep(0.002)
            assert 0 < sent < 64 << 20
            go.set()
            sock.shutdown(socket.SHUT_WR)
            assert await asyncio.get_running_loop().sock_recv(sock, 1) == b""
        assert got == sent
        await quiet()


@asynccontextmanager
async def secure_thread(serve: Callable[[ssl.SSLSocket], None], context: ssl.SSLContext) -> AsyncIterator[str]:
    """An HTTPS proxy for one client, in a thread, since asyncio's TLS has neither half-closed streams nor alerts."""

    def accept() -> None:
        sock, _ = listener.accept()
        with context.wrap_socket(
            sock, server_side=True, do_handshake_on_connect=False, suppress_ragged_eofs=False
        ) as secured:
            serve(secured)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = asyncio.create_task(asyncio.to_thread(accept), name="thread")
        yield f"https://127.0.0.1:{listener.getsockname()[1]}"
        await serving


def open_in_thread(sock: ssl.SSLSocket) -> None:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += sock.recv(1)
    sock.sendall(OPENED)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("waiting", [False, True])
async def test_end_of_this_side_passes_through_and_the_other_is_still_heard(
    version: ssl.TLSVersion, waiting: bool
) -> None:
    """Nothing is lost that comes after our end, even if there is much to be taken when we end."""
    data = os.urandom(5_000_000)
    heard: list[bytes] = []

    def serve(sock: ssl.SSLSocket) -> None:
        open_in_thread(sock)
        heard.append(sock.recv(1))
        if waiting:
            sock.sendall(data)
        heard.append(sock.recv(10))
        if not waiting:
            sock.sendall(data)

    context = server_context()
    context.maximum_version = version
    loop = asyncio.get_running_loop()
    async with secure_thread(serve, context) as url:
        with await tunnel(url, **secure()) as sock:
            await loop.sock_sendall(sock, b"x")
            while waiting and unread(sock) < 100_000:
                await asyncio.sleep(0.001)
            sock.shutdown(socket.SHUT_WR)
            received = bytearray()
            while piece := await loop.sock_recv(sock, 65536):
                received += piece
            assert bytes(received) == data
    assert heard == [b"x", b""]
    await quiet()


def unread(sock: socket.socket) -> int:
    try:
        return len(sock.recv(1 << 20, socket.MSG_PEEK))
    except BlockingIOError:
        return 0


async def test_end_of_the_proxy_is_the_end_of_the_socket() -> None:
    async with FakeProxy(answering(OPENED, stay=False), ssl=server_context()) as proxy:
        with await tunnel(proxy.url, **secure()) as sock:
            assert await asyncio.get_running_loop().sock_recv(sock, 1) == b""
        await quiet()


async def test_reset_by_the_proxy_is_the_end_of_the_socket() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await answering(OPENED, stay=False)(reader, writer)
        await reader.readexactly(1)
        reset(writer)

    async with FakeProxy(serve, ssl=server_context()) as proxy:
        loop = asyncio.get_running_loop()
        with await tunnel(proxy.url, **secure()) as sock:
            await loop.sock_sendall(sock, b"x")
            with contextlib.suppress(ConnectionResetError):
                assert await loop.sock_recv(sock, 1) == b""
            await quiet()
            with pytest.raises(OSError):  # noqa: PT011  # EPIPE, or what the platform has for it
                await loop.sock_sendall(sock, b"x")


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("how", ["close", "shutdown"])
async def test_silent_proxy_is_left_after_the_end(how: str) -> None:
    gone = threading.Event()

    def serve(sock: ssl.SSLSocket) -> None:
        open_in_thread(sock)
        gone.wait()

    async with secure_thread(serve, server_context()) as url:
        with await tunnel(url, **secure()) as sock:
            if how == "shutdown":
                sock.shutdown(socket.SHUT_WR)
                with contextlib.suppress(ConnectionResetError):
                    assert await asyncio.get_running_loop().sock_recv(sock, 1) == b""
        while any("TLS to a proxy" in task.get_name() for task in asyncio.all_tasks()):
            await asyncio.sleep(0.001)
        gone.set()


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("open_for", [0.0, 0.3])
async def test_proxy_that_takes_nothing_is_left_after_the_end(open_for: float) -> None:
    """Before, it has all the time it wants."""
    gone = threading.Event()

    def serve(sock: ssl.SSLSocket) -> None:
        open_in_thread(sock)
        gone.wait()

    async with secure_thread(serve, server_context()) as url:
        with await tunnel(url, **secure()) as sock:
            stuffed = 0
            while stuffed < 20:
                try:
                    sock.send(bytes(65536))
                except BlockingIOError:
                    stuffed += 1
                    await asyncio.sleep(0.002)
            await asyncio.sleep(open_for)
            assert any("TLS to a proxy" in task.get_name() for task in asyncio.all_tasks())
        while any("TLS to a proxy" in task.get_name() for task in asyncio.all_tasks()):
            await asyncio.sleep(0.001)
        gone.set()


async def test_last_words_arrive_though_nobody_hears_the_answer() -> None:
    """What was sent before the socket was closed reaches the proxy, even with much waiting to be read."""
    data = os.urandom(100_000)
    heard = bytearray()

    def serve(sock: ssl.SSLSocket) -> None:
        open_in_thread(sock)
        sock.recv(1)
        sock.settimeout(0.0)
        left = 10_000_000
        while left:  # more than fits in between, until nothing more is taken
            try:
                left -= sock.send(bytes(min(left, 65536)))
            except ssl.SSLWantWriteError:
                break
        assert left
        full.set()
        sock.settimeout(None)
        while piece := sock.recv(65536):
            heard.extend(piece)

    full = threading.Event()
    loop = asyncio.get_running_loop()
    async with secure_thread(serve, server_context()) as url:
        with await tunnel(url, **secure()) as sock:
            await loop.sock_sendall(sock, b"x")
            await asyncio.to_thread(full.wait)
            await loop.sock_sendall(sock, data)
    await quiet()
    assert bytes(heard) == data


async def test_patience_begins_anew_with_each_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pump, "_PATIENCE", 0.5)

    def serve(sock: ssl.SSLSocket) -> None:
        open_in_thread(sock)
        sock.recv(1)
        for _ in range(10):
            time.sleep(0.06)
            sock.sendall(b"x")

    async with secure_thread(serve, server_context()) as url:
        with await tunnel(url, **secure()) as sock:
            assert await exchange(sock, b"") == b"x" * 10
    await quiet()


async def test_cancelling_the_pump_ends_both_sides() -> None:
    async with FakeProxy(answering(OPENED), ssl=server_context()) as proxy:
        with await tunnel(proxy.url, **secure()) as sock:
            pumping = [task for task in asyncio.all_tasks() if task.get_name() == "taut: TLS to a proxy"]
            assert len(pumping) == 1
            pumping[0].cancel()
            assert await asyncio.get_running_loop().sock_recv(sock, 1) == b""
            await proxy.until_ended()
        await quiet()


def refuse_in_thread(sock: ssl.SSLSocket) -> None:
    with pytest.raises(ssl.SSLError, match="ALERT"):
        sock.do_handshake()


async def test_certificate_of_the_proxy_is_verified() -> None:
    async with secure_thread(refuse_in_thread, server_context()) as url:
        error = await fails(url)
    assert isinstance(error, CertificateError)
    assert f"the certificate of proxy {url} is not accepted" in str(error)
    assert isinstance(error.__cause__, ssl.SSLCertVerificationError)


async def test_name_of_the_proxy_is_verified() -> None:
    async def reach(host: str, port: int) -> socket.socket:
        assert host == "proxy.example"
        return await Reach()("127.0.0.1", port)

    async with secure_thread(refuse_in_thread, server_context()) as url:
        chain = parse_proxies(url.replace("127.0.0.1", "proxy.example"))
        with pytest.raises(CertificateError, match=r"proxy\.example"):
            await open_tunnel(chain, "a", 1, reach, ConnectOptions(proxy_ssl=client_context()))


async def test_proxy_without_tls() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with FakeProxy(serve) as proxy:
        error = await fails(proxy.url_as("https"), **secure())
    assert type(error) is TLSError
    assert "127.0.0.1" in str(error)
    assert isinstance(error.__cause__, ssl.SSLError)


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_proxy_leaves_during_the_tls_handshake(how: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100_000)
        if how == "reset":
            reset(writer)

    async with FakeProxy(serve) as proxy:
        error = await fails(proxy.url_as("https"), **secure())
    assert type(error) is TLSError
    assert "was lost during the TLS handshake" in str(error)
    assert isinstance(error.__cause__, ConnectionResetError)


async def test_tls_timeout() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with FakeProxy(serve) as proxy:
        error = await fails(proxy.url_as("https"), **secure(tls_timeout=0.05))
        assert type(error) is TLSError
        assert "took too long (tls_timeout)" in str(error)
        await proxy.until_ended()


async def test_cancelled_during_the_tls_handshake() -> None:
    begun, reach = asyncio.Event(), Reach()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        begun.set()
        await reader.read()

    async with FakeProxy(serve) as proxy:
        chain = parse_proxies(proxy.url_as("https"))
        opening = asyncio.create_task(open_tunnel(chain, "a", 1, reach, ConnectOptions(proxy_ssl=client_context())))
        await begun.wait()
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        assert reach.closed
        await proxy.until_ended()


async def test_cancelled_while_a_secure_proxy_answers() -> None:
    asked, reach = asyncio.Event(), Reach()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        asked.set()
        await reader.read()

    async with FakeProxy(serve, ssl=server_context()) as proxy:
        chain = parse_proxies(proxy.url)
        opening = asyncio.create_task(open_tunnel(chain, "a", 1, reach, ConnectOptions(proxy_ssl=client_context())))
        await asked.wait()
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        assert reach.closed
        assert not [task for task in asyncio.all_tasks() if "TLS to a proxy" in task.get_name()]
        await proxy.until_ended()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_proxy_wants_a_certificate(version: ssl.TLSVersion) -> None:
    """With TLS 1.3 the client learns of it only after its side of the handshake."""
    context = server_context()
    context.maximum_version = version
    context.verify_mode = ssl.CERT_REQUIRED

    def serve(sock: ssl.SSLSocket) -> None:
        with pytest.raises(ssl.SSLError, match="PEER_DID_NOT_RETURN_A_CERTIFICATE"):
            sock.do_handshake()

    async with secure_thread(serve, context) as url:
        error = await fails(url, **secure())
    assert type(error) is TLSError
    assert f"the TLS handshake with proxy {url} failed" in str(error)


async def test_garbage_inside_tls() -> None:
    async with FakeProxy(answering(b"nonsense\r\n"), ssl=server_context()) as proxy:
        error = await fails(proxy.url, **secure())
        assert isinstance(error, ProxyError)
        assert "malformed HTTP response" in error.problem


# ---- SOCKS ----


@pytest.mark.parametrize(
    ("scheme", "host", "request_"),
    [
        ("socks4", "127.0.0.1", ("4", "127.0.0.1")),
        ("socks4", "localhost", ("4", "127.0.0.1")),
        ("socks4a", "localhost", ("4a", "localhost")),
        ("socks4a", "127.0.0.1", ("4", "127.0.0.1")),
        ("socks5", "127.0.0.1", ("5", "127.0.0.1")),
        ("socks5", "localhost", ("5", "127.0.0.1")),
        ("socks5h", "localhost", ("5", "localhost")),
        ("socks", "localhost", ("5", "localhost")),
    ],
)
async def test_socks(scheme: str, host: str, request_: tuple[str, str]) -> None:
    async with echoing() as port, SocksProxy() as proxy:
        with await tunnel(proxy.url_as(scheme), host=host, port=port) as sock:
            assert not sock.getblocking()
            assert await exchange(sock, b"hello") == b"hello"
    assert proxy.requests == [(*request_, port, "")]


async def test_socks_credentials() -> None:
    async with echoing() as port, SocksProxy(credentials=("user", "secret")) as proxy:
        address = {"host": "127.0.0.1", "port": port}
        for scheme, credentials in (("socks5", "user:secret@"), ("socks5h", "user:secret@"), ("socks4", "user@")):
            with await tunnel(proxy.url_as(scheme, credentials), **address) as sock:
                assert await exchange(sock, b"hello") == b"hello"
        assert [request[3] for request in proxy.requests] == ["user"] * 3
        for scheme, credentials, problem in (
            ("socks5", "", "No acceptable authentication methods"),
            ("socks5h", "user:wrong@", "authentication failure"),
            ("socks4", "other@", "user-ids"),
        ):
            error = await fails(proxy.url_as(scheme, credentials), **address)
            assert isinstance(error, ProxyError)
            assert error.proxy == proxy.url_as(scheme)
            assert error.response is None
            assert problem in error.problem
            assert f"it gave no way to 127.0.0.1:{port}" in error.problem
            assert error.__cause__ is not None


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (b"", "Connection closed"),
        (b"\5", "Connection closed"),
        (b"HTTP/1.1 400", "version"),
        (b"\5\1", "Unexpected SOCKS authentication method"),
        (b"\5\0\5\5\0\1\0\0\0\0\0\0", "Connection refused"),
        (b"\5\0\5\2\0\1\0\0\0\0\0\0", "not allowed by ruleset"),
        (b"\5\0\5\x63\0\1\0\0\0\0\0\0", "Invalid reply code"),
        (b"\5\0\5\0\0\1\0\0", "Connection closed"),
        (b"\5\0\5\0\0\x09\0\0\0\0\0\0", "Invalid address type"),
        (b"\5\0\5\0\0\3\2\xff\xff\0\0", "its answer makes no sense"),
    ],
)
async def test_socks_refusals(answer: bytes, problem: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(3)
        writer.write(answer)
        if len(answer) > 2:
            await reader.read()

    async with FakeProxy(serve) as proxy:
        if answer == b"\5\0\5\0\0\1\0\0":
            proxy._serve = answering_socks(answer)
        error = await fails(proxy.url_as("socks5h"))
    assert isinstance(error, ProxyError)
    assert problem in error.problem
    assert error.__cause__ is not None


def answering_socks(answer: bytes) -> Script:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(3)
        writer.write(answer[:2])
        await reader.readexactly(5)
        writer.write(answer[2:])

    return serve


async def test_socks_proxy_stalls() -> None:
    reach, asked = Reach(), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(3)
        asked.set()
        await reader.read()

    async with FakeProxy(serve) as proxy:
        chain = parse_proxies(proxy.url_as("socks5h"))
        opening = asyncio.create_task(open_tunnel(chain, "a", 1, reach, ConnectOptions()))
        await asked.wait()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(opening, 0.05)
        assert reach.closed
        await proxy.until_ended()


async def test_socks_reset() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(3)
        reset(writer)

    async with FakeProxy(serve) as proxy:
        error = await fails(proxy.url_as("socks5h"))
    assert isinstance(error, ProxyError)
    assert isinstance(error.__cause__, ConnectionResetError)


async def test_socks4_knows_no_ipv6() -> None:
    async with SocksProxy() as proxy:
        error = await fails(proxy.url_as("socks4"), host="::1")
    assert isinstance(error, ProxyError)
    assert "no address of ::1" in error.problem
    assert isinstance(error.__cause__, OSError)
    assert proxy.requests == []


@pytest.mark.parametrize("scheme", ["socks4", "socks5"])
async def test_name_that_cannot_be_resolved_here(monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    async def getaddrinfo(*_: object, **__: object) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    async with SocksProxy() as proxy:
        patch(monkeypatch, getaddrinfo)
        error = await fails(proxy.url_as(scheme), host="nowhere.example")
    assert isinstance(error, ProxyError)
    assert "no address of nowhere.example was found here: " in error.problem
    assert isinstance(error.__cause__, socket.gaierror)


async def test_dns_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    async def getaddrinfo(*_: object, **__: object) -> Any:
        await asyncio.Event().wait()

    async with SocksProxy() as proxy:
        patch(monkeypatch, getaddrinfo)
        error = await fails(proxy.url_as("socks5"), host="slow.example", dns_timeout=0.05)
    assert isinstance(error, ProxyError)
    assert "dns_timeout" in error.problem


async def test_ipv4_is_preferred_for_a_proxy_that_takes_no_names(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    async def getaddrinfo(host: str, port: int, *, family: int, type: int) -> Any:  # noqa: A002
        asked.append((host, port, family))
        return [
            (socket.AF_INET6, type, 6, "", ("::1", port, 0, 0)),
            (socket.AF_INET, type, 6, "", ("127.0.0.1", port)),
        ]

    async with echoing() as port, SocksProxy() as proxy:
        patch(monkeypatch, getaddrinfo)
        (await tunnel(proxy.url_as("socks5"), host="a.example", port=port, family=socket.AF_UNSPEC)).close()
        await proxy.until_ended()
    assert asked == [("a.example", port, socket.AF_UNSPEC)]
    assert proxy.requests == [("5", "127.0.0.1", port, "")]


def patch(monkeypatch: pytest.MonkeyPatch, getaddrinfo: Any) -> None:
    """Names are resolved by this instead; uvloop's loops cannot be changed, so another one stands for them."""

    class Loop:
        def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
            self._loop = loop
            self.getaddrinfo = getaddrinfo

        def __getattr__(self, name: str) -> Any:
            return getattr(self._loop, name)

    loop = Loop(asyncio.get_running_loop())
    patched = SimpleNamespace(timeout=asyncio.timeout, get_running_loop=lambda: loop)
    monkeypatch.setattr("taut.client.dialling.tunnels.asyncio", patched)


async def test_missing_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "python_socks.async_.asyncio", None)
    reach = Reach()
    with pytest.raises(MissingExtra, match=r"pip install 'taut\[socks\]'"):
        await open_tunnel(parse_proxies(["http://a", "socks5://b"]), "c", 1, reach, ConnectOptions())
    assert reach.sockets == []
    async with echoing() as port, ConnectProxy() as proxy:
        (await tunnel(proxy.url, host="127.0.0.1", port=port)).close()
        await proxy.until_ended()


# ---- chains ----


KINDS = ("http", "https", "socks4", "socks4a", "socks5", "socks5h")


@pytest.fixture(params=["ws", "wss"])
def server_ssl(request: pytest.FixtureRequest) -> ssl.SSLContext | None:
    return server_context() if request.param == "wss" else None


@asynccontextmanager
async def proxies(*kinds: str) -> AsyncIterator[list[FakeProxy]]:
    async with contextlib.AsyncExitStack() as stack:
        found: list[FakeProxy] = []
        for kind in kinds:
            context = server_context() if kind == "https" else None
            proxy = SocksProxy(scheme=kind) if kind.startswith("socks") else ConnectProxy(ssl=context)
            found.append(await stack.enter_async_context(proxy))
        yield found


CHAINS = [
    *((kind,) for kind in KINDS),
    *((first, second) for first in ("http", "https", "socks5h") for second in ("http", "https", "socks4", "socks5")),
    ("https", "socks4a", "http", "https"),
    ("https", "https", "https"),
]


@pytest.mark.parametrize("chain", CHAINS, ids="-".join)
async def test_websocket_through_a_chain(chain: tuple[str, ...], server_ssl: ssl.SSLContext | None) -> None:
    async def handler(ws: taut.ServerConnection) -> None:
        async for message in ws:
            await ws.send(message)

    async with taut.serve(handler, "127.0.0.1", 0, ssl=server_ssl) as server, proxies(*chain) as on_the_way:
        port = server.sockets[0].getsockname()[1]
        uri = f"{'ws' if server_ssl is None else 'wss'}://127.0.0.1:{port}/"
        context = None if server_ssl is None else client_context()
        urls = [proxy.url for proxy in on_the_way]
        async with taut.connect(uri, proxy=urls, proxy_ssl=client_context(), ssl=context) as ws:
            for message in ("hello", b"x" * 300_000):
                await ws.send(message)
                assert await ws.recv() == message
        assert [proxy.accepted for proxy in on_the_way] == [1] * len(chain)
        for proxy in on_the_way:
            await proxy.until_ended()
        await quiet()


@pytest.mark.parametrize("first", ["http", "https", "socks5h"])
@pytest.mark.parametrize("second", ["http", "https", "socks5h"])
async def test_failure_names_the_proxy_that_failed(first: str, second: str) -> None:
    async def leave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)

    async with proxies(first) as (proxy,), FakeProxy(leave) as broken:
        error = await fails(proxy.url, broken.url_as(second), **secure())
        if second == "https":
            assert type(error) is TLSError
        else:
            assert isinstance(error, ProxyError)
            assert error.proxy == broken.url_as(second)
        assert broken.url_as(second) in str(error)
        assert error.__cause__ is not None
        await proxy.until_ended()


async def test_second_proxy_is_not_there() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        async with ConnectProxy() as proxy:
            error = await fails(proxy.url, f"http://127.0.0.1:{unused.getsockname()[1]}")
    assert isinstance(error, ProxyError)
    assert error.proxy == proxy.url
    assert error.response.status_code == 502


@pytest.mark.parametrize(
    "chain", [("http", "socks5h"), ("socks4", "http"), ("https", "http"), ("http", "https", "https")]
)
async def test_cancelled_at_every_step(chain: tuple[str, ...]) -> None:
    """Whenever that happens, nothing stays open; or the way is open already."""
    loop = asyncio.get_running_loop()
    async with echoing() as port, proxies(*chain) as on_the_way:
        parsed = parse_proxies([proxy.url for proxy in on_the_way])
        options = ConnectOptions(proxy_ssl=client_context())
        loop.set_exception_handler(lambda *_: None)  # of asyncio's servers, about a TLS handshake that was cut off
        opened = steps = 0
        while opened < 3:
            reach = Reach()
            opening = asyncio.create_task(open_tunnel(parsed, "127.0.0.1", port, reach, options))
            for _ in range(steps):
                await asyncio.sleep(0)
            opening.cancel()
            try:
                sock = await opening
            except asyncio.CancelledError:
                assert reach.closed
                assert not [task for task in asyncio.all_tasks() if "TLS to a proxy" in task.get_name()]
            else:
                opened += 1
                with sock:
                    await loop.sock_sendall(sock, b"hello")
                    assert await loop.sock_recv(sock, 5) == b"hello"
            steps += 1
        for proxy in on_the_way:
            await proxy.until_ended(proxy.accepted)
        await quiet()
