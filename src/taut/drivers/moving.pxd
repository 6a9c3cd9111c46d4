# cython: language_level=3
from .outbox cimport Entry, Outbox
from .prepared cimport Prepared
from .writing cimport Writer

cdef class Mover(Writer):
    cdef readonly Outbox outbox
    cdef readonly bint fragmenting
    cdef readonly bint write_paused

    cdef Outbox _outbox(self)
    cdef size_t _unsent(self) except? 0
    cdef int pump(self, bint everything) except -1
    cdef int _move(self, Entry entry) except -1
    cdef bint _compresses(self, Entry entry) except -1
    cdef int send_shared(self, Prepared shared) except -1
    cdef int _begin(self, Entry entry) except -1
    cdef int _go_on(self) except -1
    cdef int forget_outbox(self) except -1
