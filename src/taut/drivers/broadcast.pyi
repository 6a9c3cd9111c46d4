from collections.abc import Hashable, Iterable

from typing_extensions import disjoint_base

from ..types import BroadcastResult, BytesLike, Overflow
from .sending import Sender

@disjoint_base
class Delivery: ...

def broadcast(
    connections: Iterable[Sender],
    message: str | BytesLike,
    *,
    text: bool | None = None,
    overflow: Overflow | None = None,
    key: Hashable = None,
    urgent: bool = False,
    raise_exceptions: bool = False,
) -> BroadcastResult: ...
