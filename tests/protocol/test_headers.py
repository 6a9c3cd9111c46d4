"""The header grammar: what is read, what is refused, what is written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taut.errors import InvalidHeader
from taut.protocol.headers import (
    basic_authorization,
    build_extensions,
    build_subprotocols,
    is_token,
    parse_extensions,
    parse_subprotocols,
    parse_token_list,
)

TOKEN_CHARACTERS = "!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

tokens = st.text(TOKEN_CHARACTERS, min_size=1)


@pytest.mark.parametrize("code", range(256))
def test_token_characters(code: int) -> None:
    """RFC 9110, 5.6.2: visible ASCII but the delimiters."""
    assert is_token(chr(code)) == (chr(code) in TOKEN_CHARACTERS)


@pytest.mark.parametrize("text", ["", "a b", "a,b", "websocket\n", "\u0661", "a\u00e9"])
def test_not_a_token(text: str) -> None:
    assert not is_token(text)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("Upgrade", ["Upgrade"]),
        ("keep-alive, Upgrade", ["keep-alive", "Upgrade"]),
        ("keep-alive,Upgrade", ["keep-alive", "Upgrade"]),
        (" \tkeep-alive \t,\t Upgrade ", ["keep-alive", "Upgrade"]),
        (",, a ,,b,", ["a", "b"]),  # RFC 9110, 5.6.1.2
        ("", []),
        (" , ", []),
    ],
)
def test_token_list(value: str, expected: list[str]) -> None:
    assert parse_token_list(value) == expected


@pytest.mark.parametrize("value", ["a b", 'a, "b"', "a;b", "a\x00", "a\n", "\x0ba", "a\u00a0", "caf\u00e9"])
def test_token_list_refused(value: str) -> None:
    with pytest.raises(InvalidHeader) as caught:
        parse_token_list(value, "Some-Header")
    assert (caught.value.name, caught.value.value) == ("Some-Header", value)


def test_subprotocols() -> None:
    assert parse_subprotocols("chat, superchat,v2.mqtt") == ["chat", "superchat", "v2.mqtt"]


@pytest.mark.parametrize("value", ["", ",", "chat superchat", "chat, a/b", '"chat"'])
def test_subprotocols_refused(value: str) -> None:
    """RFC 6455, 11.3.4: 1#token."""
    with pytest.raises(InvalidHeader) as caught:
        parse_subprotocols(value)
    assert (caught.value.name, caught.value.value) == ("Sec-WebSocket-Protocol", value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("foo", [("foo", [])]),
        ("foo, bar; baz=2", [("foo", []), ("bar", [("baz", "2")])]),  # the example of RFC 6455, 9.1
        ("foo;a;b=1;a", [("foo", [("a", None), ("b", "1"), ("a", None)])]),
        ('foo; a="1"', [("foo", [("a", "1")])]),
        ('foo; a="\\1\\0"', [("foo", [("a", "10")])]),
        (" foo \t;\t a = 1 , bar ", [("foo", [("a", "1")]), ("bar", [])]),
        (",,foo,, bar,", [("foo", []), ("bar", [])]),
        (
            "permessage-deflate; client_max_window_bits; server_max_window_bits=10, permessage-deflate",
            [
                ("permessage-deflate", [("client_max_window_bits", None), ("server_max_window_bits", "10")]),
                ("permessage-deflate", []),
            ],
        ),
    ],
)
def test_extensions(value: str, expected: list[tuple[str, list[tuple[str, str | None]]]]) -> None:
    assert parse_extensions(value) == expected


@pytest.mark.parametrize(
    "value",
    [
        "",
        " ",
        ",",
        ";",
        "; a",
        "foo;",
        "foo; ",
        "foo;;a",
        "foo; =1",
        "foo; a=",
        "foo; a=, bar",
        "foo bar",
        "foo; a b",
        "foo; a=1 b",
        "foo=1",
        'foo; a="',
        'foo; a="1',
        'foo; a="1\\',
        'foo; a=1"2"',
        'foo; a="1"2',
        "foo; a=(1)",
        '"foo"',
        "foo/1",
        "foo\x00",
        "foo; a\n",
        "caf\u00e9",
    ],
)
def test_extensions_refused(value: str) -> None:
    with pytest.raises(InvalidHeader) as caught:
        parse_extensions(value)
    assert (caught.value.name, caught.value.value) == ("Sec-WebSocket-Extensions", value)


@pytest.mark.parametrize("quoted", ['""', '"a b"', '"a,b"', '"\\""', '"\\\\"', '" "'])
def test_quoted_value_must_be_a_token(quoted: str) -> None:
    """RFC 6455, 9.1: the value after quoted-string unescaping MUST conform to the token ABNF."""
    with pytest.raises(InvalidHeader):
        parse_extensions(f"foo; a={quoted}")


@given(st.lists(st.tuples(tokens, st.lists(st.tuples(tokens, st.none() | tokens))), min_size=1))
def test_extensions_survive_a_round_trip(extensions: list[tuple[str, list[tuple[str, str | None]]]]) -> None:
    assert parse_extensions(build_extensions(extensions)) == extensions


@given(st.text(alphabet='ab,;="\\ \t\x00\u00e9'))
def test_extensions_of_any_text(value: str) -> None:
    """Whatever the text, it is read or refused, and what was read can be written again."""
    try:
        extensions = parse_extensions(value)
    except InvalidHeader:
        return
    assert extensions
    assert parse_extensions(build_extensions(extensions)) == extensions


@pytest.mark.parametrize(
    "value",
    [
        ";" * 8192,
        "a" + " " * 8192 + "b",
        "a" + ";a   " * 2000,
        'a;b="' + "\\a" * 4000,
        "a;b" + " " * 8192 + "=",
        "," * 8192,
    ],
    ids=lambda value: value[:8],
)
@pytest.mark.timeout(5)  # linear is a millisecond
def test_extensions_are_not_quadratic(value: str) -> None:
    with pytest.raises(InvalidHeader):
        parse_extensions(value * 40 + "?")


def test_build_extensions() -> None:
    assert build_extensions([("a", [("b", None), ("c", "1")]), ("d", [])]) == "a; b; c=1, d"


@pytest.mark.parametrize("extension", [("a b", []), ("a", [("b;", None)]), ("a", [("b", "c,d")]), ("a", [("b", "")])])
def test_build_extensions_refused(extension: tuple[str, list[tuple[str, str | None]]]) -> None:
    with pytest.raises(ValueError, match="is not a token"):
        build_extensions([extension])


def test_build_subprotocols() -> None:
    assert build_subprotocols(["chat", "superchat"]) == "chat, superchat"


def test_build_subprotocols_are_tokens_4_1_request_10() -> None:
    """RFC 6455, 4.1: the elements MUST be non-empty strings of token characters."""
    with pytest.raises(ValueError, match=r"subprotocols: 'a b'"):
        build_subprotocols(["chat", "a b"])


def test_build_subprotocols_are_unique_4_1_request_10() -> None:
    """RFC 6455, 4.1: the elements MUST all be unique strings."""
    with pytest.raises(ValueError, match="once only"):
        build_subprotocols(["chat", "superchat", "chat"])


def test_build_subprotocols_of_a_string() -> None:
    with pytest.raises(TypeError, match="subprotocols='chat'"):
        build_subprotocols("chat")


@pytest.mark.parametrize(
    ("username", "password", "expected"),
    [
        ("Aladdin", "open sesame", "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="),  # RFC 7617, 2
        ("test", "123\u00a3", "Basic dGVzdDoxMjPCow=="),  # RFC 7617, 2.1
        ("a", "b:c", "Basic YTpiOmM="),
        ("", "", "Basic Og=="),
    ],
)
def test_basic_authorization(username: str, password: str, expected: str) -> None:
    assert basic_authorization(username, password) == expected


@pytest.mark.parametrize(("username", "password"), [("a:b", "c"), ("a\n", "c"), ("a", "c\x00"), ("a", "\x7f")])
def test_basic_authorization_refused(username: str, password: str) -> None:
    with pytest.raises(ValueError, match="username"):
        basic_authorization(username, password)
