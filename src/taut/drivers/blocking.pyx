# cython: language_level=3, nonecheck=True
"""A session on a socket, for threads that block: what ``taut.sync`` connections are made of.

``waiting`` has what threads do together, ``outbound`` and ``inbound`` move the bytes; here is the end of a connection,
in the same order as in ``connection.Connection``, and what the keeper does for it while nobody is in a call: it reads,
so that Pings and Close frames are answered, writes what a call left behind, sends keepalive Pings and holds the
deadlines of the end.  ``survey`` tells it what to watch.

``lost`` means that the byte stream is gone; ``gone``, that the socket is closed, which the keeper does once no thread
waits for it any more.
"""

import time

from libc.math cimport INFINITY
from libc.stdint cimport uint8_t, uint64_t

from ..protocol.session cimport CLOSE_RECEIVED, CLOSE_SENT, CLOSED, FAILING, Session
from .inbound cimport Inbound
from .waiting cimport A_MESSAGE, A_TURN, LEFT, ROOM, THE_END, Expected, Keeper, seconds
from .wires cimport Wire

from ..protocol.session import cut_reason

# What the keeper is asked to do by ``survey``.
WATCH_INPUT = 1
WATCH_OUTPUT = 2
LOOK_AGAIN = 4
GONE = 8

cdef double LINGER = 1.0  # how long a failed connection stays for its peer to read the Close frame (seconds)
cdef double GRACE = 1.0  # how long unread messages may hold back the answer to a Close frame (seconds)

cdef object monotonic = time.monotonic


cdef class BlockingDriver(Inbound):
    """A session on a wire, shared by any number of threads."""

    def __cinit__(self):
        self.end_at = self.patience_at = INFINITY

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

    cdef bint _satisfied(self, int kind, uint64_t mark, Expected expected) except -1:
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
        return expected.done

    # -- the end -------------------------------------------------------------------------------------------------------

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

    def _fail(self, failure):
        """A message is refused: fail the connection, and give out nothing that came behind it."""
        self._acquire()
        try:
            while self.session.take() is not None:
                pass
            if not self.lost:
                self.session.fail(failure)
                self._flush()
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

    # -- for the keeper ------------------------------------------------------------------------------------------------

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
        self.session.receive_eof(None)
        self._abandon()
