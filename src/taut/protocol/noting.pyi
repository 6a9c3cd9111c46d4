from collections.abc import Callable

from typing_extensions import disjoint_base

@disjoint_base
class FrameNotes:
    def observe_frames(self, observer: Callable[[], object] | None) -> None: ...
    def take_frames(self) -> list[tuple[bool, int, int, bytes | None]]: ...
