# cython: language_level=3
from libc.stdint cimport uint64_t

from ..protocol.session cimport Session
from .waiting cimport Shared

cdef class Outbound(Shared):
    cdef readonly Session session
    cdef size_t sent
    cdef uint64_t handed_over
    cdef uint64_t in_cipher
    cdef int senders
    cdef bint blocked
    cdef bint stream_ended
    cdef object write_error
    cdef unsigned long fragmenter  # the thread that is sending a message in fragments

    cdef size_t _unsent(self) except? 0
    cdef int _hand_over(self) except -1
    cdef int _drop_output(self) except -1
    cdef int _compact(self) except -1
    cdef int _write_failed(self, object exc) except -1
    cdef int _message(self, message, text, compress) except -1
    cpdef bint _send_whole(self, message, text, compress, double timeout, bint in_turn) except -1
    cdef int _room(self, double timeout) except -1
    cdef int _let_out(self, double timeout) except -1
    cdef int _tell_end(self, double timeout) except -1
    cdef int _end_within(self, double limit) except -1
    cdef int _end_output(self) except -1
    cdef int _lose(self, object exc) except -1
