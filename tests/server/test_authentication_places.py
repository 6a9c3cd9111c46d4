"""Where a token may be: in the query, among the subprotocols, in a cookie; and that it is not seen there again."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from door import door, refusal, said
from network import Driver

import taut


@pytest.fixture(params=["uvloop", "debug"])
def loop_name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


TOKEN = "s3cret-t0ken"


def know(token: str) -> str | None:
    """A check that knows one token."""
    return "ann" if token == TOKEN else None


# -- the query -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "token", "seen"),
    [
        ("/?token=abc", "abc", "/?token=***"),
        ("/chat/a%20b?x=1&token=abc&y=%26&token2=z", "abc", "/chat/a%20b?x=1&token=***&y=%26&token2=z"),
        ("/?%74oken=abc", "abc", "/?%74oken=***"),
        ("/?token=a%2Bb+c%C3%A9", "a+b cé", "/?token=***"),
        ("/?token=a=b?c", "a=b?c", "/?token=***"),
        ("/?&&token=abc&", "abc", "/?&&token=***&"),
    ],
)
async def test_the_token_is_taken_out_of_the_query(tcp: Driver, target: str, token: str, seen: str) -> None:
    async with door(tcp, taut.query_auth("token", lambda given: given)) as at:
        assert said(await at.ask(target=target)) == f"{token!r} {seen} None"


@pytest.mark.parametrize("target", ["/", "/?", "/?token", "/?token=", "/?Token=abc", "/token=abc", "/?a=token=abc"])
async def test_no_token_in_the_query(tcp: Driver, target: str) -> None:
    async with door(tcp, taut.query_auth("token", lambda given: given)) as at:
        assert await at.ask(target=target) == refusal(401, 'Bearer realm=""')


async def test_two_tokens_in_the_query_are_ambiguous(tcp: Driver) -> None:
    async with door(tcp, taut.query_auth("token", lambda given: given)) as at:
        for target in ("/?token=a&token=a", "/?token=a&%74oken=", "/?token&token=b"):
            assert await at.ask(target=target) == refusal(400, 'Bearer realm="", error="invalid_request"')


async def test_a_token_in_the_query_that_is_not_utf_8(tcp: Driver) -> None:
    async with door(tcp, taut.query_auth("token", lambda given: given)) as at:
        assert await at.ask(target="/?token=%FF") == refusal(401, 'Bearer realm="", error="invalid_token"')


@pytest.mark.parametrize("right", [True, False])
async def test_nobody_sees_the_token_of_a_query(tcp: Driver, right: bool, caplog: pytest.LogCaptureFixture) -> None:
    """Neither hooks, nor errors that carry the request, nor the log; whichever way in decides."""
    seen: list[str] = []

    def look(ws: taut.ServerConnection, request: taut.Request) -> None:
        seen.append(f"{request!r} {ws.request!r}")
        if request.path.startswith("/refuse"):
            raise taut.InvalidHandshake(f"no {request.path}", request=request)

    def look_later(ws: taut.ServerConnection, request: taut.Request, response: taut.Response) -> None:
        seen.append(f"{request!r} {ws.request!r} {response!r}")

    cookie = taut.cookie_auth("session", know)
    hook = taut.all_of(look, taut.any_of(cookie, taut.query_auth("token", know)))
    token = TOKEN if right else f"{TOKEN}x"
    with caplog.at_level(logging.DEBUG):
        async with door(tcp, hook, process_response=look_later) as at:
            for target in ("/", "/refuse"):
                answers = [
                    await at.ask(target=f"{target}?token={token}"),
                    await at.ask(("Cookie", f"session={TOKEN}"), target=f"{target}?token={token}"),
                ]
                assert not [answer for answer in answers if TOKEN.encode() in answer]
    assert len(seen) == 6
    assert all("token=***" in each for each in seen)
    assert not [each for each in seen if TOKEN in each.replace(f"session={TOKEN}", "")]
    assert TOKEN not in caplog.text


# -- subprotocols ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offered", "chosen", "seen"),
    [
        (f"bearer.{TOKEN}", None, "None"),
        (f"bearer.{TOKEN}, chat", "chat", "chat"),
        (f"v9 , bearer.{TOKEN},chat,v2", "v2", "v9, chat, v2"),
        (f",bearer.{TOKEN},, other", None, "other"),
        (f"chat, Bearer.x, bearer.{TOKEN}", "chat", "chat, Bearer.x"),
    ],
)
async def test_a_token_is_no_subprotocol(tcp: Driver, offered: str, chosen: str | None, seen: str) -> None:
    hook = taut.subprotocol_auth("bearer.", know)
    async with door(tcp, hook, subprotocols=["v2", "chat", f"bearer.{TOKEN}"]) as at:
        answer = await at.ask(("Sec-WebSocket-Protocol", offered))
    assert said(answer) == f"'ann' / {seen}"
    echoed = [line for line in answer.decode().split("\r\n") if line.startswith("Sec-WebSocket-Protocol:")]
    assert echoed == ([] if chosen is None else [f"Sec-WebSocket-Protocol: {chosen}"])
    assert TOKEN.encode() not in answer


async def test_a_token_is_in_one_of_several_headers(tcp: Driver) -> None:
    async with door(tcp, taut.subprotocol_auth("bearer.", know), subprotocols=["chat"]) as at:
        headers = [("Sec-WebSocket-Protocol", f"bearer.{TOKEN}"), ("sec-websocket-protocol", "chat")]
        answer = await at.ask(*headers)
    assert b"\r\nSec-WebSocket-Protocol: chat\r\n" in answer
    assert said(answer) == "'ann' / chat"


async def test_a_function_that_chooses_does_not_see_the_token(tcp: Driver) -> None:
    offers: list[Any] = []

    def select(ws: taut.ServerConnection, offered: Any) -> str | None:
        offers.append((ws.principal, list(offered)))
        return f"bearer.{TOKEN}"

    async with door(tcp, taut.subprotocol_auth("bearer.", know), select_subprotocol=select) as at:
        answer = await at.ask(("Sec-WebSocket-Protocol", f"bearer.{TOKEN}, chat"))
    assert offers == [("ann", ["chat"])]
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"Sec-WebSocket-Protocol:" not in answer


@pytest.mark.parametrize(
    "offered",
    [
        "",
        ",",
        f"bearer.{TOKEN} chat",
        f"bearer.{TOKEN}, a/b",
        f'"bearer.{TOKEN}"',
        f"bearer.{TOKEN}, bearer.{TOKEN}",
        f"bearer.{TOKEN}, bearer.",
        f"bearer.{TOKEN};q=1",
    ],
)
async def test_a_malformed_offer_is_refused(tcp: Driver, offered: str, caplog: pytest.LogCaptureFixture) -> None:
    seen: list[str] = []

    def look(ws: taut.ServerConnection, request: taut.Request, response: taut.Response) -> None:
        seen.append(f"{request!r} {response!r}")

    hook = taut.subprotocol_auth("bearer.", know)
    with caplog.at_level(logging.DEBUG):
        async with door(tcp, hook, process_response=look) as at:
            answer = await at.ask(("Sec-WebSocket-Protocol", offered))
        async with door(tcp, taut.any_of(taut.cookie_auth("session", len), hook), process_response=look) as at:
            await at.ask(("Cookie", "session=x"), ("Sec-WebSocket-Protocol", offered))
    assert answer == refusal(400, 'Bearer realm="", error="invalid_request"')
    assert len(seen) == 2
    assert TOKEN not in caplog.text + "".join(seen)


async def test_a_prefix_alone_is_no_token(tcp: Driver) -> None:
    async with door(tcp, taut.subprotocol_auth("bearer.", lambda token: f"<{token}>")) as at:
        for offered in ("bearer.", "chat", "bearer, chat", "xbearer.abc"):
            assert await at.ask(("Sec-WebSocket-Protocol", offered)) == refusal(401, 'Bearer realm=""')


# -- cookies ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cookies", "value"),
    [
        (["session=abc"], "abc"),
        (["a=b;session=abc;c"], "abc"),
        (["a=b", " session=a=b=; c=d"], "a=b="),
        (['session="abc"'], "abc"),
        (['session="'], '"'),
        (["xsession=no; session=abc; Session=no"], "abc"),
    ],
)
async def test_the_value_of_a_cookie(tcp: Driver, cookies: list[str], value: str) -> None:
    async with door(tcp, taut.cookie_auth("session", lambda given: given)) as at:
        assert said(await at.ask(*(("Cookie", each) for each in cookies))) == f"{value!r} / None"


@pytest.mark.parametrize("cookies", [[], [""], ["session"], ["session="], ['session=""'], ["a=session=b"], ["; ;"]])
async def test_no_cookie(tcp: Driver, cookies: list[str]) -> None:
    async with door(tcp, taut.cookie_auth("session", lambda given: given)) as at:
        assert await at.ask(*(("Cookie", each) for each in cookies)) == refusal(403)


async def test_two_cookies_of_one_name_are_ambiguous(tcp: Driver) -> None:
    async with door(tcp, taut.cookie_auth("session", lambda given: given)) as at:
        assert await at.ask(("Cookie", "session=a; session=b")) == refusal(400)
        assert await at.ask(("Cookie", "session=a"), ("Cookie", "session=a")) == refusal(400)


async def test_the_origin_is_still_looked_at(tcp: Driver) -> None:
    """A page of somebody else's has the cookie sent as well."""
    async with door(tcp, taut.cookie_auth("session", know)) as at:
        answer = await at.ask(("Cookie", f"session={TOKEN}"), ("Origin", "https://evil.example"))
    assert answer.startswith(b"HTTP/1.1 403 ")
