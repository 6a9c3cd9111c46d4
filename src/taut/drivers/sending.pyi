import asyncio
from collections.abc import Coroutine, Hashable
from typing import Any

from typing_extensions import disjoint_base

from ..types import BytesLike, Overflow, Sendable, SendStatus
from .moving import Mover
from .outbox import Entry

@disjoint_base
class Sender(Mover):
    message_filter: Any
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None: ...
    def send(
        self,
        message: Sendable,
        *,
        text: bool | None = None,
        compress: bool | None = None,
        overflow: Overflow | None = None,
        key: Hashable = None,
        urgent: bool = False,
    ) -> Coroutine[Any, Any, None]: ...
    def send_nowait(
        self,
        message: str | BytesLike,
        *,
        text: bool | None = None,
        compress: bool | None = None,
        overflow: Overflow | None = None,
        key: Hashable = None,
        urgent: bool = False,
    ) -> SendStatus: ...
    # The hooks that Connection fills.
    def _send_slow(
        self, message: Sendable, text: bool | None, compress: bool | None, urgent: bool
    ) -> Coroutine[Any, Any, None]: ...
    def _drain(self, entry: Entry | None) -> Coroutine[Any, Any, None]: ...
    def _ending(self) -> None: ...
