"""When to connect again: what is worth a retry, and how long to wait before it.

Nothing here does any I/O, sleeps, or knows an event loop: the clock and the source of randomness are arguments.
``is_transient`` decides from an exception whether trying again can help; ``retry_after`` reads what the server asked
for; ``Backoff`` counts, and says how long to wait.

Delays have full jitter: each is drawn evenly from zero to a ceiling that grows with every failure, so that the clients
of a server that restarted do not come back all at once.  A connection that ended before ``stable_after`` counts as one
more failure: a server that accepts and closes at once is not hammered.  Where ``stable_after`` is so short that it does
not help, the retries after good connections are spaced out after the first few.
"""

from __future__ import annotations

import math
import random
import re
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_tz

from ..errors import (
    ConnectError,
    ConnectionClosed,
    InvalidHeader,
    InvalidProxy,
    InvalidStatus,
    InvalidURI,
    MissingExtra,
    NegotiationError,
    ProxyError,
    ReconnectFailed,
    RedirectError,
)
from ..options import check_count, check_number
from ..types import Headers, Initiator

__all__ = ["Backoff", "ReconnectPolicy", "is_transient", "retry_after"]

_FINAL = (InvalidHeader, InvalidProxy, InvalidURI, NegotiationError, ReconnectFailed, RedirectError)
"""Trying again would meet the same; so would a certificate that is not accepted (``ssl.SSLCertVerificationError``)."""
_FINAL_CODES = frozenset({1002, 1003, 1007, 1008, 1009, 1010})
_PROXY_AUTHENTICATION = 407
_SPACING, _AT_ONCE = 0.25, 8
"""Between retries without any delay: on the average at least this (seconds), but for so many of them."""
_HINT = re.compile(r"\bretry-after=([0-9]{1,9}(?:\.[0-9]{1,9})?)(?![0-9.])", re.IGNORECASE)
_SECONDS = re.compile(r"[0-9]+", re.ASCII)
_RFC_850 = re.compile(r"[A-Za-z]+, *[0-9]{2}-[A-Za-z]{3}-[0-9]{2} ")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconnectPolicy:
    """When a client connects again after its connection was lost, or could not be opened.

    ``first_delay`` (0 s): at most this long before the first retry after a good connection was lost. ``base_delay``
    (0.5 s), ``factor`` (2), ``max_delay`` (60 s): any other delay is drawn evenly from 0 to
    ``min(max_delay, base_delay * factor**n)``, where n is the number of failures before.

    ``max_attempts``: give up after so many failures in a row; ``max_time``: give up when the next attempt would start
    later than this after the connection was lost (seconds). None, the default, sets no limit. ``stable_after`` (5 s): a
    connection counts as good, and ends the row of failures, when it was open for this long; one that ended earlier is
    one more failure.

    ``retry_first`` (False): apply all this to the first connection of a ``Session`` as well, whose failure is raised
    otherwise. ``max_retry_after`` (300 s): wait no longer than this because the server asked to.
    ``classify``: called with the exception that ended a connection or an attempt; True to retry, False to give up, None
    to leave it to the rules of ``taut``.

    Raises ``TypeError`` or ``ValueError`` for a wrong option.
    """

    first_delay: float = 0.0
    base_delay: float = 0.5
    factor: float = 2.0
    max_delay: float = 60.0
    max_attempts: int | None = None
    max_time: float | None = None
    stable_after: float = 5.0
    retry_first: bool = False
    max_retry_after: float = 300.0
    classify: Callable[[BaseException], bool | None] | None = None

    def __post_init__(self) -> None:
        for name in ("first_delay", "stable_after", "max_retry_after"):
            _check_seconds(name, getattr(self, name), least=0)
        for name in ("base_delay", "max_delay"):
            _check_seconds(name, getattr(self, name), above=0)
        _check_seconds("factor", self.factor, least=1)
        _check_seconds("max_time", self.max_time, least=0, optional=True)
        check_count("max_attempts", self.max_attempts, least=1, optional=True)
        _check_flag("retry_first", self.retry_first)
        if self.classify is not None and not callable(self.classify):
            raise TypeError(f"classify must be a callable or None, not {self.classify!r}")


def _check_seconds(
    name: str, value: object, *, above: float | None = None, least: float | None = None, optional: bool = False
) -> None:
    number = check_number(name, value, above=above, least=least, optional=optional)
    if number is not None and math.isinf(number):
        raise ValueError(f"{name} must be a finite number, not {value!r}")


def _check_flag(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, not {value!r}")


# -- what is worth a retry -----------------------------------------------------------------------------------------


def is_transient(exc: BaseException, policy: ReconnectPolicy) -> bool:
    """Whether connecting again may help after ``exc``, which ended a connection or an attempt to open one.

    ``policy.classify`` is asked first. Then, of failures to connect, these are final: a status of 4xx without
    Retry-After, a redirect that is not followed, an answer that is no agreement to WebSocket, a certificate that is not
    accepted, a proxy that asks for other credentials (407), a wrong URI or proxy. Of close codes, 1002, 1003, 1007 to
    1010, and 3500 to 4999. What is no failure of a connection at all is final as well. Everything else is transient.
    """
    if policy.classify is not None:
        verdict = policy.classify(exc)
        if verdict is not None:
            _check_flag("what classify returns, if not None,", verdict)
            return verdict
    if isinstance(exc, ConnectionClosed):
        return not (exc.code in _FINAL_CODES or 3500 <= exc.code <= 4999)
    if isinstance(exc, InvalidStatus):
        return not 400 <= exc.response.status_code <= 499 or retry_after(exc) is not None
    if isinstance(exc, (*_FINAL, ssl.SSLCertVerificationError)):
        return False
    if isinstance(exc, ProxyError):
        if isinstance(exc.__cause__, InvalidProxy | MissingExtra):  # one of the environment, which stays as it is
            return False
        return exc.response is None or exc.response.status_code != _PROXY_AUTHENTICATION
    return isinstance(exc, ConnectError | OSError)


# -- what the server asks for --------------------------------------------------------------------------------------


def retry_after(exc: BaseException, now: Callable[[], float] = time.time) -> float | None:
    """For how long the server asks to stay away (seconds), None when it does not say.

    The Retry-After of an HTTP response (RFC 9110, 10.2.3), or "retry-after=SECONDS" in the reason of the peer's Close
    frame with 1012 or 1013. ``now``: the wall clock, for a date in a response without Date.
    """
    if isinstance(exc, ConnectionClosed):
        if exc.code not in (1012, 1013) or exc.info.initiator is not Initiator.REMOTE:
            return None
        hint = _HINT.search(exc.reason)
        return None if hint is None else float(hint.group(1))
    if isinstance(exc, InvalidStatus | ProxyError) and exc.response is not None:
        return _from_headers(exc.response.headers, now)
    return None


def _from_headers(headers: Headers, now: Callable[[], float]) -> float | None:
    delays: list[float] = []
    for value in headers.get_all("Retry-After"):
        text = value.strip()
        if _SECONDS.fullmatch(text):
            delays.append(float(text[:18]) if len(text) < 19 else math.inf)
        elif (then := _http_date(text, now())) is not None:
            # The date is on the server's clock, and so is the Date of the response.
            dates = [date for line in headers.get_all("Date") if (date := _http_date(line.strip(), now())) is not None]
            delays.append(max(0.0, then - (dates[0] if dates else now())))
    return max(delays, default=None)


def _http_date(text: str, now: float) -> float | None:
    """Seconds since the epoch, from one of the three forms of an HTTP-date (RFC 9110, 5.6.7)."""
    fields = parsedate_tz(text)
    if fields is None:
        return None
    year = fields[0]
    if _RFC_850.match(text):
        # Two digits of a year that seems to be more than 50 years ahead are of the century before.
        this_year = datetime.fromtimestamp(now, UTC).year
        year = this_year - this_year % 100 + year % 100
        if year > this_year + 50:
            year -= 100
    try:
        return datetime(year, *fields[1:6], tzinfo=UTC).timestamp() - (fields[9] or 0)
    except (ValueError, OverflowError):
        return None


# -- how long to wait ----------------------------------------------------------------------------------------------


class Backoff:
    """Counts failures in a row, and draws the delay before the next attempt.

    Tell it of everything that happens: ``opened``, ``lost``, ``failed``; then ask for ``delay``, once. ``after`` does
    all of that for an exception. ``clock`` is monotonic (seconds), ``draw`` gives numbers from 0 to 1.
    """

    __slots__ = ("_ceiling", "_clock", "_draw", "_opened_at", "_policy", "_spaced", "failures", "since")

    def __init__(
        self,
        policy: ReconnectPolicy,
        *,
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._policy = policy
        self._clock = clock
        self._draw = draw
        self._opened_at: float | None = None
        self.failures = 0
        """How many attempts have failed since there was a good connection."""
        self.since = clock()
        """When the last good connection was lost; before there was one, when this began."""
        self._ceiling = 0.0
        self._spaced = self.since  # when the next retry after a good connection is due, if all are spaced evenly
        self._start_over()

    def _start_over(self) -> None:
        self.failures = 0
        self.since = self._clock()
        self._ceiling = min(self._policy.base_delay, self._policy.max_delay)

    def opened(self) -> None:
        """A connection is open."""
        self._opened_at = self._clock()

    def lost(self) -> None:
        """The connection that was open has ended; it was good, and ends the row of failures, or it is one more."""
        opened_at, self._opened_at = self._opened_at, None
        if opened_at is not None and self._clock() - opened_at >= self._policy.stable_after:
            self._start_over()
        else:
            self.failed()

    def failed(self) -> None:
        """An attempt to connect has failed."""
        self.failures += 1
        if self.failures > 1:
            self._ceiling = min(self._policy.max_delay, self._ceiling * self._policy.factor)

    def delay(self, asked: float | None = None) -> float:
        """How long to wait before the next attempt (seconds); ``asked``: what ``retry_after`` gives.

        The jitter comes on top of what the server asked for, which is the same for many clients.
        """
        if asked is not None:
            return min(asked, self._policy.max_retry_after) + self._draw() * self._ceiling
        if not self.failures:
            return self._space_out(self._draw() * self._policy.first_delay)
        return self._draw() * self._ceiling

    def _space_out(self, delay: float) -> float:
        """``delay``, or more if there were too many retries like this one of late."""
        now = self._clock()
        delay = max(delay, self._spaced - _AT_ONCE * _SPACING - now)
        self._spaced = max(self._spaced, now + delay) + _SPACING
        return delay

    def exhausted(self, delay: float) -> str | None:
        """Which limit forbids another attempt after ``delay`` (seconds), None when there is none."""
        most, longest = self._policy.max_attempts, self._policy.max_time
        if most is not None and self.failures >= most:
            return f"{self.failures} attempts failed (max_attempts)"
        if longest is not None and self._clock() + delay - self.since > longest:
            return f"there is no connection within {longest:g} s (max_time)"
        return None

    def after(self, exc: BaseException) -> float:
        """How long to wait before the next attempt, after ``exc`` (seconds).

        ``exc`` ended the connection that was ``opened``, or else an attempt. Raises ``ReconnectFailed`` when the limits
        of the policy allow no other; whether ``exc`` is transient is not asked here.
        """
        if self._opened_at is None:
            self.failed()
        else:
            self.lost()
        delay = self.delay(retry_after(exc))
        if (limit := self.exhausted(delay)) is not None:
            raise ReconnectFailed(limit, exc) from exc
        return delay
