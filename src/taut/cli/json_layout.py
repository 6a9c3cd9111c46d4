"""JSON for a person: every token as it was received, laid out over lines, with colours if wanted.

The text is only cut into tokens and put together again, so that no number loses digits, no name that occurs twice is
dropped, and no order changes.  ``json.loads`` has said before that it is JSON; what it says no to is left alone.
"""

from __future__ import annotations

import json
import re
from typing import NoReturn

from .terminal import paint, printable

__all__ = ["lay_out"]

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{},:]|[^\s\[\]{},:"]+')
_INDENT = "  "
_NAME, _STRING, _NUMBER, _WORD = 34, 32, 36, 33


def lay_out(text: str, *, escape: bool = False, colours: bool = False) -> str | None:
    """The text over several lines, one for each element or member; None if it is not JSON (RFC 8259).

    ``escape``: escape control characters, some of which JSON lets into strings. ``colours``: mark the kinds of tokens.
    """
    try:
        # As str, a number costs no conversion, and has no limit to its digits.
        json.loads(text, parse_int=str, parse_float=str, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None
    tokens = _TOKEN.findall(text)
    parts: list[str] = []
    depth = 0
    for token, following in zip(tokens, [*tokens[1:], ""], strict=True):
        match token:
            case "{" | "[":
                depth += 1
                empty = following in ("}", "]")
                parts.append(token if empty else f"{token}\n{_INDENT * depth}")
            case "}" | "]":
                depth -= 1
                closes_empty = bool(parts) and parts[-1] in ("{", "[")
                parts.append(token if closes_empty else f"\n{_INDENT * depth}{token}")
            case ",":
                parts.append(f",\n{_INDENT * depth}")
            case ":":
                parts.append(": ")
            case _:
                shown = printable(token) if escape else token
                parts.append(paint(shown, _style(token, following)) if colours else shown)
    return "".join(parts)


def _style(token: str, following: str) -> int:
    if token.startswith('"'):
        return _NAME if following == ":" else _STRING
    return _WORD if token in ("true", "false", "null") else _NUMBER


def _refuse(constant: str) -> NoReturn:
    """Python reads NaN and Infinity, which are not JSON."""
    raise ValueError(f"{constant} is not JSON")
