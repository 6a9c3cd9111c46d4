from collections.abc import Callable
from typing import Self

from typing_extensions import disjoint_base

__pyx_capi__: dict[str, object]

@disjoint_base
class MaskPool:
    def __init__(self, source: Callable[[int], bytes]) -> None: ...
    def forget(self) -> None: ...

@disjoint_base
class Assembly:
    def __new__(cls, text: bool) -> Self: ...
