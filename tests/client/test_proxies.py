"""The URLs of proxies, and what the environment says about them."""

from __future__ import annotations

import urllib.request
from typing import Any

import pytest

from taut.client.dialling.proxies import ProxyURL, parse_proxies, proxies_from_environment
from taut.errors import InvalidProxy
from taut.protocol.uri import parse_uri

SCHEMES = ("ws", "wss", "http", "https", "all", "no", "socks")


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SCHEMES:
        monkeypatch.delenv(f"{name}_proxy", raising=False)
        monkeypatch.delenv(f"{name.upper()}_PROXY", raising=False)
    monkeypatch.delenv("REQUEST_METHOD", raising=False)


def environment(uri: str = "wss://example.com") -> list[str]:
    return [str(proxy) for proxy in proxies_from_environment(parse_uri(uri))]


# ---- URLs ----


@pytest.mark.parametrize(
    ("url", "scheme", "host", "port"),
    [
        ("http://proxy", "http", "proxy", 80),
        ("https://proxy", "https", "proxy", 443),
        ("socks4://proxy", "socks4", "proxy", 1080),
        ("socks4a://proxy", "socks4a", "proxy", 1080),
        ("socks5://proxy", "socks5", "proxy", 1080),
        ("socks5h://proxy", "socks5h", "proxy", 1080),
        ("socks://proxy", "socks5h", "proxy", 1080),
        ("HTTP://Proxy.Example:3128/", "http", "proxy.example", 3128),
        ("Socks5H://127.0.0.1:9050", "socks5h", "127.0.0.1", 9050),
        ("http://[::1]:8080", "http", "::1", 8080),
        ("http://[0:0::1]", "http", "::1", 80),
        ("http://[fe80::1%25eth0]:1", "http", "fe80::1%eth0", 1),
        ("http://b\u00fccher.example", "http", "xn--bcher-kva.example", 80),
        ("http://proxy:", "http", "proxy", 80),
    ],
)
def test_proxy(url: str, scheme: str, host: str, port: int) -> None:
    assert parse_proxies(url) == (ProxyURL(scheme, host, port),)


@pytest.mark.parametrize(
    ("url", "username", "password"),
    [
        ("http://user:secret@proxy", "user", "secret"),
        ("http://user@proxy", "user", None),
        ("http://user:@proxy", "user", ""),
        ("http://:secret@proxy", "", "secret"),
        ("http://us%65r:s%3Ac%40r%2Ft@proxy", "user", "s:c@r/t"),
        ("http://user:a:b@proxy", "user", "a:b"),
        ("http://user:p@ss@proxy", "user", "p@ss"),
        ("https://us%C3%A9r:p%E2%82%AC@proxy", "us\u00e9r", "p\u20ac"),
        ("socks5://user:secret@proxy", "user", "secret"),
        ("socks4://user@proxy", "user", None),
        ("http://@proxy", None, None),
    ],
)
def test_credentials(url: str, username: str | None, password: str | None) -> None:
    (proxy,) = parse_proxies(url)
    assert (proxy.host, proxy.username, proxy.password) == ("proxy", username, password)


@pytest.mark.parametrize("url", ["http://user:secret@proxy:3128", "socks5://user:secret@[::1]:3128"])
def test_credentials_are_not_shown(url: str) -> None:
    (proxy,) = parse_proxies(url)
    assert str(proxy) == url.replace("user:secret@", "")
    assert "user" not in repr(proxy)
    assert "secret" not in repr(proxy)


@pytest.mark.parametrize("none", [None, False, (), []])
def test_none(none: Any) -> None:
    assert parse_proxies(none) == ()


@pytest.mark.parametrize("kind", [list, tuple])
def test_chain(kind: Any) -> None:
    chain = parse_proxies(kind(["http://a:1", "socks5://b:2", "https://c:3"]))
    assert [str(proxy) for proxy in chain] == ["http://a:1", "socks5://b:2", "https://c:3"]


@pytest.mark.parametrize(
    "value", [True, 1, b"http://proxy", {"http": "http://proxy"}, [b"http://proxy"], [None], [["a"]]]
)
def test_wrong_type(value: Any) -> None:
    with pytest.raises(TypeError, match=r"^proxy must be a URL, a sequence of URLs"):
        parse_proxies(value)


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("", "it must begin with http://, https://, socks4://, socks4a://, socks5://, socks5h://"),
        ("proxy:3128", "it must begin with http://"),
        ("//proxy:3128", "it must begin with http://"),
        ("http:proxy", "it must begin with http://"),
        ("ftp://proxy", "the scheme 'ftp' is not one of http://"),
        ("ws://proxy", "the scheme 'ws' is not one of http://"),
        ("socks6://proxy", "the scheme 'socks6' is not one of http://"),
        ("http://", "the host is missing"),
        ("http:///", "the host is missing"),
        ("http://:80", "the host is missing"),
        ("http://user@", "the host is missing"),
        ("http://pro xy", "spaces and control characters"),
        ("http://proxy\r\n", "spaces and control characters"),
        ("http://::1:80", "an IPv6 address needs brackets"),
        ("http://[::1", "an IPv6 address needs brackets"),
        ("http://[g::1]", "is not an IPv6 address"),
        ("http://pro*xy", "'pro*xy' is not a host name"),
        ("http://proxy:0", "'0' is not a port"),
        ("http://proxy:65536", "'65536' is not a port"),
        ("http://proxy:http", "'http' is not a port"),
        ("http://proxy/path", "no path, query or fragment"),
        ("http://proxy//", "no path, query or fragment"),
        ("http://proxy?query", "no path, query or fragment"),
        ("http://proxy#fragment", "no path, query or fragment"),
        ("http://us%zz%ff@proxy", "is not UTF-8"),
        ("http://us%00r@proxy", "control character"),
        ("http://us%3Aer:x@proxy", "a colon cannot be written in Basic credentials"),
        ("socks4://user:secret@proxy", "SOCKS4 knows a user name but no password"),
        ("socks4a://user:@proxy", "SOCKS4 knows a user name but no password"),
        ("socks5://user@proxy", "each of 1 to 255 bytes"),
        ("socks5://user:@proxy", "each of 1 to 255 bytes"),
        ("socks5h://:secret@proxy", "each of 1 to 255 bytes"),
        (f"socks5://{'u' * 256}:secret@proxy", "each of 1 to 255 bytes"),
        (f"socks5://user:{'p' * 256}@proxy", "each of 1 to 255 bytes"),
        ("socks5://us%C3%A9r:secret@proxy", "must be ASCII"),
        ("socks4://us%C3%A9r@proxy", "must be ASCII"),
    ],
)
def test_refused(url: str, problem: str) -> None:
    with pytest.raises(InvalidProxy) as caught:
        parse_proxies(url)
    assert problem in caught.value.problem
    assert isinstance(caught.value, ValueError)
    with pytest.raises(InvalidProxy):
        parse_proxies(["http://proxy", url])


@pytest.mark.parametrize(
    "url",
    [
        "http://user:secret@pro*xy",
        "http://user:secret@proxy:port",
        "http://user:secret@",
        "http://user:sec/secret@proxy",
        "http://user:sec?secret@proxy",
        "http://user:sec#secret@proxy",
        "http://user:secret@secret@pro*xy",
        "http://user:sec ret:secret@proxy",
        "user:secret@proxy",
        "ftp://user:secret@proxy",
        "http://user:secret%ff@proxy",
        "socks4://user:secret@proxy",
    ],
)
def test_refusals_do_not_show_credentials(url: str) -> None:
    with pytest.raises(InvalidProxy) as caught:
        parse_proxies(url)
    shown: BaseException | None = caught.value
    while shown is not None:
        assert "secret" not in str(shown)
        assert "secret" not in repr(shown)
        assert "user" not in shown.args[0]
        shown = shown.__cause__ or (None if shown.__suppress_context__ else shown.__context__)


# ---- the environment ----


def test_nothing_is_set() -> None:
    assert environment() == []
    assert environment("ws://example.com") == []


@pytest.mark.parametrize(
    ("uri", "names"),
    [
        ("wss://example.com", ["wss_proxy", "https_proxy", "all_proxy"]),
        ("ws://example.com", ["ws_proxy", "http_proxy", "all_proxy"]),
    ],
)
@pytest.mark.parametrize("upper", [False, True])
def test_order_of_variables(monkeypatch: pytest.MonkeyPatch, uri: str, names: list[str], upper: bool) -> None:
    for index, name in enumerate(reversed(names)):
        monkeypatch.setenv(name.upper() if upper else name, f"http://proxy{index}:8080")
        assert environment(uri) == [f"http://proxy{index}:8080"]


@pytest.mark.parametrize("uri", ["wss://example.com", "ws://example.com"])
def test_variables_of_the_other_scheme_do_not_count(monkeypatch: pytest.MonkeyPatch, uri: str) -> None:
    for name in ("ws", "http") if uri.startswith("wss") else ("wss", "https"):
        monkeypatch.setenv(f"{name}_proxy", "http://proxy")
        monkeypatch.setenv(f"{name.upper()}_PROXY", "http://proxy")
    assert environment(uri) == []


def test_lower_case_hides_upper_case(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://upper")
    monkeypatch.setenv("https_proxy", "http://lower")
    assert environment() == ["http://lower:80"]
    monkeypatch.setenv("https_proxy", "")
    assert environment() == []
    monkeypatch.setenv("all_proxy", "http://all")
    assert environment() == ["http://all:80"]


def test_scheme_may_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", " user:secret@proxy:3128/ ")
    assert proxies_from_environment(parse_uri("wss://example.com")) == (
        ProxyURL("http", "proxy", 3128, "user", "secret"),
    )


def test_socks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("all_proxy", "socks://127.0.0.1:1080/")
    assert environment() == ["socks5h://127.0.0.1:1080"]


def test_upper_case_http_proxy_comes_from_outside_under_cgi(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://evil")
    assert environment("ws://example.com") == ["http://evil:80"]
    monkeypatch.setenv("REQUEST_METHOD", "GET")
    assert environment("ws://example.com") == []
    monkeypatch.setenv("http_proxy", "http://good")
    assert environment("ws://example.com") == ["http://good:80"]


@pytest.mark.parametrize("name", ["https_proxy", "HTTPS_PROXY", "ALL_PROXY", "wss_proxy"])
@pytest.mark.parametrize("value", ["ftp://user:secret@proxy", "http://user:secret@proxy/path", "user:secret@pro*xy"])
def test_broken_value_names_the_variable(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(InvalidProxy) as caught:
        environment()
    assert f"(from the environment variable {name})" in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST", "localhost.", "a.localhost", "127.0.0.1", "127.1.2.3", "[::1]", "[::ffff:127.0.0.1]"],
)
def test_loopback_is_reached_directly(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    monkeypatch.setenv("all_proxy", "http://proxy")
    assert environment(f"wss://{host}") == []
    assert environment(f"ws://{host}:8080") == []


@pytest.mark.parametrize("host", ["localhost.example", "notlocalhost", "128.0.0.1", "[::2]", "10.0.0.1"])
def test_others_are_not(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    monkeypatch.setenv("all_proxy", "http://proxy")
    assert environment(f"wss://{host}") == ["http://proxy:80"]


@pytest.mark.parametrize(
    ("no_proxy", "uri"),
    [
        ("*", "wss://example.com"),
        ("a, *", "wss://example.com"),
        ("example.com", "wss://example.com"),
        ("example.com", "wss://www.example.com"),
        ("example.com", "wss://example.com."),
        ("example.com.", "wss://example.com"),
        (".example.com", "wss://www.example.com"),
        (".example.com", "wss://example.com"),
        ("*.example.com", "wss://www.example.com"),
        ("Example.COM", "wss://example.com"),
        ("com", "wss://example.com"),
        ("a,b example.com\tc", "wss://example.com"),
        (",, example.com ,", "wss://example.com"),
        ("example.com:443", "wss://example.com"),
        ("example.com:8443", "wss://www.example.com:8443"),
        (".example.com:80", "ws://www.example.com"),
        ("*:8443", "wss://example.com:8443"),
        ("b\u00fccher.example", "wss://b\u00fccher.example"),
        ("xn--bcher-kva.example", "wss://www.b\u00fccher.example"),
        ("10.1.2.3", "wss://10.1.2.3"),
        ("10.1.2.3:443", "wss://10.1.2.3"),
        ("10.0.0.0/8", "wss://10.1.2.3"),
        ("10.1.2.3/8", "wss://10.9.9.9:1"),
        ("fd00::1", "wss://[fd00::1]"),
        ("[fd00::1]", "wss://[fd00:0::1]"),
        ("[fd00::1]:443", "wss://[fd00::1]"),
        ("fd00::/8", "wss://[fd00::1]"),
        ("fe80::/10", "wss://[fe80::1%25eth0]"),
        ("fe80::1", "wss://[fe80::1%25eth0]"),
        ("10.0.0.0/8", "wss://[::ffff:10.1.2.3]"),
    ],
)
@pytest.mark.parametrize("name", ["no_proxy", "NO_PROXY"])
def test_no_proxy(monkeypatch: pytest.MonkeyPatch, name: str, no_proxy: str, uri: str) -> None:
    monkeypatch.setenv("all_proxy", "http://proxy")
    assert environment(uri) == ["http://proxy:80"]
    monkeypatch.setenv(name, no_proxy)
    assert environment(uri) == []


@pytest.mark.parametrize(
    ("no_proxy", "uri"),
    [
        ("", "wss://example.com"),
        (".", "wss://example.com"),
        ("*.", "wss://example.com"),
        ("ample.com", "wss://example.com"),
        ("www.example.com", "wss://example.com"),
        ("example.com.org", "wss://example.com"),
        ("example.com:80", "wss://example.com"),
        ("example.com:443", "wss://example.com:8443"),
        ("example.com:x", "wss://example.com"),
        ("*:8443", "wss://example.com"),
        ("10.1.2.4", "wss://10.1.2.3"),
        ("10.0.0.0/16", "wss://10.1.2.3"),
        ("10.0.0.0/33", "wss://10.1.2.3"),
        ("2.3", "wss://10.1.2.3"),
        (".3", "wss://10.1.2.3"),
        ("fd00::/16", "wss://10.1.2.3"),
        ("10.0.0.0/8", "wss://[fd00::1]"),
        ("10.0.0.0/8", "wss://10.example.com"),
        ("[fd00::1]:80", "wss://[fd00::1]"),
        ("\udc80.example", "wss://example.com"),
    ],
)
def test_no_proxy_is_for_others(monkeypatch: pytest.MonkeyPatch, no_proxy: str, uri: str) -> None:
    monkeypatch.setenv("all_proxy", "http://proxy")
    monkeypatch.setenv("no_proxy", no_proxy)
    assert environment(uri) == ["http://proxy:80"]


def test_a_broken_proxy_does_not_matter_where_none_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("all_proxy", "nonsense://")
    monkeypatch.setenv("no_proxy", "example.com")
    assert environment() == []
    assert environment("wss://localhost") == []


# ---- the settings of a system that has some ----


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    found: dict[str, str] = {}
    monkeypatch.setattr(urllib.request, "getproxies", lambda: found)
    monkeypatch.setattr(urllib.request, "proxy_bypass", lambda host: host == "inside.example")
    return found


def test_system_settings(settings: dict[str, str]) -> None:
    assert environment() == []
    settings["socks"] = "socks://socks:1080"
    assert environment() == environment("ws://example.com") == ["socks5h://socks:1080"]
    settings.update(https="http://secure:3128", http="plain:3128")
    assert environment() == ["http://secure:3128"]
    assert environment("ws://example.com") == ["http://plain:3128"]
    assert environment("wss://inside.example") == []
    assert environment("wss://localhost") == []


def test_variables_go_before_system_settings(monkeypatch: pytest.MonkeyPatch, settings: dict[str, str]) -> None:
    settings["https"] = "http://system"
    monkeypatch.setenv("all_proxy", "http://variable")
    assert environment() == ["http://variable:80"]
    monkeypatch.setenv("no_proxy", "*")
    assert environment() == []


def test_broken_system_setting(settings: dict[str, str]) -> None:
    settings["https"] = "gopher://proxy"
    with pytest.raises(InvalidProxy, match=r"\(from the system's settings, https\)"):
        environment()


def test_without_system_settings_only_our_variables_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(urllib.request, "getproxies", urllib.request.getproxies_environment)
    monkeypatch.setenv("socks_proxy", "socks5://proxy")
    assert environment() == []
