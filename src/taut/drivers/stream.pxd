# cython: language_level=3
from libc.stdint cimport uint8_t

from .awaitables cimport Step, Waiter
from .loops cimport LoopState
from .sending cimport Sender

cdef enum RecvState:
    IDLE
    WAITING
    RESUMING

cdef class Recv(Step):
    cdef StreamDriver driver
    cdef bint iterating

cdef class StreamDriver(Sender):
    cdef LoopState shared
    cdef Recv recv_awaitable
    cdef Recv next_awaitable
    cdef Waiter waiter
    cdef object on_message
    cdef bytes stash
    cdef RecvState recv_state
    cdef bint direct
    cdef bint resume_scheduled
    cdef bint held
    cdef readonly bint read_paused
    cdef bint taking_parts
    cdef bint part_taken
    cdef object __weakref__

    cdef Recv _new_awaitable(self, bint iterating)
    cdef int _ingest(self, uint8_t *data, size_t size) except -1
    cdef int _after_read(self) except -1
    cdef int _pause_reading(self) except -1
    cdef int _deliver(self) except -1
    cdef int _wake_reader(self) except -1
    cdef int _relieve(self) except -1
    cdef int _resume_soon(self) except -1
