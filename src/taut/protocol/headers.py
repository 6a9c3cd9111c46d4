"""The grammar of the headers that a WebSocket handshake reads and writes (RFC 6455, 9.1 and 11.3; RFC 9110, 5.6).

Parsers take the value of a header, its repeated lines joined by commas, and raise ``InvalidHeader`` when it does
not follow the grammar.  Empty list elements are skipped, as RFC 9110, 5.6.1.2 asks of a recipient.  Builders take
what this side was configured with, and raise ``ValueError`` when that cannot be written.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Sequence

from taut.errors import InvalidHeader

__all__ = [
    "Extension",
    "ExtensionParameter",
    "basic_authorization",
    "build_extensions",
    "build_subprotocols",
    "is_token",
    "parse_extensions",
    "parse_subprotocols",
    "parse_token_list",
]

ExtensionParameter = tuple[str, str | None]
"""A parameter of an extension: its name, and its value, None when it has none."""

Extension = tuple[str, list[ExtensionParameter]]
"""An extension as offered or agreed: its name, and its parameters in order."""

TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_token = re.compile(TOKEN)
_parameter = re.compile(rf'[ \t]*;[ \t]*({TOKEN})(?:[ \t]*=[ \t]*(?:({TOKEN})|"((?:[^"\\]|\\.)*)"))?')
_quoted_pair = re.compile(r"\\(.)")
_separator = re.compile(r"[ \t]*(?:,[ \t,]*|$)")
_control = re.compile(r"[\x00-\x1f\x7f]")


def is_token(text: str) -> bool:
    """Tell whether ``text`` is a token (RFC 9110, 5.6.2): not empty, ASCII, without separators."""
    return _token.fullmatch(text) is not None


def parse_token_list(value: str, name: str = "Connection") -> list[str]:
    """Read a comma-separated list of tokens, in order and in the case they came in.

    ``name`` is the header that the error names.  The list may be empty.  Raises ``InvalidHeader``.
    """
    tokens = [item for item in (item.strip(" \t") for item in value.split(",")) if item]
    if not all(map(is_token, tokens)):
        raise InvalidHeader(name, value)
    return tokens


def parse_subprotocols(value: str) -> list[str]:
    """Read a Sec-WebSocket-Protocol header, which names at least one subprotocol (RFC 6455, 11.3.4).

    Raises ``InvalidHeader``.
    """
    subprotocols = parse_token_list(value, "Sec-WebSocket-Protocol")
    if not subprotocols:
        raise InvalidHeader("Sec-WebSocket-Protocol", value)
    return subprotocols


def parse_extensions(value: str) -> list[Extension]:
    """Read a Sec-WebSocket-Extensions header, which names at least one extension (RFC 6455, 9.1).

    Parameters keep their order and their duplicates: what they mean is for the extension to judge.  A quoted value
    must be a token once unquoted, as 9.1 requires.  Raises ``InvalidHeader``.
    """
    extensions: list[Extension] = []
    position = len(value) - len(value.lstrip(" \t,"))
    while position < len(value):
        name = _token.match(value, position)
        if name is None:
            break
        position = name.end()
        parameters: list[ExtensionParameter] = []
        while (found := _parameter.match(value, position)) is not None:
            parameters.append((found[1], _parameter_value(found, value)))
            position = found.end()
        extensions.append((name[0], parameters))
        separator = _separator.match(value, position)
        if separator is None:
            break
        position = separator.end()
    else:
        if extensions:
            return extensions
    raise InvalidHeader("Sec-WebSocket-Extensions", value)


def _parameter_value(found: re.Match[str], value: str) -> str | None:
    quoted: str | None = found[3]
    if quoted is None:
        return found[2]
    unquoted = _quoted_pair.sub(r"\1", quoted)
    if not is_token(unquoted):
        raise InvalidHeader("Sec-WebSocket-Extensions", value)
    return unquoted


def build_extensions(extensions: Iterable[tuple[str, Iterable[ExtensionParameter]]]) -> str:
    """Write the value of a Sec-WebSocket-Extensions header.

    Raises ``ValueError`` when a name or a value is not a token.
    """
    return ", ".join(
        "; ".join([_written(name), *(_written_parameter(*parameter) for parameter in parameters)])
        for name, parameters in extensions
    )


def _written_parameter(name: str, value: str | None) -> str:
    return _written(name) if value is None else f"{_written(name)}={_written(value)}"


def _written(token: str) -> str:
    if not is_token(token):
        raise ValueError(f"extension: {token!r} is not a token (RFC 9110, 5.6.2)")
    return token


def build_subprotocols(subprotocols: Sequence[str]) -> str:
    """Write the value of a Sec-WebSocket-Protocol header: what a client offers, in its order of preference.

    Raises ``TypeError`` for a single string, ``ValueError`` when one is not a token or is there twice
    (RFC 6455, 4.1, request requirement 10).
    """
    if isinstance(subprotocols, str):
        raise TypeError(f"subprotocols={subprotocols!r}: a sequence of strings is accepted, not a string")
    for subprotocol in subprotocols:
        if not is_token(subprotocol):
            raise ValueError(f"subprotocols: {subprotocol!r} is not a token (RFC 9110, 5.6.2)")
    if len(set(subprotocols)) != len(subprotocols):
        raise ValueError(f"subprotocols={list(subprotocols)!r}: each may be offered once only")
    return ", ".join(subprotocols)


def basic_authorization(username: str, password: str) -> str:
    """Write the value of an Authorization header for the Basic scheme, in UTF-8 (RFC 7617).

    Raises ``ValueError`` when the user name holds a colon, or either a control character.
    """
    if ":" in username:
        raise ValueError("username: a colon cannot be written in Basic credentials")
    if _control.search(username + password):
        raise ValueError("username, password: a control character cannot be written in Basic credentials")
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode("ascii")
