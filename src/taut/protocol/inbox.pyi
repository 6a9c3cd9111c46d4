from typing_extensions import disjoint_base

from ..types import Data

@disjoint_base
class Fragment:
    def __init__(self, data: Data, final: bool) -> None: ...
    @property
    def data(self) -> Data: ...
    @property
    def final(self) -> bool: ...
