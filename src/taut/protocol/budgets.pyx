# cython: language_level=3
"""How fast a peer may send: one token bucket for each kind of thing that ``RateLimits`` bounds.

A bucket fills at its rate, up to ``burst`` seconds' worth; what arrives is taken out of it, and what does not find
enough in it is refused.  What has no limit has an infinite bucket.

There is no clock in here: whoever reads says what time it is (``budgets_refill``).  While every bucket is full, time
does not matter; ``spent`` tells when it does, so that a connection on which nothing is counted never asks for it.
"""

from libc.math cimport INFINITY

from ..errors import RateExceeded

NAMES = ("messages", "bytes", "control_frames", "small_fragments")


cdef int budgets_begin(Budgets *budgets, object limits, double now) except -1:
    """Full buckets for these ``RateLimits``."""
    cdef Bucket *bucket
    cdef double burst = limits.burst
    cdef int i
    budgets.spent = False
    budgets.metered = limits.messages is not None or limits.bytes is not None
    budgets.now = now
    for i in range(BUDGETS):
        bucket = &budgets.buckets[i]
        rate = getattr(limits, NAMES[i])
        bucket.rate = 0.0 if rate is None else rate
        # However slow the rate, one at a time is possible.
        bucket.left = bucket.size = INFINITY if rate is None else max(bucket.rate * burst, 1.0)
    return 0


cdef void budgets_refill(Budgets *budgets, double now) noexcept:
    """Let the time pass until ``now``."""
    cdef double elapsed = now - budgets.now
    cdef Bucket *bucket
    cdef int i
    if elapsed > 0:
        budgets.now = now
        budgets.spent = False
        for i in range(BUDGETS):
            bucket = &budgets.buckets[i]
            if bucket.left < bucket.size:
                bucket.left = min(bucket.left + elapsed * bucket.rate, bucket.size)
                budgets.spent |= bucket.left < bucket.size


cdef int budget_exceeded(int budget, double rate) except -1:
    """Refuse what found too little in its bucket."""
    raise RateExceeded(NAMES[budget], rate)
