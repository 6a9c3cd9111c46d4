# cython: language_level=3
from libc.stdint cimport uint8_t

from .outbound cimport Outbound
from .waiting cimport Expected

cdef class Pong(Expected):
    cdef readonly Inbound connection
    cdef double round_trip

cdef class Inbound(Outbound):
    cdef object stash
    cdef bint receiving
    cdef bint part_taken
    cdef dict pongs

    cdef int _read_through(self) except -1
    cdef int _ingest(self, uint8_t *data, size_t size) except -1
    cdef int _unstash(self) except -1
    cdef int _after_read(self) except -1
    cdef int _relieve(self) except -1
    cdef int _events(self) except -1
    cdef object _take(self, double timeout, bint parts)
    cdef int _ending(self) except -1
