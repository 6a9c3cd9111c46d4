"""Cookies across the requests of a client: kept from each response, sent where they belong (RFC 6265).

The rules are those of ``http.cookiejar``, which speaks of http and https only: a WebSocket URI stands for the HTTP URL
of the same place (RFC 6265 does not tell them apart, and neither do browsers).
"""

from __future__ import annotations

import urllib.request
from email.message import Message
from http.cookiejar import CookieJar

from ..protocol.uri import WebSocketURI
from ..types import Headers

__all__ = ["cookie_header", "keep_cookies"]


def cookie_header(cookies: CookieJar, uri: WebSocketURI) -> str | None:
    """The value of the Cookie header of a request to ``uri``; None when there is nothing to send."""
    if not len(cookies):
        return None
    request = _request(uri)
    cookies.add_cookie_header(request)
    return request.get_header("Cookie")


def keep_cookies(cookies: CookieJar, uri: WebSocketURI, headers: Headers) -> None:
    """Keep what the response to a request to ``uri`` sets."""
    lines = headers.get_all("Set-Cookie")
    if not lines:
        return
    message = Message()
    for line in lines:
        message["Set-Cookie"] = line
    cookies.extract_cookies(_Response(message), _request(uri))  # type: ignore[arg-type]


class _Response:
    """As much of a response as a cookie jar asks for."""

    def __init__(self, message: Message) -> None:
        self._message = message

    def info(self) -> Message:
        return self._message


def _request(uri: WebSocketURI) -> urllib.request.Request:
    scheme = "https" if uri.secure else "http"
    return urllib.request.Request(f"{scheme}://{uri.host_header}{uri.resource}")
