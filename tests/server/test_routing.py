"""``Router``: which handler serves which request, on which terms, and what everything else is answered."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import pytest
from network import Driver

import taut
from taut.server.handshake import plain_response

KEY = "dGhlIHNhbXBsZSBub25jZQ=="


def request(path: str, *, host: str = "localhost", upgrade: bool = True, method: str = "GET") -> taut.Request:
    headers = taut.Headers([("Host", host)])
    if upgrade:
        headers.add("Upgrade", "websocket")
    return taut.Request(path, headers, method)


async def nobody(ws: taut.ServerConnection, **parameters: Any) -> None:
    raise AssertionError("never called")


def found(router: taut.Router, path: str, **how: Any) -> tuple[str | None, dict[str, Any]]:
    match = router.find(request(path, **how))
    assert not isinstance(match, taut.Response), match
    return match.route.name, dict(match.parameters)


# -- looking up --------------------------------------------------------------------------------------------------------

NUMBER = "12345678-1234-5678-1234-567812345678"

FITS: list[tuple[str, str, dict[str, Any]]] = [
    ("/", "/", {}),
    ("/", "/?query=1", {}),
    ("/chat", "/chat", {}),
    ("/chat/{room}", "/chat/kitchen", {"room": "kitchen"}),
    ("/chat/{room}", "/chat/a%20b%2Fc%C3%A9", {"room": "a b/cé"}),
    ("/chat/{room}/{name}", "/chat/x/y?z", {"room": "x", "name": "y"}),
    ("/items/{n:int}", "/items/007", {"n": 7}),
    ("/items/{n:float}", "/items/1.5", {"n": 1.5}),
    ("/items/{n:uuid}", f"/items/{NUMBER}", {"n": uuid.UUID(NUMBER)}),
    ("/files/{name:path}", "/files/a/b.txt", {"name": "a/b.txt"}),
    ("/a.b", "/a.b", {}),
    ("/v{n:int}-{part}", "/v2-x", {"n": 2, "part": "x"}),
]
DIFFERS: list[tuple[str, str]] = [
    ("/", "/x"),
    ("/chat", "/chat/"),
    ("/chat", "/Chat"),
    ("/chat/{room}", "/chat/"),
    ("/chat/{room}", "/chat/a/b"),
    ("/chat/{room}", "/chat/%FF"),
    ("/items/{n:int}", "/items/-1"),
    ("/items/{n:int}", "/items/x"),
    ("/items/{n:int}", "/items/" + "9" * 400),
    ("/items/{n:uuid}", "/items/123"),
    ("/a.b", "/axb"),
]


@pytest.mark.parametrize(("pattern", "path", "parameters"), FITS)
def test_a_path_fits(pattern: str, path: str, parameters: dict[str, Any]) -> None:
    router = taut.Router()
    router.add(pattern, nobody, name="it")
    assert found(router, path) == ("it", parameters)


@pytest.mark.parametrize(("pattern", "path"), DIFFERS)
def test_a_path_does_not_fit(pattern: str, path: str) -> None:
    router = taut.Router()
    router.add(pattern, nobody)
    answer = router.find(request(path))
    assert isinstance(answer, taut.Response)
    assert answer.status_code == 404


def test_the_first_route_that_fits_serves() -> None:
    router = taut.Router()
    router.add("/users/me", nobody, name="me")
    router.add("/users/{name}", nobody, name="any")
    router.add("/users/{number:int}", nobody, name="never")
    assert found(router, "/users/me")[0] == "me"
    assert found(router, "/users/7") == ("any", {"name": "7"})


def test_hosts() -> None:
    router = taut.Router()
    tenants = taut.Router(host="{tenant}.example.com")
    tenants.add("/{room}", nobody, name="tenant")
    router.mount("", tenants)
    router.add("/{room}", nobody, name="else")
    assert found(router, "/x", host="acme.Example.com:8443") == ("tenant", {"tenant": "acme", "room": "x"})
    assert found(router, "/x", host="acme.example.com:")[0] == "tenant"
    for host in ("[::1]", "", "example.com", "a.b.example.com", "acme.example.com.evil.test", "[::1]:80"):
        assert found(router, "/x", host=host) == ("else", {"room": "x"})


def test_mounted_routers() -> None:
    inner = taut.Router(max_size=10, subprotocols=["inner"])
    inner.add("/{name}", nobody, name="own", max_size=20)
    inner.add("/plain/x", nobody, name="inherits")
    outer = taut.Router(origins=["https://example.com"], max_size=5, ping_interval=7)
    outer.mount("/api/{version:int}", inner)
    outer.add("/", nobody, name="outer")
    assert found(outer, "/api/2/x") == ("own", {"version": 2, "name": "x"})
    terms = {route.name: route.terms for route in outer.routes}
    assert terms["own"].options == {"max_size": 20, "ping_interval": 7}
    assert terms["inherits"].options == {"max_size": 10, "ping_interval": 7}
    assert terms["own"].own == {"subprotocols": ("inner",), "origins": ("https://example.com",)}
    assert terms["outer"].options == {"max_size": 5, "ping_interval": 7}


def test_plain_http_and_websocket_keep_apart() -> None:
    def answer(ws: object, request: taut.Request) -> str:
        return "x"

    router = taut.Router()
    router.add("/both", nobody, name="ws")
    router.add_http("/both", answer, name="http")
    router.add_http("/health", answer, name="health", methods=["get"])
    assert found(router, "/both")[0] == "ws"
    assert found(router, "/both", upgrade=False)[0] == "http"
    assert found(router, "/both", upgrade=False, method="HEAD")[0] == "http"
    for path, allow in (("/both", "GET, HEAD"), ("/health", "GET")):
        refused = router.find(request(path, upgrade=False, method="POST"))
        assert isinstance(refused, taut.Response)
        assert (refused.status_code, refused.headers["Allow"]) == (405, allow)
    other = taut.Request("/health", taut.Headers([("Host", "x"), ("Connection", "Upgrade"), ("Upgrade", "h2c")]))
    assert not isinstance(router.find(other), taut.Response)
    missing = router.find(request("/health"))
    assert isinstance(missing, taut.Response)
    assert missing.status_code == 404


WRONG: list[tuple[Any, type[Exception], str]] = [
    (lambda r: r.add("chat", nobody), ValueError, "path must begin with /, not 'chat'"),
    (lambda r: r.add("/{a}/{a}", nobody), ValueError, "path='/{a}/{a}': {a} is there twice"),
    (lambda r: r.add("/{a:number}", nobody), ValueError, "'number' is not one of str, int, float, uuid, path"),
    (lambda r: r.add("/{a", nobody), ValueError, "a parameter is written {name}"),
    (lambda r: r.add("/{}", nobody), ValueError, "a parameter is written {name}"),
    (lambda r: r.add("/", None), TypeError, "handler must be a coroutine function"),
    (lambda r: r.add("/", nobody, nonsense=1), TypeError, "unexpected option nonsense; known are cancel_on_close"),
    (lambda r: r.add("/", nobody, max_size=0), ValueError, "max_size must be"),
    (lambda r: r.add("/", nobody, subprotocols=["a b"]), ValueError, "subprotocols must be HTTP tokens"),
    (lambda r: r.add("/", nobody, process_request=1), TypeError, "process_request must be callable or None"),
    (lambda r: r.add_http("/", 1), TypeError, "answer must be a function"),
    (lambda r: r.add_http("/", print, methods="GET"), TypeError, "methods must be a sequence of names"),
    (lambda r: r.mount("/x", r), ValueError, "cannot be mounted in itself"),
    (lambda r: r.mount("/x", 3), TypeError, "router must be a Router, not 3"),
    (lambda r: r.mount("x/", taut.Router()), ValueError, "prefix must be empty, or begin with /"),
    (lambda r: taut.Router(host="{a:none}.x"), ValueError, "host="),
    (lambda r: taut.Router(port=1), TypeError, "unexpected option port"),
]


@pytest.mark.parametrize(("call", "kind", "text"), WRONG)
def test_what_is_wrong_is_named(call: Any, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind) as caught:
        call(taut.Router())
    assert text in str(caught.value)


# -- serving -----------------------------------------------------------------------------------------------------------


async def http(tcp: Driver, server: taut.Server, *lines: str) -> tuple[str, str]:
    """One plain HTTP request: the head and the body of the answer."""
    async with tcp.peer(server) as peer:
        peer.write(("\r\n".join([*lines, "Host: localhost"]) + "\r\n\r\n").encode())
        head, _, body = (await peer.read_to_end()).decode().partition("\r\n\r\n")
        return head, body


async def test_handlers_get_their_parameters(tcp: Driver) -> None:
    router = taut.Router()

    @router.route("/add/{a:int}/{b:int}")
    async def add(ws: taut.ServerConnection, a: int, b: int) -> None:
        await ws.send(f"{a + b} {dict(ws.path_parameters)}")

    @router.route("/listen/{name}")
    class Hello(taut.Listener):
        def on_open(self, ws: taut.Connection) -> None:
            ws.send_nowait(f"hello {ws.path_parameters['name']}")

    async with tcp.serve(router) as server:
        async with tcp.connect(server, "/add/2/3") as ws:
            assert await ws.recv() == "5 {'a': 2, 'b': 3}"
        async with tcp.connect(server, "/listen/you") as ws:
            assert await ws.recv() == "hello you"


async def test_every_route_has_its_terms(tcp: Driver) -> None:
    seen: list[tuple[int | None, str | None, bool]] = []

    async def look(ws: taut.ServerConnection) -> None:
        seen.append((ws.options.max_size, ws.subprotocol, ws.session.deflate is not None))
        async for message in ws:
            await ws.send(message)

    router = taut.Router(max_size=100)
    router.add("/default", look)
    router.add("/small", look, max_size=10, subprotocols=["tiny"], compression=None)
    async with tcp.serve(router, max_size=1000, ping_interval=None) as server:
        for path in ("/default", "/small"):
            async with tcp.connect(server, path, subprotocols=["tiny"]) as ws:
                await ws.send("x" * 10)
                assert await ws.recv() == "x" * 10
                await ws.send("x" * 11)
                if path == "/small":
                    with pytest.raises(taut.ConnectionClosedError) as caught:
                        await ws.recv()
                    assert caught.value.code == 1009
                else:
                    assert await ws.recv() == "x" * 11
    assert seen == [(100, None, True), (10, "tiny", False)]


async def test_origins_of_a_route(tcp: Driver) -> None:
    async def hello(ws: taut.ServerConnection) -> None:
        await ws.send("hello")

    router = taut.Router()
    router.add("/same", hello)
    router.add("/any", hello, origins=["*"])
    async with tcp.serve(router) as server:
        async with tcp.connect(server, "/any", origin="https://evil.test") as ws:
            assert await ws.recv() == "hello"
        with pytest.raises(taut.InvalidStatus) as caught:
            await tcp.connect(server, "/same", origin="https://evil.test")
        assert caught.value.response.status_code == 403


async def test_hooks_of_the_server_and_of_a_route(tcp: Driver) -> None:
    order: list[str] = []

    def outer(ws: taut.ServerConnection, request: taut.Request) -> taut.Response | None:
        order.append("server")
        return None

    async def inner(ws: taut.ServerConnection, request: taut.Request) -> taut.Response | None:
        order.append(f"route {ws.path_parameters['name']}")
        return ws.respond(401, "who?\n") if ws.path_parameters["name"] == "eve" else None

    async def hello(ws: taut.ServerConnection, name: str) -> None:
        await ws.send(f"hello {name}")

    router = taut.Router()
    router.add("/{name}", hello, process_request=inner)
    async with tcp.serve(router, process_request=outer) as server:
        async with tcp.connect(server, "/ann") as ws:
            assert await ws.recv() == "hello ann"
        with pytest.raises(taut.InvalidStatus) as caught:
            await tcp.connect(server, "/eve")
        assert caught.value.response.status_code == 401
    assert order == ["server", "route ann", "server", "route eve"]


async def test_plain_http(tcp: Driver) -> None:
    router = taut.Router()

    @router.http("/healthz")
    def healthz(ws: taut.ServerConnection, request: taut.Request) -> str:
        return "fine\n"

    @router.http("/busy/{seconds:int}")
    async def busy(ws: taut.ServerConnection, request: taut.Request, seconds: int) -> taut.Response:
        await asyncio.sleep(0)
        response = plain_response(503, "busy\n")
        response.headers.add("Retry-After", str(seconds))
        return response

    @router.http("/broken")
    def broken(ws: taut.ServerConnection, request: taut.Request) -> str:
        raise LookupError("secret")

    router.add("/ws", nobody)
    async with tcp.serve(router) as server:
        head, body = await http(tcp, server, "GET /healthz HTTP/1.1")
        assert head.startswith("HTTP/1.1 200 OK\r\n")
        assert "Content-Length: 5" in head
        assert body == "fine\n"
        head, body = await http(tcp, server, "HEAD /healthz HTTP/1.1")
        assert head.startswith("HTTP/1.1 200 OK\r\n")
        assert "Content-Length: 5" in head
        assert body == ""
        head, body = await http(tcp, server, "GET /busy/7 HTTP/1.1")
        assert head.startswith("HTTP/1.1 503 Service Unavailable\r\n")
        assert "Retry-After: 7" in head
        head, body = await http(tcp, server, "GET /broken HTTP/1.1")
        assert head.startswith("HTTP/1.1 500 ")
        assert "secret" not in body
        head, body = await http(tcp, server, "GET /ws HTTP/1.1")
        assert head.startswith("HTTP/1.1 426 ")
        head, body = await http(tcp, server, "GET /nothing HTTP/1.1")
        assert head.startswith("HTTP/1.1 404 ")
        head, body = await http(tcp, server, "DELETE /healthz HTTP/1.1")
        assert head.startswith("HTTP/1.1 405 ")
        assert "Allow: GET, HEAD" in head


async def test_a_response_is_completed(tcp: Driver) -> None:
    """What HTTP needs, and a route left out, is added; what it said stands."""
    router = taut.Router()

    @router.http("/json")
    def json(ws: taut.ServerConnection, request: taut.Request) -> taut.Response:
        return taut.Response(200, "OK", taut.Headers([("Content-Type", "application/json")]), b"{}")

    @router.http("/nothing")
    def nothing(ws: taut.ServerConnection, request: taut.Request) -> Any:
        return None

    async with tcp.serve(router) as server:
        head, body = await http(tcp, server, "GET /json HTTP/1.1")
        assert "Content-Type: application/json\r\nContent-Length: 2\r\nConnection: close" in head
        assert body == "{}"
        assert (await http(tcp, server, "GET /nothing HTTP/1.1"))[0].startswith("HTTP/1.1 500 ")


async def test_hooks_of_the_server_see_plain_http_and_what_no_route_is_for(tcp: Driver) -> None:
    def ask(ws: taut.ServerConnection, request: taut.Request) -> taut.Response | None:
        return ws.respond(401, "who?\n") if "secret" in request.path else None

    def mark(ws: taut.ServerConnection, request: taut.Request, response: taut.Response) -> None:
        response.headers.add("X-Seen", str(response.status_code))

    router = taut.Router()
    router.add_http("/secret", lambda ws, request: "secret")
    router.add_http("/open", lambda ws, request: "open")
    async with tcp.serve(router, process_request=ask, process_response=mark) as server:
        for path, status in (("/secret", 401), ("/open", 200), ("/nothing", 404)):
            head, _ = await http(tcp, server, f"GET {path} HTTP/1.1")
            assert head.startswith(f"HTTP/1.1 {status} ")
            assert f"X-Seen: {status}" in head


async def test_the_host_that_a_trusted_proxy_names(tcp: Driver) -> None:
    router = taut.Router(host="{tenant}.example.com")
    router.add_http("/", lambda ws, request, tenant: tenant)
    async with tcp.serve(router, trusted_proxies=["127.0.0.1", "unix"]) as server:
        head, body = await http(tcp, server, "GET / HTTP/1.1", "X-Forwarded-Host: acme.example.com:443")
        assert (head.split("\r\n")[0], body) == ("HTTP/1.1 200 OK", "acme")
        assert (await http(tcp, server, "GET / HTTP/1.1"))[0].startswith("HTTP/1.1 404 ")


def test_handlers_that_do_not_take_their_parameters_are_refused() -> None:
    async def plain(ws: taut.ServerConnection) -> None: ...
    async def greedy(ws: taut.ServerConnection, room: str, more: int) -> None: ...
    def answer(ws: taut.ServerConnection, request: taut.Request) -> str:
        return ""

    for serves in (plain, greedy):
        router = taut.Router()
        router.add("/{room}", serves)
        with pytest.raises(TypeError, match=r"what serves '/\{room\}' cannot be called with \(ws, room\): "):
            taut.serve(router)
    inner, outer = taut.Router(), taut.Router()
    inner.add_http("/", answer)
    outer.mount("/{version}", inner)
    taut.serve(inner)
    with pytest.raises(TypeError, match=r"cannot be called with \(ws, request, version\)"):
        taut.serve(outer)


async def test_without_a_router_there_are_no_parameters(tcp: Driver) -> None:
    async def look(ws: taut.ServerConnection) -> None:
        await ws.send(str(dict(ws.path_parameters)))

    async with tcp.connected(look) as (_, ws):
        assert await ws.recv() == "{}"
