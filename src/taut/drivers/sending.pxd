# cython: language_level=3
from .moving cimport Mover
from .outbox cimport Entry

cdef enum:
    # Operations that a handler may do in a row before the loop turns.
    BUDGET = 512

cdef class Sender(Mover):
    cdef int budget
    cdef public object message_filter

    cdef bint _plain(self, object message) except -1
    cdef int _send_now(self, object message, object text, object compress) except -1
    cdef bint _send_sizable(self, object message, object text, object compress) except -1
    cdef bint _is_divided(self, object message) except -1
    cdef int _send_divided(self, object message, object text, object compress) except -1

    cdef int nowait_policy(self, int policy) except -1
    cdef object hold(self, Entry entry, int policy, object key, bint urgent)
    cdef bint _has_room(self, Entry entry, int policy) except -1
    cdef int _give_up(self) except -1
