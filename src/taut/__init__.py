"""taut: WebSocket for asyncio, client and server, with a native hot path.

``connect`` opens a connection, ``serve`` starts a server; names and defaults are those of the ``websockets`` package
where the meaning is the same.
"""

from __future__ import annotations

from ._version import __version__
from .client.connect import connect, unix_connect
from .client.opening import ClientConnection
from .connection import Connection, Stats
from .drivers.broadcast import broadcast
from .errors import (
    ConcurrencyError,
    ConnectionClosed,
    ConnectionClosedError,
    ConnectionClosedOK,
    InvalidHandshake,
    InvalidHeader,
    InvalidMessage,
    InvalidOrigin,
    InvalidStatus,
    InvalidUpgrade,
    InvalidURI,
    MissingExtra,
    NegotiationError,
    OpenTimeout,
    PayloadTooBig,
    ProtocolError,
    WebSocketException,
)
from .listener import Listener
from .protocol.headers import basic_authorization
from .server.connection import ServerConnection
from .server.server import Server, serve, unix_serve
from .types import (
    CloseCode,
    CloseInfo,
    ConnectionOptions,
    Data,
    DeflateOptions,
    Headers,
    HeadersLike,
    Initiator,
    Opcode,
    Request,
    Response,
    State,
)

__all__ = [
    "ClientConnection",
    "CloseCode",
    "CloseInfo",
    "ConcurrencyError",
    "Connection",
    "ConnectionClosed",
    "ConnectionClosedError",
    "ConnectionClosedOK",
    "ConnectionOptions",
    "Data",
    "DeflateOptions",
    "Headers",
    "HeadersLike",
    "Initiator",
    "InvalidHandshake",
    "InvalidHeader",
    "InvalidMessage",
    "InvalidOrigin",
    "InvalidStatus",
    "InvalidURI",
    "InvalidUpgrade",
    "Listener",
    "MissingExtra",
    "NegotiationError",
    "Opcode",
    "OpenTimeout",
    "PayloadTooBig",
    "ProtocolError",
    "Request",
    "Response",
    "Server",
    "ServerConnection",
    "State",
    "Stats",
    "WebSocketException",
    "__version__",
    "basic_authorization",
    "broadcast",
    "connect",
    "serve",
    "unix_connect",
    "unix_serve",
]
