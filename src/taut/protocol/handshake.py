"""The opening handshake, both sides, on ``Request`` and ``Response`` (RFC 6455, section 4).

Pure functions, in the order in which each side calls them.  A server: ``check_request``, ``check_origin``,
``select_subprotocol``, then ``accept_response``, or ``refusal`` for whatever exception stopped it.  A client:
``build_request``, ``check_response``.  What the extensions header means is not judged here: ``extension_lines`` fetches
it.

A server treats headers as token lists wherever HTTP defines them so.  Nothing is answered that was not asked for.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from http import HTTPStatus

from taut.errors import (
    InvalidHandshake,
    InvalidHeader,
    InvalidMessage,
    InvalidOrigin,
    InvalidStatus,
    InvalidUpgrade,
    NegotiationError,
    OpenTimeout,
)
from taut.protocol.headers import basic_authorization, build_subprotocols, parse_subprotocols, parse_token_list
from taut.protocol.uri import WebSocketURI
from taut.types import Headers, HeadersLike, Request, Response

__all__ = [
    "accept_key",
    "accept_response",
    "build_request",
    "check_origin",
    "check_request",
    "check_response",
    "extension_lines",
    "offered_subprotocols",
    "refusal",
    "select_subprotocol",
]

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_VERSION = "13"

_key = re.compile(r"[+/0-9A-Za-z]{22}==")  # the base64 of 16 bytes
_host = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[!$%&'()*+,;=._~0-9A-Za-z-]+)(?::([0-9]{0,5}))?")
_origin = re.compile(r"(https?)://(.+)", re.IGNORECASE)

# What an additional header may not set: these belong to the handshake, or would announce a body.
_reserved = re.compile(r"upgrade|connection|content-length|transfer-encoding|sec-websocket-.*", re.IGNORECASE)


def accept_key(key: str) -> str:
    """The Sec-WebSocket-Accept that answers the Sec-WebSocket-Key ``key`` (RFC 6455, 4.2.2, step 5.4)."""
    digest = hashlib.sha1(key.encode("latin-1") + _GUID, usedforsecurity=False).digest()
    return base64.b64encode(digest).decode("ascii")


def extension_lines(headers: Headers) -> str | None:
    """The Sec-WebSocket-Extensions header, its lines joined as RFC 6455, 9.1 has it; None when there is none."""
    return headers.get("Sec-WebSocket-Extensions")


def offered_subprotocols(request: Request) -> list[str]:
    """The subprotocols that a request offers, in the client's order of preference.  Raises ``InvalidHeader``."""
    value = request.headers.get("Sec-WebSocket-Protocol")
    if value is None:
        return []
    try:
        return parse_subprotocols(value)
    except InvalidHeader as exc:
        exc.request = request
        raise


# Server.


def check_request(request: Request) -> str:
    """Check what RFC 6455, 4.2.1 requires of a request, and return its Sec-WebSocket-Key.

    Raises ``InvalidMessage`` (405) when the method is not GET, ``InvalidUpgrade`` when it does not ask for WebSocket,
    ``InvalidHeader`` when a header is missing, repeated or wrong.  ``refusal`` turns each into its response.
    """
    try:
        if request.method != "GET":
            raise InvalidMessage(f"a WebSocket handshake is a GET request, not {request.method}", status=405)
        _check_upgrade(request.headers)
        _check_host(request.headers)
        version = _only(request.headers, "Sec-WebSocket-Version")
        if version != _VERSION:
            raise InvalidHeader("Sec-WebSocket-Version", version)
        key = _only(request.headers, "Sec-WebSocket-Key")
        if not _key.fullmatch(key):
            raise InvalidHeader("Sec-WebSocket-Key", key)
        return key
    except InvalidHandshake as exc:
        exc.request = request
        raise


def _check_upgrade(headers: Headers) -> None:
    upgrade = headers.get("Upgrade")
    # The elements may carry versions ("h2c, HTTP/3.0"), so they are not all tokens (RFC 9110, 7.8).
    if upgrade is None or "websocket" not in [name.strip(" \t").lower() for name in upgrade.split(",")]:
        raise InvalidUpgrade("Upgrade", upgrade)
    _check_connection(headers)


def _check_connection(headers: Headers) -> None:
    connection = headers.get("Connection")
    if connection is None or "upgrade" not in [option.lower() for option in parse_token_list(connection)]:
        raise InvalidUpgrade("Connection", connection)


def _check_host(headers: Headers) -> None:
    # RFC 9112, 3.2: exactly one, and valid, else 400.
    host = _only(headers, "Host")
    if _authority(host, 80) is None:
        raise InvalidHeader("Host", host)


def _only(headers: Headers, name: str) -> str:
    values = headers.get_all(name)
    if not values:
        raise InvalidHeader(name)
    if len(values) > 1:
        raise InvalidHeader(name, ", ".join(values), problem=f"more than one {name} header")
    return values[0].strip(" \t")


def _authority(text: str, default_port: int) -> tuple[str, int] | None:
    """Host and port in a form that can be compared; None when malformed."""
    found = _host.fullmatch(text)
    return None if found is None else (found[1].lower(), int(found[2] or default_port))


def check_origin(
    request: Request,
    origins: Sequence[str | re.Pattern[str] | None] | None,
    *,
    secure: bool,
    host: str | None = None,
) -> None:
    """Refuse a browser's request from an origin that is not allowed (RFC 6455, 4.2.2, step 4 and 10.2).

    ``origins``: None for the same origin only: scheme (by ``secure``: whether this connection uses TLS), host and port
    equal to those of the Host header.  Else what is allowed: strings, compared exactly; compiled patterns, which must
    match the whole origin; "*" for any.  None as an entry is accepted and changes nothing: requests without
    Origin do not come from browsers, and always pass.  ``host``: what the client asked for, where a proxy has told,
    instead of the Host header.

    Raises ``InvalidOrigin``, and ``InvalidHeader`` when there is more than one Origin header.
    """
    values = request.headers.get_all("Origin")
    if not values:
        return
    if len(values) > 1:
        raise InvalidHeader("Origin", ", ".join(values), problem="more than one Origin header", request=request)
    origin = values[0].strip(" \t")
    allowed = _is_same_origin(request, origin, secure, host) if origins is None else _is_listed(origin, origins)
    if not allowed:
        raise InvalidOrigin(origin, request=request)


def _is_same_origin(request: Request, origin: str, secure: bool, host: str | None) -> bool:
    scheme, default_port = ("https", 443) if secure else ("http", 80)
    found = _origin.fullmatch(origin)
    if found is None or found[1].lower() != scheme:
        return False
    theirs = _authority(found[2], default_port)
    host = request.headers.get("Host", "") if host is None else host
    return theirs is not None and theirs == _authority(host, default_port)


def _is_listed(origin: str, origins: Sequence[str | re.Pattern[str] | None]) -> bool:
    for entry in origins:
        if isinstance(entry, re.Pattern):
            if entry.fullmatch(origin):
                return True
        elif entry is not None and entry in ("*", origin):
            return True
    return False


def select_subprotocol(offered: Sequence[str], supported: Sequence[str]) -> str | None:
    """The subprotocol to speak: the first one ``supported`` that the client ``offered``; None when there is none."""
    return next((subprotocol for subprotocol in supported if subprotocol in offered), None)


def accept_response(
    request: Request,
    key: str,
    *,
    subprotocol: str | None = None,
    extensions: str | None = None,
    headers: HeadersLike = (),
    server_header: str | None = None,
) -> Response:
    """The 101 response that accepts ``request`` (RFC 6455, 4.2.2, step 5).

    ``key``: what ``check_request`` returned.  ``subprotocol``, ``extensions``: what was agreed, None to leave the
    header out.  ``headers``: additional ones; a Server header there replaces ``server_header``.

    Raises ``ValueError`` when an additional header belongs to the handshake, ``NegotiationError`` when the client did
    not offer ``subprotocol``.
    """
    additional = _additional(headers)
    response = Headers([("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Accept", accept_key(key))])
    if subprotocol is not None:
        if subprotocol not in offered_subprotocols(request):
            raise NegotiationError(f"subprotocol {subprotocol!r} was not offered", request=request)
        response.add("Sec-WebSocket-Protocol", subprotocol)
    if extensions is not None:
        response.add("Sec-WebSocket-Extensions", extensions)
    if server_header is not None and "Server" not in additional:
        response.add("Server", server_header)
    for name, value in additional.raw_items():
        response.add(name, value)
    return Response(101, "Switching Protocols", response)


def refusal(exc: InvalidHandshake) -> Response:
    """The response with which a server refuses a handshake that ended in ``exc``; the connection is closed after it.

    426 when WebSocket, or its version, was not asked for; 403 for the origin; 408 for a timeout; what
    ``InvalidMessage`` says; else 400.  The body is the problem in a line of text.
    """
    status = _refusal_status(exc)
    headers = Headers()
    if status == HTTPStatus.UPGRADE_REQUIRED:
        # RFC 9110, 15.5.22 wants Upgrade in a 426, RFC 6455, 4.2.2 and 4.4 the versions understood.
        headers.add("Upgrade", "websocket")
        headers.add("Connection", "Upgrade, close")
        headers.add("Sec-WebSocket-Version", _VERSION)
    else:
        headers.add("Connection", "close")
    if status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
        headers.add("Retry-After", "1")
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        headers.add("Allow", "GET")
    body = f"{str(exc)[:500]}\n".encode(errors="replace")
    headers.add("Content-Type", "text/plain; charset=utf-8")
    headers.add("Content-Length", str(len(body)))
    return Response(status.value, status.phrase, headers, body)


def _refusal_status(exc: InvalidHandshake) -> HTTPStatus:
    match exc:
        case InvalidMessage():
            return HTTPStatus(exc.status)
        case InvalidUpgrade() | InvalidHeader(name="Sec-WebSocket-Version"):
            return HTTPStatus.UPGRADE_REQUIRED
        case InvalidOrigin():
            return HTTPStatus.FORBIDDEN
        case OpenTimeout():
            return HTTPStatus.REQUEST_TIMEOUT
        case _:
            return HTTPStatus.BAD_REQUEST


# Client.


def build_request(
    uri: WebSocketURI,
    key: str,
    *,
    origin: str | None = None,
    subprotocols: Sequence[str] = (),
    extensions: str | None = None,
    headers: HeadersLike = (),
    user_agent: str | None = None,
) -> Request:
    """The request that opens a connection to ``uri`` (RFC 6455, 4.1).

    ``key``: the Sec-WebSocket-Key, 16 fresh random bytes in base64.  ``subprotocols``: what to offer, in order of
    preference.  ``extensions``: the offer as a header value.  ``headers``: additional ones; Host, Origin, Authorization
    and User-Agent there replace those made from the other arguments.

    Raises ``ValueError`` when an additional header belongs to the handshake, or an argument cannot be written.
    """
    additional = _additional(headers)
    if len(additional.get_all("Host")) > 1:
        raise ValueError("additional headers: Host may be given once only")
    request = Headers([("Host", additional.pop("Host", uri.host_header))])
    request.add("Upgrade", "websocket")
    request.add("Connection", "Upgrade")
    request.add("Sec-WebSocket-Key", key)
    request.add("Sec-WebSocket-Version", _VERSION)
    if extensions is not None:
        request.add("Sec-WebSocket-Extensions", extensions)
    if subprotocols:
        request.add("Sec-WebSocket-Protocol", build_subprotocols(subprotocols))
    if origin is not None and "Origin" not in additional:
        request.add("Origin", origin)
    if uri.username is not None and "Authorization" not in additional:
        request.add("Authorization", basic_authorization(uri.username, uri.password or ""))
    if user_agent is not None and "User-Agent" not in additional:
        request.add("User-Agent", user_agent)
    for name, value in additional.raw_items():
        request.add(name, value)
    return Request(uri.resource, request)


def _additional(headers: HeadersLike) -> Headers:
    additional = Headers(headers)
    for name, _ in additional.raw_items():
        if _reserved.fullmatch(name):
            raise ValueError(f"additional headers: {name} is set by the handshake itself")
    return additional


def check_response(request_key: str, response: Response, *, subprotocols: Sequence[str] = ()) -> str | None:
    """Check what RFC 6455, 4.1 requires of the response, and return the subprotocol agreed upon, if any.

    ``request_key``: the Sec-WebSocket-Key that was sent.  ``subprotocols``: those that were offered.

    Raises ``InvalidStatus`` when it is not a 101, ``InvalidUpgrade``, ``InvalidHeader`` when Sec-WebSocket-Accept does
    not answer the key, ``NegotiationError`` when the subprotocol is not one that was offered.
    """
    if response.status_code != 101:
        raise InvalidStatus(response)
    try:
        upgrade = response.headers.get("Upgrade")
        # Unlike a request's, it is this one value (4.1, response requirement 2).
        if upgrade is None or upgrade.strip(" \t").lower() != "websocket":
            raise InvalidUpgrade("Upgrade", upgrade)
        _check_connection(response.headers)
        accept = _only(response.headers, "Sec-WebSocket-Accept")
        if accept != accept_key(request_key):
            raise InvalidHeader("Sec-WebSocket-Accept", accept)
        return _agreed_subprotocol(response.headers, subprotocols)
    except InvalidHandshake as exc:
        exc.response = response
        raise


def _agreed_subprotocol(headers: Headers, offered: Sequence[str]) -> str | None:
    values = headers.get_all("Sec-WebSocket-Protocol")
    if not values:
        return None
    if len(values) > 1:  # RFC 6455, 11.3.4
        raise NegotiationError("more than one Sec-WebSocket-Protocol header")
    if values[0] not in offered:
        raise NegotiationError(f"the server chose the subprotocol {values[0]!r}, which was not offered")
    return values[0]
