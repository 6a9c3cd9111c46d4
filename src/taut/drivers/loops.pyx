# cython: language_level=3
"""What the connections of one event loop share: the receive buffer, and the places of what others keep per loop."""

import weakref
from collections import deque

from cpython.memoryview cimport PyMemoryView_FromMemory
from libc.stdint cimport uint8_t
from libc.stdlib cimport free, malloc

cdef extern from "Python.h":
    int PyBUF_WRITE

cdef enum:
    HELD = 4

cdef double HOLD_TIME = 0.25  # seconds
cdef object loop_states = weakref.WeakKeyDictionary()


cdef class LoopState:
    """What the connections of one event loop share; ``of`` finds it."""

    def __cinit__(self):
        self.buffer = <uint8_t *>malloc(SHARED_BUFFER)
        if self.buffer is NULL:
            raise MemoryError
        self.view = PyMemoryView_FromMemory(<char *>self.buffer, SHARED_BUFFER, PyBUF_WRITE)

    def __dealloc__(self):
        free(self.buffer)

    cdef int hold(self, object message, object loop) except -1:
        """Keep a large message for a moment longer than its user does.

        When large messages come and go one by one, the allocator returns their memory to the system each time, and
        the page faults of getting it back cost more than all the rest.  A few of them held back keep it in place.
        """
        if self.held is None:
            self.held = deque(maxlen=HELD)
            loop.call_later(HOLD_TIME, self._let_go)
        self.held.append(message)
        return 0

    def _let_go(self):
        self.held = None

    @staticmethod
    def of(loop):
        """The state of that loop, made when first asked for. It does not keep the loop alive."""
        state = loop_states.get(loop)
        if state is None:
            state = loop_states[loop] = LoopState()
        return state
