# cython: language_level=3
from libc.stdint cimport uint8_t

cpdef enum:
    READABLE = 1
    WRITABLE = 2

cdef class Wire:
    cdef readonly object sock
    cdef int fd
    cdef bint ended
    cdef bint more  # the TLS engine may hold bytes that no wait for the socket will tell of
    cdef object tls
    cdef object incoming
    cdef object outgoing
    cdef bytes cipher
    cdef Py_ssize_t cipher_sent

    cdef long long receive(self, uint8_t *data, size_t size) except? -2
    cdef long long send(self, const uint8_t *data, size_t size) except? -2
    cdef bint idle(self) noexcept
    cdef bint push(self) except -1
    cdef int end_output(self) except -1
    cdef int shut(self) noexcept
    cdef int fill(self) except -2

cdef double MAIN_THREAD_WAIT

cdef bint on_main_thread() noexcept
cdef int wait_ready(int fd, int events, double timeout) except -1
