# cython: language_level=3
from libc.stdint cimport uint8_t

from ..protocol.session cimport Session
from .awaitables cimport Step, Waiter
from .sockets cimport Receiver, SocketTransport

cdef enum RecvState:
    IDLE
    WAITING
    RESUMING

cdef class LoopState:
    cdef uint8_t *buffer
    cdef object view
    cdef public object compressors
    cdef public object masks
    cdef public object keepalive
    cdef object held
    cdef object __weakref__

    cdef int hold(self, object message, object loop) except -1

cdef class Recv(Step):
    cdef StreamDriver driver
    cdef bint iterating

cdef class StreamDriver(Receiver):
    cdef readonly Session session
    cdef readonly object loop
    cdef LoopState shared
    cdef public object transport
    cdef SocketTransport sock
    cdef Recv recv_awaitable
    cdef Recv next_awaitable
    cdef Waiter waiter
    cdef object on_message
    cdef object write
    cdef bytes stash
    cdef size_t outbox_limit
    cdef int budget
    cdef RecvState recv_state
    cdef bint direct
    cdef bint in_batch
    cdef bint flush_scheduled
    cdef bint resume_scheduled
    cdef readonly bint read_paused
    cdef bint taking_parts
    cdef bint part_taken
    cdef public bint fragmenting
    cdef readonly bint write_paused
    cdef object __weakref__

    cdef int _ingest(self, uint8_t *data, size_t size) except -1
    cdef int _after_read(self) except -1
    cdef int _pause_reading(self) except -1
    cdef int _deliver(self) except -1
    cdef int _wake_reader(self) except -1
    cdef int _relieve(self) except -1
    cdef bint _plain(self, object message) except -1
    cdef int _send_now(self, object message, object text, object compress) except -1
    cdef int _send_large(self, uint8_t opcode, const uint8_t *payload, size_t size, object owner) except -1
    cdef int _send_frame_bytes(self, bytes frame) except -1
    cdef int _after_send(self) except -1
    cdef int _check_outbox(self) except -1
    cdef int flush(self) except -1
