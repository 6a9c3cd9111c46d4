"""Whatever is sent as credentials: somebody who does not know them is never let in, and the server never fails."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import jwt
import pytest
from door import refusal
from hypothesis import given, settings
from hypothesis import strategies as st

import taut
from taut.types import Headers, Request


@pytest.fixture
def loop_name() -> str:
    return "debug"


SECRET = "0123456789abcdef0123456789abcdef"
KEYS = {"ann": "correct horse", "bøb": "battery"}


def nobody(token: str) -> None:
    assert isinstance(token, str)
    assert token


WAYS: list[Any] = [
    taut.basic_auth(credentials=list(KEYS.items())),
    taut.bearer_auth(nobody),
    taut.jwt_auth(SECRET, ["HS256"]),
    taut.jwt_auth(lambda header: SECRET, ["HS256", "HS512"]),
    taut.cookie_auth("session", nobody),
    taut.query_auth("token", nobody),
    taut.subprotocol_auth("bearer.", nobody),
    taut.certificate_auth(),
]
HOOKS = [*WAYS, taut.any_of(*WAYS), taut.all_of(*WAYS)]

letters = st.text(st.characters(max_codepoint=255, exclude_characters="\r\n\0"), max_size=60)
encoded = st.binary(max_size=40).map(lambda data: base64.b64encode(data).decode())
token_parts = st.lists(
    st.one_of(
        st.binary(max_size=30),
        st.sampled_from([b'{"alg":"HS256"}', b'{"alg":"none"}', b'{"alg":["HS256"]}', b"{}", b"[]", b'{"exp":1e999}']),
    ).map(lambda data: base64.urlsafe_b64encode(data).decode().rstrip("=")),
    max_size=4,
).map(".".join)
credentials = st.one_of(
    letters,
    encoded,
    token_parts,
    st.tuples(st.sampled_from([*KEYS, "", "eve"]), letters).map(
        lambda pair: base64.b64encode(":".join(pair).encode()).decode()
    ),
    st.text("ABCabc019+/=._-~ ,:;\"'\t", max_size=40),
)
value = st.one_of(
    st.tuples(
        st.sampled_from(["Basic", "basic", "Bearer", "BEARER", "Digest", ""]), st.text(" \t", max_size=2), credentials
    ).map("".join),
    letters,
)
header = st.one_of(
    st.tuples(st.just("Authorization"), value),
    st.tuples(st.just("Cookie"), letters.map(lambda text: f"session={text}")),
    st.tuples(st.just("Sec-WebSocket-Protocol"), st.one_of(letters, letters.map(lambda text: f"chat, bearer.{text}"))),
)
target = st.one_of(st.just("/"), letters.map(lambda text: f"/?token={text}"), letters.map(lambda text: f"/?{text}"))


class Connection:
    """As much of a connection as a hook needs."""

    transport = None
    remote_address: Any = ("192.0.2.1", 1234)

    def __init__(self) -> None:
        self.principal: Any = None
        self.errors: list[str] = []
        self.lines: list[str] = []
        self.logger: Any = self

    def info(self, text: str, *args: Any) -> None:
        self.lines.append(text % args)

    def error(self, text: str, *args: Any, **_: Any) -> None:
        self.errors.append(text % args)

    respond = taut.ServerConnection.respond


@settings(max_examples=300, deadline=None)
@given(st.lists(header, max_size=3), target, st.sampled_from(HOOKS))
def test_nobody_is_let_in(headers: list[tuple[str, str]], path: str, hook: Any) -> None:
    """Nor is anything of what was sent told."""
    connection = Connection()
    response = hook(connection, Request(path, Headers(headers)))
    assert response is not None
    assert response.status_code in (400, 401, 403)
    challenges = response.headers.get_all("WWW-Authenticate")
    assert bool(challenges) or response.status_code != 401
    assert all(each.startswith(('Basic realm="", charset="UTF-8"', 'Bearer realm=""')) for each in challenges)
    assert response.body == refusal(response.status_code).partition(b"\r\n\r\n")[2]
    assert connection.errors == []
    assert connection.principal is None
    assert len(connection.lines) == 1


@settings(max_examples=150, deadline=None)
@given(
    st.text(st.characters(exclude_categories=["C"], exclude_characters=":")),
    st.text(st.characters(exclude_categories=["C"])),
)
def test_everybody_who_knows_is_let_in(username: str, password: str) -> None:
    """With what taut's own client sends."""
    hook = taut.basic_auth(credentials=(username, password))
    connection = Connection()
    right = Request("/", Headers([("Authorization", taut.basic_authorization(username, password))]))
    assert hook(connection, right) is None
    assert connection.principal is not None
    wrong = Request("/", Headers([("Authorization", taut.basic_authorization(username, password + "x"))]))
    assert hook(connection, wrong).status_code == 401
    assert connection.principal is None


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_no_token_but_the_one_that_was_signed(data: st.DataObject) -> None:
    """Any letter changed, added or left out."""
    token = jwt.encode({"sub": "ann", "exp": 1 << 40}, SECRET, "HS256")
    at = data.draw(st.integers(0, len(token) - 2))  # the last letter has bits that mean nothing
    changed = data.draw(
        st.sampled_from(
            [token[:at] + token[at + 1 :], token[:at] + "A" + token[at + 1 :], token[:at] + "." + token[at:]]
        )
    )
    hook = taut.jwt_auth(SECRET, ["HS256"])
    connection = Connection()
    response = hook(connection, Request("/", Headers([("Authorization", f"Bearer {changed}")])))
    assert (response is None) == (changed == token)


@pytest.mark.parametrize(
    ("address", "written"),
    [
        (("192.0.2.1", 1234), "192.0.2.1:1234"),
        (("2001:db8::1", 1234, 0, 0), "[2001:db8::1]:1234"),
        ("/run/client", "/run/client"),
        ("", "an unnamed socket"),
        (None, "an unnamed socket"),
    ],
)
def test_the_address_in_the_log(address: Any, written: str) -> None:
    connection = Connection()
    connection.remote_address = address
    assert taut.cookie_auth("session", nobody)(connection, Request("/", Headers())).status_code == 403
    (line,) = connection.lines
    assert line == f"authentication failed: cookie_auth: no credentials; answered with 403, to {written}"


async def test_on_an_event_loop_nobody_is_let_in_either() -> None:
    for hook in HOOKS:
        connection = Connection()
        response = await hook(connection, Request("/?token=x", Headers([("Authorization", "Bearer a.b.c")])))
        assert response.status_code in (401, 403)
        assert connection.principal is None
    assert asyncio.get_running_loop().is_running()
