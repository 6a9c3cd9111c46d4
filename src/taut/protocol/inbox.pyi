from typing_extensions import disjoint_base

from ..types import Data

__pyx_capi__: dict[str, object]

@disjoint_base
class Fragment:
    def __init__(self, data: Data, final: bool) -> None: ...
    @property
    def data(self) -> Data: ...
    @property
    def final(self) -> bool: ...
