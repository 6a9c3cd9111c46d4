import asyncio

from typing_extensions import disjoint_base

from ..protocol.session import Session
from .sockets import Receiver

__pyx_capi__: dict[str, object]

@disjoint_base
class Writer(Receiver):
    transport: asyncio.Transport | None
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None: ...
    @property
    def session(self) -> Session: ...
    @property
    def loop(self) -> asyncio.AbstractEventLoop: ...
    def take_options(self) -> None: ...
    def flush_output(self) -> None: ...
