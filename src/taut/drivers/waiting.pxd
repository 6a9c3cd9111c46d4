# cython: language_level=3
from cpython.pythread cimport PyThread_type_lock
from libc.stdint cimport uint64_t

from .wires cimport Wire

# What a thread may wait for.
cdef enum:
    A_MESSAGE
    ROOM
    LEFT
    A_PONG
    A_TURN
    THE_END

cdef class Keeper:
    cdef readonly list called
    cdef object sockets
    cdef int fd

    cdef int call(self, Shared connection) except -1

cdef class Expected:
    cdef bint done

cdef class Shared:
    cdef Wire wire
    cdef Keeper keeper
    cdef PyThread_type_lock lock
    cdef unsigned long owner

    # Who waits.
    cdef bint leading
    cdef unsigned long leader
    cdef list followers
    cdef int waits

    # Who looks after it while nobody calls.
    cdef bint active
    cdef bint attended

    # The end of the byte stream, and of the socket.
    cdef bint lost
    cdef bint gone

    cdef int _acquire(self) except -1
    cdef int _release(self) noexcept
    cdef int _leave(self) except -1
    cdef bint _wait(self, int kind, uint64_t mark, Expected expected, double timeout) except -1
    cdef int _poll(self, int events, double timeout) except -1
    cdef int _follow(self, double timeout) except -1
    cdef int _wake(self) except -1
    cdef int _abandon(self) except -1
    cdef bint _satisfied(self, int kind, uint64_t mark, Expected expected) except -1
    cdef bint _full(self) except -1
    cdef int _read(self) except -1
    cdef int _flush(self) except -1

cdef double seconds(str name, object timeout) except? -2
