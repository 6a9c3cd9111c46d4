"""Subprotocols as objects: a name that is negotiated, and what turns messages into values and back."""

from __future__ import annotations

from .json_subprotocol import JSONSubprotocol
from .offer import Offer, check_codec, check_subprotocols
from .subprotocol import Subprotocol, Values

__all__ = ["JSONSubprotocol", "Offer", "Subprotocol", "Values", "check_codec", "check_subprotocols"]
