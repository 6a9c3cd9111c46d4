"""What is public in taut, as the code has it: classes, and defaults of arguments."""

from __future__ import annotations

import inspect
from dataclasses import fields
from typing import Any

import taut
from taut.client.options import ConnectOptions

CLASSES = {name: value for name in taut.__all__ if isinstance(value := getattr(taut, name), type) and name[0].isupper()}

# What ``connect`` takes by name, as given: some of it is kept in another form.
CONNECT_DEFAULTS: dict[str, Any] = {
    field.name: field.default
    for field in fields(ConnectOptions)
    if field.name not in ("deflate", "authorization", "connection")
} | {
    "socket_options": None,
    "proxy": True,
    "proxy_headers": None,
    "pins": None,
    "subprotocols": None,
    "compression": "deflate",
    "additional_headers": None,
    "basic_auth": None,
    "bearer_token": None,
    "events": None,
    "logger": None,
}


def defaults(of: Any) -> dict[str, Any]:
    return {p.name: p.default for p in inspect.signature(of).parameters.values() if p.default is not p.empty}
