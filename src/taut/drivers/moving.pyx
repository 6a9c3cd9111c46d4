# cython: language_level=3, nonecheck=True
"""The middle of sending: what has waited in the outbox moves on.

``outbox.Outbox`` says what comes next; here it is framed, compressed and written, until the transport is over its limit
again.  A message larger than ``fragment_size`` leaves one fragment at a time, with room for control frames in between.

Who waits in the outbox must never be overtaken by a message sent later and with the same priority: so nothing but
control frames is written past an outbox that is not empty.  It is not empty only while ``write_paused`` (the transport
is over its limit) or ``fragmenting`` (a message is being sent in fragments that its sender makes).  Before a Close
frame it is emptied: into the transport, or, when the peer is given up, by dropping what it holds.
"""

from cpython.bytes cimport PyBytes_GET_SIZE
from libc.stdint cimport uint8_t

from ..protocol.session cimport OPEN, Session
from .outbox cimport Entry, Outbox, bytes_of
from .prepared cimport Prepared
from .writing cimport CORK_LIMIT, LARGE, Writer, payload_size

cdef extern from "Python.h":
    bint PyBytes_CheckExact(object)

cdef enum:
    RSV1 = 0x40
    FIN = 0x80


cdef class Mover(Writer):
    """Moves the waiting messages of one session on."""

    cdef Outbox _outbox(self):
        if self.outbox is None:
            self.outbox = Outbox.__new__(Outbox)
        if self.session.before_close is None:
            self.session.before_close = self._empty_outbox
        return self.outbox

    cdef size_t _unsent(self) except? 0:
        return self.buffered() + (0 if self.outbox is None else self.outbox.size)

    @property
    def unsent(self):
        """Bytes that have not left for the network yet."""
        return 0 if self.transport is None else self._unsent()

    @property
    def _is_behind(self):
        """Whether there is anything that a message sent now would have to wait for."""
        return self.write_paused or (self.outbox is not None and not self.outbox.is_empty())

    def pause_writing(self):
        self.write_paused = True
        self.session.block_output(True)

    def resume_writing(self):
        self.write_paused = False
        self.session.block_output(False)
        if self.outbox is not None:
            self.pump(False)
        self.flush()
        if not self.write_paused:
            self._writable()

    cdef int pump(self, bint everything) except -1:
        """Move on what waits, in its order, until the transport is over its limit, or ``everything``."""
        cdef Outbox outbox = self.outbox
        cdef Entry entry
        cdef size_t corked = CORK_LIMIT
        if outbox.moving or outbox.is_empty():
            return 0
        corked = min(corked, <size_t>self.session.options.write_limit)
        outbox.moving = True
        try:
            while everything or not self.write_paused:
                if outbox.current is not None:
                    self._go_on()
                elif self.fragmenting or (entry := outbox.next()) is None:
                    break
                elif entry.opcode == 0:
                    if not entry.payload.done():
                        self.fragmenting = not everything
                        entry.payload.set_result(None)
                else:
                    self._move(entry)
                if self.session.output.length >= corked:
                    self.flush()
            self.flush()
        finally:
            outbox.moving = False
        return 0

    cdef int _move(self, Entry entry) except -1:
        """Send a message that has waited."""
        cdef Session session = self.session
        cdef const uint8_t *payload = bytes_of(entry.payload)
        cdef bint in_place = not session.is_client and entry.size >= LARGE
        try:
            if entry.size > self.fragment_size:
                self._begin(entry)
            elif entry.shared is not None and not session.is_client:
                self.send_shared(entry.shared)
            elif in_place and not self._compresses(entry):
                self.write_large(FIN | entry.opcode, payload, entry.size, entry.payload)
                session.messages_sent += 1
            else:
                data = entry.payload if PyBytes_CheckExact(entry.payload) else None
                session.send_data(entry.opcode, payload, entry.size, data, entry.compress)
        except BaseException:
            self.outbox.lose(entry)
            raise
        return 0

    cdef bint _compresses(self, Entry entry) except -1:
        cdef object deflate = self.session.deflate
        if deflate is None or entry.compress is False:
            return False
        return entry.compress is True or entry.size >= <size_t>deflate.threshold

    cdef int send_shared(self, Prepared shared) except -1:
        """Send a message that is shared with other connections, as a server."""
        cdef Session session = self.session
        cdef size_t size = PyBytes_GET_SIZE(shared.payload), sent = size
        cdef bytes frame
        if session.deflate is not None and size >= <size_t>session.deflate.threshold:
            frame = shared.compressed_frame(session.deflate)
            sent = payload_size(frame)
            self.send_frame_bytes(frame)
            # The peer's window now holds what our compressor has not seen (RFC 7692, 7.2.1).
            session.deflate.passed_by(size, sent)
        else:
            self.send_frame_bytes(shared.frame())
        session.messages_sent += 1
        session.bytes_sent += sent
        return 0

    cdef int _begin(self, Entry entry) except -1:
        """Begin to send a message in fragments: what they are cut from is compressed now, as a whole."""
        cdef object deflate = self.session.deflate
        cdef object body = entry.payload
        cdef uint8_t bits = entry.opcode
        cdef size_t size = entry.size
        if self._compresses(entry):
            bits |= RSV1
            if entry.shared is not None:
                body = entry.shared.body(deflate)
                deflate.passed_by(size, PyBytes_GET_SIZE(body))
            else:
                body = deflate.compress(body if PyBytes_CheckExact(body) else body.encode())
            size = PyBytes_GET_SIZE(body)
        self.outbox.begin(entry, body, size, bits)
        return 0

    cdef int _go_on(self) except -1:
        """Send one fragment of the message that is on its way."""
        cdef Session session = self.session
        cdef Outbox outbox = self.outbox
        cdef object body = outbox.body
        cdef const uint8_t *payload = bytes_of(body) + outbox.offset
        cdef size_t size = min(self.fragment_size, outbox.body_size - outbox.offset)
        cdef uint8_t first = outbox.bits if outbox.offset == 0 else 0
        cdef bint final = outbox.offset + size == outbox.body_size
        if final:
            first |= FIN
        if session.is_client or size < LARGE:
            session.send_frame(first, payload, size)
        else:
            self.write_large(first, payload, size, body)
        outbox.advance(size)
        if final:
            session.messages_sent += 1
        return 0

    # -- turns of messages that their senders fragment ---------------------------------------------------------

    def _ask_turn(self, bint urgent):
        """Nobody else sends messages until ``end_turn``: from now on, or once the future that is returned is done."""
        if not self.fragmenting and (self.outbox is None or self.outbox.is_empty()):
            self.fragmenting = True
            return None
        future = self.loop.create_future()
        self._outbox().add_turn(future, urgent)
        return future

    def end_turn(self):
        """The fragmented message is complete, or broken off: what has waited for it moves on."""
        self.fragmenting = False
        if self.outbox is None or self.write_paused:
            return
        if not self.outbox.is_empty():
            self.pump(False)
        elif self.session.phase == OPEN:
            return  # nobody waits; but what has waited for a message that was broken off was dropped
        if not self.write_paused:
            self._writable()

    def _give_back_turn(self, future):
        """The turn was asked for in vain."""
        if not self.outbox.forget_turn(future) and self.fragmenting and not future.cancelled():
            self.end_turn()

    # -- the end -----------------------------------------------------------------------------------------------

    def _empty_outbox(self, bint deliver):
        """A Close frame is about to be written: what waits leaves before it, or never."""
        if deliver and self.transport is not None:
            self.pump(True)
        self.outbox.discard()

    cdef int forget_outbox(self) except -1:
        """The connection is lost, and with it what waits."""
        self.session.before_close = None
        if self.outbox is not None:
            self.outbox.discard()
        return 0

    # -- a hook ------------------------------------------------------------------------------------------------

    def _writable(self):
        raise NotImplementedError
