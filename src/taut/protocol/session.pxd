# cython: language_level=3
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from .frames cimport MaskPool, Output
from .reader cimport FrameReader

cdef enum Phase:
    OPEN
    CLOSE_SENT
    CLOSE_RECEIVED
    FAILING
    CLOSED

cdef class Session(FrameReader):
    cdef readonly object options
    cdef MaskPool masks
    cdef Phase phase
    cdef Output output

    # How it ends.
    cdef readonly object close_received
    cdef readonly object close_sent
    cdef object initiator
    cdef readonly object cause
    cdef object failure
    cdef public object before_close

    # Control frames worth telling, and liveness.
    cdef object events
    cdef dict pings
    cdef bytes deferred_pong
    cdef bint wants_control
    cdef bint output_blocked
    cdef uint32_t ping_count
    cdef readonly double last_seen
    cdef double ping_sent
    cdef readonly double latency

    cdef bint fragments_compressed
    cdef readonly uint64_t messages_sent
    cdef readonly uint64_t messages_confirmed
    cdef readonly uint64_t bytes_sent

    cdef int check_sendable(self) except -1
    cdef int send_message(self, object data, object text, object compress) except -1
    cdef int send_data(
        self, uint8_t opcode, const uint8_t *payload, size_t size, object data, object compress
    ) except -1
    cdef int send_frame(self, uint8_t first, const uint8_t *payload, size_t size) except -1
    cpdef int drained(self) except -1

    cdef int _tell(self, int opcode, bytes payload, double round_trip) except -1
    cdef int _pong(self, bytes payload, double now) except -1
    cdef bytes _ping_payload(self)
    cdef int _close_frame(self, bytes payload) except -1
    cdef int _move(self, int event) except -1
    cdef int _begin_close(self, int code, str reason) except -1
    cdef int _write_close(self, int code, str reason) except -1
