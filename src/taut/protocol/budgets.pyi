from typing import Final

__pyx_capi__: dict[str, object]

NAMES: Final[tuple[str, ...]]
