# cython: language_level=3, nonecheck=True
"""How threads share a connection: one lock, and waiting for each other's work.

The lock is held while bytes are moved, never while anyone waits.  Among those who wait for input one is the leader: it
waits for the socket, reads, and wakes the others, who then look whether they have got what they wait for; when the
leader leaves, one of them leads.  A thread that has to wait for output waits for the socket itself, and leads as well
if nobody does, so that two peers that both only send read from each other meanwhile (up to ``read_limit``).

While nobody is in a call the keeper's thread looks after the connection.  That must not cost the calls anything: a
connection in use is only looked at from time to time, and a call tells the keeper something only where ``attended``
says that it has stopped looking.

Signal handlers run where a thread waits, without the lock, and may use the connection; what they raise leaves nothing
half done.
"""

import socket
import threading
import time

from cpython.exc cimport PyErr_CheckSignals
from cpython.pythread cimport (
    NOWAIT_LOCK,
    WAIT_LOCK,
    PyThread_acquire_lock,
    PyThread_allocate_lock,
    PyThread_free_lock,
    PyThread_get_thread_ident,
    PyThread_release_lock,
)
from cpython.ref cimport Py_INCREF
from libc.math cimport INFINITY
from libc.stdint cimport uint64_t

from .wires cimport MAIN_THREAD_WAIT, READABLE, WRITABLE, on_main_thread, wait_ready

from ..errors import ConcurrencyError

cdef extern from *:
    """
    #ifdef _WIN32
    #include <winsock2.h>
    static void taut_tell(int fd) { send(fd, "", 1, 0); }
    #else
    #include <sys/types.h>
    #include <sys/socket.h>
    #ifndef MSG_NOSIGNAL
    #define MSG_NOSIGNAL 0
    #endif
    static void taut_tell(int fd) { send(fd, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL); }
    #endif
    """
    void taut_tell(int fd)

cdef object monotonic = time.monotonic
cdef object new_gate = threading.Lock


cdef double seconds(str name, object timeout) except? -2:
    """A time limit as given, -1 for none."""
    cdef double value
    if timeout is None:
        return -1.0
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
        raise TypeError(f"{name} must be a number of seconds or None, not {timeout!r}")
    value = timeout
    if not value >= 0:
        raise ValueError(f"{name} must be a number of seconds, at least 0, or None, not {timeout!r}")
    return value


def immortal(thing):
    """Never let this be finalized: in a forked child, what still belongs to the parent."""
    Py_INCREF(thing)


cdef class Keeper:
    """The way to the thread that looks after connections: whom it is called to, and the socket that wakes it."""

    def __cinit__(self):
        self.called = []
        self.sockets = socket.socketpair()
        for sock in self.sockets:
            sock.setblocking(False)
        self.fd = self.sockets[1].fileno()

    cdef int call(self, Shared connection) except -1:
        self.called.append(connection)
        if len(self.called) == 1:
            taut_tell(self.fd)
        return 0

    @property
    def sock(self):
        """Readable once the keeper is called."""
        return self.sockets[0]

    def take(self):
        """The connections that need to be looked at."""
        try:
            self.sockets[0].recv(4096)
        except BlockingIOError:
            pass
        called, self.called = self.called, []
        return called

    def close(self):
        """Nobody will be called any more."""
        self.fd = -1
        for sock in self.sockets:
            sock.close()


cdef class Expected:
    """Something that one thread waits for, and another finds."""


cdef class Shared:
    """A wire that any number of threads use."""

    def __cinit__(self):
        self.lock = PyThread_allocate_lock()
        if self.lock is NULL:
            raise MemoryError
        self.followers = []

    def __dealloc__(self):
        PyThread_free_lock(self.lock)

    # -- the lock ------------------------------------------------------------------------------------------------------

    cdef int _acquire(self) except -1:
        cdef unsigned long me = PyThread_get_thread_ident()
        if not PyThread_acquire_lock(self.lock, NOWAIT_LOCK):
            if self.owner == me:
                # A signal handler, or a finalizer, in the midst of TLS or compression on this thread.
                raise ConcurrencyError("a call on the same thread")
            with nogil:
                PyThread_acquire_lock(self.lock, WAIT_LOCK)
        self.owner = me
        return 0

    cdef int _release(self) noexcept:
        self.owner = 0
        PyThread_release_lock(self.lock)
        return 0

    cdef int _leave(self) except -1:
        """The end of a call: let the keeper know if it has to take over."""
        self.active = True
        if not self.attended and self.keeper is not None:
            self.attended = True
            self.keeper.call(self)
        self._release()
        return 0

    # -- waiting -------------------------------------------------------------------------------------------------------

    cdef bint _wait(self, int kind, uint64_t mark, Expected expected, double timeout) except -1:
        """Wait for what ``kind`` says, with the lock held before and after: whether it came in time."""
        cdef bint sending = kind == ROOM or kind == LEFT
        cdef bint lead, nested, late = False
        cdef unsigned long me = PyThread_get_thread_ident()
        cdef double deadline = INFINITY if timeout < 0 else <double>monotonic() + timeout
        cdef double left = -1.0
        while not self._satisfied(kind, mark, expected):
            if late:
                return False
            if deadline != INFINITY:
                left = deadline - <double>monotonic()
                late = left <= 0  # then look once more, without waiting
                left = max(left, 0.0)
            nested = self.leading and self.leader == me  # in a signal handler that interrupted the leader
            lead = (nested or not self.leading) and kind != A_TURN and not self.lost and not self._full()
            if not lead and not sending:
                self._follow(left)
                continue
            if lead:
                self.leading = True
                self.leader = me
            try:
                self._poll((READABLE if lead else 0) | (WRITABLE if sending else 0), left)
            finally:
                if lead:
                    self.leading = nested
                if self.followers:
                    self._wake()
        return True

    cdef int _poll(self, int events, double timeout) except -1:
        """Wait for the socket without the lock, then move the bytes."""
        cdef int ready = 0, fd = self.wire.fd
        if events & READABLE and self.wire.more:
            return self._read()
        self.waits += 1
        self._release()
        try:
            ready = wait_ready(fd, events, timeout)
        finally:
            self._acquire()
            self.waits -= 1
            if self.lost and not self.gone:
                self.keeper.call(self)
        if ready == 0:
            self._release()
            try:
                PyErr_CheckSignals()
            finally:
                self._acquire()
        if ready & WRITABLE:
            self._flush()
        if ready & READABLE:
            self._read()
        return 0

    cdef int _follow(self, double timeout) except -1:
        """Wait until the leader, or the keeper, has news."""
        gate = new_gate()
        gate.acquire()
        if on_main_thread() and not 0 <= timeout <= MAIN_THREAD_WAIT:
            timeout = MAIN_THREAD_WAIT
        self.followers.append(gate)
        self._release()
        try:
            gate.acquire(True, timeout)
        finally:
            self._acquire()
            if gate in self.followers:
                self.followers.remove(gate)
        return 0

    cdef int _wake(self) except -1:
        """There may be news: let every follower look."""
        followers, self.followers = self.followers, []
        for gate in followers:
            gate.release()
        return 0

    cdef int _abandon(self) except -1:
        """Let go of everything: in a forked child, where it is the parent's."""
        self.lock = PyThread_allocate_lock()  # a thread of the parent may have held it
        self.lost = self.gone = True
        self.followers = []
        self.keeper = None
        self.wire.close()
        return 0

    # -- hooks ---------------------------------------------------------------------------------------------------------

    cdef bint _satisfied(self, int kind, uint64_t mark, Expected expected) except -1:
        """Whether what ``kind`` says has come."""
        return False

    cdef bint _full(self) except -1:
        """Whether reading has to wait for messages to be taken."""
        return False

    cdef int _read(self) except -1:
        """Read what has arrived, once."""
        raise NotImplementedError

    cdef int _flush(self) except -1:
        """Give the kernel what it takes of the output."""
        raise NotImplementedError
