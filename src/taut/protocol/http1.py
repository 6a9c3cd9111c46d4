"""HTTP/1.1 messages of the opening handshake: incremental readers over llhttp (httptools), and encoders.

A reader is fed bytes as they arrive and says when the message is complete.  It walks the lines of the head itself, to
hold the limits before anything is kept and to know to the byte where WebSocket data begins; llhttp judges the
grammar of the same bytes, each as soon as it is there.  Both must agree on where the head ends and how many
headers it has, else the message is refused.

llhttp is stricter than RFC 9112 asks about line ends, folding and Content-Length.  It is lenient about what is
checked here: several spaces in the start line, empty lines before it, RTSP and ICE, HTTP/0.9, 1.0 and 2.0, a
fragment in the request target, a body announced by a request that upgrades, white space after a value.

The first problem in the bytes of a head decides the error, so that it does not depend on how they were split.
"""

from __future__ import annotations

import re

import httptools

from taut.errors import InvalidMessage
from taut.protocol.headers import is_token, parse_token_list
from taut.types import BytesLike, Headers, Request, Response

__all__ = ["RequestReader", "ResponseReader", "encode_connect", "encode_request", "encode_response"]

_request_line = re.compile(rb"([!-~]+) ([!-~]+) HTTP/([0-9])\.([0-9])\r\n")
_status_line = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: ([\t -~\x80-\xff]*))?\r\n")
_absolute_form = re.compile(r"https?://([^/?#]+)(/[^?#]*)?(\?[^#]*)?", re.IGNORECASE)
_authority_form = re.compile(r"(?:[0-9A-Za-z._~!$&'()*+,;=%-]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}")
_target_text = re.compile(r"/[!-\"$-~]*")
_field_text = re.compile(r"[\t -~\x80-\xff]*")


class _Events:
    """What llhttp reports.  Kept apart from the reader, so that no reference cycle holds a finished one."""

    __slots__ = ("body", "fields", "finished", "head_complete")

    def __init__(self) -> None:
        self.fields: list[tuple[str, str]] = []
        self.body = bytearray()
        self.head_complete = False
        self.finished = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.head_complete:  # after the head come the trailers of a chunked body, which nobody asked for
            self.fields.append((name.decode("latin-1"), value.decode("latin-1").rstrip(" \t")))

    def on_headers_complete(self) -> None:
        self.head_complete = True

    def on_body(self, body: bytes) -> None:
        if not self.finished:
            self.body += body

    def on_message_complete(self) -> None:
        self.finished = True


class _HeadReader:
    """Reads a head under its limits; the two kinds of message differ in the start line and in what follows."""

    _kind: str
    _parser_type: type[httptools.HttpRequestParser] | type[httptools.HttpResponseParser]

    def __init__(self, max_head: int, max_headers: int, max_line: int) -> None:
        self.remaining = b""
        """What followed the head: the first WebSocket bytes."""
        self._max_head = max_head
        self._max_headers = max_headers
        self._max_line = max_line
        self._earlier = 0  # bytes of the heads before this one, which count as well
        self._over = False
        self._begin_head()

    def _begin_head(self) -> None:
        self._head = bytearray()
        self._lines = 0  # complete ones, the start line included
        self._line_start = 0
        self._searched = 0  # no line feed between the start of the line and here
        self._parsed = 0  # llhttp has seen the bytes before
        self._events = _Events()
        self._parser = self._parser_type(self._events)

    def _begin_feed(self) -> None:
        if self._over:
            raise RuntimeError(f"the {self._kind} is complete, or was refused: nothing more may be fed")

    def _feed_head(self, data: BytesLike) -> bool:
        """Take ``data``; return whether the head is complete, which leaves the rest in ``remaining``."""
        self._head += data
        complete, stop, problem = self._scan()
        llhttp_complete = self._parse(bytes(self._head[self._parsed : stop]))
        self._parsed = stop
        if problem is not None:
            self._head = bytearray()
            try:
                raise problem
            finally:
                del problem  # else it would keep itself, by its traceback, and with it all that a hostile peer has sent
        # llhttp must have seen the same end and the same lines, or one of us can be led astray.
        if llhttp_complete != complete or (complete and len(self._events.fields) != self._lines - 1):
            raise InvalidMessage(f"malformed HTTP {self._kind}: the end of the head is ambiguous")
        if complete:
            self.remaining = bytes(self._head[stop:])
            self._head = bytearray()
        return complete

    def _parse(self, data: bytes) -> bool:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass
        except httptools.HttpParserError as error:
            # Once the head is complete, llhttp only complains about what would follow it.
            if not self._events.head_complete:
                raise InvalidMessage(f"malformed HTTP {self._kind}: {error}") from None
        return self._events.head_complete

    def _scan(self) -> tuple[bool, int, InvalidMessage | None]:
        """Walk the new lines: whether the head is complete, up to where llhttp may read, what is wrong after that."""
        head, most = self._head, self._max_head - self._earlier
        while True:
            limit = min(self._line_start + self._max_line + 2, most)  # the line must have ended here
            newline = head.find(b"\n", self._searched, limit)
            if newline < 0:
                if len(head) >= limit:
                    return False, limit, self._over_limit(limit == most)
                self._searched = len(head)
                return False, len(head), None
            start, stop = self._line_start, newline + 1
            self._line_start = self._searched = stop
            if self._lines == 0:
                if (problem := self._read_start_line(bytes(head[:stop]))) is not None:
                    return False, stop, problem
            elif stop - start <= 2:
                return True, stop, None  # an empty line; that it is CR LF is llhttp's to check
            elif self._lines > self._max_headers:
                return False, stop, InvalidMessage(f"more than {self._max_headers} header lines", status=431)
            self._lines += 1

    def _over_limit(self, head: bool) -> InvalidMessage:
        if head:
            problem = f"the head of the {self._kind} is over the limit of {self._max_head} bytes"
        else:
            problem = f"a line of the {self._kind} is over the limit of {self._max_line} bytes"
        return InvalidMessage(problem, status=431)

    def _read_start_line(self, line: bytes) -> InvalidMessage | None:
        raise NotImplementedError


class RequestReader(_HeadReader):
    """Reads the request that opens a WebSocket connection (RFC 6455, 4.2.1; RFC 9112).

    ``max_head``: largest head (bytes, default 16384).  ``max_headers``: most header lines (default 128).
    ``max_line``: longest line (bytes without its CR LF, default 8192).
    """

    _kind = "request"
    _parser_type = httptools.HttpRequestParser

    def __init__(self, *, max_head: int = 16384, max_headers: int = 128, max_line: int = 8192) -> None:
        super().__init__(max_head, max_headers, max_line)
        self._method = ""
        self._target = ""
        self._request: Request | None = None

    @property
    def request(self) -> Request:
        """The request, once ``feed`` returned True; ``RuntimeError`` before."""
        if self._request is None:
            raise RuntimeError("the request is not complete")
        return self._request

    def feed(self, data: BytesLike) -> bool:
        """Take the next bytes; return True when the request is complete, and feed nothing more after that.

        Raises ``InvalidMessage``, as soon as the bytes allow: 400 when malformed, with a body, or older than HTTP/1.1;
        431 when over a limit; 505 for HTTP/2.
        """
        self._begin_feed()
        self._over = True  # stands if an exception leaves
        if not self._feed_head(data):
            self._over = False
            return False
        request = Request(self._target, Headers(self._events.fields), self._method)
        problem = _request_body(request.headers) or _normalise_target(request)
        if problem is not None:
            raise InvalidMessage(problem, request=request)
        self._request = request
        return True

    def eof(self) -> None:
        """The peer closed its side: raises ``InvalidMessage``, unless the request was complete."""
        if self._request is None:
            self._over = True
            raise InvalidMessage("the connection was closed before the request was complete")

    def _read_start_line(self, line: bytes) -> InvalidMessage | None:
        found = _request_line.fullmatch(line)
        if found is None:
            return InvalidMessage("malformed HTTP request: invalid request line")
        major, minor = int(found[3]), int(found[4])
        if (major, minor) < (1, 1):
            return InvalidMessage(f"HTTP/{major}.{minor} is too old: WebSocket needs HTTP/1.1 (RFC 6455, 4.2.1)")
        if major > 1:
            return InvalidMessage(f"HTTP/{major}.{minor} is not supported here: use HTTP/1.1", status=505)
        self._method = found[1].decode("ascii")
        self._target = found[2].decode("ascii")
        return None


def _request_body(headers: Headers) -> str | None:
    # llhttp ignores a body that is announced beside an Upgrade: the same bytes would be read as frames here and
    # as a body by whatever stands in between.
    if "Transfer-Encoding" in headers:
        return "a handshake request has no body, but Transfer-Encoding announces one"
    if any(value.strip("0") for value in headers.get_all("Content-Length")):
        return "a handshake request has no body, but Content-Length announces one"
    return None


def _normalise_target(request: Request) -> str | None:
    """Bring the target into origin-form; RFC 6455, 4.2.1 lets a client send an absolute http or https URI as well."""
    if _target_text.fullmatch(request.path):
        return None
    found = _absolute_form.fullmatch(request.path)
    if found is None:
        return "the request target must be a path"
    # RFC 9112, 3.2.2 would have the Host header ignored; two different hosts are refused, lest two readers differ.
    if request.headers.get("Host", "").lower() != found[1].lower():
        return "the host of the request target is not that of the Host header"
    request.path = (found[2] or "/") + (found[3] or "")
    return None


class ResponseReader(_HeadReader):
    """Reads the response to a handshake request (RFC 6455, 4.1; RFC 9112).

    ``max_head``, ``max_headers``, ``max_line``: as for a request.  ``max_body``: largest body of a response that
    refuses the handshake (bytes, default 65536).  Interim responses (100, 103) are skipped, within ``max_head``.
    ``tunnel``: this is the response to CONNECT, and a 2xx has no body either, whatever it says (RFC 9110, 9.3.6).
    """

    _kind = "response"
    _parser_type = httptools.HttpResponseParser

    def __init__(
        self,
        *,
        max_head: int = 16384,
        max_headers: int = 128,
        max_line: int = 8192,
        max_body: int = 65536,
        tunnel: bool = False,
    ) -> None:
        super().__init__(max_head, max_headers, max_line)
        self._max_body = max_body
        self._tunnel = tunnel
        self._framing = 0  # bytes of the body's encoding seen so far, the body included
        self._status = 0
        self._reason = ""
        self._in_body = False
        self._response: Response | None = None

    @property
    def response(self) -> Response:
        """The response, once it is complete; ``RuntimeError`` before."""
        if self._response is None:
            raise RuntimeError("the response is not complete")
        return self._response

    def feed(self, data: BytesLike) -> bool:
        """Take the next bytes; return True when the response is complete, and feed nothing more after that.

        A 101 is complete with its head, as is a 2xx that opens a tunnel; what follows is in ``remaining``.  Another
        status is complete with its body, which ``eof`` may have to end.  Raises ``InvalidMessage`` (with ``response``
        as far as known) when the response is malformed or over a limit.
        """
        self._begin_feed()
        self._over = True  # stands if an exception leaves
        complete = self._feed_body(data) if self._in_body else self._feed_response(data)
        if complete:
            self._response = self._assembled()
        self._over = complete
        return complete

    def eof(self) -> None:
        """The peer closed its side: completes a body that has no other end (RFC 9112, 6.3, case 8).

        Raises ``InvalidMessage`` when the response is cut short.
        """
        if self._response is not None:
            return
        self._over = True
        if not self._in_body:
            raise InvalidMessage("the connection was closed before the response was complete")
        if not self._ends_at_close():
            raise InvalidMessage(
                "the connection was closed before the body of the response was complete", response=self._assembled()
            )
        self._response = self._assembled()

    def _feed_response(self, data: BytesLike) -> bool:
        while self._feed_head(data):
            if self._status == 101 or (self._tunnel and 200 <= self._status < 300):
                return True
            if self._status >= 200:
                body, self.remaining = self.remaining, b""
                self._in_body = True
                return self._feed_body(body)
            # RFC 9110, 15.2: an interim response precedes the one that counts.
            self._earlier += self._parsed
            data, self.remaining = self.remaining, b""
            self._begin_head()
        return False

    def _feed_body(self, data: BytesLike) -> bool:
        events = self._events
        self._framing += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if not events.finished:  # else it is about bytes after the body, which are not looked at
                raise InvalidMessage(f"malformed HTTP response body: {error}", response=self._assembled()) from None
        # Chunk extensions and trailers are not body, but must not be endless either.
        framing = 0 if events.finished else self._framing - len(events.body)
        if len(events.body) > self._max_body or framing > self._max_body:
            raise InvalidMessage(
                f"the body of the response is over the limit of {self._max_body} bytes",
                status=413,
                response=self._assembled(),
            )
        return events.finished

    def _ends_at_close(self) -> bool:
        headers = Headers(self._events.fields)
        codings = parse_token_list(headers.get("Transfer-Encoding", ""), "Transfer-Encoding")
        return "Content-Length" not in headers and (not codings or codings[-1].lower() != "chunked")

    def _assembled(self) -> Response:
        events = self._events
        return Response(self._status, self._reason, Headers(events.fields), bytes(events.body[: self._max_body]))

    def _read_start_line(self, line: bytes) -> InvalidMessage | None:
        found = _status_line.fullmatch(line)
        if found is None:
            return InvalidMessage("malformed HTTP response: invalid status line")
        self._status = int(found[2])
        self._reason = (found[3] or b"").decode("latin-1")
        if self._status == 101 and found[1] != b"1":
            return InvalidMessage("HTTP/1.0 cannot switch protocols: WebSocket needs HTTP/1.1")
        return None


def encode_request(request: Request) -> bytes:
    """Write a request, adding nothing to it.

    Raises ``ValueError`` when the method, the target, or a header (which it names) cannot be written.
    """
    if not is_token(request.method):
        raise ValueError(f"method {request.method!r} is not a token")
    if not _target_text.fullmatch(request.path):
        raise ValueError(f"path {request.path!r}: it must begin with / and be percent-encoded")
    return _encode(f"{request.method} {request.path} HTTP/1.1", request.headers, b"")


def encode_connect(authority: str, headers: Headers) -> bytes:
    """Write a CONNECT request, whose target is the ``authority`` to reach (RFC 9112, 3.2.3), adding nothing to it.

    Raises ``ValueError`` when that is not a host, in brackets if it is an IPv6 address, and a port, or a header (which
    it names) cannot be written.
    """
    if not _authority_form.fullmatch(authority):
        raise ValueError(f"authority {authority!r}: a host and a port are accepted")
    return _encode(f"CONNECT {authority} HTTP/1.1", headers, b"")


def encode_response(response: Response) -> bytes:
    """Write a response and its body, adding nothing to it.

    Raises ``ValueError`` when the status, the reason phrase, or a header (which it names) cannot be written.
    """
    if not 100 <= response.status_code <= 999:
        raise ValueError(f"status_code={response.status_code!r}: 100 to 999 is accepted")
    if not _field_text.fullmatch(response.reason_phrase):
        raise ValueError(f"reason_phrase={response.reason_phrase!r}: it holds a character that cannot be sent")
    return _encode(f"HTTP/1.1 {response.status_code} {response.reason_phrase}", response.headers, response.body)


def _encode(start_line: str, headers: Headers, body: bytes) -> bytes:
    lines = [start_line]
    for name, value in headers.raw_items():
        if not is_token(name):
            raise ValueError(f"header name {name!r} is not a token (RFC 9110, 5.6.2)")
        if not _field_text.fullmatch(value):
            raise ValueError(f"header {name}: {value!r} holds a character that cannot be sent")
        lines.append(f"{name}: {value}")
    lines.append("\r\n")
    return "\r\n".join(lines).encode("latin-1") + body
