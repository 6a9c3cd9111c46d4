# cython: language_level=3
from libc.stdint cimport uint8_t

cdef enum:
    SHARED_BUFFER = 1 << 18

cdef class LoopState:
    cdef uint8_t *buffer
    cdef object view
    cdef public object compressors
    cdef public object keepalive
    cdef object held
    cdef object __weakref__

    cdef int hold(self, object message, object loop) except -1
