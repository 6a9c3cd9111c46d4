"""Paths of requests: which route they take, and what becomes of them on the way to an upstream.

A path is matched as it was sent, segment by segment, and never decoded: what the upstream is sent is made of the same
bytes.  So that both sides mean the same by it, a path with a segment "." or ".." has no route, however it is written.
"""

from __future__ import annotations

import re
from urllib.parse import unquote

__all__ = ["climbs", "is_below", "rewritten", "split_target"]

_separators = re.compile(r"[/\\]")


def split_target(target: str) -> tuple[str, str]:
    """The path of a request's target, and the rest of it: the query with its question mark, or nothing."""
    path, mark, query = target.partition("?")
    return path, mark + query


def climbs(path: str) -> bool:
    """Whether a segment of the path is "." or "..", which may lead elsewhere than it looks (RFC 3986, 5.2.4)."""
    return any(segment in (".", "..") for segment in _separators.split(unquote(path)))


def is_below(path: str, prefix: str) -> bool:
    """Whether ``path`` is ``prefix``, or begins with all of its segments."""
    return path == prefix or path.startswith(prefix if prefix.endswith("/") else prefix + "/")


def rewritten(
    path: str, *, prefix: str, strip_prefix: bool, rewrite: tuple[re.Pattern[str], str] | None, base: str
) -> str:
    """What ``path``, which is below ``prefix``, becomes at an upstream whose URI has the path ``base``."""
    if strip_prefix:
        path = "/" + path[len(prefix) :].lstrip("/")
    if rewrite is not None:
        pattern, replacement = rewrite
        path = pattern.sub(replacement, path)
        if not path.startswith("/"):
            path = "/" + path
    return base.rstrip("/") + path
