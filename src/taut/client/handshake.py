"""The opening handshake of a client without I/O (RFC 6455, 4.1): the request to send, the response that comes in.

Whoever has a byte stream to the server sends ``request_bytes``, feeds what it receives until the response is complete,
and calls ``accept``, which checks it and makes the session.  One object is one request.
"""

from __future__ import annotations

import base64
import os
from typing import Any

from ..errors import InvalidHandshake
from ..protocol import deflate
from ..protocol.frames import MaskPool
from ..protocol.handshake import check_response, extension_lines
from ..protocol.http1 import ResponseReader, encode_request
from ..protocol.session import Session
from ..subprotocols import Subprotocol
from ..types import BytesLike, Response
from .redirects import Navigation

__all__ = ["ClientHandshake"]

_masks = MaskPool(os.urandom)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_masks.forget)


class ClientHandshake:
    """One request of an opening, and the response to it.

    Raises ``ValueError`` when an option cannot be written into the request.
    """

    def __init__(self, navigation: Navigation) -> None:
        self._navigation = navigation
        self._options = options = navigation.options
        self._key = base64.b64encode(os.urandom(16)).decode()  # RFC 6455, 4.1: a nonce for each connection
        self.request = navigation.request(self._key)
        encode_request(self.request)
        self._reader = ResponseReader(max_head=options.max_head, max_headers=options.max_headers)
        self.subprotocol: str | None = None

    @property
    def request_bytes(self) -> bytes:
        """What is to be sent."""
        return encode_request(self.request)

    @property
    def response(self) -> Response:
        """The response, once it is complete."""
        return self._reader.response

    @property
    def remaining(self) -> bytes:
        """What came behind a 101: the first bytes of the session."""
        return self._reader.remaining

    @property
    def codec(self) -> Subprotocol[Any] | None:
        """The object that the subprotocol agreed on stands for, or else what the options name; None without."""
        return self._options.codec_for(self.subprotocol)

    def feed(self, data: BytesLike) -> bool:
        """Take bytes from the server, and tell whether the response is complete; feed nothing more after that.

        Raises ``InvalidMessage`` when it is malformed or over a limit.
        """
        try:
            return self._reader.feed(data)
        except InvalidHandshake as exc:
            exc.request = self.request
            raise

    def eof(self) -> None:
        """The server has ended its side, which may be what completes the response.

        Raises ``InvalidMessage`` when the response is cut short.
        """
        try:
            self._reader.eof()
        except InvalidHandshake as exc:
            exc.request = self.request
            raise

    def accept(self, contexts: deflate.ContextPool, now: float) -> Session:
        """Check the complete response, and make the session that it opens; ``now``: of a monotonic clock.

        Raises ``InvalidStatus`` when it is not a 101, and what ``check_response`` and the negotiation of
        permessage-deflate raise when it is not the right one.
        """
        options, response = self._options, self.response
        self._navigation.keep(response)
        try:
            self.subprotocol = check_response(self._key, response, subprotocols=options.subprotocols)
            parameters = deflate.agree(extension_lines(response.headers), options.deflate)
        except InvalidHandshake as exc:
            exc.request, exc.response = self.request, response
            raise
        codec = None
        if parameters is not None and options.deflate is not None:
            codec = deflate.Deflate(parameters, options.deflate, server=False, pool=contexts)
        return Session(options.connection, client=True, masks=_masks, deflate=codec, now=now)
