# cython: language_level=3, nonecheck=True
"""What runs for every message on asyncio: from the transport's bytes to the handler, and back.

In: all connections of a loop read into one shared buffer.  The session turns what arrived into messages; only then is
the handler resumed, inside the read callback, so that the buffer is free again whatever the handler does.  A large
message that is under way is read straight to where it will stay.  When more is unread than the limit allows, reading
pauses, and bytes that were already here wait in ``stash``.

Out: ``sending.Sender`` (on ``moving.Mover``, on ``writing.Writer``), which this class completes; what was answered to
the messages of one read leaves in one write.

A driver owns no buffer while idle, and no timer.  ``connection.Connection`` completes it with everything that does not
run per message, through the hooks at the end of the class.
"""

import time

from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.memoryview cimport PyMemoryView_FromMemory
from cpython.ref cimport PyObject
from libc.stdint cimport uint8_t

from ..protocol.inbox cimport Fragment
from ..protocol.session cimport CLOSE_SENT, CLOSED, OPEN, Session
from .awaitables cimport (
    PYGEN_ERROR,
    PYGEN_NEXT,
    PYGEN_RETURN,
    Py_DECREF,
    Py_INCREF,
    PySendResult,
    Step,
    Waiter,
    current_task,
    taut_install_slots,
    taut_next_from_step,
)
from .loops cimport SHARED_BUFFER, LoopState
from .sending cimport BUDGET, Sender

from ..errors import ConcurrencyError, closed_error

cdef extern from "Python.h":
    Py_ssize_t Py_REFCNT(PyObject *)
    int PyBUF_WRITE

cdef object monotonic = time.monotonic


cdef class Recv(Step):
    """The awaitable that ``recv`` and ``__anext__`` return: it takes a message when it is awaited, not before."""

    def __await__(self):
        return self

    def __next__(self):
        raise NotImplementedError

    def send(self, value):
        cdef PyObject *result = NULL
        cdef PySendResult outcome = recv_step(<PyObject *>self, <PyObject *>value, &result)
        cdef object message = <object>result
        Py_DECREF(result)
        if outcome == PYGEN_RETURN:
            raise StopIteration(message)
        return message

    def throw(self, typ, val=None, tb=None):
        self.driver._recv_abandoned()
        raise typ if val is None else val

    def close(self):
        self.driver._recv_abandoned()


cdef PySendResult recv_step(PyObject *self, PyObject *value, PyObject **result) except PYGEN_ERROR:
    cdef StreamDriver driver = (<Recv>self).driver
    cdef object message
    if (
        driver.recv_state == IDLE and driver.session.inbox.count and driver.budget > 0
        and not driver.session.has_fragments
    ):
        driver.budget -= 1
        message = driver.session.pop()
        if driver.read_paused:
            driver._relieve()
        Py_INCREF(<PyObject *>message)
        result[0] = <PyObject *>message
        return PYGEN_RETURN
    message = driver._recv_slow((<Recv>self).iterating)
    Py_INCREF(<PyObject *>message)
    result[0] = <PyObject *>message
    # None, which lets the loop turn, and a Waiter suspend; anything else is a message.
    return PYGEN_NEXT if message is None or type(message) is Waiter else PYGEN_RETURN


cdef PyObject *recv_next(PyObject *self) noexcept:
    return taut_next_from_step(recv_step, self)


taut_install_slots(Recv, recv_step, recv_next)


cdef class StreamDriver(Sender):
    """A session on a transport, seen from the event loop.

    As a protocol it is attached to a transport that is already connected, after the opening handshake: ``attach`` takes
    the place of ``connection_made``.
    """

    def __init__(self, loop):
        Sender.__init__(self, loop)
        self.shared = LoopState.of(loop)

    def attach(self, transport, session, on_message=None):
        """Take over ``transport``, on which ``session`` has just been agreed.

        ``on_message(driver, message)`` is called for every message instead of waiting for ``recv``.
        """
        self.on_message = on_message
        self.carry(transport, session)

    def listen(self, on_message):
        """Hand over every message to ``on_message(driver, message)`` from now on, what is waiting first."""
        self.on_message = on_message
        self._after_read()
        if self.transport is None:
            self.on_message = None  # the connection is lost, and these were the last
        elif self.read_paused:
            self._relieve()

    # -- from the transport ------------------------------------------------------------------------------------

    cdef int get_read_buffer(self, uint8_t **data, size_t *size) except -1:
        self.direct = self.session.direct_target(data, size)
        if not self.direct:
            data[0] = self.shared.buffer
            size[0] = SHARED_BUFFER
        return 0

    cdef int bytes_received(self, size_t size) except -1:
        if self.direct:
            self.direct = False
            self.session.received_direct(size)
            if self.session.inbox.count:
                self.shared.hold(self.session.newest(), self.loop)
        else:
            self._ingest(self.shared.buffer, size)
        return self._after_read()

    def is_buffered_protocol(self):
        """For ``aiofastnet``: it reads into ``get_buffer``."""
        return True

    def get_buffer(self, sizehint):
        cdef uint8_t *data
        cdef size_t size
        self.get_read_buffer(&data, &size)
        return PyMemoryView_FromMemory(<char *>data, size, PyBUF_WRITE) if self.direct else self.shared.view

    def buffer_updated(self, Py_ssize_t nbytes):
        if nbytes > 0:
            self.bytes_received(nbytes)

    def feed(self, data):
        """Bytes that came in the same read as the end of the opening handshake."""
        cdef bytes owner = data
        cdef bytearray scratch = bytearray(owner)
        self._ingest(<uint8_t *><char *>scratch, len(scratch))
        self._after_read()

    def connection_made(self, transport):
        raise RuntimeError("a driver takes over a transport with attach()")

    def connection_lost(self, exc):
        if self.stash is not None:
            self.session.read_limit *= 4
            self._unstash()
        self.session.receive_eof(exc)
        self.forget_outbox()
        self.stash = None
        try:
            if self.on_message is not None:
                self._after_read()  # its last messages come before the news of the end
            self._lost(exc)
        finally:
            self._after_read()
            self.sock = None
            self.write = self.on_message = self.recv_awaitable = self.next_awaitable = None

    def data_received(self, data):
        """For a transport that has just changed protocols, and goes on as it began."""
        self.feed(data)

    cdef int _pause_reading(self) except -1:
        self.read_paused = True
        if self.sock is not None:
            self.sock.pause_reading()
        else:
            # A TLS transport that is paused while it delivers keeps what it has decrypted, and resuming it does not
            # bring that out.  So it may finish first; what it still delivers is stashed.
            self.loop.call_soon(self._pause_transport)
        return 0

    def _pause_transport(self):
        if self.read_paused and self.transport is not None:
            self.transport.pause_reading()

    cdef int _ingest(self, uint8_t *data, size_t size) except -1:
        cdef double now
        cdef size_t used
        if self.stash is not None:
            self.stash += PyBytes_FromStringAndSize(<char *>data, size)
            return 0
        now = monotonic() if self.session.pings is not None or self.session.budgets.spent else 0.0
        used = self.session.receive(data, size, now)
        if now == 0.0 and self.session.budgets.spent:
            self.session.budgets.now = monotonic()
        if used < size:
            self.stash = PyBytes_FromStringAndSize(<char *>data + used, size - used)
        return 0

    cdef int _after_read(self) except -1:
        """Hand over what has arrived, then let out what was answered to it."""
        cdef Session session = self.session
        self.in_batch = True
        try:
            if session.events is not None:
                self._control_events(session.take_events())
            self._deliver()
        finally:
            self.in_batch = False
        if session.output.length:
            self.flush()
        if session.phase != OPEN:
            self._ending()
        if not self.read_paused and (self.stash is not None or session.inbox.size >= session.read_limit):
            if session.phase <= CLOSE_SENT and not session.dropping:
                self._pause_reading()
            if self.stash is not None and session.inbox.size < session.read_limit:
                self._relieve()
        return 0

    cdef int _deliver(self) except -1:
        cdef Session session = self.session
        if self.on_message is not None:
            try:
                while session.inbox.count:
                    self.on_message(self, session.pop())
            except Exception as exc:
                session.drop_inbox()
                self._handler_failed(exc)
            if session.phase > CLOSE_SENT:
                session.drained()
        elif self.recv_state == WAITING and (session.inbox.count or session.phase > CLOSE_SENT):
            self._wake_reader()
        return 0

    cdef int _wake_reader(self) except -1:
        cdef Waiter waiter = self.waiter
        if waiter.cancelled_:
            return 0
        if waiter.enter():
            self.recv_state = IDLE
            self.waiter = None
            waiter.resume()
        else:
            self.recv_state = RESUMING
            waiter.schedule()
        return 0

    # -- receiving ---------------------------------------------------------------------------------------------

    def recv(self, decode=None):
        """Receive the next message: str for Text, bytes for Binary.

        ``decode``: True gives str, False gives bytes, whatever the type of the message (default None: by its type).
        Raises ``ConnectionClosed`` at the end, ``ConcurrencyError`` if another task is receiving. When it is cancelled
        no message is lost.
        """
        if decode is not None:
            return self._recv_decoded(decode)
        # Kept for the next time; but one that somebody still holds is an operation of its own, and must not be shared.
        # Once the connection is lost none is kept, so that nothing keeps the connection.
        if self.transport is None:
            return self._new_awaitable(False)
        if self.recv_awaitable is None or Py_REFCNT(<PyObject *>self.recv_awaitable) > 1:
            self.recv_awaitable = self._new_awaitable(False)
        return self.recv_awaitable

    def __aiter__(self):
        """Receive messages until the connection is closed; raises ``ConnectionClosedError`` unless it ends well."""
        return self

    def __anext__(self):
        if self.transport is None:
            return self._new_awaitable(True)
        if self.next_awaitable is None or Py_REFCNT(<PyObject *>self.next_awaitable) > 1:
            self.next_awaitable = self._new_awaitable(True)
        return self.next_awaitable

    cdef Recv _new_awaitable(self, bint iterating):
        cdef Recv awaitable = Recv.__new__(Recv)
        awaitable.driver = self
        awaitable.iterating = iterating
        return awaitable

    def _recv_slow(self, bint iterating):
        """Everything but a message that is there for the taking: see ``recv_step`` for what may be returned."""
        cdef Session session = self.session
        if self.recv_state == RESUMING:
            if not self.waiter.serves_current_task() and not self.waiter.given_up():
                raise ConcurrencyError("recv")
            self._forget_waiter()
        elif self.recv_state == WAITING:
            if not self.waiter.cancelled_:
                raise ConcurrencyError("recv")
            self._forget_waiter()
        if (session.streaming or session.has_fragments) and not self.taking_parts:
            session.unstream(self.part_taken)
            self.part_taken = False
            if self.read_paused:
                self._relieve()  # what was given up had filled the inbox
        if session.inbox.count:
            if self.budget <= 0:
                self.budget = BUDGET
                self.flush()
                return None
            self.budget -= 1
            message = session.pop()
            if type(message) is Fragment:
                self.part_taken = not (<Fragment>message).final
                if not self.part_taken:
                    session.has_fragments = False
            if self.read_paused:
                self._relieve()
            return message
        if session.phase > CLOSE_SENT:
            session.drained()
        self.flush()
        if session.phase == CLOSED:
            self._ending()
            if iterating and session.close_info.ok:
                raise StopAsyncIteration
            raise closed_error(session.close_info)
        self.budget = BUDGET
        self.recv_state = WAITING
        self.waiter = Waiter.__new__(Waiter, self.loop)
        self.waiter._asyncio_future_blocking = True
        return self.waiter

    def _forget_waiter(self):
        self.recv_state = IDLE
        self.waiter.owner = None  # else a cancelled task holds itself, by way of its traceback
        self.waiter = None

    def _recv_abandoned(self):
        """An exception was thrown into a task at its ``recv``, or its coroutine was closed there."""
        if self.recv_state != IDLE and (
            self.waiter.cancelled_
            or self.waiter.task() is None
            or self.waiter.serves_current_task()
            or current_task(self.loop) is None
        ):
            self._forget_waiter()

    def _take_parts(self, bint taking):
        """Whether ``recv`` is called by ``recv_streaming``, which wants the parts of a message as they come."""
        self.taking_parts = taking

    def deliver_parts(self):
        """From now on ``recv`` gives what does not arrive at once in parts: ``Fragment``, for who passes them on."""
        self.taking_parts = True
        self.session.stream_all()

    cdef int _relieve(self) except -1:
        """Read on once enough has been taken, in a turn of the loop of its own."""
        if self.session.inbox.size <= self.session.read_limit // 2:
            self._resume_soon()
        return 0

    def _adopt_options(self, options, double now):
        """Go on with other ``ConnectionOptions``."""
        self.session.set_options(options, now)
        self.take_options()
        if self.transport is not None:
            self.transport.set_write_buffer_limits(options.write_limit)
            if self.read_paused:
                self._relieve()  # what is unread may be less than the limit now

    def pause_reading(self):
        """Read nothing more from the network until ``resume_reading``, so that the peer has to wait.

        What has been read already is still received. Meanwhile nothing of the peer is noticed, neither its Close frame
        nor its end, and keepalive does not give it up. Does nothing once the connection is closing.
        """
        if self.transport is None or self.session.phase != OPEN:
            return
        self.held = True
        if not self.read_paused:
            self._pause_reading()

    def resume_reading(self):
        """Read on, after ``pause_reading``."""
        if self.held:
            self.held = False
            self._resume_soon()

    cdef int _resume_soon(self) except -1:
        if not self.resume_scheduled:
            self.resume_scheduled = True
            self.loop.call_soon(self._resume_reading)
        return 0

    def _resume_reading(self):
        cdef Session session = self.session
        self.resume_scheduled = False
        if self.stash is not None:
            self._unstash()
            self._after_read()
        if self.transport is None or self.held:
            return
        if self.read_paused and self.stash is None and (session.inbox.size < session.read_limit or session.dropping):
            self.read_paused = False
            self.transport.resume_reading()
        elif self.read_paused:
            self._relieve()

    def _unstash(self):
        cdef bytearray scratch = bytearray(self.stash)
        self.stash = None
        self._ingest(<uint8_t *><char *>scratch, len(scratch))

    def _keep_reading(self):
        """We are closing: read on, so that the peer's Close frame is seen, though nobody takes messages."""
        if self.recv_state != WAITING and self.on_message is None:
            self.session.drop_unread()
        self.held = False
        if self.stash is not None or self.read_paused:
            self._resume_soon()

    def _read_to_end(self):
        """All is said: what still arrives is read, so that the end of the stream is seen, and not looked at."""
        self.stash = None
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()

    # -- hooks, for what does not run per message --------------------------------------------------------------

    def _recv_decoded(self, decode):
        raise NotImplementedError

    def _control_events(self, events):
        raise NotImplementedError

    def _handler_failed(self, exc):
        raise NotImplementedError

    def _lost(self, exc):
        raise NotImplementedError
