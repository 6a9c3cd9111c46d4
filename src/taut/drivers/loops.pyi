import asyncio
from typing import Any

from typing_extensions import disjoint_base

from ..protocol.deflate import ContextPool

@disjoint_base
class LoopState:
    compressors: ContextPool | None
    keepalive: Any
    @staticmethod
    def of(loop: asyncio.AbstractEventLoop) -> LoopState: ...
