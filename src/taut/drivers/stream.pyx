# cython: language_level=3, nonecheck=True
"""What runs for every message on asyncio: from the transport's bytes to the handler, and back.

In: all connections of a loop read into one shared buffer.  The session turns what arrived into messages; only then is
the handler resumed, inside the read callback, so that the buffer is free again whatever the handler does.  A large
message that is under way is read straight to where it will stay.  When more is unread than the limit allows, reading
pauses, and bytes that were already here wait in ``stash``.

Out: cork by blocking.  While received messages are waiting for the handler, its output only accumulates; it leaves in
one write when the handler asks for a message that is not there yet, when the read callback ends, or when it grows past
a limit.  An answer to the only message there is leaves at once.

A driver owns no buffer while idle, and no timer.  ``connection.Connection`` completes it with everything that does not
run per message, through the hooks at the end of the class.
"""

import time
import weakref
from collections import deque

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.memoryview cimport PyMemoryView_FromMemory
from cpython.ref cimport PyObject
from libc.stdint cimport uint8_t
from libc.stdlib cimport free, malloc

from ..protocol.frames cimport Output, output_frame, output_frame_head, output_release
from ..protocol.inbox cimport Fragment
from ..protocol.session cimport CLOSE_SENT, CLOSED, OPEN, Session
from .awaitables cimport (
    DONE,
    PYGEN_ERROR,
    PYGEN_NEXT,
    PYGEN_RETURN,
    Py_DECREF,
    Py_INCREF,
    PySendResult,
    Step,
    Waiter,
    YieldOnce,
    current_task,
    taut_install_slots,
    taut_next_from_step,
)
from .sockets cimport Receiver, SocketTransport

from ..errors import ConcurrencyError, ProtocolError, closed_error

cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL
    bint PyUnicode_CheckExact(object)
    bint PyBytes_CheckExact(object)
    Py_ssize_t Py_REFCNT(PyObject *)
    int PyBUF_READ
    int PyBUF_WRITE

cdef enum:
    SHARED_BUFFER = 1 << 18
    # Output beyond this leaves even while more messages are waiting.
    CORK_LIMIT = 1 << 16
    # From this size on, a payload is sent from where it is, and not copied behind its head.
    LARGE = 1 << 14
    # Operations that a handler may do in a row before the loop turns.
    BUDGET = 512
    OP_TEXT = 1
    OP_BINARY = 2
    FIN = 0x80
    HELD = 4

cdef double HOLD_TIME = 0.25  # seconds
cdef object monotonic = time.monotonic
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


cdef PyObject *recv_next(PyObject *self) except? NULL:
    return taut_next_from_step(recv_step, self)


taut_install_slots(Recv, recv_step, recv_next)


cdef class StreamDriver(Receiver):
    """A session on a transport, seen from the event loop.

    As a protocol it is attached to a transport that is already connected, after the opening handshake: ``attach`` takes
    the place of ``connection_made``.
    """

    def __init__(self, loop):
        self.loop = loop
        self.shared = LoopState.of(loop)
        self.budget = BUDGET

    def attach(self, transport, session, on_message=None):
        """Take over ``transport``, on which ``session`` has just been agreed.

        ``on_message(driver, message)`` is called for every message instead of waiting for ``recv``.
        """
        self.transport = transport
        self.session = session
        self.outbox_limit = session.options.outbox_limit
        self.sock = <SocketTransport>transport if isinstance(transport, SocketTransport) else None
        if self.sock is None:
            # aiofastnet's transports skip checks of type and thread here, which bytes from the loop's own thread pass.
            self.write = getattr(transport, "write_nocheck", transport.write)
        self.on_message = on_message
        transport.set_protocol(self)
        transport.set_write_buffer_limits(session.options.write_limit)

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

    def eof_received(self):
        return False

    def connection_lost(self, exc):
        if self.stash is not None:
            self.session.read_limit *= 4
            self._unstash()
        self.session.receive_eof(exc)
        self.stash = None
        try:
            self._lost(exc)
        finally:
            self._after_read()
            self.sock = None
            self.write = None

    def pause_writing(self):
        self.write_paused = True
        self.session.block_output(True)

    def resume_writing(self):
        self.write_paused = False
        self.session.block_output(False)
        self.flush()
        self._writable()

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
        now = monotonic() if self.session.pings is not None else 0.0
        used = self.session.receive(data, size, now)
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
        if self.recv_awaitable is None or Py_REFCNT(<PyObject *>self.recv_awaitable) > 1:
            self.recv_awaitable = Recv.__new__(Recv)
            self.recv_awaitable.driver = self
        return self.recv_awaitable

    def __aiter__(self):
        """Receive messages until the connection is closed; raises ``ConnectionClosedError`` unless it ends well."""
        return self

    def __anext__(self):
        if self.next_awaitable is None or Py_REFCNT(<PyObject *>self.next_awaitable) > 1:
            self.next_awaitable = Recv.__new__(Recv)
            self.next_awaitable.driver = self
            self.next_awaitable.iterating = True
        return self.next_awaitable

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

    cdef int _relieve(self) except -1:
        """Read on once enough has been taken, in a turn of the loop of its own."""
        if not self.resume_scheduled and self.session.inbox.size <= self.session.read_limit // 2:
            self.resume_scheduled = True
            self.loop.call_soon(self._resume_reading)
        return 0

    def _resume_reading(self):
        cdef Session session = self.session
        self.resume_scheduled = False
        if self.stash is not None:
            self._unstash()
            self._after_read()
        if self.transport is None:
            return
        if self.read_paused and self.stash is None and session.inbox.size < session.read_limit:
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
        if self.stash is not None:
            self._unstash()
            self._after_read()
        if self.read_paused and self.stash is None and self.transport is not None:
            self.read_paused = False
            self.transport.resume_reading()

    # -- sending -----------------------------------------------------------------------------------------------

    def send(self, message, *, text=None, compress=None):
        """Send a message: str as Text, bytes-like as Binary, an iterable or async iterable of these in fragments.

        ``text``: True sends bytes that are known to be UTF-8 as Text, False sends str as Binary. ``compress``: False
        leaves this message uncompressed, True compresses it whatever its size (default None: from the threshold on).
        Waits while more than ``write_limit`` bytes are unsent. The message is taken when ``send`` is called, whole;
        cancelling the wait does not take it back. Raises ``ConnectionClosed`` once the connection is closing,
        ``TypeError`` for anything else than the above.
        """
        if self.fragmenting or not self._plain(message) or self.session.phase in (CLOSE_SENT, CLOSED):
            return self._send_slow(message, text, compress)
        self._send_now(message, text, compress)
        if self.write_paused:
            return self._drain()
        self.budget -= 1
        if self.budget <= 0:
            self.budget = BUDGET
            return YieldOnce.__new__(YieldOnce)
        return DONE

    def send_nowait(self, message, *, text=None, compress=None):
        """Send a str or bytes-like message without waiting; see ``send`` for the arguments.

        A peer that does not read costs at most ``outbox_limit`` unsent bytes and one message: then the connection is
        failed with 1008. Raises ``ConnectionClosed`` once the connection is closing, ``ConcurrencyError`` while a
        fragmented message is being sent.
        """
        if self.session.phase == CLOSE_SENT or self.session.phase == CLOSED:
            raise closed_error(self.session.close_info)
        if self.fragmenting:
            raise ConcurrencyError("send")
        if not self._plain(message):
            raise TypeError(f"a message must be str or bytes-like, not {type(message).__name__}")
        if self.write_paused:
            self._check_outbox()
            if self.session.phase == CLOSED:
                raise closed_error(self.session.close_info)
        self._send_now(message, text, compress)

    cdef bint _plain(self, object message) except -1:
        return PyUnicode_CheckExact(message) or PyBytes_CheckExact(message) or isinstance(
            message, (str, bytes, bytearray, memoryview)
        )

    cdef int _send_now(self, object message, object text, object compress) except -1:
        cdef Session session = self.session
        cdef const char *payload
        cdef Py_ssize_t size
        cdef uint8_t opcode
        if not session.is_client and (session.deflate is None or compress is False):
            if PyUnicode_CheckExact(message):
                payload = PyUnicode_AsUTF8AndSize(message, &size)
                opcode = OP_BINARY if text is False else OP_TEXT
                if size >= LARGE:
                    return self._send_large(opcode, <const uint8_t *>payload, size, message)
            elif PyBytes_CheckExact(message) and PyBytes_GET_SIZE(message) >= LARGE:
                opcode = OP_TEXT if text else OP_BINARY
                return self._send_large(
                    opcode, <const uint8_t *>PyBytes_AS_STRING(message), PyBytes_GET_SIZE(message), message
                )
        session.send_message(message, text, compress)
        return self._after_send()

    cdef int _send_large(self, uint8_t opcode, const uint8_t *payload, size_t size, object owner) except -1:
        """Send from where the payload is: behind what was corked, without copying it."""
        cdef Output *out = &self.session.output
        cdef object view
        output_frame_head(out, FIN | opcode, size)
        self.session.messages_sent += 1
        self.session.bytes_sent += size
        if self.sock is not None:
            self.sock.send_two(out.data, out.length, payload, size, owner)
        else:
            head = PyBytes_FromStringAndSize(<char *>out.data, out.length)
            # Only bytes may be referred to by a transport that is not ours: their memory cannot change or go away.
            view = owner if PyBytes_CheckExact(owner) else PyBytes_FromStringAndSize(<char *>payload, size)
            self.transport.writelines([head, view])
        output_release(out)
        return 0

    cdef int _send_frame_bytes(self, bytes frame) except -1:
        """Send a frame that is ready, and perhaps shared by many connections."""
        cdef Output *out = &self.session.output
        if self.sock is not None and out.length == 0:
            return self.sock.send_bytes(<uint8_t *>PyBytes_AS_STRING(frame), PyBytes_GET_SIZE(frame), frame)
        self.flush()
        if self.sock is not None:
            return self.sock.send_bytes(<uint8_t *>PyBytes_AS_STRING(frame), PyBytes_GET_SIZE(frame), frame)
        self.write(frame)
        return 0

    cdef int _after_send(self) except -1:
        cdef size_t length = self.session.output.length
        if length >= CORK_LIMIT:
            return self.flush()
        if self.in_batch:
            return 0
        if self.session.inbox.count == 0:
            return self.flush()
        if not self.flush_scheduled:
            self.flush_scheduled = True
            self.loop.call_soon(self._flush_soon)
        return 0

    def _flush_soon(self):
        self.flush_scheduled = False
        self.flush()

    def flush_output(self):
        """Let out what is corked."""
        self.flush()

    cdef int flush(self) except -1:
        cdef Output *out = &self.session.output
        if out.length == 0:
            return 0
        if self.transport is None:
            pass  # the connection is lost, and with it what was to be sent
        elif self.sock is not None:
            self.sock.send_bytes(out.data, out.length, None)
        else:
            data = PyBytes_FromStringAndSize(<char *>out.data, out.length)
            self.write(data)
        output_release(out)
        return 0

    @property
    def unsent(self):
        """Bytes that have not left for the network yet."""
        return self.session.output.length + self.transport.get_write_buffer_size()

    cdef int _check_outbox(self) except -1:
        """A peer that does not read is not waited for without end: fail the connection, and send it nothing more."""
        if self.unsent > self.outbox_limit:
            self.session.fail(ProtocolError(f"more than {self.outbox_limit} bytes unsent (outbox_limit)", 1008))
            self.flush()
            self._ending()
        return 0

    # -- hooks, for what does not run per message --------------------------------------------------------------

    def _recv_decoded(self, decode):
        raise NotImplementedError

    def _send_slow(self, message, text, compress):
        raise NotImplementedError

    def _drain(self):
        raise NotImplementedError

    def _writable(self):
        raise NotImplementedError

    def _control_events(self, events):
        raise NotImplementedError

    def _handler_failed(self, exc):
        raise NotImplementedError

    def _ending(self):
        raise NotImplementedError

    def _lost(self, exc):
        raise NotImplementedError
