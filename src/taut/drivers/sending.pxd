# cython: language_level=3
from libc.stdint cimport uint8_t

from ..protocol.session cimport Session
from .sockets cimport Receiver, SocketTransport

cdef enum:
    # Operations that a handler may do in a row before the loop turns.
    BUDGET = 512

cdef class Sender(Receiver):
    cdef readonly Session session
    cdef readonly object loop
    cdef public object transport
    cdef SocketTransport sock
    cdef object write
    cdef size_t outbox_limit
    cdef int budget
    cdef bint in_batch
    cdef bint flush_scheduled
    cdef public bint fragmenting
    cdef readonly bint write_paused
    cdef public object message_filter

    cdef int carry(self, object transport, Session session) except -1
    cdef int flush(self) except -1
    cdef int send_frame_bytes(self, bytes frame) except -1
    cdef int check_outbox(self) except -1
    cdef int after_send(self) except -1
    cdef bint _plain(self, object message) except -1
    cdef int _send_now(self, object message, object text, object compress) except -1
    cdef int _send_large(self, uint8_t opcode, const uint8_t *payload, size_t size, object owner) except -1
