# cython: language_level=3
from cpython.ref cimport PyObject
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from .frames cimport Assembly, MaskPool, Output
from .kernels cimport taut_head

cdef enum Phase:
    OPEN
    CLOSE_SENT
    CLOSE_RECEIVED
    FAILING
    CLOSED

cdef enum:
    INBOX_INLINE = 2

cdef struct Inbox:
    # Messages received and not yet taken, oldest first: a ring, in place while it is short.
    PyObject **slots
    size_t capacity
    size_t first
    size_t count
    size_t size
    PyObject *inline_slots[INBOX_INLINE]

cdef class Fragment:
    cdef readonly object data
    cdef readonly bint final

cdef class Session:
    cdef readonly bint is_client
    cdef readonly object options
    cdef readonly object deflate
    cdef MaskPool masks
    cdef uint64_t max_size
    cdef uint64_t max_frame_size
    cdef uint64_t max_fragments
    cdef size_t read_limit
    cdef bint strict_pongs

    cdef Phase phase
    cdef Output output
    cdef Inbox inbox

    # The frame being read.
    cdef uint8_t head[14]
    cdef uint8_t head_size
    cdef bint in_frame
    cdef bint in_message
    cdef bint in_part
    cdef bint compressed
    cdef bint streaming
    cdef bint has_fragments
    cdef bint discarding
    cdef bint dropping
    cdef bint alive
    cdef bint wants_control
    cdef bint output_blocked
    cdef uint8_t first
    cdef uint8_t opcode
    cdef uint32_t key
    cdef uint64_t frame_size
    cdef uint64_t frame_left
    cdef uint64_t message_size
    cdef uint64_t fragments
    cdef Assembly assembly
    cdef bytearray control

    # How it ends.
    cdef readonly object close_received
    cdef readonly object close_sent
    cdef object initiator
    cdef readonly object cause
    cdef object failure

    # Control frames worth telling, and liveness.
    cdef object events
    cdef dict pings
    cdef bytes deferred_pong
    cdef double last_seen
    cdef double ping_sent
    cdef uint32_t ping_count
    cdef bint fragmenting
    cdef bint fragments_compressed
    cdef readonly double latency

    # Counters.
    cdef readonly uint64_t messages_received
    cdef readonly uint64_t messages_sent
    cdef readonly uint64_t bytes_received
    cdef readonly uint64_t bytes_sent

    cdef size_t receive(self, uint8_t *data, size_t size, double now) except? -1
    cdef bint direct_target(self, uint8_t **data, size_t *size) noexcept
    cdef int received_direct(self, size_t size) except -1
    cdef object pop(self)
    cdef object newest(self)
    cdef void drop_inbox(self) noexcept
    cdef int check_sendable(self) except -1
    cdef int send_message(self, object data, object text, object compress) except -1
    cdef int send_data(
        self, uint8_t opcode, const uint8_t *payload, size_t size, object data, object compress
    ) except -1
    cdef int send_frame(self, uint8_t first, const uint8_t *payload, size_t size) except -1
    cpdef int drained(self) except -1

    cdef size_t _receive(self, uint8_t *data, size_t size, double now) except? -1
    cdef int _push(self, object message, size_t size) except -1
    cdef size_t _read_head(self, const uint8_t *data, size_t size) except? -1
    cdef int _begin_frame(self, taut_head *head) except -1
    cdef int _begin_data_frame(self, taut_head *head, uint8_t opcode) except -1
    cdef int _push_part(self, bint final) except -1
    cdef int _push_rest(self) except -1
    cdef int _tell(self, int opcode, bytes payload, double round_trip) except -1
    cdef int _payload(self, uint8_t *data, size_t size) except -1
    cdef int _control_payload(self, uint8_t *data, size_t size, double now) except -1
    cdef int _whole_message(self, uint8_t *data, size_t size) except -1
    cdef int _end_of_frame(self) except -1
    cdef int _inflate(self, uint8_t *data, size_t size, bint final) except -1
    cdef int _control(self, uint8_t opcode, bytes payload, double now) except -1
    cdef int _pong(self, bytes payload, double now) except -1
    cdef bytes _ping_payload(self)
    cdef int _close_frame(self, bytes payload) except -1
    cdef int _fail(self, object exc) except -1
    cdef int _move(self, int event) except -1
    cdef int _write_close(self, int code, str reason) except -1
