"""Several ways in, and several hurdles: who decides, and what somebody is told whom nobody lets in."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from door import basic, bearer, door, refusal, said
from network import Driver

import taut


@pytest.fixture(params=["uvloop", "debug"])
def loop_name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


BASIC = 'Basic realm="", charset="UTF-8"'


def know(token: str) -> str | None:
    if token == "forbidden":
        raise PermissionError
    if token == "raise":
        raise RuntimeError("gone")
    return token if token.startswith("user-") else None


WAYS = taut.any_of(
    taut.basic_auth(credentials=("ann", "word")), taut.bearer_auth(know), taut.cookie_auth("session", know)
)


@pytest.mark.parametrize(
    ("headers", "principal"),
    [
        ([basic("ann", "word")], "ann"),
        ([bearer("user-bob")], "user-bob"),
        ([("Cookie", "session=user-eve")], "user-eve"),
        ([basic("ann", "word"), ("Cookie", "session=user-eve")], "ann"),
        ([basic("ann", "wort"), ("Cookie", "session=user-eve")], "user-eve"),
        ([bearer("forbidden"), ("Cookie", "session=user-eve")], "user-eve"),
    ],
)
async def test_any_of_several_ways(tcp: Driver, headers: list[tuple[str, str]], principal: str) -> None:
    async with door(tcp, WAYS) as at:
        assert said(await at.ask(*headers)) == f"{principal!r} / None"


@pytest.mark.parametrize(
    ("headers", "status", "challenges", "logged"),
    [
        (
            [],
            401,
            [BASIC, 'Bearer realm=""'],
            "basic_auth: no credentials; bearer_auth: no credentials; cookie_auth: no credentials",
        ),
        (
            [bearer("x")],
            401,
            [BASIC, 'Bearer realm="", error="invalid_token"'],
            "basic_auth: no credentials; bearer_auth: wrong credentials; cookie_auth: no credentials",
        ),
        (
            [bearer("forbidden")],
            403,
            ['Bearer realm="", error="insufficient_scope"'],
            "basic_auth: no credentials; bearer_auth: not permitted; cookie_auth: no credentials",
        ),
        (
            [basic("ann", "x"), ("Cookie", "session=forbidden")],
            403,
            [],
            "basic_auth: wrong credentials; bearer_auth: no credentials; cookie_auth: not permitted",
        ),
        ([bearer("raise"), ("Cookie", "session=user-eve")], 500, [], "bearer_auth: the check failed"),
        ([bearer("a"), bearer("b"), ("Cookie", "session=user-eve")], 400, [], "basic_auth: ambiguous credentials"),
    ],
)
async def test_none_of_several_ways(
    tcp: Driver,
    headers: list[tuple[str, str]],
    status: int,
    challenges: list[str],
    logged: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO):
        async with door(tcp, WAYS) as at:
            assert await at.ask(*headers) == refusal(status, *challenges)
    (line,) = [r.getMessage() for r in caplog.records if r.getMessage().startswith("authentication failed")]
    assert line.startswith(f"authentication failed: {logged}; answered with {status}, to 127.0.0.1:")


async def test_ways_without_a_challenge_are_refused_with_403(tcp: Driver) -> None:
    async with door(tcp, taut.any_of(taut.cookie_auth("a", know), taut.certificate_auth())) as at:
        assert await at.ask() == refusal(403)


async def local(ws: taut.ServerConnection, request: taut.Request) -> taut.Response | None:
    """A function of a user's own that knows somebody."""
    await asyncio.sleep(0)
    if request.headers.get("X-Local") == "yes":
        ws.principal = "local"
        return None
    return None if request.headers.get("X-Local") == "maybe" else ws.respond(418, "not from here\n")


@pytest.mark.parametrize("own_first", [True, False])
async def test_a_function_of_ones_own_is_a_way_in_if_it_says_who_it_is(tcp: Driver, own_first: bool) -> None:
    token = taut.bearer_auth(know)
    hook = taut.any_of(local, token) if own_first else taut.any_of(token, local)
    async with door(tcp, hook) as at:
        assert said(await at.ask(("X-Local", "yes"))) == "'local' / None"
        assert said(await at.ask(bearer("user-ann"))) == "'user-ann' / None"
        assert await at.ask(("X-Local", "maybe")) == refusal(401, 'Bearer realm=""')
        assert await at.ask() == refusal(401, 'Bearer realm=""')


async def test_the_answer_of_a_function_of_ones_own_where_there_is_no_challenge(tcp: Driver) -> None:
    async with door(tcp, taut.any_of(local, taut.cookie_auth("a", know))) as at:
        assert (await at.ask()).endswith(b"not from here\n")
        assert await at.ask(("X-Local", "maybe")) == refusal(403)


async def test_who_is_refused_leaves_no_principal_for_others(tcp: Driver) -> None:
    """Whom the first hurdle knows and the second refuses is not let in by a function that objects to nobody."""
    seen: list[Any] = []

    def object_to_nobody(ws: taut.ServerConnection, request: taut.Request) -> None:
        seen.append(ws.principal)

    def object_to_everybody(ws: taut.ServerConnection, request: taut.Request) -> taut.Response:
        seen.append(ws.principal)
        return ws.respond(403)

    hook = taut.any_of(taut.all_of(taut.bearer_auth(know), object_to_everybody), object_to_nobody)
    async with door(tcp, hook) as at:
        assert (await at.ask(bearer("user-ann"))).startswith(b"HTTP/1.1 403 ")
    assert seen == ["user-ann", None]


async def test_every_hurdle_of_all_of(tcp: Driver) -> None:
    seen: list[Any] = []

    async def only_bob(ws: taut.ServerConnection, request: taut.Request) -> taut.Response | None:
        await asyncio.sleep(0)
        seen.append(ws.principal)
        return None if ws.principal == "user-bob" else ws.respond(404, "nothing here\n")

    hook = taut.all_of(taut.bearer_auth(know), only_bob, lambda ws, request: None)
    async with door(tcp, hook) as at:
        assert said(await at.ask(bearer("user-bob"))) == "'user-bob' / None"
        assert (await at.ask(bearer("user-ann"))).endswith(b"nothing here\n")
        assert await at.ask(bearer("x")) == refusal(401, 'Bearer realm="", error="invalid_token"')
        assert await at.ask() == refusal(401, 'Bearer realm=""')
    assert seen == ["user-bob", "user-ann"]


async def test_the_last_of_two_principals_counts(tcp: Driver) -> None:
    hook = taut.all_of(taut.cookie_auth("session", know), taut.query_auth("token", know))
    async with door(tcp, hook) as at:
        cookie = ("Cookie", "session=user-ann")
        assert said(await at.ask(cookie, target="/?token=user-bob")) == "'user-bob' /?token=*** None"
        assert await at.ask(cookie) == refusal(401, 'Bearer realm=""')
        assert await at.ask(target="/?token=user-bob") == refusal(403)


async def test_what_a_function_of_ones_own_raises_is_the_servers_to_answer(
    tcp: Driver, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(ws: taut.ServerConnection, request: taut.Request) -> None:
        if request.path == "/gone":
            raise taut.InvalidMessage("gone", status=410)
        raise RuntimeError("broken")

    for hook in (taut.any_of(broken, taut.bearer_auth(know)), taut.all_of(taut.bearer_auth(know), broken)):
        async with door(tcp, hook) as at:
            assert (await at.ask(bearer("user-ann"))).startswith(b"HTTP/1.1 500 ")
            assert (await at.ask(bearer("user-ann"), target="/gone")).startswith(b"HTTP/1.1 410 ")


async def test_a_hook_called_by_ones_own(tcp: Driver) -> None:
    """On asyncio, a hook gives a coroutine, whatever its check is."""
    hook = taut.basic_auth(credentials=("ann", "word"))

    async def own(ws: taut.ServerConnection, request: taut.Request) -> taut.Response | None:
        if request.path == "/public":
            return None
        answer: taut.Response | None = await hook(ws, request)
        return answer

    async with door(tcp, own) as at:
        assert said(await at.ask(target="/public")) == "None /public None"
        assert said(await at.ask(basic("ann", "word"))) == "'ann' / None"
        assert await at.ask() == refusal(401, BASIC)


async def test_a_refusal_can_be_revised(tcp: Driver) -> None:
    def revise(ws: taut.ServerConnection, request: taut.Request, response: taut.Response) -> None:
        response.headers["X-Hint"] = "log in"

    async with door(tcp, taut.basic_auth(credentials=("ann", "word")), process_response=revise) as at:
        assert b"\r\nX-Hint: log in\r\n" in await at.ask()


async def test_a_check_that_never_ends_is_ended(tcp: Driver) -> None:
    """By ``open_timeout``, and when the server is closed."""
    ended: list[str] = []
    begun = asyncio.Event()

    async def wait(token: str) -> str:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(token)
        return token

    async with door(tcp, taut.bearer_auth(wait), open_timeout=0.1) as at:
        assert (await at.ask(bearer("one"))).startswith(b"HTTP/1.1 408 ")
    begun.clear()
    async with door(tcp, taut.any_of(taut.bearer_auth(wait))) as at:
        asking = asyncio.ensure_future(at.ask(bearer("two")))
        await begun.wait()
        at.server.close()
        assert (await asking).startswith(b"HTTP/1.1 503 ")
    assert ended == ["one", "two"]
