# cython: language_level=3
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from .kernels cimport taut_utf8

cdef struct Output:
    # Bytes on their way out: head and payload of one frame after the other.
    uint8_t *data
    size_t length
    size_t capacity

cdef uint8_t *output_reserve(Output *out, size_t size) except NULL
cdef void output_release(Output *out) noexcept
cdef int output_frame_head(Output *out, uint8_t first, uint64_t size) except -1
cdef int output_frame(
    Output *out, uint8_t first, const uint8_t *payload, size_t size, bint masked, uint32_t key
) except -1

cdef class MaskPool:
    cdef object source
    cdef bytes pool
    cdef size_t used

    cdef int next(self, uint32_t *key) except -1

cdef class Assembly:
    cdef bint text
    cdef bint exact
    cdef object target
    cdef uint8_t *data
    cdef size_t length
    cdef size_t capacity
    cdef taut_utf8 utf8

    cdef int expect(self, size_t size) except -1
    cdef int append(self, const uint8_t *src, size_t size, bint masked, uint32_t key, size_t offset) except -1
    cdef int append_in_place(self, size_t size, bint masked, uint32_t key, size_t offset) except -1
    cdef object take(self, bint final)
    cdef int _grow(self, size_t size) except -1
    cdef int _leave_target(self) except -1
    cdef int _check(self, size_t start, size_t size, bint ascii) except -1

cdef object decode_text(const uint8_t *src, size_t size, bint masked, uint32_t key)
cdef object decode_binary(const uint8_t *src, size_t size, bint masked, uint32_t key)
