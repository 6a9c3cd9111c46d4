# cython: language_level=3, nonecheck=True
"""The receiving half of a connection for threads, and Pings, whose answers are received.

Whoever leads reads, and what arrives goes to the session at once, whoever it is for.  When ``read_limit`` is reached
nobody reads until messages have been taken; what had been read by then is the ``stash``.
"""

import time

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t

from ..protocol.inbox cimport Fragment
from ..protocol.session cimport CLOSE_SENT, OPEN, Session
from .outbound cimport Outbound
from .waiting cimport A_MESSAGE, A_PONG, Expected, seconds

from ..errors import ConcurrencyError, ConnectionClosedOK, closed_error

cdef enum:
    SCRATCH = 1 << 16
    # Reads in a row, before the keeper turns to other connections.
    READS = 16

cdef object monotonic = time.monotonic


cdef class Pong(Expected):
    """The answer to a Ping that has been sent."""

    def wait(self, timeout=None):
        """Wait for the Pong and return the round trip in seconds.

        ``timeout``: seconds, None for no limit. Raises ``TimeoutError``, and ``ConnectionClosed`` if the connection
        ended before the Pong came.
        """
        cdef Inbound connection = self.connection
        cdef double limit = seconds("timeout", timeout)
        connection._acquire()
        try:
            if not connection._wait(A_PONG, 0, self, limit):
                raise TimeoutError(f"no pong within {timeout} s")
            if not self.done:
                raise closed_error(connection.session.close_info)
            return self.round_trip
        finally:
            connection._leave()

    def is_set(self):
        """Whether the Pong is here."""
        return self.done


cdef class Inbound(Outbound):
    """Receives the messages of one session."""

    cdef bint _full(self) except -1:
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
        cdef int _reads
        for _reads in range(READS):
            self._read()
            if self.lost or not self.wire.more or self._full():
                break
        return 0

    cdef int _ingest(self, uint8_t *data, size_t size) except -1:
        cdef double now = 0.0
        cdef size_t used
        if self.stash is not None:
            self.stash += PyBytes_FromStringAndSize(<char *>data, size)
            return 0
        if self.session.pings is not None or self.session.budgets.spent:
            now = monotonic()
        used = self.session.receive(data, size, now)
        if now == 0.0 and self.session.budgets.spent:
            self.session.budgets.now = monotonic()
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

    # -- pings ---------------------------------------------------------------------------------------------------------

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

    # -- hook, for the end -------------------------------------------------------------------------------------

    cdef int _ending(self) except -1:
        raise NotImplementedError
