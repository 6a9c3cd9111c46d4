from collections.abc import Iterable

from ..types import BytesLike
from .stream import StreamDriver

def broadcast(
    connections: Iterable[StreamDriver],
    message: str | BytesLike,
    *,
    text: bool | None = None,
    raise_exceptions: bool = False,
) -> None: ...
