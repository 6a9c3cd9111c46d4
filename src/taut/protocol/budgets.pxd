# cython: language_level=3

cdef enum:
    MESSAGES
    BYTES
    CONTROL_FRAMES
    SMALL_FRAGMENTS
    BUDGETS

cdef struct Bucket:
    double left
    double size
    double rate

cdef struct Budgets:
    # Whether a bucket is not full, so that the time matters.
    bint spent
    # Whether messages or bytes are counted at all.
    bint metered
    double now
    Bucket buckets[BUDGETS]

cdef int budgets_begin(Budgets *budgets, object limits, double now) except -1
cdef void budgets_refill(Budgets *budgets, double now) noexcept
cdef int budget_exceeded(int budget, double rate) except -1

cdef inline int budget_spend(Budgets *budgets, int budget, double amount) except -1:
    """Take this much out of a bucket. Raises RateExceeded when there is too little in it."""
    cdef Bucket *bucket = &budgets.buckets[budget]
    budgets.spent = True
    bucket.left -= amount
    if bucket.left < 0:
        return budget_exceeded(budget, bucket.rate)
    return 0
