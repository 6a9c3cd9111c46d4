"""Where a session connects to: a URI, ``connect(...)``, or a function that is asked before every attempt."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeAlias

from .connecting import Connecting
from .session.hooks import is_to_be_awaited

__all__ = ["Endpoint", "Endpoints", "Factory"]

Endpoint: TypeAlias = str | Connecting
Factory: TypeAlias = Callable[[int], Endpoint | Awaitable[Endpoint]]


class Endpoints:
    """``given``: what the user named; ``options``: those of ``connect``, for the URIs among it.

    A URI that is given again gives the same ``Connecting`` again, with its cookies and its TLS context. Raises
    ``TypeError`` or ``ValueError`` for what is no endpoint, and for a wrong option.
    """

    def __init__(self, given: Endpoint | Factory, options: Mapping[str, Any]) -> None:
        self._options = options
        self._known: tuple[str, Connecting] | None = None
        if isinstance(given, Connecting) and options:
            raise TypeError(f"{min(options)} must be given to connect(...), whose options are its own")
        if isinstance(given, str | Connecting):
            self._current: Connecting | Factory = self._resolve("uri_or_factory", given)
            self.settings = self._current.options
        elif callable(given):
            self._current = given
            # Which URIs there will be is not known yet; the options are checked as far as they can be.
            self.settings = Connecting("wss://localhost/", options).options
        else:
            raise TypeError(
                f"uri_or_factory must be a URI, connect(...), or a function that gives one of these, not {given!r}"
            )
        self.settings.refuse_codecs("a session")

    async def next(self, attempt: int) -> Connecting:
        """What to open now; ``attempt``: for the function that is asked. Raises what it raises."""
        if isinstance(self._current, Connecting):
            return self._current
        given = self._current(attempt)
        return self._resolve("the factory", await given if is_to_be_awaited(given) else given)

    def move(self, given: object) -> None:
        """Connect there from now on: ``on_disconnect`` said so."""
        self._current = self._resolve("on_disconnect", given)

    def _resolve(self, name: str, given: object) -> Connecting:
        if isinstance(given, Connecting):
            given.options.refuse_codecs("a session")
            return given
        if not isinstance(given, str):
            raise TypeError(f"{name} must give a URI or connect(...), not {given!r}")
        if self._known is None or self._known[0] != given:
            self._known = (given, Connecting(given, self._options))
        return self._known[1]
