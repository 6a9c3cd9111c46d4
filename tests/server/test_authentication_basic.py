"""User names and passwords: whose are right, and that everybody else is told the same."""

from __future__ import annotations

import asyncio
import base64
import hmac
import unicodedata
from typing import Any

import pytest
from door import basic, door, refusal, said
from network import Driver

import taut


@pytest.fixture(params=["uvloop", "debug"])
def loop_name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


TOKEN = "s3cret-t0ken"
BASIC = 'Basic realm="the \\"shop\\"", charset="UTF-8"'


def know(token: str) -> str | None:
    """A check that knows one token."""
    return "ann" if token == TOKEN else None


PEOPLE = [("ann", "pass:word"), ("bøb", "naïve päss"), ("", "nobody's"), ("eve", "")]


@pytest.mark.parametrize(("username", "password"), PEOPLE)
async def test_the_right_password_lets_in(tcp: Driver, username: str, password: str) -> None:
    async with door(tcp, taut.basic_auth('the "shop"', PEOPLE)) as at:
        assert said(await at.ask(basic(username, password))) == f"{username!r} / None"


async def test_a_pair_alone_is_enough(tcp: Driver) -> None:
    async with door(tcp, taut.basic_auth(credentials=("ann", "word"))) as at:
        assert said(await at.ask(basic("ann", "word"))).startswith("'ann' ")
        assert await at.ask(basic("ann", "wort")) == refusal(401, 'Basic realm="", charset="UTF-8"')


async def test_letters_may_be_composed_in_either_way(tcp: Driver) -> None:
    """RFC 7617, 2.1: Unicode Normalization Form C."""
    async with door(tcp, taut.basic_auth(credentials=(unicodedata.normalize("NFD", "bøé"), "ñ"))) as at:
        assert said(await at.ask(basic("bøé", unicodedata.normalize("NFD", "ñ")))).startswith("'bøé' ")


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        "Basic",
        "Basic ",
        "Basic \t",
        "Bearer abc",
        "Basic =",
        "Basic a",
        "Basic YW5u",  # without a colon
        "Basic YW5uOnBhc3M6d29yZA==x",
        "Basic YW5uOnBhc3M6d29yZA",  # without padding
        "Basic YW5u OnBhc3M6d29yZA==",
        "Basic\tYW5uOnBhc3M6d29yZA==",
        "BasicYW5uOnBhc3M6d29yZA==",
        'Basic realm="x"',
        "Basic é",
        "Basic " + base64.b64encode(b"ann:\xff").decode(),
        "Basic " + base64.b64encode(b"ann:pass:word\n").decode(),
        "Basic " + base64.b64encode(b"\x00ann:pass:word").decode(),
        basic("ann", "pass:wor")[1],
        basic("ann", "pass:word ")[1],
        basic("ann", "Pass:word")[1],
        basic("ann", "")[1],
        basic("Ann", "pass:word")[1],
        basic("nobody", "pass:word")[1],
        basic("nobody", "")[1],
        basic("ann", "päss:wörd")[1],
        basic("ann", "x" * 5000)[1],
    ],
)
async def test_everything_else_is_told_the_same(tcp: Driver, value: str | None) -> None:
    async with door(tcp, taut.basic_auth('the "shop"', PEOPLE)) as at:
        headers = [] if value is None else [("authorization", value)]
        assert await at.ask(*headers) == refusal(401, BASIC)


@pytest.mark.parametrize("scheme", ["basic", "BASIC", "bAsIc ", "Basic   "])
async def test_the_scheme_is_in_any_case(tcp: Driver, scheme: str) -> None:
    async with door(tcp, taut.basic_auth(credentials=PEOPLE)) as at:
        value = f"{scheme} {basic('ann', 'pass:word')[1].removeprefix('Basic ')}  "
        assert said(await at.ask(("Authorization", value))).startswith("'ann' ")


@pytest.mark.parametrize("hook", [taut.basic_auth(credentials=PEOPLE), taut.all_of(taut.basic_auth("", PEOPLE))])
async def test_two_authorization_headers_say_nothing(tcp: Driver, hook: Any) -> None:
    async with door(tcp, hook) as at:
        assert await at.ask(basic("ann", "pass:word"), basic("ann", "pass:word")) == refusal(400)


@pytest.mark.parametrize("later", [False, True])
async def test_a_check_of_credentials_decides(tcp: Driver, later: bool) -> None:
    asked: list[tuple[str, str]] = []

    def check(username: str, password: str) -> bool:
        asked.append((username, password))
        return password == username[::-1]

    async def check_later(username: str, password: str) -> bool:
        await asyncio.sleep(0)
        return check(username, password)

    async with door(tcp, taut.basic_auth(check_credentials=check_later if later else check)) as at:
        assert said(await at.ask(basic("ann", "nna"))).startswith("'ann' ")
        assert await at.ask(basic("ann", "ann")) == refusal(401, 'Basic realm="", charset="UTF-8"')
        assert await at.ask() == refusal(401, 'Basic realm="", charset="UTF-8"')
    assert asked == [("ann", "nna"), ("ann", "ann")]


async def test_not_permitted_by_the_check_of_credentials(tcp: Driver) -> None:
    def check(username: str, password: str) -> bool:
        raise PermissionError(f"{username} is banned")

    async with door(tcp, taut.basic_auth(check_credentials=check)) as at:
        assert await at.ask(basic("ann", "x")) == refusal(403)


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[tuple[bytes, bytes]]:
    """What ``compare_digest`` is asked, which here says the opposite of what it finds."""
    pairs: list[tuple[bytes, bytes]] = []

    def compare(one: bytes, other: bytes) -> bool:
        pairs.append((one, other))
        return one != other

    monkeypatch.setattr(hmac, "compare_digest", compare)
    return pairs


async def test_nothing_but_a_comparison_in_constant_time_decides(
    tcp: Driver, compared: list[tuple[bytes, bytes]]
) -> None:
    """Of bytes of equal length, whatever the lengths of the passwords; once for everybody, known or not."""
    async with door(tcp, taut.basic_auth(credentials=PEOPLE)) as at:
        assert await at.ask(basic("ann", "pass:word")) == refusal(401, 'Basic realm="", charset="UTF-8"')
        for username, password in [("ann", "x"), ("ann", "ß" * 300), ("nobody", "x"), ("", "")]:
            assert said(await at.ask(basic(username, password))) == f"{username!r} / None"
    assert len(compared) == 5
    assert {(type(each), len(each)) for pair in compared for each in pair} == {(bytes, 32)}


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        ({}, TypeError, ["credentials", "check_credentials"]),
        ({"credentials": ("ann", TOKEN), "check_credentials": know}, TypeError, ["credentials", "check_credentials"]),
        ({"credentials": TOKEN}, TypeError, ["credentials", "str"]),
        ({"credentials": 7}, TypeError, ["credentials", "int"]),
        ({"credentials": {"ann": TOKEN}}, TypeError, ["credentials", "dict"]),
        ({"credentials": ("ann", TOKEN, TOKEN)}, TypeError, ["credentials", "pair"]),
        ({"credentials": [("ann", TOKEN), "bob"]}, TypeError, ["credentials", "pair"]),
        ({"credentials": ("ann", TOKEN.encode())}, TypeError, ["credentials", "str"]),
        ({"credentials": [("ann", None)]}, TypeError, ["credentials", "str"]),
        ({"credentials": []}, ValueError, ["credentials", "empty"]),
        ({"credentials": (f"ann:{TOKEN}", TOKEN)}, ValueError, ["credentials", "colon"]),
        ({"credentials": ("ann", f"{TOKEN}\n")}, ValueError, ["credentials", "control"]),
        ({"credentials": [("ann", TOKEN), ("ann", "b")]}, ValueError, ["credentials", "twice"]),
        ({"check_credentials": 7}, TypeError, ["check_credentials", "int"]),
        ({"check_credentials": TOKEN}, TypeError, ["check_credentials", "str"]),
        ({"realm": 7, "credentials": ("a", "b")}, TypeError, ["realm", "7"]),
        ({"realm": "a\r\nb", "credentials": ("a", "b")}, ValueError, ["realm", "a\\r\\nb"]),
        ({"realm": "é", "credentials": ("a", "b")}, ValueError, ["realm", "é"]),
    ],
)
def test_wrong_arguments_of_basic_auth(arguments: dict[str, Any], kind: type[Exception], words: list[str]) -> None:
    with pytest.raises(kind) as caught:
        taut.basic_auth(**arguments)
    assert all(word in str(caught.value) for word in words), caught.value
    assert TOKEN not in f"{caught.value!r} {caught.value}"


def test_a_hook_does_not_show_what_it_knows() -> None:
    hook = taut.basic_auth(credentials=("ann", TOKEN))
    assert TOKEN not in f"{hook!r} {hook} {hook.check!r}"
