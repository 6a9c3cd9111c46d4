# cython: language_level=3
from cpython.ref cimport PyObject

cdef enum:
    INBOX_INLINE = 2
    # What a message counts for beside its bytes, so that a flood of empty ones reaches the read limit too.
    MESSAGE_OVERHEAD = 16

cdef struct Inbox:
    # Messages received and not yet taken, oldest first: a ring, in place while it is short.
    PyObject **slots
    size_t capacity
    size_t first
    size_t count
    size_t size
    size_t peak  # the most that ``size`` has been
    PyObject *inline_slots[INBOX_INLINE]

cdef class Fragment:
    cdef readonly object data
    cdef readonly bint final

cdef void inbox_begin(Inbox *inbox) noexcept
cdef int inbox_push(Inbox *inbox, object message) except -1
cdef object inbox_pop(Inbox *inbox)
cdef object inbox_newest(Inbox *inbox)
cdef void inbox_clear(Inbox *inbox) noexcept
