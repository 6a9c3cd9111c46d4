# cython: language_level=3
from libc.stdint cimport uint8_t

from ..protocol.session cimport Session
from .sockets cimport Receiver, SocketTransport

cdef enum:
    # Output beyond this leaves even while more messages are waiting.
    CORK_LIMIT = 1 << 16
    # From this size on, a payload is sent from where it is, and not copied behind its head.
    LARGE = 1 << 12

cdef size_t payload_size(bytes frame) noexcept

cdef class Writer(Receiver):
    cdef readonly Session session
    cdef readonly object loop
    cdef public object transport
    cdef SocketTransport sock
    cdef object write
    cdef size_t outbox_limit
    cdef size_t fragment_size
    cdef size_t small_size  # what is below this is copied behind its head, and one frame
    cdef bint in_batch
    cdef bint flush_scheduled

    cdef int carry(self, object transport, Session session) except -1
    cdef int flush(self) except -1
    cdef int send_frame_bytes(self, bytes frame) except -1
    cdef int after_send(self) except -1
    cdef size_t buffered(self) except? 0
    cdef int write_large(self, uint8_t first, const uint8_t *payload, size_t size, object owner) except -1
