from collections.abc import Iterable

from ..types import BytesLike
from .sending import Sender

def broadcast(
    connections: Iterable[Sender],
    message: str | BytesLike,
    *,
    text: bool | None = None,
    raise_exceptions: bool = False,
) -> None: ...
