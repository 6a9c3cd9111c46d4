from typing_extensions import disjoint_base

from ..protocol.session import Session
from ..types import BytesLike, Sendable
from .waiting import Shared

@disjoint_base
class Outbound(Shared):
    @property
    def session(self) -> Session: ...
    @property
    def unsent(self) -> int: ...
    def send(
        self,
        message: Sendable,
        *,
        text: bool | None = None,
        compress: bool | None = None,
        timeout: float | None = None,
    ) -> None: ...
    # For Connection.
    def _send_whole(
        self, message: str | BytesLike, text: bool | None, compress: bool | None, timeout: float, in_turn: bool
    ) -> bool: ...
    def _send_fragment(
        self, part: str | BytesLike, text: bool, first: bool, final: bool, compress: bool | None, timeout: float
    ) -> None: ...
    def _begin_fragments(self, timeout: float) -> None: ...
    def _end_fragments(self) -> None: ...
    @property
    def _is_fragmenting(self) -> bool: ...
    # The hook that Connection fills.
    def _send_slow(self, message: Sendable, text: bool | None, compress: bool | None, timeout: float) -> None: ...
