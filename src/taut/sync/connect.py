"""``connect`` for threads: from a URI to an open connection."""

from __future__ import annotations

import os
from typing import Any, Unpack

from ..client.attempt import navigate
from ..client.connecting import Connecting
from ..client.options import ConnectArguments
from ..connection.filtering import Filter
from ..drivers.background import background
from .connection import Connection
from .filtering import Filtered
from .opening import Opened, open_once

__all__ = ["ClientConnection", "connect", "unix_connect"]


class ClientConnection(Connection):
    """What ``taut.sync.connect`` returns: see ``Connection``."""


class FilteredClientConnection(Filtered, ClientConnection):
    """One that receives and sends values."""


def connect(uri: str, **options: Unpack[ConnectArguments]) -> ClientConnection:
    """Open a WebSocket connection, and wait until it is open: ``with connect(uri) as ws`` closes it at the end.

    ``uri`` and the options are those of ``taut.connect``, but for ``reconnect``, ``process_exception`` and
    ``events``.

    Raises ``TypeError`` or ``ValueError`` (``InvalidURI``, ``InvalidProxy`` among them) for a wrong argument, before
    any I/O; a ``ConnectError`` when no connection can be opened: ``DialError``, ``TLSError``, ``ProxyError``,
    ``InvalidHandshake``, ``OpenTimeout``; its ``attempts`` tell what was tried. When it is interrupted (Ctrl-C) nothing
    stays open.
    """
    wanted = Connecting(uri, options)
    if wanted.options.events:
        raise ValueError("events are told on an event loop: taut.connect takes them, and taut.sync.connect does not")
    connection = ClientConnection(wanted.options.connection, wanted.options.logger)
    thread = background()
    try:
        opened = thread.run(navigate(wanted.uri, wanted.options, wanted.cookies, open_once), Opened.discard)
        handshake = opened.handshake
        connection.subprotocol = handshake.subprotocol
        connection.record_handshake(handshake.request, handshake.response)
        if handshake.codec is not None:
            connection.message_filter = Filter(handshake.codec)
            connection.__class__ = FilteredClientConnection
        connection.open(thread, opened.wire, opened.session, handshake.remaining)
    except BaseException:
        thread.release()
        raise
    return connection


def unix_connect(path: str | os.PathLike[str], uri: str = "ws://localhost/", **options: Any) -> ClientConnection:
    """Open a connection over a Unix socket.

    ``uri``: gives the Host and the target of the request. The rest is as for ``connect``.
    """
    return connect(uri, path=path, **options)
