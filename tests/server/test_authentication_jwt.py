"""JSON Web Tokens: which are accepted, and that the others are all told the same."""

from __future__ import annotations

import asyncio
import base64
import builtins
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Callable
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from door import bearer, door, refusal, said
from network import Driver

import taut


@pytest.fixture(params=["uvloop", "debug"])
def loop_name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


SECRET = "0123456789abcdef-secret-" * 3
PRIVATE = ec.generate_private_key(ec.SECP256R1())
PUBLIC = (
    PRIVATE.public_key()
    .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    .decode()
)
OTHER = ec.generate_private_key(ec.SECP256R1())
RSA = rsa.generate_private_key(65537, 2048)
WRONG = refusal(401, 'Bearer realm="", error="invalid_token"')


def claims(**more: Any) -> dict[str, Any]:
    return {"sub": "ann", "exp": int(time.time()) + 6000} | more


def signed(payload: dict[str, Any] | None = None, key: Any = SECRET, algorithm: str = "HS256", **header: Any) -> str:
    return jwt.encode(claims() if payload is None else payload, key, algorithm, headers=header)


def packed(*parts: Any) -> str:
    """A token of these parts, each JSON or bytes, with any signature."""
    encoded = [each if isinstance(each, bytes) else json.dumps(each).encode() for each in parts]
    return ".".join(base64.urlsafe_b64encode(each).decode().rstrip("=") for each in encoded)


def signed_text(header: bytes, payload: bytes) -> str:
    """A token that is signed rightly, whatever it holds."""
    body = packed(header, payload)
    return f"{body}.{packed(hmac.digest(SECRET.encode(), body.encode(), hashlib.sha256))}"


async def test_the_claims_are_the_principal(tcp: Driver) -> None:
    payload = claims(scope=["a"])
    async with door(tcp, taut.jwt_auth(SECRET, ["HS256"])) as at:
        assert said(await at.ask(bearer(signed(payload)))) == f"{payload!r} / None"
        assert await at.ask() == refusal(401, 'Bearer realm=""')


NOW = int(time.time())
BAD: dict[str, str] = {
    "expired": signed(claims(exp=NOW - 10)),
    "without an end": signed({"sub": "ann"}),
    "not yet valid": signed(claims(nbf=NOW + 5000)),
    "issued in the future": signed(claims(iat=NOW + 5000)),
    "for somebody else": signed(claims(aud="other")),
    "of another key": signed(key=SECRET[::-1]),
    "of another algorithm": signed(algorithm="HS512"),
    "not signed": jwt.encode(claims(), None, "none"),
    "not signed, in capitals": packed({"alg": "None"}, claims()) + ".",
    "cut short": signed()[:-4],
    "without a signature": signed().rpartition(".")[0] + ".",
    "two parts": "a.b",
    "no parts": "abc",
    "dots": "...",
    "empty parts": "..",
    "a header that is no object": packed([], {}, b"x"),
    "a header that is no JSON": packed(b"{", {}, b"x"),
    "a header without an algorithm": packed({}, claims(), b"x"),
    "an algorithm that is a list": packed({"alg": ["HS256"]}, claims(), b"x"),
    "an algorithm that is an object": packed({"alg": {"HS256": 1}}, claims(), b"x"),
    "an algorithm that is null": packed({"alg": None}, claims(), b"x"),
    "a key that is a number": packed({"alg": "HS256", "kid": 1}, claims(), b"x"),
    "an extension that is critical": signed(crit=["x"], x=1),
    "a deep header": packed(b'{"alg":' + b"[" * 2000 + b"]" * 2000 + b"}", {}, b"x"),
    "a header of other letters": packed(b"\xff\xfe{}", {}, b"x"),
    "a payload that is no object": signed_text(b'{"alg":"HS256"}', b"[]"),
    "a payload that is no JSON": signed_text(b'{"alg":"HS256"}', b"{"),
    "a payload that is deep": signed_text(b'{"alg":"HS256"}', b'{"exp":' + b"[" * 2000 + b"]" * 2000 + b"}"),
    "an end that is infinite": signed_text(b'{"alg":"HS256"}', b'{"exp":Infinity}'),
    "an end that is not a number": signed_text(b'{"alg":"HS256"}', b'{"exp":NaN}'),
    "an end that is a list": signed_text(b'{"alg":"HS256"}', b'{"exp":[1]}'),
    "an end that is text": signed_text(b'{"alg":"HS256"}', b'{"exp":"soon"}'),
    "an audience that is a number": signed_text(b'{"alg":"HS256"}', b'{"exp":9999999999,"aud":1}'),
}


@pytest.mark.parametrize("key", [SECRET, lambda header: SECRET], ids=["known", "asked for"])
@pytest.mark.parametrize("bad", BAD)
async def test_whatever_is_wrong_is_told_the_same(
    tcp: Driver, bad: str, key: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with door(tcp, taut.jwt_auth(key, ["HS256"]), max_head=1 << 17) as at:
        assert await at.ask(bearer(BAD[bad])) == WRONG
    assert not caplog.records


async def test_a_public_key_is_no_secret(tcp: Driver) -> None:
    """RFC 8725, 2.1: somebody who takes it for one can sign, as far as HMAC goes."""
    body = packed({"alg": "HS256", "typ": "JWT"}, claims())
    forged = f"{body}.{packed(hmac.digest(PUBLIC.encode(), body.encode(), hashlib.sha256))}"
    async with door(tcp, taut.jwt_auth(PUBLIC, ["ES256"])) as at:
        assert await at.ask(bearer(forged)) == WRONG
        assert await at.ask(bearer(signed(key=OTHER, algorithm="ES256"))) == WRONG
        assert said(await at.ask(bearer(signed(key=PRIVATE, algorithm="ES256")))).startswith("{'sub': 'ann'")


@pytest.mark.parametrize(
    ("options", "good", "bad"),
    [
        ({"audience": "chat"}, [{"aud": "chat"}, {"aud": ["x", "chat"]}], [{}, {"aud": "x"}, {"aud": []}]),
        ({"audience": ["chat", "b"]}, [{"aud": "b"}], [{}, {"aud": "x"}]),
        ({"issuer": "us"}, [{"iss": "us"}], [{}, {"iss": "u"}, {"iss": ["us"]}]),
        ({"issuer": ("us", "you")}, [{"iss": "you"}], [{}, {"iss": "them"}]),
        ({"leeway": 3600}, [{"exp": NOW - 5}], [{"exp": NOW - 36000}]),
        ({"require": ("exp", "jti")}, [{"jti": "1"}], [{}]),
        ({"require": ()}, [{}, {"aud": None}], [{"exp": NOW - 5}]),
    ],
)
async def test_what_a_token_must_say(
    tcp: Driver, options: dict[str, Any], good: list[dict[str, Any]], bad: list[dict[str, Any]]
) -> None:
    async with door(tcp, taut.jwt_auth(SECRET, ["HS256"], **options)) as at:
        for more in good:
            assert said(await at.ask(bearer(signed(claims(**more))))).startswith("{'sub': 'ann'")
        for more in bad:
            token = signed_text(b'{"alg":"HS256"}', json.dumps(claims(**more)).encode())
            assert await at.ask(bearer(token)) == WRONG


async def test_a_token_without_an_end_if_none_is_required(tcp: Driver) -> None:
    async with door(tcp, taut.jwt_auth(SECRET, ["HS256"], require=[])) as at:
        assert said(await at.ask(bearer(signed({"sub": "ann"})))) == "{'sub': 'ann'} / None"
        assert await at.ask(bearer(signed({}))) == WRONG  # which says of nobody who it is


@pytest.mark.parametrize("later", [True, False])
async def test_a_check_of_the_claims(tcp: Driver, later: bool) -> None:
    def check(found: dict[str, Any]) -> str | None:
        if found["sub"] == "bob":
            raise PermissionError
        if found["sub"] == "raise":
            raise RuntimeError(signed())
        return found["sub"] if found["sub"] == "ann" else None

    async def check_later(found: dict[str, Any]) -> str | None:
        await asyncio.sleep(0)
        return check(found)

    async with door(tcp, taut.jwt_auth(SECRET, ["HS256"], check=check_later if later else check, realm="a")) as at:
        assert said(await at.ask(bearer(signed()))) == "'ann' / None"
        assert await at.ask(bearer(signed(claims(sub="eve")))) == refusal(
            401, 'Bearer realm="a", error="invalid_token"'
        )
        assert await at.ask(bearer(signed(claims(sub="bob")))) == refusal(
            403, 'Bearer realm="a", error="insufficient_scope"'
        )
        assert await at.ask(bearer(signed(claims(sub="raise")))) == refusal(500)


@pytest.mark.parametrize("later", [True, False])
async def test_a_key_for_each_token(tcp: Driver, later: bool) -> None:
    def find(header: dict[str, Any]) -> str | None:
        if header["kid"] == "raise":
            raise ConnectionError("no keys")
        return {"a": SECRET, "b": SECRET * 2, "pem": PUBLIC, "int": 7}.get(header["kid"])

    async def find_later(header: dict[str, Any]) -> str | None:
        await asyncio.sleep(0)
        return find(header)

    async with door(tcp, taut.jwt_auth(find_later if later else find, ["HS256"])) as at:
        assert said(await at.ask(bearer(signed(kid="a")))).startswith("{'sub': 'ann'")
        assert said(await at.ask(bearer(signed(key=SECRET * 2, kid="b")))).startswith("{'sub': 'ann'")
        assert await at.ask(bearer(signed(kid="b"))) == WRONG
        assert await at.ask(bearer(signed(kid="c"))) == WRONG
        assert await at.ask(bearer(signed(kid="a", algorithm="HS512"))) == WRONG
        assert await at.ask(bearer(signed(kid="raise"))) == refusal(500)
        for kid in ("pem", "int"):  # keys that are ours to mend
            assert await at.ask(bearer(signed(kid=kid))) == refusal(500)


class Keys(jwt.PyJWKClient):
    """The keys of an issuer that is not asked over the network."""

    def __init__(self) -> None:
        super().__init__("https://issuer.invalid/keys")
        self.threads: set[threading.Thread] = set()
        self.down = False

    def fetch_data(self) -> Any:
        self.threads.add(threading.current_thread())
        if self.down:
            raise jwt.PyJWKClientConnectionError("the issuer is down")
        keys = []
        for kid, key in [("1", PRIVATE), ("2", OTHER)]:
            made = jwt.get_algorithm_by_name("ES256").to_jwk(key.public_key(), as_dict=True)
            keys.append(made | {"kid": kid, "alg": "ES256", "use": "sig"})
        return {"keys": keys}


async def test_the_keys_of_an_issuer(tcp: Driver) -> None:
    """They are fetched beside the event loop, not in its thread."""
    keys = Keys()
    async with door(tcp, taut.jwt_auth(keys, ["ES256"])) as at:
        assert said(await at.ask(bearer(signed(key=OTHER, algorithm="ES256", kid="2")))).startswith("{'sub': 'ann'")
        assert await at.ask(bearer(signed(key=OTHER, algorithm="ES256", kid="1"))) == WRONG
        assert await at.ask(bearer(signed(key=OTHER, algorithm="ES256", kid="3"))) == WRONG
        assert await at.ask(bearer(signed(key=OTHER, algorithm="ES256"))) == WRONG
    assert keys.threads
    assert threading.main_thread() not in keys.threads
    keys = Keys()
    keys.down = True
    async with door(tcp, taut.jwt_auth(keys, ["ES256"])) as at:
        assert await at.ask(bearer(signed(key=PRIVATE, algorithm="ES256", kid="1"))) == refusal(500)


async def test_a_key_that_knows_its_algorithm(tcp: Driver) -> None:
    key = jwt.PyJWK.from_dict(jwt.get_algorithm_by_name("ES256").to_jwk(PRIVATE.public_key(), as_dict=True), "ES256")
    async with door(tcp, taut.jwt_auth(key, ["ES256", "RS256"])) as at:
        assert said(await at.ask(bearer(signed(key=PRIVATE, algorithm="ES256")))).startswith("{'sub': 'ann'")
        assert await at.ask(bearer(signed(key=RSA, algorithm="RS256"))) == WRONG
    with pytest.raises(ValueError, match=r"^key is for ES256, which is not among the algorithms$"):
        taut.jwt_auth(key, ["RS256"])


async def test_a_token_that_comes_another_way(tcp: Driver) -> None:
    check = taut.jwt_auth(SECRET, ["HS256"]).check
    hook = taut.any_of(taut.query_auth("token", check), taut.subprotocol_auth("jwt.", check))
    async with door(tcp, hook, subprotocols=["chat"]) as at:
        assert said(await at.ask(target=f"/?token={signed()}")).startswith("{'sub': 'ann'")
        answer = await at.ask(("Sec-WebSocket-Protocol", f"chat, jwt.{signed()}"))
        assert said(answer).startswith("{'sub': 'ann'")
        assert await at.ask(target="/?token=%C3%A9") == refusal(
            401, 'Bearer realm="", error="invalid_token"', 'Bearer realm=""'
        )


@pytest.mark.parametrize(
    ("make", "kind", "text"),
    [
        (lambda: taut.jwt_auth(SECRET, "HS256"), TypeError, "algorithms must be a sequence"),
        (lambda: taut.jwt_auth(SECRET, None), ValueError, "algorithms must hold at least one of HS256, "),
        (lambda: taut.jwt_auth(SECRET, []), ValueError, "algorithms must hold at least one of HS256, "),
        (lambda: taut.jwt_auth(SECRET, ["none"]), ValueError, "algorithms must be among HS256, "),
        (lambda: taut.jwt_auth(SECRET, ["HS256", "None"]), ValueError, "not 'None'"),
        (lambda: taut.jwt_auth(SECRET, [7]), TypeError, "algorithms must hold only str, not 7"),
        (lambda: taut.jwt_auth(lambda header: SECRET, ["HS256", "RS256"]), ValueError, "not both"),
        (lambda: taut.jwt_auth("", ["HS256"]), ValueError, "key must not be empty"),
        (lambda: taut.jwt_auth(None, ["HS256"]), ValueError, "key must not be empty"),
        (lambda: taut.jwt_auth(SECRET, ["RS256"]), ValueError, "key cannot be used with RS256"),
        (lambda: taut.jwt_auth(PUBLIC, ["ES256", "RS256"]), ValueError, "key cannot be used with RS256"),
        (lambda: taut.jwt_auth(PUBLIC, ["HS256"]), ValueError, "key cannot be used with HS256"),
        (
            lambda: taut.jwt_auth("x" * 31, ["HS256"]),
            ValueError,
            "key cannot be used with HS256: The HMAC key is 31 bytes",
        ),
        (lambda: taut.jwt_auth(7, ["HS256"]), TypeError, "key of type int cannot be used with HS256"),
        (lambda: taut.jwt_auth(SECRET, ["HS256"], audience=""), ValueError, "audience must not be empty"),
        (lambda: taut.jwt_auth(SECRET, ["HS256"], audience=[]), ValueError, "audience must not be empty"),
        (lambda: taut.jwt_auth(SECRET, ["HS256"], issuer=7), TypeError, "issuer must be a sequence or None, not 7"),
        (lambda: taut.jwt_auth(SECRET, ["HS256"], leeway=-1), ValueError, "leeway must be a number of at least 0"),
        (lambda: taut.jwt_auth(SECRET, ["HS256"], require="exp"), TypeError, "require must be a sequence"),
        (lambda: taut.jwt_auth(SECRET, ["HS256"], check=7), TypeError, "check must be a function"),
    ],
)
def test_wrong_arguments(make: Callable[[], Any], kind: type[Exception], text: str) -> None:
    with pytest.raises(kind) as caught:
        make()
    assert text in str(caught.value)
    assert SECRET not in f"{caught.value!r}"
    assert "BEGIN" not in f"{caught.value!r}"


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **options: Any) -> Any:
        if name == "jwt":
            raise ImportError(name)
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(taut.MissingExtra, match=r"^jwt_auth needs the extra 'jwt': pip install 'taut\[jwt\]'$"):
        taut.jwt_auth(SECRET, ["HS256"])
