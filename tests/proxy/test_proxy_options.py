"""Wrong arguments are refused at once, before any I/O, and named."""

from __future__ import annotations

import re
from typing import Any

import pytest

import taut
import taut.proxy
from taut.proxy import HeaderRules, HealthCheck, Proxy, Route, Upstream

URI = "ws://localhost"


@pytest.mark.parametrize(
    ("make", "kind", "said"),
    [
        (lambda: Proxy("http://x"), taut.InvalidURI, "the scheme must be ws or wss"),
        (lambda: Proxy([]), ValueError, "to must name at least one upstream"),
        (lambda: Proxy(5), TypeError, "to must be a URI, an Upstream, or a sequence of these, not 5"),
        (lambda: Proxy([URI, 5]), TypeError, "an upstream must be a URI or an Upstream, not 5"),
        (lambda: Proxy([Route(URI), URI]), TypeError, "to must hold routes only, or upstreams only"),
        (lambda: Proxy([Route(URI), Route(URI)]), ValueError, "two routes have the path '/'"),
        (lambda: Proxy(URI, dial_timeout=0), ValueError, "dial_timeout must be a number above 0, not 0"),
        (lambda: Proxy(URI, dial_timeout=None), TypeError, "dial_timeout must be a number above 0, not None"),
        (lambda: Proxy(URI, forwards="x"), ValueError, "forwards must be .* not 'x'"),
        (lambda: Proxy(URI, compression="gzip"), ValueError, "compression must be"),
        (lambda: Proxy(URI, max_head=0), ValueError, "max_head must be a whole number, at least 1, not 0"),
        (lambda: Proxy(URI, nothing=1), TypeError, "unexpected option nothing"),
        (lambda: Proxy(URI, cancel_on_close=True), TypeError, "cancel_on_close is for handlers"),
        (lambda: Upstream(uri="ws://x/?a"), ValueError, "has a query, which is the client's to send"),
        (lambda: Upstream(uri=5), TypeError, "uri must be a str, not 5"),
        (lambda: Upstream(uri=URI, ssl=True), TypeError, "ssl must be an ssl.SSLContext or None, not True"),
        (lambda: Upstream(uri=URI, proxy_protocol="v1"), TypeError, "proxy_protocol must be True or False, not 'v1'"),
        (lambda: Route(URI, "chat"), ValueError, "path must be .* not 'chat'"),
        (lambda: Route(URI, "/chat/"), ValueError, "path must be .* not '/chat/'"),
        (lambda: Route(URI, "/a?b"), ValueError, "path must be"),
        (lambda: Route(URI, strip_prefix=1), TypeError, "strip_prefix must be True or False, not 1"),
        (lambda: Route(URI, rewrite="a"), TypeError, "rewrite must be a tuple of a regular expression and a"),
        (lambda: Route(URI, rewrite=("(", "")), ValueError, "rewrite: .* cannot be used"),
        (lambda: Route(URI, rewrite=("a", r"\1")), ValueError, "rewrite: .* cannot be used: invalid group"),
        (lambda: Route(URI, host="a b"), ValueError, 'host must be "preserve", "upstream", or a host'),
        (lambda: Route(URI, request_headers={}), TypeError, "request_headers must be HeaderRules, not {}"),
        (lambda: Route(URI, balance="random"), ValueError, "balance must be .* not 'random'"),
        (lambda: Route(URI, balance="cookie:"), ValueError, "balance must be .* not 'cookie:'"),
        (lambda: Route(URI, tries=0), ValueError, "tries must be a whole number, at least 1, not 0"),
        (lambda: Route(URI, tries=True), TypeError, "tries must be a whole number, at least 1, not True"),
        (lambda: Route(URI, pause=-1), ValueError, "pause must be a number above 0, not -1"),
        (lambda: Route(URI, health="tcp"), TypeError, "health must be a HealthCheck or None, not 'tcp'"),
        (lambda: HealthCheck(kind="ping"), ValueError, 'kind must be "tcp", "http" or "websocket", not \'ping\''),
        (lambda: HealthCheck(path="x"), ValueError, "path must begin with / and be percent-encoded, not 'x'"),
        (lambda: HealthCheck(path="/x y"), ValueError, "path must begin with /"),
        (lambda: HealthCheck(interval=0), ValueError, "interval must be a number above 0, not 0"),
        (lambda: HealthCheck(healthy_after=0), ValueError, "healthy_after must be a whole number, at least 1, not 0"),
        (lambda: HeaderRules(set=[]), TypeError, "set must be a mapping of names to values"),
        (lambda: HeaderRules(set={"A": 1}), TypeError, "set must hold names and values, both str"),
        (lambda: HeaderRules(set={"A": "x\ny"}), ValueError, "set: header A"),
        (lambda: HeaderRules(add=["A"]), TypeError, "add must hold names and values, both str, not 'A'"),
        (lambda: HeaderRules(add=[("a b", "c")]), ValueError, "add: 'a b' is not the name of a header"),
        (lambda: HeaderRules(remove="Cookie"), TypeError, "remove must be a sequence, not 'Cookie'"),
        (lambda: HeaderRules(remove=[1]), TypeError, "remove must hold names of headers, not 1"),
        (lambda: HeaderRules(remove=["Upgrade"]), ValueError, "remove: Upgrade belongs to one connection"),
        (lambda: HeaderRules(set={"Sec-WebSocket-Key": "x"}), ValueError, "set: Sec-WebSocket-Key belongs to"),
        (lambda: taut.proxy.serve(URI, subprotocols=["x"]), TypeError, "subprotocols is not for a proxy"),
        (lambda: taut.proxy.serve(URI, process_request=5), TypeError, "process_request must be callable or None"),
        (lambda: taut.proxy.serve(URI, port=-1), ValueError, "port must be 0 to 65535"),
    ],
)
def test_wrong_arguments(make: Any, kind: type[Exception], said: str) -> None:
    with pytest.raises(kind) as failure:
        make()
    assert re.search(said, str(failure.value))


def test_what_a_proxy_tells_of_itself() -> None:
    routes = [Route([URI, Upstream(uri="wss://b.example/x")]), Route("ws://c.example:81", "/long/path")]
    proxy = Proxy(routes)
    assert [route.path for route in proxy.routes] == ["/long/path", "/"]
    assert [stats.name for stats in proxy.stats] == ["ws://c.example:81/", "ws://localhost/", "wss://b.example/x"]
    assert all(stats.available for stats in proxy.stats)
    assert "secret" not in repr(Upstream(uri="ws://me:secret@x"))
