# cython: language_level=3
from libc.stdint cimport uint8_t

cdef class Receiver:
    cdef int get_read_buffer(self, uint8_t **data, size_t *size) except -1
    cdef int bytes_received(self, size_t size) except -1

cdef class SocketTransport:
    cdef object loop
    cdef object protocol
    cdef object sock
    cdef object backlog
    cdef object write_error
    cdef object last_reads
    cdef Receiver receiver
    cdef int fd
    cdef size_t backlog_size
    cdef size_t high
    cdef size_t low
    cdef bint reading
    cdef bint writing
    cdef bint paused
    cdef bint closing
    cdef bint ended
    cdef bint eof_wanted
    cdef bint looks_again
    cdef bint has_sent
    cdef object __weakref__

    cdef int send_bytes(self, const uint8_t *data, size_t size, object owner) except -1
    cdef int send_two(
        self, const uint8_t *head, size_t head_size, const uint8_t *data, size_t size, object owner
    ) except -1
    cdef bint _read_once(self) except -1
    cdef long long _read_through_python(self) except? -1
    cdef _read_end(self)
    cdef int _write_failed(self, object exc) except -1
    cdef int _drop_backlog(self) except -1
    cdef int _keep(self, const uint8_t *data, size_t size, object owner) except -1
    cdef int _watch_pressure(self) except -1
    cdef int _fatal(self, object exc) except -1
    cdef int _end(self, object exc) except -1
