"""Hooks for tokens, wherever they are: who is let in, and what everybody else is told, byte by byte."""

from __future__ import annotations

import asyncio
import functools
import hmac
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from door import bearer, door, refusal, said
from network import Driver

import taut


@pytest.fixture(params=["uvloop", "debug"])
def loop_name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


TOKEN = "s3cret-t0ken"


def know(token: str) -> str | None:
    """A check that knows one token."""
    if token == "forbidden":
        raise PermissionError("needs the scope admin")
    if token == "raise":
        raise RuntimeError("the database is gone")
    return "ann" if hmac.compare_digest(token.encode(), TOKEN.encode()) else None


async def know_later(token: str) -> str | None:
    await asyncio.sleep(0)
    return know(token)


class Knowing:
    """Something that is called like a coroutine function, and is none."""

    async def __call__(self, token: str) -> str | None:
        return await know_later(token)


CHECKS: list[Callable[[str], Any]] = [know, know_later, Knowing(), functools.partial(know_later), know.__call__]


class Way:
    """A way to show a token, and what somebody is told who shows none, or another."""

    def __init__(
        self,
        make: Callable[..., Any],
        show: Callable[[str], dict[str, Any]],
        *,
        challenge: str | None = "Bearer",
    ) -> None:
        self.make = make
        self.show = show
        self.challenge = challenge

    def refusal(self, status: int, error: str | None = None) -> bytes:
        if self.challenge is None:
            return refusal(403 if status == 401 else status)
        if status == 500:
            return refusal(status)
        return refusal(status, 'Bearer realm=""' + (f', error="{error}"' if error else ""))


def in_header(*headers: tuple[str, str], target: str = "/") -> dict[str, Any]:
    return {"headers": headers, "target": target}


WAYS = {
    "bearer": Way(taut.bearer_auth, lambda token: in_header(bearer(token))),
    "query": Way(
        lambda check: taut.query_auth("token", check), lambda token: in_header(target=f"/a?b=c&token={token}&d")
    ),
    "subprotocol": Way(
        lambda check: taut.subprotocol_auth("bearer.", check),
        lambda token: in_header(("Sec-WebSocket-Protocol", f"chat, bearer.{token}")),
    ),
    "cookie": Way(
        lambda check: taut.cookie_auth("session", check),
        lambda token: in_header(("Cookie", f"a=b; session={token}; sessions=x")),
        challenge=None,
    ),
}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Way:
    return WAYS[request.param]


async def ask(at: Any, shown: dict[str, Any]) -> bytes:
    answer: bytes = await at.ask(*shown["headers"], target=shown["target"])
    return answer


@pytest.mark.parametrize("check", CHECKS, ids=["function", "coroutine function", "object", "partial", "method"])
async def test_a_token_lets_in_whom_the_check_knows(tcp: Driver, way: Way, check: Any) -> None:
    async with door(tcp, way.make(check)) as at:
        assert said(await ask(at, way.show(TOKEN))).startswith("'ann' ")
        for wrong in ("x", TOKEN[:-1], TOKEN + "x", TOKEN.upper()):
            assert await ask(at, way.show(wrong)) == way.refusal(401, "invalid_token")
        assert await at.ask() == way.refusal(401)
        assert await ask(at, way.show("forbidden")) == way.refusal(403, "insufficient_scope")


@pytest.mark.parametrize("nothing", [None, False, "", 0, {}, []])
async def test_nothing_false_lets_in(tcp: Driver, way: Way, nothing: Any) -> None:
    async with door(tcp, way.make(lambda _: nothing)) as at:
        assert await ask(at, way.show(TOKEN)) == way.refusal(401, "invalid_token")


class Doubtful:
    """What is neither true nor false."""

    def __bool__(self) -> bool:
        raise ValueError("who knows?")


async def raise_later(token: str) -> Any:
    await asyncio.sleep(0)
    raise KeyError(token)


def raising(exc: BaseException) -> Callable[[str], Any]:
    def check(_: str) -> Any:
        raise exc

    return check


FAILING: dict[str, Callable[[str], Any]] = {
    "RuntimeError": raising(RuntimeError("gone")),
    "KeyError with the token": lambda token: {}[token],
    "in a coroutine": raise_later,
    "an error of the system": raising(PermissionError(13, "Permission denied", "users.db")),
    "StopIteration": raising(StopIteration("ann")),
    "StopAsyncIteration": raising(StopAsyncIteration("ann")),
    "GeneratorExit": raising(RecursionError()),
    "a failed handshake of its own": raising(taut.InvalidHeader("X-Internal", "10.0.0.1")),
    "a closed connection of its own": raising(
        taut.ConnectionClosedOK(taut.CloseInfo(taut.Initiator.REMOTE, 1000, clean=True))
    ),
    "the wrong arguments": lambda: "ann",  # type: ignore[dict-item, misc]
    "an answer in doubt": lambda _: Doubtful(),
    "its own cancellation": lambda _: cancelled(),
}


async def cancelled() -> Any:
    raise TimeoutError


@pytest.mark.parametrize("failing", FAILING)
async def test_an_exception_lets_nobody_in(
    tcp: Driver, way: Way, failing: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is answered with 500, logged once with its traceback, and what it shows of the token is concealed."""
    with caplog.at_level(logging.INFO):
        async with door(tcp, way.make(FAILING[failing])) as at:
            assert await ask(at, way.show(TOKEN)) == refusal(500)
    (error,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    (failure,) = [record for record in caplog.records if record.getMessage().startswith("authentication failed")]
    told = logging.Formatter().format(error)
    assert told.startswith("the check of ")
    assert "Traceback (most recent call last)" in told
    assert "the check failed" in failure.getMessage()
    assert TOKEN not in caplog.text
    if failing in ("KeyError with the token", "in a coroutine"):
        assert "KeyError: '***'" in told


@pytest.mark.parametrize("shown", ["absent", "wrong", "forbidden", "right"])
async def test_a_failure_is_logged_without_the_secret(
    tcp: Driver, way: Way, shown: str, caplog: pytest.LogCaptureFixture
) -> None:
    kinds = {"absent": "no credentials", "wrong": "wrong credentials", "forbidden": "not permitted"}
    secret = {"wrong": "not-the-" + TOKEN, "right": TOKEN}.get(shown, shown)
    with caplog.at_level(logging.DEBUG):
        async with door(tcp, way.make(know)) as at:
            await ask(at, in_header() if shown == "absent" else way.show(secret))
    lines = [r.getMessage() for r in caplog.records if r.getMessage().startswith("authentication failed")]
    assert len(lines) == (shown != "right")
    if lines:
        assert f"_auth: {kinds[shown]}; answered with 40" in lines[0]
        assert ", to 127.0.0.1:" in lines[0]
    assert TOKEN not in caplog.text
    assert "admin" not in caplog.text


async def test_without_authentication_there_is_no_principal(tcp: Driver) -> None:
    async with door(tcp, None) as at:
        assert said(await at.ask()) == "None / None"


@pytest.mark.parametrize("value", ["Bearer", "Bearer ", "Basic YTpi", "Token abc", "Bearers abc"])
async def test_who_shows_no_bearer_token_is_told_of_no_error(tcp: Driver, value: str) -> None:
    async with door(tcp, taut.bearer_auth(know, "shop")) as at:
        assert await at.ask(("Authorization", value)) == refusal(401, 'Bearer realm="shop"')


@pytest.mark.parametrize("token", ["a b", "a,b", '"a"', "=", "a=b", "é", "a;b", "a, Basic YTpi"])
async def test_what_is_no_bearer_token_is_not_looked_at(tcp: Driver, token: str) -> None:
    async with door(tcp, taut.bearer_auth(lambda token: token)) as at:
        assert await at.ask(bearer(token)) == refusal(401, 'Bearer realm="", error="invalid_token"')


@pytest.mark.parametrize("token", ["a", "a=", "A-._~+/9=="])
async def test_the_letters_of_a_bearer_token(tcp: Driver, token: str) -> None:
    async with door(tcp, taut.bearer_auth(lambda token: token)) as at:
        assert said(await at.ask(("authorization", f"bEARER  {token} "))) == f"{token!r} / None"


async def test_two_tokens_in_headers_are_ambiguous(tcp: Driver) -> None:
    async with door(tcp, taut.bearer_auth(know)) as at:
        assert await at.ask(bearer(TOKEN), bearer(TOKEN)) == refusal(400, 'Bearer realm="", error="invalid_request"')


# -- arguments of all of them ----------------------------------------------------------------------------------


def generator(_: str) -> Iterator[str]:
    yield "ann"


async def async_generator(_: str) -> Any:
    yield "ann"


@pytest.mark.parametrize("check", [None, "x", 7, generator, async_generator])
def test_a_check_must_be_a_function(way: Way, check: Any) -> None:
    """A generator is true whatever it would yield."""
    with pytest.raises(TypeError, match=r"^check must be a function or a coroutine function, not "):
        way.make(check)


@pytest.mark.parametrize(
    ("make", "kind", "text"),
    [
        (lambda: taut.bearer_auth(know, "\n"), ValueError, r"^realm must be printable ASCII, not '\\n'$"),
        (lambda: taut.cookie_auth(7, know), TypeError, r"^name must be a str, not 7$"),
        (lambda: taut.cookie_auth("a b", know), ValueError, r"^name must be the name of a cookie, a token, not 'a b'$"),
        (lambda: taut.cookie_auth("", know), ValueError, r"^name must be .* not ''$"),
        (lambda: taut.query_auth(None, know), TypeError, r"^parameter must be a str, not None$"),
        (lambda: taut.query_auth("", know), ValueError, r"^parameter must be the name of a parameter, not ''$"),
        (lambda: taut.query_auth("a", know, 7), TypeError, r"^realm must be a str, not 7$"),
        (lambda: taut.subprotocol_auth(b"x", know), TypeError, r"^prefix must be a str, not b'x'$"),
        (lambda: taut.subprotocol_auth("a b", know), ValueError, r"^prefix must begin a subprotocol, .* not 'a b'$"),
        (lambda: taut.subprotocol_auth("", know), ValueError, r"^prefix must begin a subprotocol, .* not ''$"),
        (taut.any_of, ValueError, r"^hooks: any_of needs at least one$"),
        (taut.all_of, ValueError, r"^hooks: all_of needs at least one$"),
        (lambda: taut.any_of(know, TOKEN), TypeError, r"^hooks: any_of takes what process_request takes, not str$"),
    ],
)
def test_wrong_arguments(make: Callable[[], Any], kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        make()
