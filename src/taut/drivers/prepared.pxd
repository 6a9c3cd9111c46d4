# cython: language_level=3
from libc.stdint cimport uint8_t

cdef class Prepared:
    cdef bytes payload
    cdef uint8_t opcode
    cdef bytes _frame
    cdef dict bodies
    cdef dict frames

    cdef bytes frame(self)
    cdef bytes body(self, object deflate)
    cdef bytes compressed_frame(self, object deflate)
