# cython: language_level=3
from libc.stdint cimport uint8_t, uint64_t

cdef class FrameNotes:
    cdef object observer
    cdef list noted

    cdef int note_frame(self, bint sent, uint8_t first, uint64_t length, bytes payload) except -1
