"""What all tests share: the real services, how many examples property tests draw, that processes can be interrupted.

``HYPOTHESIS_PROFILE`` names a profile: ``default``, or ``fuzz`` for a long search (``make fuzz``).
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Generator

import pytest
from hypothesis import HealthCheck, settings
from services import chromium, dante, dante_auth, haproxy, nginx, node_ws, node_wss, redis, tinyproxy, tinyproxy_auth

__all__ = [
    "chromium",
    "dante",
    "dante_auth",
    "haproxy",
    "nginx",
    "node_ws",
    "node_wss",
    "redis",
    "tinyproxy",
    "tinyproxy_auth",
]

settings.register_profile("default", max_examples=100, deadline=None)
settings.register_profile(
    "fuzz", max_examples=2000, deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

# What a shell puts in the background starts with SIGINT ignored, and its children inherit that; tests interrupt them.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


LOGGERS = [logging.getLogger(name) for name in ("taut", "taut.client", "taut.server", "taut.workers", "taut.proxy")]


@pytest.fixture(autouse=True)
def loggers_stay_as_they_were() -> Generator[None]:
    """A level that a test leaves behind decides what later tests see logged: let that test fail, and not those."""
    before = [(logger.level, logger.propagate, logger.disabled) for logger in LOGGERS]
    yield
    assert [(logger.level, logger.propagate, logger.disabled) for logger in LOGGERS] == before
