"""When a client connects again: the policy, the classification, what the server asks for, and the delays."""

from __future__ import annotations

import email.utils
import math
import ssl
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taut.client.reconnection import Backoff, ReconnectPolicy, is_transient, retry_after
from taut.errors import (
    CertificateError,
    ConcurrencyError,
    ConnectError,
    ConnectRefused,
    DialError,
    InvalidHandshake,
    InvalidHeader,
    InvalidMessage,
    InvalidProxy,
    InvalidStatus,
    InvalidUpgrade,
    InvalidURI,
    MissingExtra,
    NegotiationError,
    OpenTimeout,
    ProxyError,
    ReconnectFailed,
    RedirectError,
    TLSError,
    closed_error,
)
from taut.types import CloseInfo, Headers, Initiator, Response

POLICY = ReconnectPolicy()
NOW = 1_800_000_000.0


def closed(code: int, reason: str = "", initiator: Initiator = Initiator.REMOTE) -> Exception:
    return closed_error(CloseInfo(initiator, code, reason))


def refused(status: int, *headers: tuple[str, str]) -> InvalidStatus:
    return InvalidStatus(Response(status, "", Headers(headers)))


def proxy_refused(status: int | None, *headers: tuple[str, str]) -> ProxyError:
    response = None if status is None else Response(status, "", Headers(headers))
    return ProxyError("http://proxy:8080", "no", response=response)


# -- the policy ----------------------------------------------------------------------------------------------------

NUMBERS = ("first_delay", "base_delay", "factor", "max_delay", "stable_after", "max_retry_after")


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize(
    ("value", "error"),
    [
        ("1", TypeError),
        (None, TypeError),
        (True, TypeError),
        (-1, ValueError),
        (math.nan, ValueError),
        (math.inf, ValueError),
    ],
)
def test_a_wrong_number_is_refused(name: str, value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=rf"^{name} must be .*, not {value!r}"):
        ReconnectPolicy(**{name: value})


@pytest.mark.parametrize(
    ("option", "wanted", "error"),
    [
        ({"base_delay": 0}, "base_delay must be a number above 0, not 0", ValueError),
        ({"max_delay": 0.0}, "max_delay must be a number above 0, not 0.0", ValueError),
        ({"factor": 0.5}, "factor must be a number of at least 1, not 0.5", ValueError),
        (
            {"max_attempts": 0},
            "max_attempts must be a whole number, at least 1, or None for no limit, not 0",
            ValueError,
        ),
        ({"max_attempts": 1.5}, "max_attempts must be .*, not 1.5", TypeError),
        ({"max_attempts": True}, "max_attempts must be .*, not True", TypeError),
        ({"max_time": -1}, "max_time must be a number of at least 0 or None, not -1", ValueError),
        ({"max_time": math.inf}, "max_time must be a finite number, not inf", ValueError),
        ({"retry_first": 1}, "retry_first must be True or False, not 1", TypeError),
        ({"classify": "no"}, "classify must be a callable or None, not 'no'", TypeError),
        ({"delay": 1}, "delay", TypeError),
    ],
)
def test_a_wrong_policy_is_refused(option: dict[str, Any], wanted: str, error: type[Exception]) -> None:
    with pytest.raises(error, match=wanted):
        ReconnectPolicy(**option)


def test_a_policy_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        POLICY.base_delay = 1.0  # type: ignore[misc]


# -- what is worth a retry -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("codes", "transient"),
    [
        ((1000, 1001, 1005, 1006, 1011, 1012, 1013, 1014, 1015), True),
        ((3000, 3001, 3499), True),
        ((1002, 1003, 1007, 1008, 1009, 1010), False),
        ((3500, 3999, 4000, 4001, 4999), False),
    ],
)
def test_close_codes(codes: tuple[int, ...], transient: bool) -> None:
    assert [is_transient(closed(code), POLICY) for code in codes] == [transient] * len(codes)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 407, 408, 426, 429, 499])
def test_4xx_is_final_unless_the_server_says_when_to_come_back(status: int) -> None:
    assert not is_transient(refused(status), POLICY)
    assert is_transient(refused(status, ("Retry-After", "7")), POLICY)
    assert not is_transient(refused(status, ("Retry-After", "soon")), POLICY)


@pytest.mark.parametrize("status", [200, 304, 500, 502, 503, 504, 599])
def test_other_statuses_are_transient(status: int) -> None:
    assert is_transient(refused(status), POLICY)


@pytest.mark.parametrize(
    "exc",
    [
        ConnectRefused("nobody listens"),
        DialError("no such name"),
        TLSError("handshake failure"),
        OpenTimeout(10),
        InvalidHandshake("the connection was lost before the response was complete"),
        InvalidMessage("no HTTP"),
        proxy_refused(502),
        proxy_refused(403),
        proxy_refused(None),
        ConnectError("something"),
        OSError(24, "too many open files"),
        ConnectionResetError(),
        TimeoutError(),
    ],
    ids=repr,
)
def test_transient_failures(exc: Exception) -> None:
    assert is_transient(exc, POLICY)


@pytest.mark.parametrize(
    "exc",
    [
        CertificateError("expired"),
        ssl.SSLCertVerificationError("expired"),
        proxy_refused(407),
        proxy_refused(407, ("Retry-After", "1")),
        InvalidURI("http://x", "scheme"),
        InvalidProxy("ftp://x", "scheme"),
        RedirectError("too many"),
        NegotiationError("subprotocol"),
        InvalidUpgrade("Upgrade", "h2c"),
        InvalidHeader("Sec-WebSocket-Accept", "x"),
        ReconnectFailed("enough", OSError()),
        ConcurrencyError("recv"),
        ValueError("a mistake"),
        RuntimeError("another"),
    ],
    ids=repr,
)
def test_final_failures(exc: Exception) -> None:
    assert not is_transient(exc, POLICY)


@pytest.mark.parametrize("cause", [InvalidProxy("ftp://x", "scheme"), MissingExtra("a SOCKS proxy", "socks")])
def test_a_proxy_of_the_environment_that_cannot_be_used_is_final(cause: Exception) -> None:
    error = ProxyError("ftp://x", "it cannot be used")
    assert is_transient(error, POLICY)
    error.__cause__ = cause
    assert not is_transient(error, POLICY)


def test_the_classifier_is_asked_first() -> None:
    asked: list[BaseException] = []

    def classify(exc: BaseException) -> bool | None:
        asked.append(exc)
        return {1008: True, 1012: False}.get(getattr(exc, "code", 0))

    policy = ReconnectPolicy(classify=classify)
    reasons = [closed(1008), closed(1012), closed(1002), closed(1006), refused(404)]
    assert [is_transient(exc, policy) for exc in reasons] == [True, False, False, True, False]
    assert asked == reasons


def test_a_classifier_that_answers_something_else_is_an_error() -> None:
    policy = ReconnectPolicy(classify=lambda exc: "yes")  # type: ignore[arg-type,return-value]
    with pytest.raises(TypeError, match=r"classify .* True or False, not 'yes'"):
        is_transient(OSError(), policy)


# -- what the server asks for (RFC 9110, 10.2.3) -------------------------------------------------------------------

# NOW is Fri, 15 Jan 2027 08:00:00 GMT.
FORMS = ["Fri, 15 Jan 2027 08:02:00 GMT", "Friday, 15-Jan-27 08:02:00 GMT", "Fri Jan 15 08:02:00 2027"]


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        ("120", 120.0),
        (" 120\t", 120.0),
        *((form, 120.0) for form in FORMS),
        ("Fri Jan  1 00:00:00 2027", 0.0),  # in the past
        ("-1", None),
        ("+1", None),
        ("1.5", None),
        ("1e3", None),
        ("\u0661", None),  # a digit, but not of ASCII
        ("", None),
        ("soon", None),
        ("Fri, 32 Jan 2027 08:02:00 GMT", None),
        ("Fri, 15 Jan 2027 25:02:00 GMT", None),
        ("9" * 400, math.inf),
    ],
)
def test_retry_after_of_a_response(value: str, seconds: float | None) -> None:
    assert retry_after(refused(503, ("Retry-After", value)), lambda: NOW) == seconds


def test_a_year_of_two_digits_is_at_most_50_years_ahead() -> None:
    assert retry_after(refused(503, ("Retry-After", "Friday, 15-Jan-77 08:00:00 GMT")), lambda: NOW) > 49 * 365 * 86400  # type: ignore[operator]
    assert retry_after(refused(503, ("Retry-After", "Sunday, 15-Jan-78 08:00:00 GMT")), lambda: NOW) == 0


def test_a_date_is_on_the_clock_of_the_server() -> None:
    exc = refused(503, ("Date", "Fri, 15 Jan 2027 08:01:30 GMT"), ("Retry-After", FORMS[0]))
    assert retry_after(exc, lambda: NOW) == 30
    exc = refused(503, ("Date", "yesterday"), ("Retry-After", FORMS[0]))
    assert retry_after(exc, lambda: NOW) == 120


def test_the_longest_of_several_counts() -> None:
    assert retry_after(refused(503, ("retry-after", "3"), ("Retry-After", "5"), ("Retry-After", "x"))) == 5


def test_retry_after_of_a_proxy() -> None:
    assert retry_after(proxy_refused(503, ("Retry-After", "5"))) == 5
    assert retry_after(proxy_refused(None)) is None


@pytest.mark.parametrize(
    ("code", "reason", "seconds"),
    [
        (1012, "retry-after=3", 3.0),
        (1013, "overloaded; Retry-After=2.5", 2.5),
        (1012, "retry-after=3, restarting", 3.0),
        (1012, "retry-after=-3", None),
        (1012, "retry-after=", None),
        (1012, "retry-after=1.2.3", None),
        (1012, "retry-after=12345678901234567890", None),
        (1012, "noretry-after=3", None),
        (1012, "", None),
        (1001, "retry-after=3", None),
        (1006, "retry-after=3", None),
    ],
)
def test_retry_after_of_a_close_frame(code: int, reason: str, seconds: float | None) -> None:
    assert retry_after(closed(code, reason)) == seconds
    assert retry_after(closed(code, reason, Initiator.LOCAL)) is None


@pytest.mark.parametrize("exc", [OSError(), ConnectRefused("no"), OpenTimeout(1), ValueError()], ids=repr)
def test_others_do_not_say(exc: Exception) -> None:
    assert retry_after(exc) is None


@given(st.one_of(st.text(max_size=60), st.from_regex(r"[A-Z][a-z]{2}, [0-9:A-Za-z +-]{0,30}", fullmatch=True)))
def test_whatever_a_server_says_is_a_delay_or_nothing(value: str) -> None:
    delay = retry_after(refused(503, ("Retry-After", value)), lambda: NOW)
    assert delay is None or delay >= 0


@given(st.integers(0, 4_000_000_000))
def test_every_date_is_understood(then: int) -> None:
    value = email.utils.formatdate(then, usegmt=True)
    assert retry_after(refused(503, ("Retry-After", value)), lambda: 0.0) == then


# -- how long to wait ----------------------------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def backoff(policy: ReconnectPolicy, draw: Callable[[], float] = lambda: 1.0) -> tuple[Backoff, Clock]:
    clock = Clock()
    return Backoff(policy, clock=clock, draw=draw), clock


def test_delays_grow_to_the_limit() -> None:
    b, _ = backoff(ReconnectPolicy(base_delay=0.5, factor=3, max_delay=20))
    delays: list[float] = []
    for _ in range(6):
        b.failed()
        delays.append(b.delay())
    assert delays == [0.5, 1.5, 4.5, 13.5, 20, 20]


def test_an_hour_of_failures_is_no_overflow() -> None:
    b, _ = backoff(ReconnectPolicy(factor=10, max_delay=1e300))
    for _ in range(5000):
        b.failed()
    assert b.delay() == 1e300


def test_the_first_retry_after_a_good_connection_is_immediate() -> None:
    b, clock = backoff(POLICY)
    for _ in range(3):
        b.failed()
    b.opened()
    clock.now += POLICY.stable_after
    b.lost()
    assert (b.failures, b.delay(), b.since) == (0, 0.0, clock.now)
    b.failed()
    assert b.delay() == POLICY.base_delay


def test_a_connection_that_did_not_last_is_a_failure() -> None:
    b, clock = backoff(POLICY)
    delays: list[float] = []
    for _ in range(5):
        b.opened()
        clock.now += POLICY.stable_after - 0.001
        b.lost()
        delays.append(b.delay())
    assert delays == [0.5, 1, 2, 4, 8]
    assert b.failures == 5


def test_the_first_delay_has_jitter_as_well() -> None:
    b, _ = backoff(ReconnectPolicy(first_delay=4, stable_after=0), lambda: 0.25)
    b.opened()
    b.lost()
    assert b.delay() == 1


def test_without_any_delay_it_never_spins() -> None:
    """A server that accepts and closes at once, and a policy that takes every connection for a good one."""
    b, clock = backoff(ReconnectPolicy(stable_after=0))
    began, attempts = clock.now, 0
    while clock.now < began + 100:
        b.opened()
        b.lost()
        delay = b.delay()
        attempts += 1
        assert attempts > 8 or delay == 0  # now and then, the first retry is immediate
        clock.now += delay
    assert attempts <= 100 / 0.25 + 9
    clock.now += 60
    b.opened()
    b.lost()
    assert b.delay() == 0


def test_spacing_out_counts_the_first_delay() -> None:
    b, clock = backoff(ReconnectPolicy(stable_after=0, first_delay=0.5))
    for _ in range(40):
        b.opened()
        b.lost()
        assert b.delay() == 0.5
        clock.now += 0.5


def test_what_the_server_asks_for_comes_before_the_jitter() -> None:
    b, clock = backoff(ReconnectPolicy(max_retry_after=100), lambda: 0.5)
    b.opened()
    clock.now += 60
    b.lost()
    assert b.delay(30) == 30.25  # not all at once, although it is the first retry
    assert b.delay(1000) == 100.25
    assert b.delay(math.inf) == 100.25


def test_the_limit_of_attempts() -> None:
    b, clock = backoff(ReconnectPolicy(max_attempts=3))
    for failures in range(3):
        assert b.exhausted(0) is None, failures
        b.failed()
    assert b.exhausted(0) == "3 attempts failed (max_attempts)"
    b.opened()
    clock.now += 60
    b.lost()
    assert b.exhausted(0) is None


def test_the_limit_of_time_counts_from_the_loss() -> None:
    b, clock = backoff(ReconnectPolicy(max_time=30))
    clock.now += 500
    b.opened()
    clock.now += 60
    b.lost()
    clock.now += 20
    b.failed()
    assert b.exhausted(10) is None
    assert b.exhausted(10.5) == "there is no connection within 30 s (max_time)"


def test_after_does_all_of_it() -> None:
    b, clock = backoff(ReconnectPolicy(max_attempts=2))
    assert b.after(OSError()) == 0.5
    b.opened()
    clock.now += 60
    assert b.after(closed(1006)) == 0
    assert b.after(refused(503, ("Retry-After", "9"))) == 9.5
    with pytest.raises(ReconnectFailed, match="2 attempts failed") as caught:
        b.after(reason := OSError("no route"))
    assert caught.value.reason is reason


EVENTS = st.lists(st.one_of(st.just("failed"), st.floats(0, 100)), min_size=1, max_size=40)
SECONDS = st.floats(0.001, 1000)


@given(
    events=EVENTS,
    asked=st.one_of(st.none(), st.floats(0, 10_000)),
    draws=st.lists(st.floats(0, 1), min_size=40, max_size=40),
    policy=st.builds(
        ReconnectPolicy,
        first_delay=SECONDS,
        base_delay=SECONDS,
        factor=st.floats(1, 10),
        max_delay=SECONDS,
        stable_after=SECONDS,
        max_retry_after=SECONDS,
        max_attempts=st.one_of(st.none(), st.integers(1, 10)),
        max_time=st.one_of(st.none(), SECONDS),
    ),
)
def test_delays_stay_within_their_bounds(
    events: list[str | float], asked: float | None, draws: list[float], policy: ReconnectPolicy
) -> None:
    supply = iter(draws)
    b, clock = backoff(policy, lambda: next(supply))
    for event in events:
        if isinstance(event, str):
            b.failed()
        else:
            b.opened()
            clock.now += event
            b.lost()
            if not math.isclose(event, policy.stable_after):
                assert (b.failures == 0) == (event >= policy.stable_after)
        delay = b.delay(asked)
        if asked is not None:
            floor = min(asked, policy.max_retry_after)
            assert floor <= delay <= floor + policy.max_delay
        elif not b.failures:
            assert 0 <= delay <= max(policy.first_delay, 0.25 * len(events))
        else:
            ceiling = policy.base_delay * policy.factor ** (b.failures - 1)
            assert 0 <= delay <= min(policy.max_delay, ceiling * 1.000001)
        over = policy.max_attempts is not None and b.failures >= policy.max_attempts
        late = policy.max_time is not None and clock.now + delay - b.since > policy.max_time
        assert (b.exhausted(delay) is not None) == (over or late)
