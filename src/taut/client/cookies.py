"""Cookies across the requests of a client: kept from each response, sent where they belong (RFC 6265).

The rules are those of ``http.cookiejar``, which speaks of http and https only: a WebSocket URI stands for the HTTP URL
of the same place (RFC 6265 does not tell them apart, and neither do browsers).

A jar lives as long as a client, and a server may set cookies of ever new names: only so many of one domain are kept,
and none that is huge (RFC 6265, 6.1, has these figures), so that a request never grows beyond what servers read.
"""

from __future__ import annotations

import urllib.request
from email.message import Message
from http.cookiejar import Cookie, CookieJar

from ..protocol.uri import WebSocketURI
from ..types import Headers

__all__ = ["cookie_header", "keep_cookies"]

_MOST = 50
"""Cookies that are kept of one domain."""
_LARGEST = 4096
"""Characters of a Set-Cookie line that is not ignored."""


def cookie_header(cookies: CookieJar, uri: WebSocketURI) -> str | None:
    """The value of the Cookie header of a request to ``uri``; None when there is nothing to send."""
    if not len(cookies):
        return None
    request = _request(uri)
    cookies.add_cookie_header(request)
    return request.get_header("Cookie")


def keep_cookies(cookies: CookieJar, uri: WebSocketURI, headers: Headers) -> None:
    """Keep what the response to a request to ``uri`` sets."""
    lines = [line for line in headers.get_all("Set-Cookie") if len(line) <= _LARGEST]
    if not lines:
        return
    message = Message()
    for line in lines:
        message["Set-Cookie"] = line
    known = list(cookies)
    cookies.extract_cookies(_Response(message), _request(uri))  # type: ignore[arg-type]
    _limit(cookies, known)


def _limit(cookies: CookieJar, known: list[Cookie]) -> None:
    """Drop the oldest of each domain that has too many now; ``known``: what was there before the last response."""
    old = {id(cookie) for cookie in known}
    for domain in {cookie.domain for cookie in cookies if id(cookie) not in old}:
        oldest_first = sorted(
            (cookie for cookie in cookies if cookie.domain == domain), key=lambda cookie: id(cookie) not in old
        )
        for cookie in oldest_first[:-_MOST]:
            cookies.clear(cookie.domain, cookie.path, cookie.name)


class _Response:
    """As much of a response as a cookie jar asks for."""

    def __init__(self, message: Message) -> None:
        self._message = message

    def info(self) -> Message:
        return self._message


def _request(uri: WebSocketURI) -> urllib.request.Request:
    scheme = "https" if uri.secure else "http"
    return urllib.request.Request(f"{scheme}://{uri.host_header}{uri.resource}")
