"""taut: WebSocket for asyncio, client and server, with a native hot path.

``connect`` opens a connection, ``serve`` starts a server; names and defaults are those of the ``websockets`` package
where the meaning is the same.
"""

from __future__ import annotations

from ._version import __version__
from .client.connect import connect, unix_connect
from .client.opening import ClientConnection
from .client.outbox.outbox import Ack, Loss, OfflineQueue
from .client.pool.pool import Pool, PoolStats
from .client.reconnection import ReconnectPolicy
from .client.session.lifecycle import SessionState
from .client.session.session import Session, SessionStats
from .connection import Connection, Stats
from .drivers.broadcast import broadcast
from .errors import (
    CertificateError,
    ConcurrencyError,
    ConnectError,
    ConnectionClosed,
    ConnectionClosedError,
    ConnectionClosedOK,
    ConnectRefused,
    DecodeError,
    DialError,
    InvalidHandshake,
    InvalidHeader,
    InvalidMessage,
    InvalidOrigin,
    InvalidProxy,
    InvalidStatus,
    InvalidUpgrade,
    InvalidURI,
    JournalError,
    MessageRejected,
    MissingExtra,
    NegotiationError,
    OpenTimeout,
    PayloadTooBig,
    PoolClosed,
    PoolTimeout,
    ProtocolError,
    ProxyError,
    QueueFull,
    RateExceeded,
    ReconnectFailed,
    RedirectError,
    TLSError,
    WebSocketException,
)
from .events import Events, Frame
from .listener import Listener
from .protocol.headers import basic_authorization
from .protocol.proxy_protocol import ProxyHeader
from .server.authentication import (
    all_of,
    any_of,
    basic_auth,
    bearer_auth,
    certificate_auth,
    cookie_auth,
    first_message_auth,
    jwt_auth,
    query_auth,
    subprotocol_auth,
)
from .server.certificate import ServerCertificate
from .server.connection import ServerConnection
from .server.middleware import Middleware
from .server.routing import Route, Router
from .server.server import Server
from .server.serving import serve, unix_serve
from .server.shared import RedisLimits
from .server.tally import ServerStats
from .subprotocols import JSONSubprotocol, Subprotocol
from .types import (
    Attempt,
    BroadcastResult,
    CloseCode,
    CloseInfo,
    ConnectionOptions,
    Data,
    DeflateOptions,
    Headers,
    HeadersLike,
    Initiator,
    Opcode,
    RateLimits,
    Request,
    Response,
    SendStatus,
    State,
)

__all__ = [
    "Ack",
    "Attempt",
    "BroadcastResult",
    "CertificateError",
    "ClientConnection",
    "CloseCode",
    "CloseInfo",
    "ConcurrencyError",
    "ConnectError",
    "ConnectRefused",
    "Connection",
    "ConnectionClosed",
    "ConnectionClosedError",
    "ConnectionClosedOK",
    "ConnectionOptions",
    "Data",
    "DecodeError",
    "DeflateOptions",
    "DialError",
    "Events",
    "Frame",
    "Headers",
    "HeadersLike",
    "Initiator",
    "InvalidHandshake",
    "InvalidHeader",
    "InvalidMessage",
    "InvalidOrigin",
    "InvalidProxy",
    "InvalidStatus",
    "InvalidURI",
    "InvalidUpgrade",
    "JSONSubprotocol",
    "JournalError",
    "Listener",
    "Loss",
    "MessageRejected",
    "Middleware",
    "MissingExtra",
    "NegotiationError",
    "OfflineQueue",
    "Opcode",
    "OpenTimeout",
    "PayloadTooBig",
    "Pool",
    "PoolClosed",
    "PoolStats",
    "PoolTimeout",
    "ProtocolError",
    "ProxyError",
    "ProxyHeader",
    "QueueFull",
    "RateExceeded",
    "RateLimits",
    "ReconnectFailed",
    "ReconnectPolicy",
    "RedirectError",
    "RedisLimits",
    "Request",
    "Response",
    "Route",
    "Router",
    "SendStatus",
    "Server",
    "ServerCertificate",
    "ServerConnection",
    "ServerStats",
    "Session",
    "SessionState",
    "SessionStats",
    "State",
    "Stats",
    "Subprotocol",
    "TLSError",
    "WebSocketException",
    "__version__",
    "all_of",
    "any_of",
    "basic_auth",
    "basic_authorization",
    "bearer_auth",
    "broadcast",
    "certificate_auth",
    "connect",
    "cookie_auth",
    "first_message_auth",
    "jwt_auth",
    "query_auth",
    "serve",
    "subprotocol_auth",
    "unix_connect",
    "unix_serve",
]
