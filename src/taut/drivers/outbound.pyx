# cython: language_level=3, nonecheck=True
"""The sending half of a connection for threads.

Output stays in the session until the kernel takes it; ``sent`` tells how much of it has left already.  Who adds a
message waits until it has left; what nobody waits for leaves through the keeper.

Under the lock this is C, and no signal handler runs, but for TLS and permessage-deflate, where Python code does the
work: an exception out of these, Ctrl-C above all, costs the connection where it must not go on.
"""

import time

from cpython.pythread cimport PyThread_get_thread_ident
from libc.math cimport INFINITY
from libc.stdint cimport uint64_t
from libc.string cimport memmove

from ..protocol.frames cimport Output, output_release
from ..protocol.session cimport CLOSE_SENT, CLOSED, OPEN
from .waiting cimport A_TURN, LEFT, ROOM, THE_END, Shared, seconds

from ..errors import closed_error

cdef enum:
    # Output that has left is cut off once there is this much of it.
    COMPACT = 1 << 20

cdef double LAST_READS = 5.0  # seconds to read what came before a write failed

cdef object monotonic = time.monotonic


cdef class Outbound(Shared):
    """Sends the messages of one session."""

    cdef size_t _unsent(self) except? 0:
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

    # -- hooks, for the end ------------------------------------------------------------------------------------

    cdef int _end_within(self, double limit) except -1:
        raise NotImplementedError

    cdef int _end_output(self) except -1:
        raise NotImplementedError

    cdef int _lose(self, object exc) except -1:
        raise NotImplementedError

    def _send_slow(self, message, text, compress, timeout):
        raise NotImplementedError
