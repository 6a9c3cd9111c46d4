# cython: language_level=3
from .inbound cimport Inbound

cdef class BlockingDriver(Inbound):
    cdef double end_at
    cdef double patience_at

    cdef int _end_stream(self) except -1
    cdef int _keep_reading(self) except -1
