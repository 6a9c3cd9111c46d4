# cython: language_level=3
from libc.stdint cimport uint8_t, uint64_t

from .prepared cimport Prepared

cdef enum Policy:
    # What becomes of a message for which there is no room; first, what the options say.
    AS_CONFIGURED
    WAITS
    REFUSES
    CLOSES
    DROPS_OLDEST
    DROPS_NEWEST

cdef enum:
    # What a waiting message takes beside its payload: empty ones count as well.
    COST = 192

cdef class Entry:
    cdef object payload
    cdef Prepared shared
    cdef object compress
    cdef object key
    cdef size_t size
    cdef uint8_t opcode
    cdef bint urgent
    cdef bint expendable
    cdef bint gone
    cdef readonly bint lost
    cdef Entry latest

cdef class Lane:
    cdef object order
    cdef object expendable
    cdef size_t expendable_size
    cdef Py_ssize_t stubs

    cdef int append(self, Entry entry) except -1
    cdef Entry pop(self)
    cdef Entry oldest_expendable(self)
    cdef int remove(self, Entry entry) except -1
    cdef int _leave(self, Entry entry) except -1

cdef class Outbox:
    cdef Lane urgent
    cdef Lane normal
    cdef dict keys
    cdef readonly size_t size
    cdef readonly Py_ssize_t waiting
    cdef Py_ssize_t turns
    cdef bint moving

    # The message that is on its way in fragments.
    cdef Entry current
    cdef object body
    cdef size_t body_size
    cdef size_t offset
    cdef uint8_t bits

    cdef readonly uint64_t dropped_oldest
    cdef readonly uint64_t dropped_newest
    cdef readonly uint64_t dropped_at_end
    cdef readonly uint64_t bytes_dropped
    cdef readonly uint64_t conflated

    cdef bint is_empty(self) noexcept
    cdef Entry under(self, object key)
    cdef int add(self, Entry entry) except -1
    cdef bint can_make_room(self, size_t need, bint urgent) noexcept
    cdef Entry next(self)
    cdef int evict(self, bint urgent) except -1
    cdef int refuse(self, Entry entry) except -1
    cdef int lose(self, Entry entry) except -1
    cdef int discard(self) except -1
    cdef int add_turn(self, object future, bint urgent) except -1
    cdef bint forget_turn(self, object future) except -1
    cdef int begin(self, Entry entry, object body, size_t size, uint8_t bits) except -1
    cdef int advance(self, size_t size) except -1
    cdef Lane _lane(self, bint urgent)
    cdef int _replace(self, Entry old, Entry entry) except -1
    cdef int _uncount(self, Entry entry) except -1

cdef Entry entry_of(object message, object text, object compress)
cdef const uint8_t *bytes_of(object payload) except NULL
cdef int policy_of(object overflow, int otherwise) except -1
