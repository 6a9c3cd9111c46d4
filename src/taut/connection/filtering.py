"""What stands between the wire and a handler that receives values, or whose messages pass through hooks.

A ``Filter`` is a codec, message hooks, or both; it is made once, and serves every connection of the same kind.  A
connection that needs one is given the class ``Filtered`` before it is open, which overrides what receives and sends;
any other connection knows nothing of all this, and pays nothing for it.

In: the codec first, then the hooks, the outermost first, so that hooks see what the handler sees.  Out: the hooks, the
innermost first, then the codec.  What is refused never comes as far as the handler: it fails the connection, as a
message does that breaks the protocol, and ``recv`` raises what it raises then.  Parts of messages (``recv_streaming``)
and fragments are not whole messages: they pass unchanged.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from ..drivers.awaitables import Done
from ..errors import ConnectionClosed, ConnectionClosedError, DecodeError, MessageRejected
from ..protocol.inbox import Fragment
from ..protocol.session import valid_close_code
from ..subprotocols import Subprotocol
from ..types import BytesLike, CloseCode, Data, SendStatus
from .connection import Connection
from .facts import Facts
from .fragments import is_whole

__all__ = ["DROP", "Drop", "Filter", "Filtered", "Filtering", "MessageHook"]

MessageHook: TypeAlias = Callable[[Any, Any], Any]

_PREVIEW = 64
_NO_SLOTS: tuple[str, ...] = ()  # beside a driver, which is compiled, no base may have any
_DROPPED = cast("Coroutine[Any, Any, None]", Done())


class Drop(enum.Enum):
    """The type of ``DROP``."""

    DROP = "drop"


DROP: Final = Drop.DROP
"""What a message hook returns for a message that goes no further."""


class Filter:
    """A codec, or None, and the hooks for messages in both directions, in the order in which they are called."""

    __slots__ = ("_incoming", "_outgoing", "codec")

    def __init__(
        self,
        codec: Subprotocol[Any] | None,
        incoming: Sequence[MessageHook] = (),
        outgoing: Sequence[MessageHook] = (),
    ) -> None:
        self.codec = codec
        self._incoming = tuple(incoming)
        self._outgoing = tuple(outgoing)

    def receive(self, ws: Any, message: Data) -> Any:
        """What the handler gets for a message, or ``DROP``. Raises ``MessageRejected``, and what a hook raises."""
        value = message if self.codec is None else _decoded(self.codec, message)
        for hook in self._incoming:
            value = hook(ws, value)
            if value is DROP:
                break
        return value

    def pass_out(self, ws: Any, value: Any) -> Any:
        """What becomes of a value on its way out, not encoded yet, or ``DROP``. Raises what a hook raises."""
        for hook in self._outgoing:
            value = hook(ws, value)
            if value is DROP:
                break
        return value

    def encode(self, value: Any) -> str | BytesLike:
        """The message for a value; only with a codec. Raises what the codec raises."""
        assert self.codec is not None  # whoever calls has looked
        message = self.codec.encode(value)
        if not is_whole(message):
            raise TypeError(f"{self.codec!r} must encode a value as str or bytes-like, not {type(message).__name__}")
        return message

    def shared(self, ws: Connection, value: Any, made: dict[Any, Any]) -> Any:
        """What ``broadcast`` sends to this connection: a message and whether it is Text, or ``DROP``.

        ``made``: what was encoded for the same broadcast before, so that connections of one codec share a message.
        """
        value = self.pass_out(ws, value)
        if value is DROP:
            return DROP
        key = (id(self.codec), id(value))
        if key not in made:
            message = value if self.codec is None else self.encode(value)
            if not is_whole(message):
                raise TypeError(f"a message must be str or bytes-like, not {type(message).__name__}")
            made[key] = (message, None if self.codec is None else self.codec.text, value)
        return made[key]


def _decoded(codec: Subprotocol[Any], message: Data) -> Any:
    if codec.text is not None and isinstance(message, str) is not codec.text:
        kind = "Text" if isinstance(message, str) else "Binary"
        raise _undecodable(codec, message, CloseCode.UNSUPPORTED_DATA, f"{codec.name} has no {kind} messages")
    try:
        return codec.decode(message)
    except ValueError as exc:
        problem = f"not a valid {codec.name} message"
        raise _undecodable(codec, message, CloseCode.INVALID_DATA, problem) from exc


def _undecodable(codec: Subprotocol[Any], message: Data, code: int, problem: str) -> DecodeError:
    return DecodeError(problem, code, codec.name, message[:_PREVIEW])


class Filtering(Facts):
    """What a connection with a ``Filter`` does with a message, whatever moves it."""

    __slots__ = _NO_SLOTS

    if TYPE_CHECKING:
        message_filter: Any

        @property
        def codec(self) -> Subprotocol[Any] | None: ...

    def _refuse(self, refused: MessageRejected) -> None:
        """Fail the connection, and look at nothing that came behind the message."""
        raise NotImplementedError

    def _admit(self, message: Data | Fragment) -> Any:
        """What the handler gets, or ``DROP``; a message that is refused fails the connection, and raises that."""
        if isinstance(message, Fragment):
            return message  # for somebody who passes on what arrives: see deliver_parts
        try:
            return self.message_filter.receive(self, message)
        except MessageRejected as exc:
            refused = exc if valid_close_code(exc.code) else self._faulty(exc)
        except Exception as exc:
            refused = self._faulty(exc)
        self._refuse(refused)
        raise ConnectionClosedError(replace(self._ending_info(), cause=refused)) from refused

    def _faulty(self, exc: Exception) -> MessageRejected:
        self.logger.error("message hook failed", exc_info=exc)
        refused = MessageRejected("internal error", CloseCode.INTERNAL_ERROR)
        refused.__cause__ = exc
        return refused

    def _check_decode(self, decode: bool | None) -> None:
        if decode is not None and self.codec is not None:
            raise TypeError(f"decode is for messages, and this connection receives the values of {self.codec!r}")

    def _prepare(self, value: Any, text: bool | None) -> tuple[Any, bool | None]:
        """The message that leaves for a value, or ``DROP``, and whether it is Text."""
        codec = self.codec
        if codec is not None and text is not None:
            raise TypeError(f"text is for messages, and this connection sends the values of {codec!r}")
        value = self.message_filter.pass_out(self, value)
        if codec is None or value is DROP:
            return value, text
        return self.message_filter.encode(value), codec.text


class Filtered(Filtering, Connection):
    """A connection with a ``Filter``; its slots are those of the class that it stands in for, so it adds none."""

    __slots__ = ()

    # -- receiving ---------------------------------------------------------------------------------------------

    def _refuse(self, refused: MessageRejected) -> None:
        while self.session.take() is not None:
            pass
        self.session.fail(refused)
        self.flush_output()
        self._ending()

    async def recv(self, decode: bool | None = None) -> Any:
        """Receive the next value; ``decode`` is for connections without a codec."""
        self._check_decode(decode)
        while True:
            value = self._admit(await super().recv())
            if value is not DROP:
                break
        if decode is None:
            return value
        return value if isinstance(value, str) is decode else value.decode() if decode else value.encode()

    async def __anext__(self) -> Any:
        while True:
            value = self._admit(await super().__anext__())
            if value is not DROP:
                return value

    def _taking(self, on_message: Callable[[Any, Any], object]) -> Callable[[Any, Any], object]:
        def take(ws: Filtered, message: Data) -> None:
            try:
                value = ws._admit(message)
            except ConnectionClosed:
                return
            if value is not DROP:
                on_message(ws, value)

        return take

    # -- sending -----------------------------------------------------------------------------------------------

    def send(self, message: Any, *, text: bool | None = None, **options: Any) -> Coroutine[Any, Any, Any]:
        """Send a value; ``text`` is for connections without a codec, the rest as for any connection."""
        message, text = self._prepare(message, text)
        return _DROPPED if message is DROP else super().send(message, text=text, **options)

    def send_nowait(self, message: Any, *, text: bool | None = None, **options: Any) -> SendStatus:
        """Send a value without waiting; see ``send``."""
        message, text = self._prepare(message, text)
        return SendStatus.DROPPED if message is DROP else super().send_nowait(message, text=text, **options)
