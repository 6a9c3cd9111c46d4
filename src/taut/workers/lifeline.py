"""Ends a worker whose parent is gone.

The parent holds one end of a pipe, and the worker the other, on which nothing is ever written: it reports its end when
the parent is gone, however it went.  A thread waits for that, not the event loop, which may be blocked: the thread asks
for the drain with SIGTERM, as the parent would have, and makes sure of the end when the time for it is over.
"""

from __future__ import annotations

import os
import signal
import threading
import time

__all__ = ["hold_on"]

_ENDED = 70  # EX_SOFTWARE of sysexits.h


def hold_on(descriptor: int, drain: float) -> None:
    """From now on this process ends, within ``drain`` seconds, when the other end of the pipe is closed."""
    threading.Thread(target=_wait, args=(descriptor, drain), name="taut-lifeline", daemon=True).start()


def _wait(descriptor: int, drain: float) -> None:
    while os.read(descriptor, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(drain)
    os._exit(_ENDED)
