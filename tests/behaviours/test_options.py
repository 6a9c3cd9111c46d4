"""A wrong option is refused before any I/O, by an error that names it, its value, and what would be accepted."""

from __future__ import annotations

import ssl
from typing import Any

import pytest
from network import Driver

import taut


async def nobody(ws: Any) -> None:
    raise AssertionError("never called")


BOTH: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"max_size": 0}, ValueError, "max_size must be .*at least 1.*None.*not 0"),
    ({"max_size": -1}, ValueError, "max_size must be .*not -1"),
    ({"max_size": "1 MB"}, TypeError, "max_size must be .*not '1 MB'"),
    ({"max_size": 1.5}, TypeError, "max_size must be .*not 1.5"),
    ({"max_size": True}, TypeError, "max_size must be .*not True"),
    ({"max_frame_size": 0}, ValueError, "max_frame_size .*not 0"),
    ({"max_fragments": 0}, ValueError, "max_fragments .*not 0"),
    ({"read_limit": None}, TypeError, "read_limit must be .*not None"),
    ({"read_limit": 0}, ValueError, "read_limit must be .*not 0"),
    ({"write_limit": -5}, ValueError, "write_limit must be .*not -5"),
    ({"outbox_limit": "x"}, TypeError, "outbox_limit must be .*not 'x'"),
    ({"ping_interval": 0}, ValueError, "ping_interval must be .*above 0.*None.*not 0"),
    ({"ping_interval": "20"}, TypeError, "ping_interval must be .*not '20'"),
    ({"ping_timeout": -1}, ValueError, "ping_timeout must be .*not -1"),
    ({"ping_timeout": float("nan")}, ValueError, "ping_timeout must be .*not nan"),
    ({"close_timeout": 0}, ValueError, "close_timeout must be .*not 0"),
    ({"open_timeout": 0}, ValueError, "open_timeout must be .*not 0"),
    ({"rate_limits": 10}, TypeError, "rate_limits must be a RateLimits, not 10"),
    ({"rate_limits": taut.RateLimits(messages=0)}, ValueError, "rate_limits.messages must be .*above 0.*None.*not 0"),
    ({"rate_limits": taut.RateLimits(burst=None)}, TypeError, "rate_limits.burst must be .*not None"),  # type: ignore[arg-type]
    ({"strict_pongs": 1}, TypeError, "strict_pongs must be True or False, not 1"),
    ({"compression": "gzip"}, ValueError, "compression must be .*deflate.*None.*DeflateOptions.*not 'gzip'"),
    ({"compression": True}, ValueError, "compression must be .*not True"),
    (
        {"compression": taut.DeflateOptions(server_max_window_bits=16)},
        ValueError,
        "server_max_window_bits.*8 to 15.*16",
    ),
    ({"compression": taut.DeflateOptions(client_max_window_bits=7)}, ValueError, "client_max_window_bits.*8 to 15.*7"),
    ({"compression": taut.DeflateOptions(level=10)}, ValueError, "level must be .*not 10"),
    ({"compression": taut.DeflateOptions(mem_level=0)}, ValueError, "mem_level must be .*not 0"),
    ({"compression": taut.DeflateOptions(threshold=-1)}, ValueError, "threshold must be .*not -1"),
    ({"subprotocols": "chat"}, TypeError, "subprotocols must be a sequence.*not 'chat'"),
    ({"subprotocols": [1]}, TypeError, "subprotocols must hold only str or Subprotocol, not 1"),
    ({"subprotocols": ["not a token"]}, ValueError, "subprotocols must be HTTP tokens, not 'not a token'"),
    ({"max_head": 0}, ValueError, "max_head must be .*not 0"),
    ({"max_headers": "x"}, TypeError, "max_headers must be .*not 'x'"),
    ({"ssl": True}, TypeError, "ssl must be an ssl.SSLContext or None, not True"),
    ({"max_sise": 1}, TypeError, "unexpected option max_sise; known are .*max_size"),
]

SERVER: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"origins": "https://example.com"}, TypeError, "origins must be a sequence.*not 'https://example.com'"),
    ({"origins": [1]}, TypeError, "origins must hold only .*not 1"),
    ({"process_request": 1}, TypeError, "process_request must be callable or None, not 1"),
    ({"process_response": "x"}, TypeError, "process_response must be callable or None, not 'x'"),
    ({"select_subprotocol": ()}, TypeError, "select_subprotocol must be callable or None"),
    ({"max_connections": 0}, ValueError, "max_connections must be .*at least 1.*not 0"),
    ({"max_connections_per_address": 1.5}, TypeError, "max_connections_per_address must be .*not 1.5"),
    ({"max_handshakes": "9"}, TypeError, "max_handshakes must be .*not '9'"),
    ({"handshake_rate": 0}, ValueError, "handshake_rate must be .*above 0.*not 0"),
    ({"backlog": 0}, ValueError, "backlog must be .*not 0"),
    ({"port": "8080"}, TypeError, "port must be .*not '8080'"),
    ({"port": 65536}, ValueError, "port must be 0 to 65535, not 65536"),
    ({"path": "/tmp/s", "host": "localhost"}, ValueError, "only one of host and port, sock, path"),
    ({"sock": 5}, TypeError, "sock must be a sequence.*not 5"),
    ({"sock": ["x"]}, TypeError, "sock must hold only socket, not 'x'"),
    ({"sock": []}, ValueError, "sock must be a bound socket, or at least one of them"),
    ({"cancel_on_close": "yes"}, TypeError, "cancel_on_close must be True or False, not 'yes'"),
]


@pytest.mark.parametrize(("options", "error", "text"), BOTH + SERVER)
async def test_serve_refuses_wrong_options(options: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        taut.serve(nobody, **{"host": "no.such.host.invalid", **options} if "path" not in options else options)


@pytest.mark.parametrize(("options", "error", "text"), BOTH)
async def test_connect_refuses_wrong_options(options: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        taut.connect("wss://no.such.host.invalid/", **options)


@pytest.mark.parametrize(
    ("uri", "options", "error"),
    [
        ("http://localhost/", {}, taut.InvalidURI),
        ("ws://", {}, taut.InvalidURI),
        ("ws://localhost:99999/", {}, taut.InvalidURI),
        ("ws://localhost/#fragment", {}, taut.InvalidURI),
        (b"ws://localhost/", {}, TypeError),
        ("ws://localhost/", {"ssl": ssl.create_default_context()}, ValueError),
        ("ws://localhost/", {"additional_headers": {"X-Header": "a\r\nInjected: b"}}, ValueError),
        ("ws://localhost/", {"additional_headers": {"X Header": "a"}}, ValueError),
        ("ws://localhost/", {"origin": "http://a\r\nb"}, ValueError),
    ],
)
async def test_connect_refuses_wrong_addresses_and_headers(uri: Any, options: dict[str, Any], error: Any) -> None:
    with pytest.raises(error):
        taut.connect(uri, **options)


class Listener(taut.Listener):
    pass


@pytest.mark.parametrize("handler", [None, 1, "handler", object, Listener()])
async def test_a_handler_must_be_one(handler: Any) -> None:
    with pytest.raises(TypeError, match="handler must be"):
        taut.serve(handler, "no.such.host.invalid", 80)


async def test_limits_are_what_the_record_says(tcp: Driver) -> None:
    defaults = taut.ConnectionOptions()
    async with tcp.connected(_idle) as (server, ws):
        assert ws.options == defaults
        assert server.options == defaults
    async with tcp.connected(_idle, max_size=5, ping_interval=None) as (server, ws):
        assert (ws.options.max_size, server.options.max_size) == (5, 5)
        assert ws.options.ping_interval is None


async def _idle(ws: Any) -> None:
    await ws.wait_closed()
