"""Redirects of the opening handshake, the credentials that they take along or leave behind, and cookies."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http.cookiejar import CookieJar

import pytest
from network import Driver, RawServer
from peers import Peer

import taut
from taut.client.cookies import keep_cookies
from taut.protocol.uri import parse_uri


def answer(status: str, *lines: str) -> bytes:
    return ("\r\n".join([f"HTTP/1.1 {status}", "Content-Length: 0", *lines]) + "\r\n\r\n").encode()


def headers_of(head: str) -> taut.Headers:
    lines = [line.partition(": ") for line in head.split("\r\n")[1:] if line]
    return taut.Headers([(name, value) for name, _, value in lines])


async def redirect(server: RawServer, location: str, status: str = "302 Found", *lines: str) -> taut.Headers:
    """Answer the next request with a redirect, and return the request's headers."""
    peer = await server.accept()
    head = await peer.read_head()
    peer.write(answer(status, f"Location: {location}", *lines))
    return headers_of(head)


async def accept(server: RawServer, *lines: tuple[str, str]) -> tuple[Peer, str]:
    peer = await server.accept()
    return peer, await peer.respond(lines)


@asynccontextmanager
async def opened(connecting: taut.connect) -> AsyncIterator[asyncio.Task[taut.ClientConnection]]:
    """Open a connection in a task of its own; drop it at the end."""
    task = asyncio.ensure_future(connecting.open())
    try:
        yield task
        (await task).abort()
        await (await task).wait_closed()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"])
async def test_a_redirect_is_followed(tcp: Driver, status: str) -> None:
    async with tcp.raw_serve() as server, opened(server.connect("/a/b?c")) as opening:
        await redirect(server, "../d?e=f", status)
        _, head = await accept(server)
        assert head.startswith("GET /d?e=f HTTP/1.1\r\n")
        assert (await opening).request.path == "/d?e=f"


@pytest.mark.parametrize("scheme", ["ws", "http", "WS"])
async def test_a_redirect_may_be_absolute(tcp: Driver, scheme: str) -> None:
    async with tcp.raw_serve() as first, tcp.raw_serve() as second, opened(first.connect()) as opening:
        await redirect(first, f"{scheme}://127.0.0.1:{second.address}/there#part")
        _, head = await accept(second)
        assert head.startswith("GET /there HTTP/1.1\r\n")
        assert headers_of(head)["Host"] == f"127.0.0.1:{second.address}"
        await opening


async def test_credentials_stay_at_their_origin(tcp: Driver) -> None:
    """Here and to the same origin they are sent; at another one, and back from there, they are not."""
    personal = {"Authorization": "Bearer secret", "Cookie": "a=b", "Proxy-Authorization": "Basic eA==", "X-Other": "y"}
    async with (
        tcp.raw_serve() as first,
        tcp.raw_serve() as second,
        opened(first.connect(additional_headers=personal)) as opening,
    ):
        for headers in (await redirect(first, "/again"), await redirect(first, f"ws://127.0.0.1:{second.address}")):
            assert {name: headers[name] for name in personal} == personal
        for headers in (
            await redirect(second, f"ws://127.0.0.1:{first.address}/back"),
            headers_of((await accept(first))[1]),
        ):
            assert [name for name in personal if name in headers] == ["X-Other"]
        await opening


@pytest.mark.parametrize("option", ["bearer_token", "basic_auth", "uri"])
async def test_every_kind_of_credentials_stays_at_its_origin(tcp: Driver, option: str) -> None:
    async with tcp.raw_serve() as first, tcp.raw_serve() as second:
        uri, options = f"ws://127.0.0.1:{first.address}/", {}
        match option:
            case "uri":
                uri = f"ws://user:word@127.0.0.1:{first.address}/"
            case "bearer_token":
                options["bearer_token"] = "abc"
            case _:
                options["basic_auth"] = ("user", "word")
        expected = "Bearer abc" if option == "bearer_token" else "Basic dXNlcjp3b3Jk"
        async with opened(taut.connect(uri, **options)) as opening:
            assert (await redirect(first, "/next"))["Authorization"] == expected
            assert (await redirect(first, f"http://127.0.0.1:{second.address}/"))["Authorization"] == expected
            assert "Authorization" not in headers_of((await accept(second))[1])
            await opening


async def test_a_redirect_never_leads_from_wss_to_ws(tcp: Driver) -> None:
    tls = Driver("tls", "")
    async with tls.raw_serve() as server:
        opening = asyncio.ensure_future(server.connect().open())
        await redirect(server, "ws://127.0.0.1:1/")
        with pytest.raises(taut.RedirectError, match="from wss to ws") as caught:
            await opening
    assert caught.value.response is not None
    assert caught.value.response.status_code == 302


async def test_a_redirect_may_lead_from_ws_to_wss(tcp: Driver) -> None:
    """What the client then says is a TLS record (RFC 8446, 5.1); that nobody answers in kind is a failure of TLS."""
    async with tcp.raw_serve() as first, tcp.raw_serve() as second:
        opening = asyncio.ensure_future(first.connect().open())
        await redirect(first, f"wss://127.0.0.1:{second.address}/")
        peer = await second.accept()
        assert (await peer.read(2)) == b"\x16\x03"
        peer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        with pytest.raises(taut.TLSError, match=r"TLS handshake with 127\.0\.0\.1 failed") as caught:
            await opening
        assert [attempt.stage for attempt in caught.value.attempts] == ["handshake", "tls"]


async def test_there_is_an_end_to_redirects(tcp: Driver) -> None:
    async with tcp.raw_serve() as server:
        opening = asyncio.ensure_future(server.connect(max_redirects=3).open())
        for number in range(4):
            await redirect(server, f"/{number}")
        with pytest.raises(taut.RedirectError, match="more than 3 redirects"):
            await opening


async def test_redirects_may_be_refused(tcp: Driver) -> None:
    async with tcp.raw_serve() as server:
        opening = asyncio.ensure_future(server.connect(max_redirects=0).open())
        await redirect(server, "/elsewhere")
        with pytest.raises(taut.InvalidStatus) as caught:
            await opening
    assert caught.value.response.headers["Location"] == "/elsewhere"


@pytest.mark.parametrize("location", ["ftp://127.0.0.1/", "ws://", "http://[::1/", "javascript:alert(1)"])
async def test_a_redirect_to_nowhere_is_told(tcp: Driver, location: str) -> None:
    async with tcp.raw_serve() as server:
        opening = asyncio.ensure_future(server.connect().open())
        await redirect(server, location)
        with pytest.raises(taut.RedirectError, match="cannot be followed"):
            await opening


async def test_an_address_given_by_hand_is_not_left(tcp: Driver) -> None:
    async with tcp.raw_serve() as server:
        connecting = taut.connect("ws://example.invalid/", host="127.0.0.1", port=server.address)
        opening = asyncio.ensure_future(connecting.open())
        await redirect(server, "/here")
        await redirect(server, "ws://other.invalid/")
        with pytest.raises(taut.RedirectError, match="address was given by hand"):
            await opening


async def test_all_redirects_count_as_one_opening() -> None:
    """The time of an opening is not renewed by a server that redirects for ever."""
    async with Driver("memory", "").raw_serve() as server:
        opening = asyncio.ensure_future(server.connect(open_timeout=0.2, max_redirects=10**6).open())
        number = 0
        while not opening.done():
            number += 1
            accepting = asyncio.ensure_future(redirect(server, f"/{number}"))
            await asyncio.wait({accepting, opening}, return_when=asyncio.FIRST_COMPLETED)
            accepting.cancel()
            await asyncio.gather(accepting, return_exceptions=True)
        with pytest.raises(taut.OpenTimeout) as caught:
            await opening
    assert number > 1
    assert caught.value.timeout == 0.2


# -- cookies -----------------------------------------------------------------------------------------------------------


async def test_cookies_of_a_redirect_are_sent_where_it_leads(tcp: Driver) -> None:
    async with tcp.raw_serve() as server, opened(server.connect()) as opening:
        assert "Cookie" not in await redirect(
            server,
            "/app",
            "302 Found",
            "Set-Cookie: route=7; Path=/",
            "Set-Cookie: b=2; Path=/other",
            "Set-Cookie: c=3",
        )
        _, head = await accept(server)
        assert sorted(headers_of(head)["Cookie"].split("; ")) == ["c=3", "route=7"]
        await opening


async def test_a_server_knows_its_client_again(tcp: Driver) -> None:
    """Cookies set with the 101 come back with every later connection from the same ``connect``, or the same jar."""
    jar = CookieJar()
    async with tcp.raw_serve() as server:
        connecting = server.connect(cookies=jar)
        async with opened(connecting):
            _, head = await accept(server, ("Set-Cookie", "session=1; HttpOnly"))
            assert "Cookie" not in headers_of(head)
        for again in (connecting, server.connect(cookies=jar)):
            async with opened(again):
                _, head = await accept(server)
                assert headers_of(head)["Cookie"] == "session=1"
        async with opened(server.connect()):
            assert "Cookie" not in headers_of((await accept(server))[1])
    assert [cookie.name for cookie in jar] == ["session"]


async def test_a_secure_cookie_stays_on_secure_connections(tcp: Driver) -> None:
    jar = CookieJar()
    tls = Driver("tls", "")
    async with tls.raw_serve() as secure, tcp.raw_serve() as plain:
        for server, expected in ((secure, None), (secure, "s=1"), (plain, None)):
            async with opened(server.connect(cookies=jar)):
                _, head = await accept(server, *([("Set-Cookie", "s=1; Secure; Path=/")] if server is secure else []))
                assert headers_of(head).get("Cookie") == expected


async def test_a_cookie_header_of_the_user_stands(tcp: Driver) -> None:
    async with tcp.raw_serve() as server:
        connecting = server.connect(additional_headers={"Cookie": "mine=1"})
        for _ in range(2):
            async with opened(connecting):
                _, head = await accept(server, ("Set-Cookie", "theirs=2"))
                assert headers_of(head).get_all("Cookie") == ["mine=1"]


async def test_cookies_do_not_pile_up(tcp: Driver) -> None:
    """A server that names a cookie anew for each connection gets at most 50 back, those that it still sets among them.

    Else a client that connects again for days sends a head that is too large, and is refused for good.
    """
    jar = CookieJar()
    async with tcp.raw_serve() as server:
        connecting = server.connect(cookies=jar)
        for turn in range(13):
            fresh = [("Set-Cookie", f"visit{turn}-{n}=x; Path=/") for n in range(5)]
            huge = ("Set-Cookie", f"huge={'x' * 4096}; Path=/")
            async with opened(connecting):
                await accept(server, ("Set-Cookie", "session=1; Path=/"), *fresh, huge)
        async with opened(connecting):
            _, head = await accept(server)
    sent = headers_of(head)["Cookie"].split("; ")
    assert len(sent) == len(jar) == 50
    assert "session=1" in sent
    assert {"visit12-0=x", "visit12-4=x"} < set(sent)
    assert not {"visit0-0=x", "visit2-4=x"} & set(sent)


def test_cookies_of_other_domains_are_left_alone() -> None:
    jar = CookieJar()
    for n in range(60):
        keep_cookies(jar, parse_uri("ws://mine.test/"), taut.Headers([("Set-Cookie", f"c{n}=x")] * (n < 50)))
    others = list(jar)
    keep_cookies(jar, parse_uri("ws://other.test/"), taut.Headers([("Set-Cookie", f"c{n}=x") for n in range(51)]))
    assert list(jar)[:50] == others
    assert len(jar) == 100


async def test_a_socket_that_was_given_is_not_used_twice(tcp: Driver) -> None:
    """A redirect needs another connection, even one to the same origin."""
    async with tcp.raw_serve() as server:
        sock = socket.create_connection(("127.0.0.1", server.address))
        opening = asyncio.ensure_future(server.connect(sock=sock).open())
        await redirect(server, "/elsewhere")
        with pytest.raises(taut.RedirectError, match=r"the socket \(sock\) is used up"):
            await opening


async def test_credentials_in_a_redirect_are_not_shown(tcp: Driver) -> None:
    async with tcp.raw_serve() as server:
        opening = asyncio.ensure_future(server.connect().open())
        await redirect(server, "ftp://me:se@same@elsewhere.test/")
        with pytest.raises(taut.RedirectError, match="a redirect cannot be followed") as caught:
            await opening
    assert "elsewhere.test" in str(caught.value)
    assert "same" not in f"{caught.value} {caught.value!r} {caught.value.__cause__!r}"
