"""How permessage-deflate is offered, accepted and agreed upon (RFC 7692, section 7.1).

The client offers one or more configurations, in order of preference; the server accepts at most one of them and
answers with the parameters that now hold; the client checks that the answer is one that its offers allow.  A server
passes over an offer that it cannot accept, or that is malformed; a client fails the connection over a malformed
answer (section 7.1).  Window sizes are agreed as bits: a window of N bits holds 2**N bytes.

The client offers ``client_max_window_bits`` always, and without a value: that lets the server set any limit, and the
client stays below its own limit by itself.  A value would only be a hint (section 7.1.2.2) which some servers
ignore, and their answer with a larger one would then have to fail the connection.

Where the client wants the server's window small, a second offer without that wish follows the first, as in the
example of section 7.1.3: a server that ignores the wish has then accepted the second offer, and compression is had
at the cost of a larger window here, rather than no connection.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from taut.errors import NegotiationError
from taut.protocol.headers import parse_extensions
from taut.types import DeflateOptions

__all__ = ["DeflateParameters", "accept", "agree", "offer"]

EXTENSION = "permessage-deflate"

_MAX_BITS = 15
# A decimal number from 8 to 15 without leading zeros, and nothing else (section 7.1.2).
_WINDOW_BITS = {str(bits): bits for bits in range(8, _MAX_BITS + 1)}


@dataclass(frozen=True, slots=True)
class DeflateParameters:
    """What was agreed: who starts each message afresh, and the window (bits, 8 to 15) each side compresses with."""

    server_no_context_takeover: bool = False
    client_no_context_takeover: bool = False
    server_max_window_bits: int = _MAX_BITS
    client_max_window_bits: int = _MAX_BITS


@dataclass(slots=True)
class _Configuration:
    """The parameters of one offer or answer; a number of bits is None when the parameter is absent."""

    server_no_context_takeover: bool = False
    client_no_context_takeover: bool = False
    server_max_window_bits: int | None = None
    client_max_window_bits: int | None = None

    def __str__(self) -> str:
        value = EXTENSION
        if self.server_no_context_takeover:
            value += "; server_no_context_takeover"
        if self.client_no_context_takeover:
            value += "; client_no_context_takeover"
        if self.server_max_window_bits is not None:
            value += f"; server_max_window_bits={self.server_max_window_bits}"
        if self.client_max_window_bits is not None:
            value += f"; client_max_window_bits={self.client_max_window_bits}"
        return value


def _read(parameters: Sequence[tuple[str, str | None]], *, answer: bool) -> _Configuration:
    """Read the parameters of an offer or an answer; NegotiationError if one is unknown, repeated or invalid."""
    read = _Configuration()
    seen: set[str] = set()
    for name, value in parameters:
        if name in seen:
            raise NegotiationError(f"{EXTENSION}: the parameter {name} is repeated")
        seen.add(name)
        if name in ("server_no_context_takeover", "client_no_context_takeover"):
            if value is not None:
                raise NegotiationError(f"{EXTENSION}: {name} takes no value, but has {value!r}")
            setattr(read, name, True)
        elif name == "client_max_window_bits" and value is None and not answer:
            read.client_max_window_bits = _MAX_BITS  # any limit the server sets will do (section 7.1.2.2)
        elif name in ("server_max_window_bits", "client_max_window_bits"):
            if value is None or value not in _WINDOW_BITS:
                raise NegotiationError(f"{EXTENSION}: {name} must be a number from 8 to 15, not {value!r}")
            setattr(read, name, _WINDOW_BITS[value])
        else:
            raise NegotiationError(f"{EXTENSION}: unknown parameter {name}")
    return read


def offer(options: DeflateOptions) -> str:
    """The value of the Sec-WebSocket-Extensions header of a request (RFC 7692, section 7.1)."""
    wish = _Configuration(options.server_no_context_takeover, options.client_no_context_takeover)
    fallback = f"{wish}; client_max_window_bits"
    if options.server_max_window_bits == _MAX_BITS:
        return fallback
    wish.server_max_window_bits = options.server_max_window_bits
    return f"{wish}; client_max_window_bits, {fallback}"


def accept(header: str | None, options: DeflateOptions) -> tuple[DeflateParameters, str] | None:
    """Choose among the offers of a request.

    ``header``: its Sec-WebSocket-Extensions lines joined with commas, None if there are none.  Returns what is
    agreed and the value of the same header for the response, or None to go on without compression.  Offers of
    other extensions, and offers that section 7.1 says to decline, are passed over.

    Raises ``InvalidHeader`` when the header does not follow its grammar (RFC 6455, section 9.1).
    """
    for name, parameters in [] if header is None else parse_extensions(header):
        if name != EXTENSION:
            continue
        try:
            offered = _read(parameters, answer=False)
        except NegotiationError:
            continue
        return _answer(offered, options)
    return None


def _answer(offered: _Configuration, options: DeflateOptions) -> tuple[DeflateParameters, str]:
    """What this server makes of a valid offer: each limit the lower of the client's and its own."""
    agreed = DeflateParameters(
        server_no_context_takeover=offered.server_no_context_takeover or options.server_no_context_takeover,
        # The client's hint (section 7.1.1.2) is taken up: it saves this side the window.
        client_no_context_takeover=offered.client_no_context_takeover or options.client_no_context_takeover,
        server_max_window_bits=min(offered.server_max_window_bits or _MAX_BITS, options.server_max_window_bits),
        # A client that did not offer the parameter may not be limited (section 7.1.2.2).
        client_max_window_bits=(
            min(offered.client_max_window_bits, options.client_max_window_bits)
            if offered.client_max_window_bits is not None
            else _MAX_BITS
        ),
    )
    answer = _Configuration(agreed.server_no_context_takeover, agreed.client_no_context_takeover)
    # To leave a limit out is to say 15; but one that was asked for must be confirmed (section 7.1.2.1).
    if offered.server_max_window_bits is not None or agreed.server_max_window_bits < _MAX_BITS:
        answer.server_max_window_bits = agreed.server_max_window_bits
    if agreed.client_max_window_bits < _MAX_BITS:
        answer.client_max_window_bits = agreed.client_max_window_bits
    return agreed, str(answer)


def agree(header: str | None, options: DeflateOptions | None) -> DeflateParameters | None:
    """Check the answer to ``offer(options)``; ``options`` is None if nothing was offered.

    ``header``: the response's Sec-WebSocket-Extensions lines joined with commas, None if there are none.  Returns
    what is agreed, or None if the server declined.

    Raises ``NegotiationError`` for an answer that no offer allows, ``InvalidHeader`` for one against the grammar.
    """
    agreed: DeflateParameters | None = None
    for name, parameters in [] if header is None else parse_extensions(header):
        if name != EXTENSION or options is None:
            raise NegotiationError(f"the server chose the extension {name}, which was not offered")
        if agreed is not None:
            raise NegotiationError(f"the server chose {EXTENSION} more than once")
        agreed = _check(_read(parameters, answer=True), options)
    return agreed


def _check(answer: _Configuration, options: DeflateOptions) -> DeflateParameters:
    """What a valid answer means for this client.

    The limits need no check: the second offer, or the only one, asked for none on the server's window, and a value
    for the client's is never offered.
    """
    if options.server_no_context_takeover and not answer.server_no_context_takeover:
        raise NegotiationError(f"{EXTENSION}: the server did not confirm server_no_context_takeover")
    return DeflateParameters(
        server_no_context_takeover=answer.server_no_context_takeover,
        client_no_context_takeover=answer.client_no_context_takeover or options.client_no_context_takeover,
        server_max_window_bits=answer.server_max_window_bits or _MAX_BITS,
        client_max_window_bits=min(answer.client_max_window_bits or _MAX_BITS, options.client_max_window_bits),
    )
