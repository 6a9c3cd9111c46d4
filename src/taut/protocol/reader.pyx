# cython: language_level=3
"""The reading half of a connection: from bytes to whole messages, RFC 6455, sections 5.2 to 5.6 and 8.1.

``receive`` takes what the network brought, in pieces of any size.  Messages go to the inbox; control frames and
violations go to the two hooks that ``session.Session`` fills in.  Payload is looked at as it arrives: nothing waits for
the end of a frame, so that invalid text and oversized messages are refused at the first byte that proves them.

A reader that wants a message in parts (``stream``) finds ``Fragment`` objects in the inbox while it lasts; one that
wants every long message like that (``stream_all``) never makes this side hold more than the read limit and a read.
Once ``ended`` is set, everything that arrives is ignored.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy

from .budgets cimport BYTES, CONTROL_FRAMES, MESSAGES, SMALL_FRAGMENTS, budget_spend, budgets_begin, budgets_refill
from .frames cimport Assembly, decode_binary, decode_text
from .inbox cimport MESSAGE_OVERHEAD, Fragment, inbox_begin, inbox_clear, inbox_newest, inbox_pop, inbox_push
from .kernels cimport taut_head, taut_mask, taut_unpack_head
from .noting cimport FrameNotes

from ..errors import PayloadTooBig, ProtocolError

cdef enum:
    FIN = 0x80
    RSV1 = 0x40
    RSV23 = 0x30
    CONTROL = 0x08
    OP_CONT = 0x0
    OP_TEXT = 0x1
    OP_BINARY = 0x2
    OP_PONG = 0xA
    MAX_CONTROL = 125
    # Below this, a frame cut by the end of a read is gathered in the shared buffer like any other.
    DIRECT_READ = 1 << 14
    # Below this, a fragment costs more to read than it brings.
    SMALL_FRAGMENT = 64
    # How much is inflated at a time for a reader that takes everything in parts: up to a thousand times as much.
    INFLATE_STEP = 1 << 12

cdef uint64_t NO_LIMIT = <uint64_t>-1


cdef class FrameReader(FrameNotes):
    """Reads frames within the limits of ``options``; ``client`` tells the role, ``deflate`` inflates or is None."""

    def __cinit__(self):
        inbox_begin(&self.inbox)

    def __init__(self, options, bint client, deflate, double now=0.0):
        self.is_client = client
        self.deflate = deflate
        self._limit(options)
        budgets_begin(&self.budgets, options.rate_limits, now)

    def __dealloc__(self):
        inbox_clear(&self.inbox)

    cdef int _limit(self, object options) except -1:
        """Read within these limits from the next frame on."""
        self.max_size = NO_LIMIT if options.max_size is None else options.max_size
        self.max_frame_size = NO_LIMIT if options.max_frame_size is None else options.max_frame_size
        self.max_fragments = NO_LIMIT if options.max_fragments is None else options.max_fragments
        self.read_limit = options.read_limit
        self.strict_pongs = options.strict_pongs
        return 0

    @property
    def in_progress(self):
        """Whether some of a message is here, and not yet all of it."""
        return self.in_message

    cdef int _control(self, uint8_t opcode, bytes payload, double now) except -1:
        """A control frame has arrived."""
        raise NotImplementedError

    cdef int _fail(self, object exc) except -1:
        """The peer broke the protocol: ``exc`` is a ProtocolError."""
        raise NotImplementedError

    cdef size_t receive(self, uint8_t *data, size_t size, double now) except? -1:
        """Read frames from data, which may be overwritten, and return how many bytes were used.

        ``now``: of the clock that ``budgets`` fill by; 0 where it was not asked, because nothing was ``spent``.

        Fewer than ``size`` are used only when the inbox holds ``read_limit`` bytes: offer the rest again once
        messages have been taken.  After a Close frame or a violation everything is used, and ignored.
        """
        if size and not self.strict_pongs:
            self.alive = True
        self.bytes_received += size
        if now != 0.0:
            budgets_refill(&self.budgets, now)
        try:
            return self._receive(data, size, now)
        except ProtocolError as exc:
            self._fail(exc)
        except UnicodeDecodeError:
            self._fail(ProtocolError("invalid UTF-8 in a text message", 1007))
        except MemoryError:
            self._fail(ProtocolError("no memory for a message of this size", 1009))
        return size

    cdef size_t _receive(self, uint8_t *data, size_t size, double now) except? -1:
        cdef size_t used = 0, step, held
        while used < size:
            if self.ended:
                break
            if not self.in_frame:
                if self.inbox.size >= self.read_limit and not self.dropping:
                    self.bytes_received -= size - used
                    return used
                used += self._read_head(data + used, size - used)
                if not self.in_frame or (used == size and self.frame_left):
                    break
            step = size - used
            if step > self.frame_left:
                step = <size_t>self.frame_left
            if self.first & CONTROL:
                self._control_payload(data + used, step, now)
            elif self.streams_all and self.compressed and step:
                held = self.inbox.size + (self.assembly.length if self.assembly is not None else 0)
                if held >= self.read_limit and not self.dropping:
                    self._push_rest()
                    self.bytes_received -= size - used
                    return used
                if step > INFLATE_STEP:
                    step = INFLATE_STEP
                self._payload(data + used, step)
            else:
                self._payload(data + used, step)
            used += step
        self._push_rest()
        return size

    cdef size_t _read_head(self, const uint8_t *data, size_t size) except? -1:
        """Read a frame's head, which may arrive in pieces, and return how many bytes of data belong to it."""
        cdef taut_head head
        cdef size_t need, used = 0
        if self.head_size == 0:
            need = taut_unpack_head(data, size, &head)
            if need:
                memcpy(self.head, data, size)
                self.head_size = <uint8_t>size
                return size
            self._begin_frame(&head)
            return head.size
        while True:
            need = taut_unpack_head(self.head, self.head_size, &head)
            if need == 0:
                self.head_size = 0
                self._begin_frame(&head)
                return used
            while self.head_size < need:
                if used == size:
                    return used
                self.head[self.head_size] = data[used]
                self.head_size += 1
                used += 1

    cdef int _begin_frame(self, taut_head *head) except -1:
        """Check a frame's head against everything that RFC 6455, 5.2 to 5.5 asks of it, and the limits."""
        cdef uint8_t opcode = head.first & 0x0F
        if head.first & RSV23:
            raise ProtocolError("reserved bits are set")
        if head.masked == self.is_client:
            raise ProtocolError("a server's frame is masked" if self.is_client else "a client's frame is not masked")
        if head.length >> 63:
            raise ProtocolError("the most significant bit of a 64-bit length is set")
        if not head.minimal:
            raise ProtocolError("a frame's length is not in its shortest form")
        if opcode & CONTROL:
            if opcode > OP_PONG:
                raise ProtocolError(f"reserved opcode {opcode:#x}")
            if not head.first & FIN:
                raise ProtocolError("a control frame is fragmented")
            if head.first & RSV1:
                raise ProtocolError("reserved bits are set")
            if head.length > MAX_CONTROL:
                raise ProtocolError("a control frame is longer than 125 bytes")
            budget_spend(&self.budgets, CONTROL_FRAMES, 1)
        else:
            self._begin_data_frame(head, opcode)
        if self.budgets.metered:
            budget_spend(&self.budgets, BYTES, <double>head.length + head.size)
            if opcode == OP_TEXT or opcode == OP_BINARY:
                budget_spend(&self.budgets, MESSAGES, 1)
        self.first = head.first
        self.key = head.key
        self.frame_size = self.frame_left = head.length
        self.in_frame = True
        return 0

    cdef int _begin_data_frame(self, taut_head *head, uint8_t opcode) except -1:
        if opcode > OP_BINARY:
            raise ProtocolError(f"reserved opcode {opcode:#x}")
        if head.length > self.max_frame_size:
            raise PayloadTooBig(head.length, self.max_frame_size, "max_frame_size")
        if opcode == OP_CONT:
            if not self.in_message:
                raise ProtocolError("a continuation frame without a message to continue")
            if head.first & RSV1:
                raise ProtocolError("reserved bits are set")
            if head.length < SMALL_FRAGMENT:
                budget_spend(&self.budgets, SMALL_FRAGMENTS, 1)
            self.fragments += 1
            if self.fragments > self.max_fragments:
                raise ProtocolError(f"a message has more than {self.max_fragments} fragments (max_fragments)", 1009)
        else:
            if self.in_message:
                raise ProtocolError("a new message begins before the last one has ended")
            if head.first & RSV1 and self.deflate is None:
                raise ProtocolError("reserved bits are set")
            self.compressed = (head.first & RSV1) != 0
            if not head.first & FIN and head.length < SMALL_FRAGMENT:
                budget_spend(&self.budgets, SMALL_FRAGMENTS, 1)
            self.in_message = True
            self.opcode = opcode
            self.message_size = 0
            self.fragments = 1
        if not self.compressed:
            # Both are below 2**63; the limit may have become lower than what is here already.
            if self.message_size + head.length > self.max_size:
                raise PayloadTooBig(self.message_size + head.length, self.max_size)
            self.message_size += head.length
        return 0

    cdef int _payload(self, uint8_t *data, size_t size) except -1:
        """Take the next ``size`` bytes of a data frame's payload; they end the frame if nothing is left."""
        cdef size_t offset
        cdef bint final
        if (
            size == self.frame_size and self.fragments == 1 and self.first & FIN
            and not self.streaming and self.assembly is None
        ):
            return self._whole_message(data, size)
        if self.streams_all:
            self.streaming = True
        offset = <size_t>((self.frame_size - self.frame_left) & 3)
        if self.assembly is None:
            self.assembly = Assembly(self.opcode == OP_TEXT)
            if not self.compressed and self.first & FIN and not self.streaming:
                self.assembly.expect(<size_t>self.frame_size)
        self.frame_left -= size
        if self.compressed:
            if size and not self.is_client:
                taut_mask(data, data, size, self.key, offset)
            final = self.frame_left == 0 and (self.first & FIN) != 0
            self._inflate(data, size, final)
        else:
            self.assembly.append(data, size, not self.is_client, self.key, offset)
        if self.frame_left == 0:
            self._end_of_frame()
        return 0

    cdef int _whole_message(self, uint8_t *data, size_t size) except -1:
        """The common case: a message in one frame, all of it at hand."""
        cdef object message
        cdef object limit
        if self.observer is not None:
            self.note_frame(False, self.first, self.frame_size, None)
        self.in_frame = self.in_message = False
        self.frame_left = 0
        if not self.compressed:
            if self.opcode == OP_TEXT:
                message = decode_text(data, size, not self.is_client, self.key)
            else:
                message = decode_binary(data, size, not self.is_client, self.key)
        else:
            limit = None if self.max_size == NO_LIMIT else self.max_size
            message = self.deflate.decompress(decode_binary(data, size, not self.is_client, self.key), limit, True)
            if self.opcode == OP_TEXT:
                message = PyUnicode_DecodeUTF8(PyBytes_AS_STRING(message), PyBytes_GET_SIZE(message), NULL)
        self.messages_received += 1
        return self._push(message)

    cdef int _end_of_frame(self) except -1:
        if self.observer is not None:
            self.note_frame(False, self.first, self.frame_size, None)
        self.in_frame = False
        if not self.first & FIN:
            return 0
        self.in_message = False
        self.messages_received += 1
        if self.streaming or self.in_part:
            return self._push_part(True)
        cdef Assembly assembly = self.assembly
        self.assembly = None
        cdef object message = assembly.take(True)
        return self._push(message)

    cdef int _push_part(self, bint final) except -1:
        """Hand over what has been assembled so far to a streaming reader."""
        cdef object data
        cdef bint discarded = self.discarding
        if self.assembly is None:
            self.assembly = Assembly(self.opcode == OP_TEXT)
        data = self.assembly.take(final)
        if final:
            self.assembly = None
            self.in_part = self.streaming = self.discarding = False
        elif not data:
            return 0
        else:
            self.in_part = True
        if not discarded:
            self.has_fragments = True
            self._push(Fragment(data, final))
        return 0

    cdef int _push_rest(self) except -1:
        """Let a streaming reader have what it can, before it waits or learns of the end."""
        if self.streaming and self.assembly is not None and self.assembly.length:
            self._push_part(False)
        return 0

    cdef int _inflate(self, uint8_t *data, size_t size, bint final) except -1:
        cdef object limit = None
        cdef bytes part
        if self.max_size != NO_LIMIT:  # which may have become lower than what is here already
            limit = self.max_size - self.message_size if self.max_size > self.message_size else 0
        try:
            part = self.deflate.decompress(PyBytes_FromStringAndSize(<char *>data, size), limit, final)
        except PayloadTooBig as exc:
            raise PayloadTooBig(self.message_size + exc.size, self.max_size) from None
        self.message_size += <uint64_t>PyBytes_GET_SIZE(part)
        self.assembly.append(<const uint8_t *>PyBytes_AS_STRING(part), PyBytes_GET_SIZE(part), False, 0, 0)
        return 0

    cdef bint direct_target(self, uint8_t **data, size_t *size) noexcept:
        """Where the rest of a large message may be read to without a copy; False if there is no such place."""
        if (
            not self.in_frame or self.frame_left < DIRECT_READ or self.first & CONTROL or self.assembly is None
            or not self.assembly.exact or self.streaming or self.ended
        ):
            return False
        data[0] = self.assembly.data + self.assembly.length
        size[0] = <size_t>self.frame_left
        return True

    cdef int received_direct(self, size_t size) except -1:
        """``size`` bytes were read to ``direct_target``."""
        cdef size_t offset = <size_t>((self.frame_size - self.frame_left) & 3)
        if size and not self.strict_pongs:
            self.alive = True
        self.bytes_received += size
        try:
            self.frame_left -= size
            self.assembly.append_in_place(size, not self.is_client, self.key, offset)
            if self.frame_left == 0:
                self._end_of_frame()
        except ProtocolError as exc:
            self._fail(exc)
        except MemoryError:
            self._fail(ProtocolError("no memory for a message of this size", 1009))
        return 0

    # -- the inbox ---------------------------------------------------------------------------------------------

    cdef int _push(self, object message) except -1:
        if self.dropping and self.inbox.size >= self.read_limit:
            return 0  # we are leaving, and nobody reads: only the peer's Close frame still matters
        return inbox_push(&self.inbox, message)

    cdef object pop(self):
        """The oldest message; only when ``inbox.count`` is not zero."""
        return inbox_pop(&self.inbox)

    cdef object newest(self):
        """The message that arrived last; only when ``inbox.count`` is not zero."""
        return inbox_newest(&self.inbox)

    cdef void drop_inbox(self) noexcept:
        """Forget every message that has not been taken."""
        inbox_clear(&self.inbox)

    def take(self):
        """The oldest message that has not been taken, None if there is none; a Fragment if it was streamed."""
        return self.pop() if self.inbox.count else None

    def __len__(self):
        return self.inbox.count

    @property
    def unread(self):
        """The bytes of messages that were received and not yet taken."""
        return self.inbox.size - self.inbox.count * MESSAGE_OVERHEAD

    @property
    def unread_peak(self):
        """The most bytes that received messages have held at a time, with what each counts for beside its bytes."""
        return self.inbox.peak

    def stream(self):
        """Deliver the message that is arriving, or the next one, in parts (``Fragment``) as they come."""
        if self.inbox.count == 0 and not self.streaming:
            self.streaming = True
            self._push_rest()

    def stream_all(self):
        """From now on deliver every message that is not at hand at once in parts (``Fragment``), as they come."""
        self.streams_all = True
        if self.assembly is not None:
            self.streaming = True
            self._push_rest()

    def drop_unread(self):
        """Nobody will take messages any more: keep no more than ``read_limit`` bytes of what still arrives."""
        self.dropping = True

    def unstream(self, bint taken):
        """Stop streaming: forget the rest of the message if a part of it was ``taken``, else deliver it whole."""
        cdef list waiting = [], parts = []
        cdef bint final = False
        cdef Assembly rest
        while self.inbox.count:
            waiting.append(self.pop())
        while waiting and type(waiting[0]) is Fragment and not final:
            final = (<Fragment>waiting[0]).final
            parts.append((<Fragment>waiting.pop(0)).data)
        self.has_fragments = False
        if taken:
            self.discarding = self.in_part and not final
        elif final:
            waiting.insert(0, "".join(parts) if type(parts[0]) is str else b"".join(parts))
        elif parts:
            rest, self.assembly = self.assembly, Assembly(self.opcode == OP_TEXT)
            joined = "".join(parts).encode() if self.opcode == OP_TEXT else b"".join(parts)
            self.assembly.append(<const uint8_t *><char *>joined, len(joined), False, 0, 0)
            if rest is not None:
                self.assembly.append(rest.data, rest.length, False, 0, 0)
        if not self.discarding:
            self.streaming = self.in_part = False
        for message in waiting:
            self._push(message)

    def receive_data(self, data, double now=0.0):
        """Feed bytes from the network and return how many were used; see ``receive``."""
        cdef bytearray scratch = bytearray(data)
        return self.receive(<uint8_t *><char *>scratch, len(scratch), now)

    cdef int _control_payload(self, uint8_t *data, size_t size, double now) except -1:
        cdef size_t offset = <size_t>((self.frame_size - self.frame_left) & 3)
        cdef bytes payload
        if size and not self.is_client:
            taut_mask(data, data, size, self.key, offset)
        self.frame_left -= size
        if self.frame_left:
            if self.control is None:
                self.control = bytearray()
            self.control += PyBytes_FromStringAndSize(<char *>data, size)
            return 0
        payload = PyBytes_FromStringAndSize(<char *>data, size)
        if self.control is not None:
            payload = bytes(self.control) + payload
            self.control = None
        if self.observer is not None:
            self.note_frame(False, self.first, self.frame_size, payload)
        self.in_frame = False
        return self._control(self.first & 0x0F, payload, now)
