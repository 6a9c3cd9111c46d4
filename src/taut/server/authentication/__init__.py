"""Authentication hooks: who is it, and may they come in, before a connection is opened.

Each way of showing credentials has a module of its own; what they have in common is in ``hooks``, and how a check of
the user's is asked is in ``checks``.
"""

from __future__ import annotations

from .basic import basic_auth
from .bearer import bearer_auth
from .certificates import certificate_auth
from .composition import all_of, any_of
from .cookies import cookie_auth
from .first_message import first_message_auth
from .jwt import jwt_auth
from .query import query_auth
from .subprotocols import subprotocol_auth

__all__ = [
    "all_of",
    "any_of",
    "basic_auth",
    "bearer_auth",
    "certificate_auth",
    "cookie_auth",
    "first_message_auth",
    "jwt_auth",
    "query_auth",
    "subprotocol_auth",
]
