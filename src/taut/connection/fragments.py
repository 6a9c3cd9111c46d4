"""Messages sent in fragments, from an iterable or an async iterable (RFC 6455, 5.4)."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable
from typing import Protocol, TypeAlias, TypeGuard

from ..protocol.session import Session
from ..types import BytesLike, Sendable

__all__ = ["FragmentSender", "Fragments", "is_sendable", "is_whole", "send_fragments"]

Fragments: TypeAlias = Iterable[str] | Iterable[BytesLike] | AsyncIterable[str] | AsyncIterable[BytesLike]


class FragmentSender(Protocol):
    """What fragments are sent through."""

    @property
    def session(self) -> Session: ...
    def flush_output(self) -> None: ...
    async def make_room(self) -> None: ...
    def break_off(self) -> None: ...


async def send_fragments(sender: FragmentSender, message: Fragments, text: bool | None, compress: bool | None) -> None:
    """Send what an iterable gives as fragments of one message.

    A fragment leaves when the next one is known, so that the last can carry FIN.
    """
    is_text: bool | None = None
    previous: str | BytesLike | None = None
    begun = False
    try:
        async for part in _parts(message):
            if is_text is None:
                is_text = isinstance(part, str)
            elif is_text != isinstance(part, str):
                raise TypeError("the fragments of a message must be all str or all bytes-like")
            if previous is not None:
                sender.session.send_fragment(previous, is_text if text is None else text, not begun, False, compress)
                begun = True
                sender.flush_output()
                await sender.make_room()
            previous = part
        if previous is not None:
            is_text = isinstance(previous, str)
            sender.session.send_fragment(previous, is_text if text is None else text, not begun, True, compress)
            begun = False
            sender.flush_output()
    except BaseException:
        if begun:
            sender.break_off()
        raise


async def _parts(message: Fragments) -> AsyncIterator[str | BytesLike]:
    if isinstance(message, AsyncIterable):
        async for part in message:
            yield _checked(part)
    else:
        for part in message:
            yield _checked(part)


def is_whole(message: object) -> TypeGuard[str | BytesLike]:
    """Whether this is a message in one piece."""
    return isinstance(message, str | bytes | bytearray | memoryview)


def is_sendable(message: object) -> TypeGuard[Sendable]:
    """Whether this may be a message at all."""
    return is_whole(message) or isinstance(message, Iterable | AsyncIterable)


def _checked(part: object) -> str | BytesLike:
    if not is_whole(part):
        raise TypeError(f"a fragment must be str or bytes-like, not {type(part).__name__}")
    return part
