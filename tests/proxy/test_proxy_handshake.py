"""The opening handshake through a proxy: what the client asks for arrives, what the upstream answers comes back."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from network import Driver
from upstreams import echo, proxied, uri

import taut
import taut.proxy
from taut.proxy import HeaderRules, Route


async def ask(driver: Driver, server: taut.Server, target: str = "/", *headers: tuple[str, str]) -> str:
    """All that the proxy answers to a request, until it ends the connection."""
    async with driver.peer(server) as peer:
        return await peer.request(target, headers) + (await peer.read_to_end()).decode()


async def seen(ws: taut.ServerConnection) -> None:
    """Tell the client what request came here."""
    assert ws.request is not None
    await ws.send(ws.request.path)
    await ws.send("\n".join(f"{name}: {value}" for name, value in ws.request.headers.raw_items()))


async def request_seen(server: taut.Server, target: str = "/", **options: Any) -> tuple[str, taut.Headers]:
    """The request that the upstream got for one to the proxy: its target and its headers."""
    async with taut.connect(uri(server, target), **options) as ws:
        path, lines = await ws.recv(), await ws.recv()
        assert isinstance(path, str)
        assert isinstance(lines, str)
        return path, taut.Headers([tuple(line.split(": ", 1)) for line in lines.splitlines()])  # type: ignore[misc]


# -- the request -----------------------------------------------------------------------------------------------


async def test_the_target_and_end_to_end_headers_arrive() -> None:
    async with proxied(seen, upstream={"origins": ["*"]}) as (_, front):
        path, headers = await request_seen(
            front,
            "/a%20b/c?d=%2F&e",
            user_agent_header=None,
            origin="http://elsewhere.example",
            additional_headers=[
                ("Cookie", "a=b"),
                ("Authorization", "Bearer x"),
                ("Accept-Language", "de"),
                ("X-Twice", "1"),
                ("X-Twice", "2"),
            ],
        )
    assert path == "/a%20b/c?d=%2F&e"
    assert headers["Cookie"] == "a=b"
    assert headers["Authorization"] == "Bearer x"
    assert headers["Origin"] == "http://elsewhere.example"
    assert headers.get_all("X-Twice") == ["1", "2"]
    assert "User-Agent" not in headers
    assert headers["Via"] == "1.1 taut"


async def test_the_host_is_preserved_or_that_of_the_upstream_or_another() -> None:
    for host in ("preserve", "upstream", "app.internal:81"):
        async with proxied(seen, route={"host": host}) as (behind, front):
            _, headers = await request_seen(front)
            asked, upstream = (f"127.0.0.1:{server.port}" for server in (front, behind))
            assert headers["Host"] == {"preserve": asked, "upstream": upstream}.get(host, host)
            assert headers["X-Forwarded-Host"] == asked


async def test_hop_by_hop_headers_stay_behind(tcp: Driver) -> None:
    got: list[taut.Headers] = []

    def look(_: Any, request: taut.Request) -> None:
        got.append(request.headers)

    headers = [
        ("Keep-Alive", "timeout=5"),
        ("Proxy-Authorization", "Basic eDp5"),
        ("TE", "trailers"),
        ("X-Mine", "dropped: Connection names it"),
        ("X-Other", "kept"),
        ("Sec_WebSocket_Key", "not ours"),
    ]
    async with proxied(echo, upstream={"process_request": look}) as (_, front), tcp.peer(front) as peer:
        peer.write(
            b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade, X-Mine\r\n"
            b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Extensions: permessage-deflate; client_no_context_takeover\r\n"
            + "".join(f"{name}: {value}\r\n" for name, value in headers).encode()
            + b"\r\n"
        )
        assert (await peer.read_head()).startswith("HTTP/1.1 101 ")
    (request,) = got
    assert request["X-Other"] == "kept"
    assert request["Connection"] == "Upgrade"
    assert request["Sec-WebSocket-Key"] != "AAAAAAAAAAAAAAAAAAAAAA=="
    assert "client_no_context_takeover" not in request["Sec-WebSocket-Extensions"]
    for name in ("Keep-Alive", "Proxy-Authorization", "TE", "X-Mine", "Sec_WebSocket_Key"):
        assert name not in request


async def test_header_rules_of_a_request() -> None:
    rules = HeaderRules(set={"X-A": "new"}, add=[("X-B", "1"), ("X-B", "2")], remove=["Cookie", "X-Not-There"])
    async with proxied(seen, route={"request_headers": rules}) as (_, front):
        _, headers = await request_seen(front, additional_headers={"X-A": "old", "Cookie": "a=b", "X-B": "0"})
    assert headers.get_all("X-A") == ["new"]
    assert headers.get_all("X-B") == ["0", "1", "2"]
    assert "Cookie" not in headers


async def test_credentials_of_the_upstream_take_the_place_of_the_clients() -> None:
    async with (
        taut.serve(seen, "127.0.0.1", 0) as behind,
        taut.proxy.serve(f"ws://me:secret@127.0.0.1:{behind.port}", "127.0.0.1", 0) as front,
    ):
        _, headers = await request_seen(front, bearer_token="mine")
    assert headers.get_all("Authorization") == ["Basic bWU6c2VjcmV0"]


# -- who the client is -----------------------------------------------------------------------------------------

SPOOFED = [
    ("X-Forwarded-For", "6.6.6.6"),
    ("X_Forwarded_For", "6.6.6.6"),
    ("X-Forwarded-Proto", "https"),
    ("X-Forwarded-Host", "evil.example"),
    ("X-Forwarded-Port", "1"),
    ("X-Real-IP", "6.6.6.6"),
    ("Forwarded", "for=6.6.6.6"),
]


async def test_what_anybody_says_of_themselves_is_dropped() -> None:
    async with proxied(seen) as (_, front):
        _, headers = await request_seen(front, additional_headers=SPOOFED)
        assert headers.get_all("X-Forwarded-For") == ["127.0.0.1"]
        assert headers.get_all("X-Forwarded-Proto") == ["http"]
        assert headers.get_all("X-Forwarded-Host") == [f"127.0.0.1:{front.port}"]
    for name in ("X_Forwarded_For", "X-Forwarded-Port", "X-Real-IP", "Forwarded"):
        assert name not in headers


async def test_a_trusted_proxy_is_added_to_what_it_says() -> None:
    said = {"X-Forwarded-For": "192.0.2.7", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "example.com"}
    async with proxied(seen, trusted_proxies=["127.0.0.1"]) as (_, front):
        _, headers = await request_seen(front, additional_headers=said | {"X-Real-IP": "192.0.2.7"})
    assert headers["X-Forwarded-For"] == "192.0.2.7, 127.0.0.1"
    assert headers["X-Forwarded-Proto"] == "https"
    assert headers["X-Forwarded-Host"] == "example.com"
    assert headers["X-Real-IP"] == "192.0.2.7"


async def test_forwarded_is_written_and_read_by_the_upstream() -> None:
    addresses: list[Any] = []

    async def remember(ws: taut.ServerConnection) -> None:
        addresses.append(ws.remote_address)
        await seen(ws)

    trusting = {"trusted_proxies": ["127.0.0.1"]}
    said = {"Forwarded": 'for="[2001:db8::1]:47011";proto=https;host=example.com'}
    async with proxied(remember, upstream=trusting, proxy={"forwards": "both"}, **trusting) as (_, front):
        _, headers = await request_seen(front, additional_headers=said)
        assert headers["Forwarded"] == (
            f'for="[2001:db8::1]:47011";proto=https;host=example.com, '
            f'for=127.0.0.1;proto=http;host="127.0.0.1:{front.port}"'
        )
        assert headers["X-Forwarded-For"] == "2001:db8::1, 127.0.0.1"
    async with proxied(remember, upstream=trusting, proxy={"forwards": "x-forwarded"}, **trusting) as (_, front):
        _, headers = await request_seen(front, additional_headers=said)
        assert "Forwarded" not in headers
    assert [address[0] for address in addresses] == ["2001:db8::1", "2001:db8::1"]


async def test_nothing_is_said_of_the_client_if_so_wished() -> None:
    async with proxied(seen, proxy={"forwards": None}) as (_, front):
        _, headers = await request_seen(front, additional_headers=SPOOFED)
    assert not [name for name in headers if "forwarded" in name.lower()]


# -- what the upstream decides ---------------------------------------------------------------------------------


async def test_the_upstream_chooses_the_subprotocol() -> None:
    async with proxied(seen, upstream={"subprotocols": ["b", "a"]}) as (_, front):
        for offered, chosen in ((["a", "b"], "b"), (["c"], None), (None, None)):
            async with taut.connect(uri(front), subprotocols=offered) as ws:
                assert ws.subprotocol == chosen


async def test_headers_of_the_answer_come_back() -> None:
    def answer(_: Any, __: Any, response: taut.Response) -> None:
        response.headers.add("Set-Cookie", "a=1")
        response.headers.add("Set-Cookie", "b=2")
        response.headers.add("X-Secret", "internal")

    rules = HeaderRules(set={"X-Proxy": "yes"}, remove=["X-Secret"])
    route = {"response_headers": rules}
    async with (
        proxied(upstream={"process_response": answer}, route=route) as (_, front),
        taut.connect(uri(front)) as ws,
    ):
        assert ws.response is not None
        headers = ws.response.headers
    assert headers.get_all("Set-Cookie") == ["a=1", "b=2"]
    assert headers["X-Proxy"] == "yes"
    assert "X-Secret" not in headers
    assert len(headers.get_all("Server")) == len(headers.get_all("Connection")) == 1


@pytest.mark.parametrize("status", [401, 403, 404, 302, 500])
async def test_a_refusal_is_passed_on(tcp: Driver, status: int) -> None:
    def refuse(ws: taut.ServerConnection, _: Any) -> taut.Response:
        response = ws.respond(status, "no: ä")
        response.headers.add("WWW-Authenticate", 'Basic realm="x"')
        response.headers.add("Location", "/elsewhere")
        response.headers.add("Proxy-Authenticate", "Basic")
        return response

    async with proxied(upstream={"process_request": refuse}) as (_, front):
        answer = await ask(tcp, front)
        (stats,) = front.proxy.stats
    head, _, body = answer.partition("\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status} ")
    assert body == "no: ä"
    assert 'WWW-Authenticate: Basic realm="x"' in head
    assert "Location: /elsewhere" in head
    assert "Proxy-Authenticate" not in head
    assert head.count("Connection: close") == head.count("Content-Length: 6") == 1
    assert (stats.refused, stats.failed, stats.connections) == (1, 0, 0)


@pytest.mark.parametrize("status", [407, 426])
async def test_what_is_between_proxy_and_upstream_is_a_bad_gateway(tcp: Driver, status: int) -> None:
    async with proxied(upstream={"process_request": lambda ws, _: ws.respond(status, "")}) as (_, front):
        assert (await ask(tcp, front)).startswith("HTTP/1.1 502 ")


async def test_the_origin_is_for_the_upstream_to_judge(tcp: Driver) -> None:
    foreign = ("Origin", "http://elsewhere.example")
    async with proxied() as (_, front):
        assert (await ask(tcp, front, "/", foreign)).startswith("HTTP/1.1 403 ")
        async with taut.connect(uri(front), origin=f"http://127.0.0.1:{front.port}") as ws:
            await ws.send("same origin")
            assert await ws.recv() == "same origin"


async def test_the_proxy_may_judge_the_origin_itself(tcp: Driver) -> None:
    async with proxied(upstream={"origins": ["*"]}, origins=None) as (behind, front):
        assert (await ask(tcp, front, "/", ("Origin", "http://elsewhere.example"))).startswith("HTTP/1.1 403 ")
        assert behind.stats.accepted == 0


async def test_an_own_hook_comes_first(tcp: Driver) -> None:
    async def only_ada(ws: taut.ServerConnection, request: taut.Request) -> taut.Response | None:
        return None if request.headers.get("X-Who") == "ada" else ws.respond(401, "")

    async with proxied(process_request=only_ada) as (behind, front):
        assert (await ask(tcp, front)).startswith("HTTP/1.1 401 ")
        assert behind.stats.accepted == 0
        async with taut.connect(uri(front), additional_headers={"X-Who": "ada"}):
            assert behind.stats.accepted == 1


@pytest.mark.parametrize(
    ("request_line", "status"), [("GET / HTTP/1.1\r\nHost: x", 426), ("POST / HTTP/1.1\r\nHost: x", 405)]
)
async def test_what_is_no_handshake_goes_nowhere(tcp: Driver, request_line: str, status: int) -> None:
    async with proxied() as (behind, front), tcp.peer(front) as peer:
        peer.write(f"{request_line}\r\n\r\n".encode())
        assert (await peer.read_head()).startswith(f"HTTP/1.1 {status} ")
        assert (behind.stats.accepted, behind.handshakes, dict(behind.stats.refused)) == (0, 0, {})


# -- no upstream -----------------------------------------------------------------------------------------------


async def test_an_upstream_that_cannot_be_reached_is_502(tcp: Driver, unused_port: int) -> None:
    async with taut.proxy.serve(f"ws://127.0.0.1:{unused_port}", "127.0.0.1", 0) as front:
        for _ in range(2):  # the only one is never left alone
            assert (await ask(tcp, front)).startswith("HTTP/1.1 502 ")
        (stats,) = front.proxy.stats
    assert (stats.failed, stats.opened, stats.available) == (2, 0, True)
    assert stats.problem is not None


@pytest.mark.parametrize("answer", [b"SSH-2.0-x\r\n", b"HTTP/1.1 101 Hm\r\nUpgrade: websocket\r\n\r\n", b""])
async def test_an_upstream_that_speaks_something_else_is_502(tcp: Driver, answer: bytes) -> None:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(speak, "127.0.0.1", 0) as behind:
        port = behind.sockets[0].getsockname()[1]
        async with taut.proxy.serve(f"ws://127.0.0.1:{port}", "127.0.0.1", 0) as front:
            assert (await ask(tcp, front)).startswith("HTTP/1.1 502 ")


async def test_an_upstream_that_says_nothing_is_504(tcp: Driver) -> None:
    async with tcp.raw_serve() as raw:
        proxy = taut.proxy.Proxy(f"ws://127.0.0.1:{raw.address}", dial_timeout=0.05)
        async with taut.proxy.serve(proxy, "127.0.0.1", 0) as front:
            assert (await ask(tcp, front)).startswith("HTTP/1.1 504 ")
            peer = await raw.accept()
            await peer.read_to_end()


async def test_a_client_that_leaves_while_the_upstream_thinks_leaves_nothing_behind(tcp: Driver) -> None:
    async with tcp.raw_serve() as raw, taut.proxy.serve(f"ws://127.0.0.1:{raw.address}", "127.0.0.1", 0) as front:
        async with tcp.peer(front) as client:
            client.write(b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n")
            client.write(b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n")
            upstream = await raw.accept()
            await upstream.read_head()
        await upstream.read_to_end()
        (stats,) = front.proxy.stats
    assert (stats.connections, stats.opened) == (0, 0)


async def test_a_connection_that_is_refused_in_the_end_leaves_nothing_behind(tcp: Driver) -> None:
    """The upstream has accepted, and then the client cannot be: here because the server is closing."""

    async def closing(ws: taut.ServerConnection, request: taut.Request) -> taut.Response | None:
        answer = await taut.proxy.Proxy.process_request(front.proxy, ws, request)
        assert (answer, front.proxy.stats[0].connections) == (None, 1)
        ws.server.close()
        return answer

    async with taut.serve(echo, "127.0.0.1", 0) as behind:
        front = await taut.proxy.serve(uri(behind), "127.0.0.1", 0)
        front.process_request = closing
        assert (await ask(tcp, front)).startswith("HTTP/1.1 503 ")
        await front.wait_closed()
        assert front.proxy.stats[0].connections == 0
        for ws in behind.connections:
            await ws.wait_closed()


# -- routes ----------------------------------------------------------------------------------------------------


async def test_the_longest_path_counts(tcp: Driver) -> None:
    async with taut.serve(seen, "127.0.0.1", 0) as behind:
        routes = [
            Route(uri(behind, "/one")),
            Route(uri(behind, "/two"), "/chat"),
            Route(uri(behind, "/three/"), "/chat/old", strip_prefix=True),
            Route(uri(behind), "/feed", strip_prefix=True, rewrite=(r"^/v(\d+)", r"/version-\1")),
        ]
        async with taut.proxy.serve(routes, "127.0.0.1", 0) as front:
            for target, expected in {
                "/": "/one/",
                "/chatty?x": "/one/chatty?x",
                "/chat": "/two/chat",
                "/chat/a?b=/chat/old": "/two/chat/a?b=/chat/old",
                "/chat/old": "/three/",
                "/chat/old/a/b?c": "/three/a/b?c",
                "/feed/v2/x?v3": "/version-2/x?v3",
            }.items():
                assert (await request_seen(front, target))[0] == expected
            for climbing in ("/chat/../feed", "/chat/%2e%2E/feed", "/feed/..%2fx", "/feed/..%5cx", "/./x"):
                assert (await ask(tcp, front, climbing)).startswith("HTTP/1.1 404 ")


async def test_a_path_without_a_route_is_404(tcp: Driver) -> None:
    async with (
        taut.serve(seen, "127.0.0.1", 0) as behind,
        taut.proxy.serve(Route(uri(behind), "/a"), "127.0.0.1", 0) as front,
    ):
        assert (await ask(tcp, front, "/b")).startswith("HTTP/1.1 404 ")


async def test_a_proxy_fits_into_a_router(tcp: Driver) -> None:
    async with taut.serve(seen, "127.0.0.1", 0, subprotocols=["s"]) as behind:
        proxy = taut.proxy.Proxy(Route(uri(behind), "/app", strip_prefix=True))
        router = taut.Router()
        router.add("/echo", echo)
        router.add("/app/{rest:path}", proxy.handler, **proxy.terms)
        async with proxy, taut.serve(router, "127.0.0.1", 0) as front:
            async with taut.connect(uri(front, "/echo")) as ws:
                await ws.send("here")
                assert await ws.recv() == "here"
            foreign = {"origin": "http://elsewhere.example"}
            async with taut.connect(uri(front, "/app/a?b"), subprotocols=["r", "s"]) as ws:
                assert ws.subprotocol == "s"
                assert await ws.recv() == "/a?b"
            with pytest.raises(taut.InvalidStatus):  # the upstream's answer: the router did not judge it
                await taut.connect(uri(front, "/app/a"), **foreign)  # type: ignore[arg-type]
            assert behind.stats.refused == {403: 1}


async def test_a_handler_without_the_hooks_says_so(caplog: pytest.LogCaptureFixture) -> None:
    proxy = taut.proxy.Proxy("ws://127.0.0.1:1")
    async with taut.serve(proxy.handler, "127.0.0.1", 0) as front, taut.connect(uri(front)) as ws:
        await ws.wait_closed()
        assert ws.close_code == 1011
    assert "the hooks of the proxy have to be those of the server" in caplog.text


async def test_one_line_is_logged_for_a_connection(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "taut.proxy")
    async with proxied() as (behind, front):
        async with taut.connect(uri(front, "/a?token=secret")) as ws:
            await ws.send("12345")
            await ws.recv()
        front.close()
        await front.wait_closed()
        upstream = uri(behind, "/")
        (stats,) = front.proxy.stats
    (line,) = [record.getMessage() for record in caplog.records if record.name == "taut.proxy"]
    assert line.startswith(f"/a to {upstream}: client closed by the peer: 1000")
    assert "1 messages and" in line
    assert "secret" not in line
    assert (stats.messages_up, stats.messages_down, stats.opened, stats.connections) == (1, 1, 1, 0)
    assert stats.bytes_up > 5
    assert stats.bytes_down > 5
