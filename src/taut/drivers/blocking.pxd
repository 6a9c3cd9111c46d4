# cython: language_level=3
from cpython.pythread cimport PyThread_type_lock
from libc.stdint cimport uint8_t, uint64_t

from ..protocol.session cimport Session
from .wires cimport Wire

cdef class Keeper:
    cdef readonly list called
    cdef object sockets
    cdef int fd

    cdef int call(self, BlockingDriver driver) except -1

cdef class Pong:
    cdef readonly BlockingDriver connection
    cdef double round_trip
    cdef bint done

cdef class BlockingDriver:
    cdef readonly Session session
    cdef Wire wire
    cdef Keeper keeper
    cdef PyThread_type_lock lock
    cdef unsigned long owner

    # Output.
    cdef size_t sent
    cdef uint64_t handed_over
    cdef uint64_t in_cipher
    cdef int senders
    cdef bint blocked
    cdef object write_error
    cdef unsigned long fragmenter  # the thread that is sending a message in fragments

    # Input.
    cdef object stash
    cdef bint receiving
    cdef bint leading
    cdef unsigned long leader
    cdef bint part_taken
    cdef list followers
    cdef dict pongs

    # Who looks after it while nobody calls.
    cdef int waits
    cdef bint active
    cdef bint attended

    # The end.
    cdef bint stream_ended
    cdef bint lost
    cdef bint gone
    cdef double end_at
    cdef double patience_at

    cdef int _acquire(self) except -1
    cdef int _release(self) noexcept
    cdef int _leave(self) except -1
    cdef size_t _unsent(self) noexcept
    cdef int _flush(self) except -1
    cdef int _drop_output(self) except -1
    cdef int _message(self, message, text, compress) except -1
    cdef int _end_output(self) except -1
    cdef int _hand_over(self) except -1
    cpdef bint _send_whole(self, message, text, compress, double timeout, bint in_turn) except -1
    cdef int _let_out(self, double timeout) except -1
    cdef int _tell_end(self, double timeout) except -1
    cdef int _compact(self) except -1
    cdef int _write_failed(self, object exc) except -1
    cdef bint _full(self) noexcept
    cdef int _read(self) except -1
    cdef int _read_through(self) except -1
    cdef int _ingest(self, uint8_t *data, size_t size) except -1
    cdef int _unstash(self) except -1
    cdef int _after_read(self) except -1
    cdef int _relieve(self) except -1
    cdef int _events(self) except -1
    cdef bint _satisfied(self, int kind, uint64_t mark, Pong pong) noexcept
    cdef bint _wait(self, int kind, uint64_t mark, Pong pong, double timeout) except -1
    cdef int _poll(self, int events, double timeout) except -1
    cdef int _follow(self, double timeout) except -1
    cdef int _wake(self) except -1
    cdef object _take(self, double timeout, bint parts)
    cdef int _ending(self) except -1
    cdef int _end_stream(self) except -1
    cdef int _end_within(self, double seconds) except -1
    cdef int _keep_reading(self) except -1
    cdef int _lose(self, object exc) except -1
    cdef int _room(self, double timeout) except -1
