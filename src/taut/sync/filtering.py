"""A blocking connection with a codec: see ``connection.filtering``, of which it has all but the message hooks."""

from __future__ import annotations

from typing import Any

from ..connection.filtering import Filtering
from ..errors import MessageRejected
from .connection import Connection

__all__ = ["Filtered"]


class Filtered(Filtering, Connection):
    """A connection that receives and sends values; any thread may, since a codec keeps nothing."""

    def _refuse(self, refused: MessageRejected) -> None:
        self._fail(refused)

    def recv(self, timeout: float | None = None, decode: bool | None = None) -> Any:
        """Receive the next value; ``timeout`` as for any connection."""
        self._check_decode(decode)
        return self._admit(super().recv(timeout))

    def __next__(self) -> Any:
        return self._admit(super().__next__())

    def send(self, message: Any, *, text: bool | None = None, **options: Any) -> None:
        """Send a value; the options are those of any connection, but for ``text``."""
        message, text = self._prepare(message, text)
        super().send(message, text=text, **options)
