"""``Subprotocol``: what turns the messages of a connection into values, and values into messages.

It belongs to no connection: one object serves all of them, so ``encode`` and ``decode`` keep nothing between calls.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, Generic, Protocol, Self, TypeVar, cast

from ..options import check_text
from ..protocol.headers import is_token
from ..types import BytesLike, Data

__all__ = ["Subprotocol", "Values"]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Asynchronous(Protocol):
    """A connection on asyncio."""

    def recv(self) -> Coroutine[Any, Any, Any]: ...


class Values(Protocol[T_co]):
    """A connection as a type checker sees it that receives values of one type: what ``Subprotocol.typed`` returns."""

    def recv(self) -> Coroutine[Any, Any, T_co]:
        """Receive the next value."""
        ...

    def __aiter__(self) -> Self: ...
    def __anext__(self) -> Coroutine[Any, Any, T_co]: ...
    def send(self, message: Any, *, compress: bool | None = None) -> Coroutine[Any, Any, Any]:
        """Send a value."""
        ...

    def send_nowait(self, message: Any, *, compress: bool | None = None) -> Any:
        """Send a value without waiting."""
        ...

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close the connection."""
        ...


class Subprotocol(Generic[T]):
    """A subprotocol with a format of its own: subclass it, and write ``encode`` and ``decode``.

    ``name``: what is negotiated (RFC 6455, 1.9). It goes where ``subprotocols`` are named, or ``codec``; a handler of a
    connection that agreed on it receives what ``decode`` returns, and sends what ``encode`` takes. ``text``: a class
    attribute, True if its messages are Text, and anything else is refused with 1003, False if they are Binary, None if
    they may be either.

    Raises ``TypeError`` or ``ValueError`` for a name that is no token.
    """

    text: bool | None = None

    def __init__(self, name: str) -> None:
        check_text("name", name)
        if not is_token(name):
            raise ValueError(f"name must be an HTTP token, as subprotocols are, not {name!r}")
        self.name = name

    def encode(self, value: Any) -> str | BytesLike:
        """The message for a value: str, or bytes, which are sent as Text as well where ``text`` is True.

        What it raises reaches whoever sends, and nothing is sent: ``TypeError`` or ``ValueError`` for what is no value.
        """
        raise NotImplementedError

    def decode(self, message: Data) -> T:
        """The value of a message, which is str for Text and bytes for Binary.

        It raises ``ValueError`` for a malformed one, whose connection is failed with 1007, or ``MessageRejected`` for
        another code; anything else that it raises is a fault of its own, which is logged, and the code is 1011.
        """
        raise NotImplementedError

    def typed(self, ws: Asynchronous) -> Values[T]:
        """``ws`` itself, a connection on asyncio, with the type that its values have.

        Raises ``TypeError`` if it does not speak this subprotocol.
        """
        if getattr(ws, "codec", None) is not self:
            raise TypeError(f"{ws!r} does not speak {self.name}")
        return cast("Values[T]", ws)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"
