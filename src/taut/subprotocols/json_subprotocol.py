"""JSON in every message (RFC 8259), by one of three encoders that agree on what is JSON.

Python's own accepts more than the others: NaN and infinities, numbers beyond a float, halves of surrogate pairs.  None
of that is JSON that another program must understand, so it is refused here whichever encoder is used.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any, Literal, NoReturn, TypeAlias, TypeVar, overload

from ..errors import MissingExtra
from ..types import Data
from .subprotocol import Subprotocol

__all__ = ["JSONSubprotocol"]

T = TypeVar("T")
Backend: TypeAlias = Literal["json", "msgspec", "orjson", "auto"]
Coder: TypeAlias = tuple[Callable[[Any], str | bytes], Callable[[Data], Any]]

_BACKENDS = ("json", "msgspec", "orjson", "auto")
_half_of_a_pair = re.compile(r"\\u[dD][89a-fA-F]")


class JSONSubprotocol(Subprotocol[T]):
    """A subprotocol whose messages are JSON: ``JSONSubprotocol("orders.v1")``.

    ``name``: what is negotiated. ``text``: True for Text messages, False for Binary ones. ``type``: what received
    values are made of and checked against, by msgspec, such as a dataclass, a TypedDict or a ``msgspec.Struct``; any
    JSON without it. ``backend``: "json" of the standard library, "msgspec" or "orjson", which are faster and encode
    more (dataclasses, datetime), or "auto" for the fastest that is installed; by default "json", with ``type``
    "msgspec".

    Raises ``TypeError`` or ``ValueError`` for a wrong argument, ``MissingExtra`` without the package.
    """

    @overload
    def __init__(
        self: JSONSubprotocol[Any],
        name: str,
        *,
        text: bool = True,
        type: None = None,
        backend: Backend | None = None,
    ) -> None: ...

    @overload
    def __init__(
        self,
        name: str,
        *,
        text: bool = True,
        type: type[T],
        backend: Backend | None = None,
    ) -> None: ...

    @overload
    def __init__(
        self: JSONSubprotocol[Any],
        name: str,
        *,
        text: bool = True,
        type: Any,
        backend: Backend | None = None,
    ) -> None: ...

    def __init__(
        self,
        name: str,
        *,
        text: bool = True,
        type: Any = None,  # noqa: A002
        backend: Backend | None = None,
    ) -> None:
        super().__init__(name)
        if not isinstance(text, bool):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"text must be True or False, not {text!r}")
        if backend is not None and backend not in _BACKENDS:
            raise ValueError(f"backend must be one of {', '.join(map(repr, _BACKENDS))} or None, not {backend!r}")
        if type is not None and backend not in (None, "msgspec", "auto"):
            raise ValueError(f"type needs the backend 'msgspec', not {backend!r}")
        self.text = text
        self.backend, (self._encode, self._decode) = _coder(backend, type)

    def encode(self, value: Any) -> str | bytes:
        """The JSON of a value. Raises ``TypeError`` or ``ValueError`` for what is none."""
        return self._encode(value)

    def decode(self, message: Data) -> T:
        """The value of a JSON text. Raises ``ValueError`` for what is none, or not of the right type."""
        try:
            value: T = self._decode(message)
        except RecursionError:
            raise ValueError("it is nested too deeply") from None
        return value


def _coder(backend: Backend | None, wanted: Any) -> tuple[str, Coder]:
    if wanted is not None or backend == "msgspec":
        return "msgspec", _with_msgspec(wanted)
    if backend == "orjson":
        return "orjson", _with_orjson()
    if backend == "auto":
        for name, make in (("msgspec", _with_msgspec), ("orjson", _with_orjson)):
            try:
                return name, make()
            except MissingExtra:
                continue
    return "json", (_encode, _decode)


def _with_msgspec(wanted: Any = None) -> Coder:
    try:
        import msgspec  # noqa: PLC0415
    except ImportError:
        raise MissingExtra("JSONSubprotocol with msgspec", "msgspec") from None
    try:
        decoder = msgspec.json.Decoder(Any if wanted is None else wanted)
    except TypeError as exc:
        raise TypeError(f"type must be one that msgspec can decode, not {wanted!r}: {exc}") from None
    encoder = msgspec.json.Encoder()
    return encoder.encode, decoder.decode


def _with_orjson() -> Coder:
    try:
        import orjson  # noqa: PLC0415
    except ImportError:
        raise MissingExtra("JSONSubprotocol with orjson", "orjson") from None
    return orjson.dumps, orjson.loads


# -- with the standard library ---------------------------------------------------------------------------------


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError("a number is out of range")
    return number


_decoder = json.JSONDecoder(parse_constant=_no_constant, parse_float=_finite)
_encoder = json.JSONEncoder(allow_nan=False, ensure_ascii=False, separators=(",", ":"))


def _encode(value: Any) -> str:
    try:
        return _encoder.encode(value)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _decode(message: Data) -> Any:
    text = message if isinstance(message, str) else message.decode()
    value = _decoder.decode(text)
    if _half_of_a_pair.search(text) is not None:
        _encoder.encode(value).encode()  # a half without the other raises UnicodeEncodeError, a ValueError
    return value
