"""The checks of options at the public edge: each names the option, the value, and what would be accepted."""

from __future__ import annotations

import math
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, cast

from .types import ConnectionOptions, DeflateOptions, RateLimits

__all__ = [
    "CONNECTION_OPTIONS",
    "check_choice",
    "check_compression",
    "check_count",
    "check_deflate",
    "check_number",
    "check_one_of",
    "check_port",
    "check_rates",
    "check_sequence",
    "check_ssl",
    "check_text",
    "checked_options",
    "connection_options",
]

CONNECTION_OPTIONS = frozenset(field.name for field in fields(ConnectionOptions))
"""The names of what governs an open connection."""
_SIZES_OR_NONE = ("max_size", "max_frame_size", "max_fragments", "fragment_size")
_POLICIES = ("close", "drop_oldest", "drop_newest", "wait")
_SIZES = ("read_limit", "write_limit", "outbox_limit")
_TIMES = ("ping_interval", "ping_timeout", "close_timeout", "idle_timeout", "max_lifetime")
_FLAGS = ("strict_pongs", "cancel_on_close")


def check_number(
    name: str, value: Any, *, above: float | None = None, least: float | None = None, optional: bool = False
) -> float | None:
    """``value`` if it is a number in range, or None where that is allowed; else TypeError or ValueError."""
    wanted = "a number"
    if above is not None:
        wanted += f" above {above:g}"
    elif least is not None:
        wanted += f" of at least {least:g}"
    wanted += " or None" if optional else ""
    if value is None and optional:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be {wanted}, not {value!r}")
    if math.isnan(value) or (above is not None and value <= above) or (least is not None and value < least):
        raise ValueError(f"{name} must be {wanted}, not {value!r}")
    return value


def _check_size(name: str, value: Any, optional: bool) -> None:
    wanted = "a number of bytes, at least 1" if name != "max_fragments" else "a number, at least 1"
    wanted += ", or None for no limit" if optional else ""
    if value is None and optional:
        return
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be {wanted}, not {value!r}")
    if not 1 <= value < 1 << 63:
        raise ValueError(f"{name} must be {wanted}, not {value!r}")


def check_sequence(name: str, value: Any, kinds: tuple[type, ...]) -> Any:
    """``value`` if it is None or a sequence of these kinds; a str alone is the usual mistake, and refused."""
    if value is None:
        return None
    if isinstance(value, str | bytes) or not isinstance(value, Sequence):
        raise TypeError(f"{name} must be a sequence or None, not {value!r}")
    items = cast("Sequence[object]", value)
    for item in items:
        if not isinstance(item, kinds):
            raise TypeError(f"{name} must hold only {' or '.join(kind.__name__ for kind in kinds)}, not {item!r}")
    return tuple(items)


def check_text(name: str, value: object) -> None:
    """Refuse what is no str."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, not {value!r}")


def check_count(name: str, value: object, *, least: int, optional: bool = False) -> None:
    """Refuse what is no whole number of at least ``least``, nor None where that is allowed."""
    wanted = f"a whole number, at least {least}" + (", or None for no limit" if optional else "")
    if value is None and optional:
        return
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be {wanted}, not {value!r}")
    if value < least:
        raise ValueError(f"{name} must be {wanted}, not {value!r}")


def check_choice(given: Sequence[str]) -> None:
    """Refuse options that exclude each other; ``given`` are the names of those that are there."""
    if len(given) > 1:
        raise ValueError(f"{' and '.join(given)} exclude each other")


def check_one_of(name: str, value: object, allowed: Sequence[str]) -> None:
    """Refuse what is none of these words."""
    if value not in allowed:
        wanted = " or ".join(map(repr, allowed))
        raise (ValueError if isinstance(value, str) else TypeError)(f"{name} must be {wanted}, not {value!r}")


def check_ssl(value: object, name: str = "ssl") -> None:
    """Refuse what is neither an ``ssl.SSLContext`` nor None: True, for example, which other libraries take."""
    if value is not None and not isinstance(value, ssl.SSLContext):
        raise TypeError(f"{name} must be an ssl.SSLContext or None, not {value!r}")


def check_port(value: object) -> None:
    """Refuse what is neither a port number nor None."""
    if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
        raise TypeError(f"port must be an integer, not {value!r}")
    if value is not None and not 0 <= value <= 65535:
        raise ValueError(f"port must be 0 to 65535, not {value}")


def _is_whole(value: object, least: int, most: int | None = None) -> bool:
    """Whether this is a whole number in range; True and False are not."""
    if isinstance(value, bool) or not isinstance(value, int):
        return False
    return value >= least and (most is None or value <= most)


def connection_options(given: Mapping[str, Any]) -> ConnectionOptions:
    """The record of what was given by name. Raises TypeError for an unknown name, as a function call would."""
    return ConnectionOptions(**checked_options(given, "those of the signature"))


def checked_options(given: Mapping[str, Any], others: str) -> Mapping[str, Any]:
    """``given`` if all of it is right; ``others``: what else there is to name in the message if it is not."""
    for name, value in given.items():
        if name not in CONNECTION_OPTIONS:
            known = ", ".join(sorted(CONNECTION_OPTIONS))
            raise TypeError(f"unexpected option {name}; known are {known}, and {others}")
        if name in _SIZES_OR_NONE:
            _check_size(name, value, optional=True)
        elif name in _SIZES:
            _check_size(name, value, optional=False)
        elif name in _TIMES:
            check_number(name, value, above=0, optional=True)
        elif name in _FLAGS and not isinstance(value, bool):
            raise TypeError(f"{name} must be True or False, not {value!r}")
        elif name == "overflow" and value not in _POLICIES:
            raise ValueError(f"overflow must be one of {', '.join(map(repr, _POLICIES))}, not {value!r}")
        elif name == "rate_limits":
            check_rates(value)
    return given


def check_rates(value: object) -> None:
    """Refuse what is no ``RateLimits``, or one with a rate that is none."""
    if not isinstance(value, RateLimits):
        raise TypeError(f"rate_limits must be a RateLimits, not {value!r}")
    for each in fields(value):
        check_number(f"rate_limits.{each.name}", getattr(value, each.name), above=0, optional=each.name != "burst")


def check_compression(wanted: object, negotiated: object) -> None:
    """Refuse what is neither a flag nor None; and a flag where compression was not negotiated, None."""
    if wanted is None:
        return
    if not isinstance(wanted, bool):
        raise TypeError(f"compression must be True or False on an open connection, or None, not {wanted!r}")
    if wanted and negotiated is None:
        raise ValueError("compression must be False or None: it was not negotiated for this connection")


def check_deflate(compression: str | DeflateOptions | None) -> DeflateOptions | None:
    """The record that the ``compression`` option stands for."""
    if compression is None:
        return None
    if compression == "deflate":
        return DeflateOptions()
    if not isinstance(compression, DeflateOptions):
        raise ValueError(f'compression must be "deflate", None or DeflateOptions, not {compression!r}')
    for side in ("server", "client"):
        bits = getattr(compression, f"{side}_max_window_bits")
        if not _is_whole(bits, 8, 15):
            raise ValueError(f"{side}_max_window_bits must be 8 to 15, not {bits!r}")
    if not _is_whole(compression.level, -1, 9):
        raise ValueError(f"level must be -1 to 9, not {compression.level!r}")
    if not _is_whole(compression.mem_level, 1, 9):
        raise ValueError(f"mem_level must be 1 to 9, not {compression.mem_level!r}")
    if not _is_whole(compression.threshold, 0):
        raise ValueError(f"threshold must be a number of bytes, at least 0, not {compression.threshold!r}")
    return compression
