"""What is given as ``subprotocols``: names and objects, in order of preference."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..options import check_sequence
from ..protocol.headers import is_token
from .subprotocol import Subprotocol

__all__ = ["Offer", "check_codec", "check_subprotocols"]


class Offer(tuple[str, ...]):
    """The names of subprotocols, in order of preference; it knows the objects that some of them stand for."""

    codecs: dict[str, Subprotocol[Any]]

    def __new__(cls, given: Iterable[str | Subprotocol[Any]] = ()) -> Offer:
        given = tuple(given)
        offer = super().__new__(cls, [each if isinstance(each, str) else each.name for each in given])
        offer.codecs = {each.name: each for each in given if not isinstance(each, str)}
        return offer


def check_subprotocols(value: object) -> Offer:
    """The offer that the option stands for, an empty one for None. Raises ``TypeError`` or ``ValueError``."""
    given: tuple[str | Subprotocol[Any], ...] = check_sequence("subprotocols", value, (str, Subprotocol)) or ()
    offer = Offer(given)
    for name in offer:
        if not is_token(name):
            raise ValueError(f"subprotocols must be HTTP tokens, not {name!r}")
    for name in offer.codecs:
        if offer.count(name) > 1:
            raise ValueError(f"subprotocols must not name {name!r} twice: which of them is it?")
    return offer


def check_codec(value: object) -> Subprotocol[Any] | None:
    """``value`` if it is a ``Subprotocol`` object or None."""
    if value is not None and not isinstance(value, Subprotocol):
        raise TypeError(f"codec must be a taut.Subprotocol or None, not {value!r}")
    return value  # pyright: ignore[reportUnknownVariableType]
