"""The negotiation of permessage-deflate (RFC 7692, section 7.1), both sides, letter by letter."""

from __future__ import annotations

import itertools

import pytest
import websockets.exceptions
from websockets.extensions.permessage_deflate import (
    ClientPerMessageDeflateFactory,
    PerMessageDeflate,
    ServerPerMessageDeflateFactory,
)
from websockets.headers import build_extension
from wsproto.extensions import PerMessageDeflate as WsprotoDeflate

from taut.errors import InvalidHeader, NegotiationError
from taut.protocol.deflate import DeflateParameters, accept, agree, offer
from taut.protocol.headers import parse_extensions
from taut.types import DeflateOptions

FULL = DeflateOptions(server_max_window_bits=15, client_max_window_bits=15)


def options(server_fresh: bool, client_fresh: bool, server_bits: int, client_bits: int) -> DeflateOptions:
    return DeflateOptions(
        server_no_context_takeover=server_fresh,
        client_no_context_takeover=client_fresh,
        server_max_window_bits=server_bits,
        client_max_window_bits=client_bits,
    )


EVERY_OPTIONS = [
    options(*each) for each in itertools.product((False, True), (False, True), (8, 9, 12, 15), (8, 9, 12, 15))
]
EVERY_OFFER = list(itertools.product((False, True), (False, True), (None, 8, 11, 15), (None, "", 8, 11, 15)))


# ---- what a client offers ----


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (FULL, "permessage-deflate; client_max_window_bits"),
        (
            DeflateOptions(),
            (
                "permessage-deflate; server_max_window_bits=12; client_max_window_bits, "
                "permessage-deflate; client_max_window_bits"
            ),
        ),
        (
            options(True, True, 15, 9),
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover; client_max_window_bits",
        ),
        (
            options(True, False, 8, 15),
            (
                "permessage-deflate; server_no_context_takeover; server_max_window_bits=8; client_max_window_bits, "
                "permessage-deflate; server_no_context_takeover; client_max_window_bits"
            ),
        ),
    ],
)
def test_offer(given: DeflateOptions, expected: str) -> None:
    assert offer(given) == expected


# ---- what a server accepts ----


@pytest.mark.parametrize(
    ("header", "given", "answer", "agreed"),
    [
        ("permessage-deflate", FULL, "permessage-deflate", DeflateParameters()),
        (
            "permessage-deflate",
            DeflateOptions(),
            "permessage-deflate; server_max_window_bits=12",
            DeflateParameters(server_max_window_bits=12),
        ),
        (
            "permessage-deflate; client_max_window_bits",
            DeflateOptions(),
            "permessage-deflate; server_max_window_bits=12; client_max_window_bits=12",
            DeflateParameters(server_max_window_bits=12, client_max_window_bits=12),
        ),
        ("permessage-deflate; client_max_window_bits", FULL, "permessage-deflate", DeflateParameters()),
        (
            "permessage-deflate; server_max_window_bits=10; client_max_window_bits=9",
            DeflateOptions(),
            "permessage-deflate; server_max_window_bits=10; client_max_window_bits=9",
            DeflateParameters(server_max_window_bits=10, client_max_window_bits=9),
        ),
        (
            "permessage-deflate; server_max_window_bits=15; client_max_window_bits=15",
            FULL,
            "permessage-deflate; server_max_window_bits=15",
            DeflateParameters(),
        ),
        (
            'permessage-deflate; server_max_window_bits="8"',
            FULL,
            "permessage-deflate; server_max_window_bits=8",
            DeflateParameters(server_max_window_bits=8),
        ),
        (
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
            FULL,
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
            DeflateParameters(True, True),
        ),
        (
            "permessage-deflate",
            options(True, True, 15, 15),
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
            DeflateParameters(True, True),
        ),
        (  # the example of section 7.1.3: the first offer that can be accepted wins
            (
                "permessage-deflate; client_max_window_bits; server_max_window_bits=10, "
                "permessage-deflate; client_max_window_bits"
            ),
            FULL,
            "permessage-deflate; server_max_window_bits=10",
            DeflateParameters(server_max_window_bits=10),
        ),
        ("x-webkit-deflate-frame, permessage-deflate", FULL, "permessage-deflate", DeflateParameters()),
        ("foo; server_max_window_bits=9, permessage-deflate, bar", FULL, "permessage-deflate", DeflateParameters()),
    ],
)
def test_accept(header: str, given: DeflateOptions, answer: str, agreed: DeflateParameters) -> None:
    assert accept(header, given) == (agreed, answer)


@pytest.mark.parametrize("header", [None, "foo", "permessage-bzip2; level=9, foo"])
def test_accept_nothing(header: str | None) -> None:
    assert accept(header, FULL) is None


MALFORMED = [
    "foo",
    "foo=1",
    "Server_max_window_bits=10",
    "server_no_context_takeover=true",
    "client_no_context_takeover=1",
    "server_max_window_bits",
    *(
        f"{name}={value}"
        for name in ("server_max_window_bits", "client_max_window_bits")
        for value in ("7", "16", "08", "010", "0", "1", "100", "+9", "-9", "9.0", "0x9", "nine", "9a")
    ),
    "server_no_context_takeover; server_no_context_takeover",
    "client_no_context_takeover; client_no_context_takeover",
    "server_max_window_bits=10; server_max_window_bits=10",
    "client_max_window_bits; client_max_window_bits",
    "client_max_window_bits; client_max_window_bits=10",
]


@pytest.mark.parametrize("parameters", MALFORMED)
def test_a_malformed_offer_is_declined(parameters: str) -> None:
    assert accept(f"permessage-deflate; {parameters}", FULL) is None


@pytest.mark.parametrize("parameters", MALFORMED)
def test_the_offer_after_a_malformed_one_is_accepted(parameters: str) -> None:
    header = f"permessage-deflate; {parameters}, permessage-deflate; server_max_window_bits=9"
    assert accept(header, FULL) == (
        DeflateParameters(server_max_window_bits=9),
        "permessage-deflate; server_max_window_bits=9",
    )


def test_a_header_against_the_grammar_is_not_an_offer() -> None:
    with pytest.raises(InvalidHeader):
        accept("permessage-deflate; server_max_window_bits==9", FULL)


@pytest.mark.parametrize(("server_fresh", "client_fresh", "server_bits", "client_bits"), EVERY_OFFER)
def test_every_offer_to_every_server(
    server_fresh: bool, client_fresh: bool, server_bits: int | None, client_bits: int | str | None
) -> None:
    header = "permessage-deflate"
    header += "; server_no_context_takeover" * server_fresh + "; client_no_context_takeover" * client_fresh
    if server_bits is not None:
        header += f"; server_max_window_bits={server_bits}"
    if client_bits is not None:
        header += f"; client_max_window_bits={client_bits}" if client_bits else "; client_max_window_bits"
    for given in EVERY_OPTIONS:
        accepted = accept(header, given)
        assert accepted is not None
        agreed, answer = accepted
        [(name, parameters)] = parse_extensions(answer)
        said = dict(parameters)
        assert name == "permessage-deflate"
        assert len(said) == len(parameters)
        # 7.1.1.1 and 7.1.1.2
        assert agreed.server_no_context_takeover == ("server_no_context_takeover" in said)
        assert agreed.server_no_context_takeover == (server_fresh or given.server_no_context_takeover)
        assert agreed.client_no_context_takeover == ("client_no_context_takeover" in said)
        assert agreed.client_no_context_takeover == (client_fresh or given.client_no_context_takeover)
        # 7.1.2.1: what was asked for is confirmed, with the same value or a smaller one
        assert agreed.server_max_window_bits == int(said.get("server_max_window_bits") or 15)
        assert agreed.server_max_window_bits == min(server_bits or 15, given.server_max_window_bits)
        assert server_bits is None or "server_max_window_bits" in said
        # 7.1.2.2: not said unless offered, and never above the offered value
        assert agreed.client_max_window_bits == int(said.get("client_max_window_bits") or 15)
        if client_bits is None:
            assert "client_max_window_bits" not in said
        else:
            assert agreed.client_max_window_bits == min(int(client_bits or 15), given.client_max_window_bits)


# ---- what a client agrees to ----


@pytest.mark.parametrize("given", [None, FULL, DeflateOptions(server_no_context_takeover=True)])
def test_the_server_may_decline(given: DeflateOptions | None) -> None:
    assert agree(None, given) is None


@pytest.mark.parametrize(
    ("header", "given", "agreed"),
    [
        ("permessage-deflate", FULL, DeflateParameters()),
        ("permessage-deflate", DeflateOptions(), DeflateParameters(client_max_window_bits=12)),
        (
            "permessage-deflate; server_max_window_bits=9; client_max_window_bits=10",
            FULL,
            DeflateParameters(server_max_window_bits=9, client_max_window_bits=10),
        ),
        # The server may allow more than this client uses.
        (
            "permessage-deflate; client_max_window_bits=15",
            options(False, False, 15, 11),
            DeflateParameters(client_max_window_bits=11),
        ),
        # It ignored the wish of the first offer, and so accepted the second.
        (
            "permessage-deflate; server_max_window_bits=13",
            options(False, False, 10, 15),
            DeflateParameters(server_max_window_bits=13),
        ),
        # It may ask for either flag unasked (7.1.1).
        (
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
            FULL,
            DeflateParameters(True, True),
        ),
        # What the client promised holds even if the server does not mention it (7.1.1.2).
        ("permessage-deflate", options(False, True, 15, 15), DeflateParameters(client_no_context_takeover=True)),
    ],
)
def test_agree(header: str, given: DeflateOptions, agreed: DeflateParameters) -> None:
    assert agree(header, given) == agreed


@pytest.mark.parametrize("parameters", [*MALFORMED, "client_max_window_bits"])
def test_a_malformed_answer_fails(parameters: str) -> None:
    with pytest.raises(NegotiationError, match=r"^permessage-deflate: "):
        agree(f"permessage-deflate; {parameters}", FULL)


@pytest.mark.parametrize(
    ("header", "given", "problem"),
    [
        ("foo", FULL, "the server chose the extension foo, which was not offered"),
        ("permessage-deflate, foo", FULL, "the server chose the extension foo, which was not offered"),
        ("permessage-deflate", None, "the server chose the extension permessage-deflate, which was not offered"),
        ("permessage-deflate, permessage-deflate", FULL, "the server chose permessage-deflate more than once"),
        (
            "permessage-deflate",
            options(True, False, 15, 15),
            "permessage-deflate: the server did not confirm server_no_context_takeover",
        ),
        (
            "permessage-deflate; server_max_window_bits=16",
            FULL,
            "permessage-deflate: server_max_window_bits must be a number from 8 to 15, not '16'",
        ),
    ],
)
def test_an_answer_that_was_not_offered_fails(header: str, given: DeflateOptions | None, problem: str) -> None:
    with pytest.raises(NegotiationError) as raised:
        agree(header, given)
    assert str(raised.value) == problem


@pytest.mark.parametrize("client", EVERY_OPTIONS)
def test_both_sides_agree(client: DeflateOptions) -> None:
    for server in EVERY_OPTIONS:
        accepted = accept(offer(client), server)
        assert accepted is not None
        of_server, answer = accepted
        of_client = agree(answer, client)
        assert of_client == DeflateParameters(
            client.server_no_context_takeover or server.server_no_context_takeover,
            client.client_no_context_takeover or server.client_no_context_takeover,
            min(client.server_max_window_bits, server.server_max_window_bits),
            min(client.client_max_window_bits, server.client_max_window_bits),
        )
        # The client may use less than the server allows.
        assert of_server.client_max_window_bits == server.client_max_window_bits
        assert of_server.client_no_context_takeover == of_client.client_no_context_takeover
        assert of_server.server_no_context_takeover == of_client.server_no_context_takeover
        assert of_server.server_max_window_bits == of_client.server_max_window_bits


# ---- against other implementations ----


def described(extension: PerMessageDeflate, *, client: bool) -> DeflateParameters:
    local, remote = ("client", "server") if client else ("server", "client")
    return DeflateParameters(
        **{
            f"{local}_no_context_takeover": extension.local_no_context_takeover,
            f"{remote}_no_context_takeover": extension.remote_no_context_takeover,
            f"{local}_max_window_bits": extension.local_max_window_bits,
            f"{remote}_max_window_bits": extension.remote_max_window_bits,
        }
    )


@pytest.mark.parametrize("given", [each for each in EVERY_OPTIONS if each.server_max_window_bits > 8])
def test_a_websockets_server_and_this_client(given: DeflateOptions) -> None:
    for theirs in itertools.product((False, True), (False, True), (None, 9, 15), (None, 9, 15)):
        factory = ServerPerMessageDeflateFactory(*theirs)
        (_, parameters), *_ = parse_extensions(offer(given))
        answer, extension = factory.process_request_params(parameters, [])
        agreed = agree(build_extension([("permessage-deflate", list(answer))]), given)
        assert agreed is not None
        theirs_agreed = described(extension, client=False)
        assert agreed.server_max_window_bits == theirs_agreed.server_max_window_bits <= given.server_max_window_bits
        assert agreed.client_max_window_bits == min(theirs_agreed.client_max_window_bits, given.client_max_window_bits)
        assert agreed.server_no_context_takeover == theirs_agreed.server_no_context_takeover
        assert agreed.client_no_context_takeover == theirs_agreed.client_no_context_takeover


@pytest.mark.parametrize("given", EVERY_OPTIONS)
def test_a_websockets_client_and_this_server(given: DeflateOptions) -> None:
    for theirs in itertools.product((False, True), (False, True), (None, 8, 11, 15), (None, True, 9, 11, 15)):
        factory = ClientPerMessageDeflateFactory(*theirs)
        accepted = accept(build_extension([("permessage-deflate", list(factory.get_request_params()))]), given)
        assert accepted is not None
        agreed, answer = accepted
        [(_, parameters)] = parse_extensions(answer)
        if agreed.client_max_window_bits == 8:
            with pytest.raises(websockets.exceptions.NegotiationError, match="client_max_window_bits = 8"):
                factory.process_response_params(parameters, [])
            continue
        extension = factory.process_response_params(parameters, [])
        theirs_agreed = described(extension, client=True)
        assert agreed.server_no_context_takeover == theirs_agreed.server_no_context_takeover
        assert agreed.client_no_context_takeover == theirs_agreed.client_no_context_takeover
        assert agreed.server_max_window_bits == theirs_agreed.server_max_window_bits
        assert agreed.client_max_window_bits >= theirs_agreed.client_max_window_bits


@pytest.mark.parametrize("given", [each for each in EVERY_OPTIONS if each.server_max_window_bits > 8])
def test_a_wsproto_server_and_this_client(given: DeflateOptions) -> None:
    theirs = WsprotoDeflate()
    first = offer(given).split(", ")[0]
    answer = theirs.accept(first)
    assert isinstance(answer, str)
    agreed = agree(f"permessage-deflate; {answer}", given)
    assert agreed is not None
    assert agreed.server_max_window_bits == theirs.server_max_window_bits == given.server_max_window_bits
    assert agreed.client_max_window_bits == given.client_max_window_bits <= theirs.client_max_window_bits
    assert agreed.server_no_context_takeover == theirs.server_no_context_takeover
    assert agreed.client_no_context_takeover == theirs.client_no_context_takeover
