"""Where the next request of an opening goes, and what it carries: redirects and cookies.

A server may answer a handshake with a redirect (RFC 6455, 4.1, which leaves it to the client; RFC 9110, 15.4).  It is
followed a limited number of times, never from wss to ws.  What proves who the user is goes to the origin it was meant
for and to no other: Authorization, Cookie and Proxy-Authorization are dropped for good with the first redirect to
another origin; cookies of the jar follow their own rules.
"""

from __future__ import annotations

import contextlib
import re
from http.cookiejar import CookieJar
from urllib.parse import urljoin

from ..errors import InvalidURI, RedirectError
from ..protocol import deflate
from ..protocol.handshake import build_request
from ..protocol.uri import WebSocketURI, parse_uri
from ..types import Headers, Request, Response
from .cookies import cookie_header, keep_cookies
from .options import ConnectOptions

__all__ = ["Navigation"]

_SCHEMES = {"ws": "ws", "http": "ws", "wss": "wss", "https": "wss"}
_absolute = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):([^#]*)(?:#.*)?", re.DOTALL)  # RFC 3986, 4.3
_REDIRECTS = (301, 302, 303, 307, 308)
_PERSONAL = ("Authorization", "Cookie", "Proxy-Authorization", "Host")
"""Headers that belong to one origin."""


class Navigation:
    """The way of one opening: begins at ``uri``, and moves on with each redirect."""

    def __init__(self, uri: WebSocketURI, options: ConnectOptions, cookies: CookieJar) -> None:
        self.uri = uri
        self.options = options
        self._cookies = cookies
        self._headers = Headers(options.additional_headers)
        if options.authorization is not None and "Authorization" not in self._headers:
            self._headers.add("Authorization", options.authorization)
        self._followed = 0

    def request(self, key: str) -> Request:
        """The request for where the way has come to; ``key``: its Sec-WebSocket-Key."""
        options = self.options
        request = build_request(
            self.uri,
            key,
            origin=options.origin,
            subprotocols=options.subprotocols,
            extensions=None if options.deflate is None else deflate.offer(options.deflate),
            headers=self._headers,
            user_agent=options.user_agent_header,
        )
        if "Cookie" not in request.headers and (cookie := cookie_header(self._cookies, self.uri)) is not None:
            request.headers.add("Cookie", cookie)
        return request

    def keep(self, response: Response) -> None:
        """Keep the cookies that a response sets."""
        keep_cookies(self._cookies, self.uri, response.headers)

    def follow(self, response: Response) -> bool:
        """Move on to where the response redirects, and tell whether it does.

        Raises ``RedirectError`` when it redirects to where this client does not go.
        """
        location = response.headers.get("Location")
        if response.status_code not in _REDIRECTS or location is None or self.options.max_redirects == 0:
            return False
        if self._followed == self.options.max_redirects:
            problem = f"more than {self._followed} redirects (max_redirects)"
            raise RedirectError(problem, response=response)
        target = self._target(location, response)
        if self.options.sock is not None:
            raise RedirectError("a redirect is not followed, because the socket (sock) is used up", response=response)
        if self.uri.secure and not target.secure:
            raise RedirectError("a redirect from wss to ws is not followed", response=response)
        if _origin(target) != _origin(self.uri):
            self._leave(target, response)
        elif target.username is None:
            target = WebSocketURI(
                target.secure, target.host, target.port, target.resource, self.uri.username, self.uri.password
            )
        self.uri = target
        self._followed += 1
        return True

    def _target(self, location: str, response: Response) -> WebSocketURI:
        found = _absolute.fullmatch(location)
        if found is None:
            # Relative to here (RFC 3986, 5.2), in a scheme that urljoin knows.
            base = f"{'https' if self.uri.secure else 'http'}://{self.uri.host_header}{self.uri.resource}"
            with contextlib.suppress(ValueError):
                found = _absolute.fullmatch(urljoin(base, location))
        scheme = _SCHEMES.get(found[1].lower()) if found is not None else None
        try:
            if found is None or scheme is None:
                raise InvalidURI(location, "it must begin with ws:// or wss://, http:// or https://")
            return parse_uri(f"{scheme}:{found[2]}")  # a fragment has no meaning here, and is not in found[2]
        except InvalidURI as exc:
            raise RedirectError(f"a redirect cannot be followed: {exc}", response=response) from exc

    def _leave(self, target: WebSocketURI, response: Response) -> None:
        """Go on at another origin."""
        options = self.options
        if options.fixed_address or options.server_hostname is not None:
            problem = "a redirect to another origin is not followed, because the address was given by hand"
            raise RedirectError(f"{problem} (host, port, sock, path or server_hostname)", response=response)
        for name in _PERSONAL:
            if name in self._headers:
                del self._headers[name]


def _origin(uri: WebSocketURI) -> tuple[bool, str, int]:
    return uri.secure, uri.host, uri.port
