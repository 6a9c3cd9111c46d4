"""The Authorization header (RFC 9110, 11.6.2)."""

from __future__ import annotations

from ...types import Request
from .failures import Failure

__all__ = ["authorization"]


def authorization(request: Request, scheme: str) -> str | Failure:
    """The credentials that the request has for ``scheme``, which is in lower case."""
    values = request.headers.get_all("Authorization")
    if len(values) > 1:
        return Failure.AMBIGUOUS
    if not values:
        return Failure.ABSENT
    name, _, credentials = values[0].strip(" \t").partition(" ")
    credentials = credentials.strip(" ")
    return credentials if name.lower() == scheme and credentials else Failure.ABSENT
