"""Which event loop a process runs on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ..errors import MissingExtra

__all__ = ["loop_factory"]


def loop_factory(uvloop: bool | None) -> Callable[[], asyncio.AbstractEventLoop] | None:
    """What makes the event loop; None for asyncio's own.

    ``uvloop``: whether it is uvloop's, None for where it is installed. Raises ``MissingExtra`` when it has to be, and
    is not there.
    """
    if uvloop is False:
        return None
    try:
        import uvloop as package  # noqa: PLC0415 - an extra, imported only where it is used
    except ImportError:
        if uvloop:
            raise MissingExtra("uvloop", "uvloop") from None
        return None
    return package.new_event_loop
