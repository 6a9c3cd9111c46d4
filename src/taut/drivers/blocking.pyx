# cython: language_level=3, nonecheck=True
"""A session on a socket, for threads that block: what ``taut.sync`` connections are made of.

Every thread in a call does its own work.  One lock guards the session and the wire; it is held while bytes are moved,
never while anyone waits.  Among those who wait for input one is the leader: it waits for the socket, reads, and wakes
whoever has got what it waits for; the others follow, and one of them leads when the leader leaves.  A thread that has
to wait for output waits for the socket itself, and leads as well if nobody does, so that two peers that both only send
read from each other meanwhile (up to ``read_limit``).

While nobody is in a call the keeper's thread looks after the connection: it reads, so that Pings and Close frames are
answered, writes what a call left behind, sends keepalive Pings and holds the deadlines of the end.  ``survey`` tells it
what to watch.  It must not cost the calls anything: a connection in use is only looked at from time to time, and a call
tells the keeper something only where ``attended`` says that it has stopped looking.

Under the lock all of this is C, and no signal handler runs, with two exceptions where Python code does the work: TLS
and permessage-deflate.  An exception out of these, Ctrl-C above all, costs the connection where it must not go on.
"""

import socket
import threading
import time

from cpython.bytes cimport PyBytes_FromStringAndSize
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
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memmove

from ..protocol.frames cimport Output, output_release
from ..protocol.inbox cimport Fragment
from ..protocol.session cimport CLOSE_RECEIVED, CLOSE_SENT, CLOSED, FAILING, OPEN, Session
from .wires cimport MAIN_THREAD_WAIT, READABLE, WRITABLE, Wire, on_main_thread, wait_ready

from ..errors import ConcurrencyError, ConnectionClosedOK, closed_error
from ..protocol.session import cut_reason

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

cdef enum:
    SCRATCH = 1 << 16
    # Output that has left is cut off once there is this much of it.
    COMPACT = 1 << 20
    # Reads in a row, before the keeper turns to other connections.
    READS = 16

# What a thread may wait for.
cdef enum:
    A_MESSAGE
    ROOM
    LEFT
    A_PONG
    A_TURN
    THE_END

# What the keeper is asked to do by ``survey``.
WATCH_INPUT = 1
WATCH_OUTPUT = 2
LOOK_AGAIN = 4
GONE = 8

cdef double LINGER = 1.0  # how long a failed connection stays for its peer to read the Close frame (seconds)
cdef double GRACE = 1.0  # how long unread messages may hold back the answer to a Close frame (seconds)
cdef double LAST_READS = 5.0  # seconds to read what came before a write failed

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

    def __init__(self):
        self.called = []
        self.sockets = socket.socketpair()
        for sock in self.sockets:
            sock.setblocking(False)
        self.fd = self.sockets[1].fileno()

    cdef int call(self, BlockingDriver driver) except -1:
        self.called.append(driver)
        if len(self.called) == 1:
            taut_tell(self.fd)
        return 0

    @property
    def sock(self):
        """Readable once the keeper is called."""
        return self.sockets[0]

    def take(self):
        """The drivers that need to be looked at."""
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


cdef class Pong:
    """The answer to a Ping that has been sent."""

    def wait(self, timeout=None):
        """Wait for the Pong and return the round trip in seconds.

        ``timeout``: seconds, None for no limit. Raises ``TimeoutError``, and ``ConnectionClosed`` if the connection
        ended before the Pong came.
        """
        cdef BlockingDriver driver = self.connection
        cdef double limit = seconds("timeout", timeout)
        driver._acquire()
        try:
            if not driver._wait(A_PONG, 0, self, limit):
                raise TimeoutError(f"no pong within {timeout} s")
            if not self.done:
                raise closed_error(driver.session.close_info)
            return self.round_trip
        finally:
            driver._leave()

    def is_set(self):
        """Whether the Pong is here."""
        return self.done


cdef class BlockingDriver:
    """A session on a wire, shared by any number of threads."""

    def __cinit__(self):
        self.lock = PyThread_allocate_lock()
        if self.lock is NULL:
            raise MemoryError
        self.followers = []
        self.end_at = self.patience_at = INFINITY

    def __dealloc__(self):
        PyThread_free_lock(self.lock)

    def _attach(self, Wire wire, Session session, Keeper keeper, bytes early):
        """The opening handshake has succeeded; ``early``: bytes that came with the end of it."""
        cdef bytearray scratch = bytearray(early)
        self._acquire()
        try:
            self.wire = wire
            self.session = session
            self.keeper = keeper
            self.active = self.attended = True
            keeper.call(self)
            if early:
                self._ingest(<uint8_t *><char *>scratch, len(scratch))
                self._after_read()
        finally:
            self._release()

    # -- the lock ----------------------------------------------------------------------------------------------

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

    # -- output ------------------------------------------------------------------------------------------------

    cdef size_t _unsent(self) noexcept:
        return self.session.output.length - self.sent + <size_t>self.in_cipher

    cdef int _flush(self) except -1:
        """Give the kernel what it takes of the output, which stays where it is until then."""
        cdef Output *out = &self.session.output
        cdef long long took
        cdef bint over
        if self.lost or self.write_error is not None or self.wire.ended:
            return self._drop_output()
        if out.length == self.sent and self.in_cipher == 0:
            return 0
        try:
            if self.in_cipher and self.wire.push():
                self.handed_over += self.in_cipher
                self.in_cipher = 0
            while self.in_cipher == 0 and self.sent < out.length:
                took = self.wire.send(out.data + self.sent, out.length - self.sent)
                if took == 0:
                    break
                self.sent += <size_t>took
                if self.wire.idle():
                    self.handed_over += <uint64_t>took
                    if self.wire.tls is None:
                        break  # what was not taken now would not be taken at once
                else:
                    self.in_cipher = <uint64_t>took
        except OSError as exc:
            return self._write_failed(exc)
        except BaseException as exc:
            self._lose(exc)
            raise
        self._compact()
        over = self._unsent() > self.session.options.write_limit
        if over != self.blocked:
            self.blocked = over
            self.session.block_output(over)
            if not over:
                return self._flush()  # a Pong that had been put off
        if self.stream_ended:
            self._end_output()
        return self._hand_over()

    cdef int _hand_over(self) except -1:
        """What no thread waits for any more leaves through the keeper."""
        if self.senders == 0 and not self.lost and self._unsent():
            self.keeper.call(self)
        return 0

    cdef int _drop_output(self) except -1:
        self.handed_over += self._unsent()
        output_release(&self.session.output)
        self.sent = 0
        self.in_cipher = 0
        return 0

    cdef int _compact(self) except -1:
        """Give back the memory of what has left."""
        cdef Output *out = &self.session.output
        if self.sent == out.length:
            output_release(out)
            self.sent = 0
        elif self.sent >= COMPACT and self.sent >= out.length // 2:
            memmove(out.data, out.data + self.sent, out.length - self.sent)
            out.length -= self.sent
            self.sent = 0
        return 0

    cdef int _write_failed(self, object exc) except -1:
        """The peer takes nothing more; but what it sent before is still here, and read before the end."""
        self.write_error = exc
        self._drop_output()
        self._end_within(LAST_READS)
        return 0

    cdef int _message(self, message, text, compress) except -1:
        try:
            self.session.send_message(message, text, compress)
        except BaseException:
            # What the compressor was fed and nobody will see must not be referred to (RFC 7692, 7.2.1).
            if self.session.deflate is not None:
                self.session.deflate.restart()
            raise
        return 0

    def send(self, message, *, text=None, compress=None, timeout=None):
        """Send a message: str as Text, bytes-like as Binary, an iterable of these in fragments.

        ``text``: True sends bytes that are known to be UTF-8 as Text, False sends str as Binary. ``compress``: False
        leaves this message uncompressed, True compresses it whatever its size (default None: from the threshold on).
        ``timeout``: seconds, None for no limit.

        Any thread may send at any time; each message is sent whole. The message is taken once there is room for it
        (``write_limit``), and ``send`` returns when it has left, or when the time is over: what has been taken leaves
        in the background. Raises ``TimeoutError`` if it was not taken, ``ConnectionClosed`` once the connection is
        closing, ``TypeError`` for anything else than the above.
        """
        cdef double limit = seconds("timeout", timeout)
        if not isinstance(message, (str, bytes, bytearray, memoryview)) or not self._send_whole(
            message, text, compress, limit, False
        ):
            self._send_slow(message, text, compress, limit)

    cpdef bint _send_whole(self, message, text, compress, double timeout, bint in_turn) except -1:
        """Send a message, unless it has to wait for the rest of another one: whether it did."""
        cdef double deadline = INFINITY if timeout <= 0 else <double>monotonic() + timeout
        self._acquire()
        try:
            if self.blocked or self.session.phase != OPEN:
                self._room(timeout)
                if deadline != INFINITY:
                    timeout = max(deadline - <double>monotonic(), 0.0)
            if self.fragmenter != 0 and not in_turn:
                return False
            self._message(message, text, compress)
            self._let_out(timeout)
            return True
        finally:
            self._leave()

    cdef int _room(self, double timeout) except -1:
        """Wait until a message may be added; once the connection is closing, for its end, which is then told."""
        if self.blocked:
            self.senders += 1
            try:
                if not self._wait(ROOM, 0, None, timeout):
                    raise TimeoutError("there is no room for the message: the peer does not read")
            finally:
                self.senders -= 1
                self._hand_over()
        if self.session.phase == CLOSE_SENT or self.session.phase == CLOSED:
            return self._tell_end(timeout)
        return 0

    cdef int _let_out(self, double timeout) except -1:
        """Send what was added, and wait until it has left."""
        self.senders += 1
        try:
            self._flush()
            if self._unsent():
                self._wait(LEFT, self.handed_over + self._unsent(), None, timeout)
        finally:
            self.senders -= 1
            self._hand_over()
        if self.lost or self.write_error is not None:
            return self._tell_end(timeout)
        return 0

    cdef int _tell_end(self, double timeout) except -1:
        if not self._wait(THE_END, 0, None, timeout):
            raise TimeoutError("the connection is closing")
        raise closed_error(self.session.close_info)

    def _send_fragment(self, part, bint text, bint first, bint final, compress, double timeout):
        """One fragment of a message; the caller sees to it that nobody sends in between."""
        self._acquire()
        try:
            self._room(timeout)
            try:
                self.session.send_fragment(part, text, first, final, compress)
            except BaseException:
                if self.session.deflate is not None:
                    self.session.deflate.restart()
                raise
            self._let_out(timeout)
        finally:
            self._leave()

    def _begin_fragments(self, double timeout):
        """Let nobody else send messages from here on; not while another thread does the same."""
        self._acquire()
        try:
            if not self._wait(A_TURN, 0, None, timeout):
                raise TimeoutError("another message is being sent in fragments")
            if self.fragmenter:
                self._tell_end(timeout)
            self.fragmenter = PyThread_get_thread_ident()
        finally:
            self._leave()

    def _end_fragments(self):
        """Undo ``_begin_fragments``; harmless if it was interrupted before it did anything."""
        if self._is_fragmenting:
            self._acquire()
            self.fragmenter = 0
            self._wake()
            self._leave()

    @property
    def _is_fragmenting(self):
        """Whether this thread is sending a message in fragments."""
        return self.fragmenter == PyThread_get_thread_ident()

    @property
    def unsent(self):
        """Bytes that have not left for the network yet."""
        return 0 if self.lost else self._unsent()

    # -- pings -------------------------------------------------------------------------------------------------

    def _ping(self, bytes payload):
        cdef Pong pong = Pong.__new__(Pong)
        pong.connection = self
        self._acquire()
        try:
            self.session.ping(payload, monotonic())
            if self.pongs is None:
                self.pongs = {}
            self.pongs[payload] = pong
            self._flush()
        finally:
            self._leave()
        return pong

    def _pong(self, bytes payload):
        self._acquire()
        try:
            self.session.pong(payload)
            self._flush()
        finally:
            self._leave()

    def keepalive_tick(self, double now, double slack, double stalled):
        """The sweep of ``drivers.keepalive`` passes by."""
        self._acquire()
        try:
            if not self.lost:
                self.session.tick(now, slack, self._full(), stalled)
                self._flush()
                if self.session.phase == CLOSED:
                    self._lose(None)  # given up; there is no point in waiting for a peer that does not answer
        finally:
            self._release()

    # -- input -------------------------------------------------------------------------------------------------

    cdef bint _full(self) noexcept:
        """Whether reading has to wait for messages to be taken."""
        return (
            (self.stash is not None or self.session.inbox.size >= self.session.read_limit)
            and self.session.phase <= CLOSE_SENT and not self.session.dropping
        )

    cdef int _read(self) except -1:
        """Read what has arrived, once."""
        cdef uint8_t scratch[SCRATCH]
        cdef uint8_t *data
        cdef size_t size
        cdef long long got
        cdef bint direct = False
        if self.lost:
            return 0
        try:
            direct = not self.stream_ended and self.session.direct_target(&data, &size)
            if not direct:
                data, size = scratch, SCRATCH
            got = self.wire.receive(data, size)
            if got > 0:
                if direct:
                    self.session.received_direct(<size_t>got)
                elif not self.stream_ended:
                    self._ingest(data, <size_t>got)
            elif got < 0:
                return 0
            else:
                self.session.drained()  # the peer will send nothing more: answer a Close frame that waits
                self._flush()
                return self._lose(None)
        except OSError as exc:
            return self._lose(exc)
        except BaseException as exc:
            self._lose(exc)  # interrupted in the midst of TLS or inflating
            raise
        return self._after_read()

    cdef int _read_through(self) except -1:
        """Read what has arrived, and what the TLS engine holds of it, within bounds."""
        cdef int reads
        for reads in range(READS):
            self._read()
            if self.lost or not self.wire.more or self._full():
                break
        return 0

    cdef int _ingest(self, uint8_t *data, size_t size) except -1:
        cdef size_t used
        if self.stash is not None:
            self.stash += PyBytes_FromStringAndSize(<char *>data, size)
            return 0
        used = self.session.receive(data, size, monotonic() if self.session.pings is not None else 0.0)
        if used < size:
            self.stash = PyBytes_FromStringAndSize(<char *>data + used, size - used)
        return 0

    cdef int _unstash(self) except -1:
        cdef bytearray scratch = bytearray(self.stash)
        self.stash = None
        return self._ingest(<uint8_t *><char *>scratch, len(scratch))

    cdef int _after_read(self) except -1:
        if self.session.events is not None:
            self._events()
        if self.session.output.length:
            self._flush()
        if self.session.phase != OPEN:
            self._ending()
        if self.followers:
            self._wake()
        return 0

    cdef int _events(self) except -1:
        cdef Pong pong
        for _, payload, round_trip in self.session.take_events():
            pong = None if self.pongs is None else self.pongs.pop(payload, None)
            if pong is not None:
                pong.round_trip = round_trip
                pong.done = True
        return 0

    cdef int _relieve(self) except -1:
        """Go on with what had to wait, once enough has been taken."""
        if self.session.inbox.size <= self.session.read_limit // 2:
            try:
                self._unstash()
            except BaseException as exc:
                self._lose(exc)
                raise
            self._after_read()
        return 0

    cdef object _take(self, double timeout, bint parts):
        """The next message, or part of one; None when the time is over, an exception at the end."""
        cdef Session session = self.session
        cdef object message
        self._acquire()
        try:
            if self.receiving:
                raise ConcurrencyError("recv")
            if (session.streaming or session.has_fragments) and not parts:
                session.unstream(self.part_taken)
                self.part_taken = False
            if parts:
                session.stream()
            if self.stash is not None:
                self._relieve()
            if not session.inbox.count:
                self.receiving = True
                try:
                    if not self._wait(A_MESSAGE, 0, None, timeout):
                        return None
                finally:
                    self.receiving = False
            if session.inbox.count:
                message = session.pop()
                if type(message) is Fragment:
                    self.part_taken = not (<Fragment>message).final
                    if not self.part_taken:
                        session.has_fragments = False
                if self.stash is not None:
                    self._relieve()
                if self.followers:
                    self._wake()
                return message
            session.drained()
            self._flush()
            self._ending()
            raise closed_error(session.close_info)
        finally:
            self._leave()

    def recv(self, timeout=None, decode=None):
        """Receive the next message: str for Text, bytes for Binary.

        ``timeout``: seconds, None for no limit, 0 for what is there. ``decode``: True gives str, False gives bytes,
        whatever the type of the message (default None: by its type). Raises ``TimeoutError``, with nothing lost;
        ``ConnectionClosed`` at the end; ``ConcurrencyError`` if another thread is receiving.
        """
        cdef object message = self._take(seconds("timeout", timeout), False)
        if message is None:
            raise TimeoutError(f"no message within {timeout} s")
        if decode is None:
            return message
        if decode:
            return message if type(message) is str else message.decode()
        return message.encode() if type(message) is str else message

    def __iter__(self):
        """Receive messages until the connection is closed; raises ``ConnectionClosedError`` unless it ends well."""
        return self

    def __next__(self):
        try:
            return self._take(-1.0, False)
        except ConnectionClosedOK:
            raise StopIteration from None

    def _recv_part(self, timeout):
        """The next part of a message, and whether it is the last."""
        cdef object part = self._take(seconds("timeout", timeout), True)
        if part is None:
            raise TimeoutError(f"nothing more of a message within {timeout} s")
        if type(part) is Fragment:
            return (<Fragment>part).data, (<Fragment>part).final
        return part, True

    # -- waiting -----------------------------------------------------------------------------------------------

    cdef bint _satisfied(self, int kind, uint64_t mark, Pong pong) noexcept:
        if kind == A_MESSAGE:
            return self.session.inbox.count or self.session.phase > CLOSE_SENT
        if kind == THE_END:
            return self.gone
        if self.lost:
            return True
        if kind == ROOM:
            return not self.blocked or self.session.phase == CLOSE_SENT or self.session.phase == CLOSED
        if kind == LEFT:
            return self.handed_over >= mark
        if kind == A_TURN:
            return self.fragmenter == 0 or self.session.phase == CLOSE_SENT or self.session.phase == CLOSED
        return pong.done

    cdef bint _wait(self, int kind, uint64_t mark, Pong pong, double timeout) except -1:
        """Wait for what ``kind`` says, with the lock held before and after: whether it came in time."""
        cdef bint sending = kind == ROOM or kind == LEFT
        cdef bint lead, nested, late = False
        cdef unsigned long me = PyThread_get_thread_ident()
        cdef double deadline = INFINITY if timeout < 0 else <double>monotonic() + timeout
        cdef double left = -1.0
        while not self._satisfied(kind, mark, pong):
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

    # -- the end -----------------------------------------------------------------------------------------------

    def _begin_close(self, code, reason):
        """Send a Close frame, unless one has been sent, and see to it that the connection ends in time."""
        self._acquire()
        try:
            if not self.lost:
                self.session.close(code, cut_reason(reason))
                self._flush()
                if self.session.phase == CLOSE_SENT:
                    if self.session.options.close_timeout is not None:
                        self._end_within(self.session.options.close_timeout)
                    self._keep_reading()
                self._ending()
        finally:
            self._leave()

    def wait_closed(self, timeout=None):
        """Wait until the connection is closed, whoever closes it. Nothing needs to be received for it.

        ``timeout``: seconds, None for no limit. Raises ``TimeoutError``.
        """
        cdef double limit = seconds("timeout", timeout)
        self._acquire()
        try:
            if not self._wait(THE_END, 0, None, limit):
                raise TimeoutError(f"the connection is not closed after {timeout} s")
        finally:
            self._leave()

    def abort(self):
        """Drop the connection without a closing handshake; the peer sees 1006."""
        self._acquire()
        try:
            if not self.lost:
                self.session.give_up()
                self._lose(None)
        finally:
            self._leave()

    cdef int _keep_reading(self) except -1:
        """We are closing: read on, so that the peer's Close frame is seen, though nobody takes messages."""
        if not self.receiving:
            self.session.drop_unread()
        if self.stash is not None:
            self._unstash()
            self._after_read()
        return 0

    cdef int _ending(self) except -1:
        """Do what is due at the end: see ``connection.Connection``, which it follows."""
        cdef double patience = GRACE
        if self.lost:
            return 0
        if self.session.phase == CLOSE_RECEIVED or self.session.phase == FAILING:
            if self.patience_at == INFINITY:
                if self.session.options.close_timeout is not None:
                    patience = min(patience, <double>self.session.options.close_timeout)
                self.patience_at = <double>monotonic() + patience
                self.keeper.call(self)
        elif self.session.phase == CLOSED and not self.stream_ended:
            self._end_stream()
        return 0

    cdef int _end_stream(self) except -1:
        """Both Close frames were exchanged, or the connection was failed: end the byte stream (RFC 6455, 7.1.1)."""
        self.stream_ended = True
        self.stash = None
        if self.session.close_received is None:
            # Closing with unread input resets the connection, and the peer may lose the Close frame: let it read.
            self._end_within(LINGER)
        elif self.session.options.close_timeout is not None:
            self._end_within(self.session.options.close_timeout)
        self.attended = True
        self.keeper.call(self)
        return self._end_output()

    cdef int _end_output(self) except -1:
        """Once everything has left, end our direction where that is our part: a client leaves it to the server."""
        if self._unsent() or self.wire.ended or not self.stream_ended or self.lost:
            return 0
        if self.session.close_received is None:
            self.wire.end_output()
        elif not self.session.is_client:
            self.wire.end_output()
            return self._lose(None)
        return 0

    cdef int _end_within(self, double limit) except -1:
        """Drop the connection after that time at the latest; an earlier deadline stands."""
        self.end_at = min(self.end_at, <double>monotonic() + limit)
        self.attended = True
        self.keeper.call(self)
        return 0

    cdef int _lose(self, object exc) except -1:
        """The byte stream is gone: wake everyone who waits."""
        if self.lost:
            return 0
        self.lost = True
        if self.stash is not None:
            self.session.read_limit *= 4
            self._unstash()
        self.stash = None
        self.session.receive_eof(exc)
        self._drop_output()
        self.pongs = None
        self.wire.shut()
        self.attended = True
        self.keeper.call(self)
        return self._wake()

    @property
    def is_lost(self):
        """Whether the byte stream is gone."""
        return self.lost

    # -- for the keeper ----------------------------------------------------------------------------------------

    def survey(self, double now):
        """What to watch: WATCH_INPUT, WATCH_OUTPUT, LOOK_AGAIN soon, or GONE; and when to look again at the latest."""
        cdef int wishes = 0
        self._acquire()
        try:
            if not self.lost and now >= self.patience_at:
                self.patience_at = INFINITY
                self.session.drained()  # nobody takes the messages that hold the answer back: wait no longer
                self._flush()
                self._ending()
            if not self.lost and now >= self.end_at:
                self.session.give_up()
                self._lose(None)
            if self.lost:
                return (GONE if not self.waits and not self.gone else 0), None
            if self.wire.more and not self.leading and not self._full():
                self._read_through()
            if self._unsent() and not self.senders:
                wishes |= WATCH_OUTPUT
            if self.leading or self._full():
                if self.active:
                    wishes |= LOOK_AGAIN
            elif self.active and not self.stream_ended:
                wishes |= LOOK_AGAIN
            else:
                wishes |= WATCH_INPUT
            self.active = False
            self.attended = (wishes & (LOOK_AGAIN | WATCH_INPUT)) != 0
            if not self.wire.more or self.leading or self._full():
                now = min(self.end_at, self.patience_at)
            return wishes, None if now == INFINITY else now
        finally:
            self._release()

    def input_ready(self):
        """The keeper finds the socket readable: False if that is for somebody else, and it need not watch on."""
        self._acquire()
        try:
            if self.leading or self.lost or self._full():
                return False
            self._read_through()
            return not self.lost and not self._full() and not self.wire.more
        finally:
            self._release()

    def output_ready(self):
        """The keeper finds the socket writable: False if nothing more is left to be written."""
        self._acquire()
        try:
            if not self.lost:
                self._flush()
                self._end_output()
            return self._unsent() > 0 and not self.senders and not self.lost
        finally:
            self._release()

    @property
    def descriptor(self):
        """What the keeper watches."""
        return self.wire.fd

    @property
    def is_gone(self):
        """Whether the socket is closed, and the keeper has nothing to do with it any more."""
        return self.gone

    def finish(self):
        """The last act, when nobody uses the socket any more: close it, and tell those who wait for the end."""
        self._acquire()
        try:
            self.wire.close()
            self.gone = True
            self._wake()
        finally:
            self._release()

    def go_away(self):
        """The process ends: say so to the peer, and drop the connection without waiting for an answer."""
        self._acquire()
        try:
            if not self.lost:
                self.session.close(1001)
                self._flush()
                self._lose(None)
        finally:
            self._release()

    def forget(self):
        """In a forked child: the connection is the parent's, and must not be ended."""
        self.lock = PyThread_allocate_lock()
        self.lost = self.gone = True
        self.session.receive_eof(None)
        self.followers = []
        self.keeper = None
        self.wire.close()
