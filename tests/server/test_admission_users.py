"""How many connections one user may have: exact under races, and given back whatever way a connection ends."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from typing import Any

import pytest
from network import Driver

import taut
from taut.observability import snapshot


def by_query(ws: taut.ServerConnection, request: taut.Request) -> None:
    """The user is named in the query; nobody is without one."""
    _, _, name = request.path.partition("?")
    ws.principal = name or None


async def echo(ws: taut.ServerConnection) -> None:
    async for message in ws:
        await ws.send(message)


@pytest.fixture
def limited(tcp: Driver) -> Any:
    """A server where a user may have two connections."""

    def serve(handler: Any = echo, **options: Any) -> Any:
        return tcp.serve(handler, **({"process_request": by_query, "max_connections_per_user": 2} | options))

    return serve


async def expect_429(tcp: Driver, server: taut.Server, target: str) -> None:
    with pytest.raises(taut.InvalidStatus) as caught:
        await tcp.connect(server, target)
    assert caught.value.response.status_code == 429
    assert caught.value.response.headers["Retry-After"] == "1"
    assert caught.value.response.body == b"too many connections of this user\n"


async def until_free(server: taut.Server) -> None:
    while len(server.admission._users):
        await asyncio.sleep(0.001)


async def test_one_too_many_is_answered_with_429(tcp: Driver, limited: Any) -> None:
    async with limited() as server:
        async with tcp.connect(server, "/?ann"), tcp.connect(server, "/?ann"), tcp.connect(server, "/?bob"):
            await expect_429(tcp, server, "/?ann")
        await until_free(server)
        async with tcp.connect(server, "/?ann") as ws:
            await ws.send("back")
            assert await ws.recv() == "back"
        assert server.stats.rejected == {"max_connections_per_user": 1}
        assert server.stats.refused == {429: 1}
        assert [["rejected"], 0] in snapshot(server)["metrics"]["taut_handshakes"]  # it is counted once


async def test_nobody_is_not_counted(tcp: Driver, limited: Any) -> None:
    async with limited(max_connections_per_user=1) as server, contextlib.AsyncExitStack() as stack:
        for _ in range(3):
            await stack.enter_async_context(tcp.connect(server, "/"))
        assert not len(server.admission._users)


async def test_handshakes_at_the_same_time_share_no_place(tcp: Driver, limited: Any) -> None:
    """All have been authenticated before the first is opened."""
    here = 0
    everybody = asyncio.Event()

    async def slowly(ws: taut.ServerConnection, request: taut.Request) -> None:
        nonlocal here
        by_query(ws, request)
        here += 1
        if here == 10:
            everybody.set()
        await everybody.wait()

    async def attempt(server: taut.Server) -> taut.ClientConnection | None:
        try:
            return await tcp.connect(server, "/?ann", connecting_limit=None)
        except taut.InvalidStatus:
            return None

    async with limited(process_request=slowly) as server:
        opened = [ws for ws in await asyncio.gather(*(attempt(server) for _ in range(10))) if ws is not None]
        assert len(opened) == 2
        assert server.stats.rejected == {"max_connections_per_user": 8}
        for ws in opened:
            await ws.close()
        await until_free(server)


@pytest.mark.parametrize("way", ["client", "server", "client drops", "server drops", "handler fails", "handler ends"])
async def test_a_place_is_given_back_however_a_connection_ends(tcp: Driver, limited: Any, way: str) -> None:
    async def handler(ws: taut.ServerConnection) -> None:
        async for message in ws:
            match message:
                case "server":
                    await ws.close(1000)
                case "server drops":
                    ws.abort()
                case "handler fails":
                    raise taut.ProtocolError(1002, "on purpose")
                case _:
                    return

    async with limited(handler, max_connections_per_user=1) as server:
        for _ in range(3):
            ws = await tcp.connect(server, "/?ann")
            if way == "client":
                await ws.close()
            elif way == "client drops":
                ws.abort()
            else:
                await ws.send(way)
            await ws.wait_closed()
            await until_free(server)


async def test_a_handler_that_goes_on_does_not_keep_the_place(tcp: Driver, limited: Any) -> None:
    cleaned_up = asyncio.Event()

    async def handler(ws: taut.ServerConnection) -> None:
        await ws.wait_closed()
        await cleaned_up.wait()

    async with limited(handler, max_connections_per_user=1) as server:
        for _ in range(2):
            async with tcp.connect(server, "/?ann"):
                pass
            await until_free(server)
        assert server.stats.connections == 2
        cleaned_up.set()


async def test_a_handshake_that_is_refused_takes_no_place(tcp: Driver, limited: Any) -> None:
    def refuse(ws: taut.ServerConnection, request: taut.Request, response: taut.Response) -> taut.Response | None:
        return ws.respond(403) if "refuse" in request.headers else None

    async with limited(max_connections_per_user=1, process_response=refuse) as server:
        for headers in [{"refuse": "yes"}, {"Origin": "https://elsewhere.example"}]:
            with pytest.raises(taut.InvalidStatus) as caught:
                await tcp.connect(server, "/?ann", additional_headers=headers)
            assert caught.value.response.status_code == 403
        async with tcp.connect(server, "/?ann"):
            await expect_429(tcp, server, "/?ann")


async def test_the_newest_may_replace_the_oldest(tcp: Driver, limited: Any) -> None:
    async with limited(user_policy="replace") as server, tcp.connect(server, "/?bob") as bob:
        connections = [await tcp.connect(server, "/?ann") for _ in range(5)]
        for ws in connections[:3]:
            await ws.wait_closed()
            assert (ws.close_code, ws.close_reason) == (1008, "replaced by a newer connection")
        for ws in (*connections[3:], bob):
            await ws.send("still here")
            assert await ws.recv() == "still here"
        assert not server.stats.rejected
        for ws in connections:
            await ws.close()
    assert not len(server.admission._users)


async def test_one_that_was_replaced_and_stays_silent_keeps_no_place(tcp: Driver, limited: Any) -> None:
    """Its Close frame may never be answered; it is not closed a second time, and frees no place of another's."""
    async with limited(user_policy="replace", max_connections_per_user=1, close_timeout=0.05) as server:
        silent, first, second = [await tcp.connect(server, "/?ann") for _ in range(3)]
        silent.abort()
        await first.wait_closed()
        await second.send("x")
        assert await second.recv() == "x"
        assert len(server.admission._users) == 1
        await second.close()
        await until_free(server)


@pytest.mark.parametrize(
    ("principal", "key"),
    [
        ("ann", None),
        (b"ann", None),
        (7, None),
        (uuid.UUID(int=7), None),
        ({"sub": "ann", "exp": 1}, None),
        (object(), lambda principal: "ann"),
    ],
)
async def test_what_a_user_is_counted_by(tcp: Driver, limited: Any, principal: Any, key: Any) -> None:
    def authenticate(ws: taut.ServerConnection, request: taut.Request) -> None:
        ws.principal = principal

    options = {"process_request": authenticate, "user_key": key, "max_connections_per_user": 1}
    async with limited(**options) as server, tcp.connect(server):
        await expect_429(tcp, server, "/")


async def test_a_user_may_be_exempt(tcp: Driver, limited: Any) -> None:
    def key(principal: str) -> str | None:
        return None if principal == "root" else principal

    async with limited(user_key=key, max_connections_per_user=1) as server, contextlib.AsyncExitStack() as stack:
        for name in ["root", "root", "ann"]:
            await stack.enter_async_context(tcp.connect(server, f"/?{name}"))
        await expect_429(tcp, server, "/?ann")


@pytest.mark.parametrize("principal", [object(), ["ann"], {"name": "ann"}, True, 1.5])
async def test_a_principal_that_does_not_tell_users_apart_is_an_error(
    tcp: Driver, limited: Any, principal: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Else the limit would never be reached, and nobody would notice."""

    def authenticate(ws: taut.ServerConnection, request: taut.Request) -> None:
        ws.principal = principal

    async with limited(process_request=authenticate) as server:
        with pytest.raises(taut.InvalidStatus) as caught:
            await tcp.connect(server)
        assert caught.value.response.status_code == 500
    assert "user_key has to give a str, bytes or int" in caplog.text


async def test_a_user_who_is_known_by_the_first_message(tcp: Driver, limited: Any) -> None:
    @taut.first_message_auth(str)
    async def handler(ws: taut.ServerConnection) -> None:
        await ws.send(f"hello, {ws.principal}")
        await ws.wait_closed()

    async def connect(name: str) -> taut.ClientConnection:
        ws = await tcp.connect(server)
        await ws.send(name)
        return ws

    async with limited(handler, process_request=None, max_connections_per_user=1) as server:
        ann = await connect("ann")
        assert await ann.recv() == "hello, ann"
        another = await connect("ann")
        with pytest.raises(taut.ConnectionClosed):
            await another.recv()
        assert (another.close_code, another.close_reason) == (1013, "too many connections of this user")
        await ann.close()
        await until_free(server)
        ann = await connect("ann")
        assert await ann.recv() == "hello, ann"
        await ann.close()


async def test_a_first_message_that_is_judged_when_its_sender_has_gone_takes_no_place(
    tcp: Driver, limited: Any
) -> None:
    gone = asyncio.Event()
    served = asyncio.Event()

    async def check(message: str) -> str:
        await gone.wait()
        return message

    @taut.first_message_auth(check)
    async def handler(ws: taut.ServerConnection) -> None:
        served.set()

    async with limited(handler, process_request=None) as server:
        ws = await tcp.connect(server)
        await ws.send("ann")
        (theirs,) = server.connections
        ws.abort()
        await theirs.wait_closed()
        gone.set()
        await served.wait()
        assert not len(server.admission._users)


@pytest.mark.parametrize(
    ("options", "kind", "text"),
    [
        ({"max_connections_per_user": 0}, ValueError, "max_connections_per_user"),
        ({"max_connections_per_user": "2"}, TypeError, "max_connections_per_user"),
        ({"user_key": "id"}, TypeError, "user_key must be a function of the principal, or None, not 'id'"),
        ({"user_policy": "newest"}, ValueError, "user_policy must be 'refuse' or 'replace', not 'newest'"),
        ({"user_policy": None}, TypeError, "user_policy must be 'refuse' or 'replace', not None"),
    ],
)
def test_wrong_options_are_refused(options: Any, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        taut.serve(echo, "127.0.0.1", 0, **options)
