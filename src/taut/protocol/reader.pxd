# cython: language_level=3
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from .budgets cimport Budgets
from .frames cimport Assembly
from .inbox cimport Inbox
from .kernels cimport taut_head
from .noting cimport FrameNotes

cdef class FrameReader(FrameNotes):
    cdef readonly bint is_client
    cdef readonly object deflate
    cdef uint64_t max_size
    cdef uint64_t max_frame_size
    cdef uint64_t max_fragments
    cdef size_t read_limit
    cdef bint strict_pongs
    cdef bint ended
    cdef bint alive
    cdef bint dropping
    cdef Inbox inbox
    cdef Budgets budgets

    # The frame and the message being read.
    cdef uint8_t head[14]
    cdef uint8_t head_size
    cdef bint in_frame
    cdef bint in_message
    cdef bint compressed
    cdef uint8_t first
    cdef uint8_t opcode
    cdef uint32_t key
    cdef uint64_t frame_size
    cdef uint64_t frame_left
    cdef uint64_t message_size
    cdef uint64_t fragments
    cdef Assembly assembly
    cdef bytearray control

    # A message taken in parts.
    cdef bint streams_all
    cdef bint streaming
    cdef bint in_part
    cdef bint has_fragments
    cdef bint discarding

    cdef readonly uint64_t messages_received
    cdef readonly uint64_t bytes_received

    cdef int _limit(self, object options) except -1
    cdef size_t receive(self, uint8_t *data, size_t size, double now) except? -1
    cdef bint direct_target(self, uint8_t **data, size_t *size) noexcept
    cdef int received_direct(self, size_t size) except -1
    cdef object pop(self)
    cdef object newest(self)
    cdef void drop_inbox(self) noexcept

    cdef int _control(self, uint8_t opcode, bytes payload, double now) except -1
    cdef int _fail(self, object exc) except -1

    cdef size_t _receive(self, uint8_t *data, size_t size, double now) except? -1
    cdef size_t _read_head(self, const uint8_t *data, size_t size) except? -1
    cdef int _begin_frame(self, taut_head *head) except -1
    cdef int _begin_data_frame(self, taut_head *head, uint8_t opcode) except -1
    cdef int _payload(self, uint8_t *data, size_t size) except -1
    cdef int _control_payload(self, uint8_t *data, size_t size, double now) except -1
    cdef int _whole_message(self, uint8_t *data, size_t size) except -1
    cdef int _end_of_frame(self) except -1
    cdef int _inflate(self, uint8_t *data, size_t size, bint final) except -1
    cdef int _push(self, object message) except -1
    cdef int _push_part(self, bint final) except -1
    cdef int _push_rest(self) except -1
