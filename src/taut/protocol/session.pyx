# cython: language_level=3
"""One WebSocket connection after its handshake, as a state machine: RFC 6455, sections 5 to 7.

A driver feeds it bytes with ``receive`` and takes whole messages from its inbox; what is to be sent accumulates in its
output, which the driver takes.  The time and the source of masking keys are arguments: there is no clock, no socket and
no random source in here.

What ends a connection never overtakes what came before it: a Close frame or a protocol violation that arrives behind
messages is answered only once those messages have been taken (``drained``), so that what the application answers to
them leaves before the Close frame.  From that moment on no further input is read.

Legality is one table, ``TRANSITIONS``: where the connection stands, what happens, where it stands then.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.memoryview cimport PyMemoryView_FromMemory
from cpython.ref cimport Py_INCREF, PyObject
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from .frames cimport (
    Assembly,
    MaskPool,
    decode_binary,
    decode_text,
    output_frame,
    output_release,
)
from .kernels cimport taut_head, taut_mask, taut_unpack_head

from ..errors import PayloadTooBig, ProtocolError, closed_error
from ..types import CloseInfo, Initiator

cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL
    bint PyUnicode_Check(object)
    bint PyUnicode_CheckExact(object)
    bint PyBytes_CheckExact(object)
    Py_ssize_t PyUnicode_GET_LENGTH(object)
    int PyUnicode_KIND(object)
    void Py_DECREF(PyObject *)
    int PyBUF_READ

cdef enum:
    FIN = 0x80
    RSV1 = 0x40
    RSV23 = 0x30
    CONTROL = 0x08
    OP_CONT = 0x0
    OP_TEXT = 0x1
    OP_BINARY = 0x2
    OP_CLOSE = 0x8
    OP_PING = 0x9
    OP_PONG = 0xA
    MAX_CONTROL = 125
    # Below this, a frame cut by the end of a read is gathered in the shared buffer like any other.
    DIRECT_READ = 1 << 14
    # What a message counts for beside its bytes, so that a flood of empty ones reaches the read limit too.
    MESSAGE_OVERHEAD = 16

cdef uint64_t NO_LIMIT = <uint64_t>-1

cdef enum Event:
    CLOSES
    PEER_CLOSES
    FAILS
    DRAINS
    LOSES

PHASES = ("OPEN", "CLOSE_SENT", "CLOSE_RECEIVED", "FAILING", "CLOSED")
EVENTS = ("this side closes", "the peer closes", "the peer breaks the protocol", "the inbox is empty", "bytes end")

# Rows: the phase; columns: the event; cells: the next phase (RFC 6455, 7.1).
TRANSITIONS = {
    # phase:        CLOSES          PEER_CLOSES     FAILS           DRAINS          LOSES
    OPEN:           (CLOSE_SENT,    CLOSE_RECEIVED, FAILING,        OPEN,           CLOSED),
    CLOSE_SENT:     (CLOSE_SENT,    CLOSED,         CLOSED,         CLOSE_SENT,     CLOSED),
    CLOSE_RECEIVED: (CLOSED,        CLOSE_RECEIVED, CLOSE_RECEIVED, CLOSED,         CLOSED),
    FAILING:        (CLOSED,        FAILING,        FAILING,        CLOSED,         CLOSED),
    CLOSED:         (CLOSED,        CLOSED,         CLOSED,         CLOSED,         CLOSED),
}


cdef class Fragment:
    """A part of a message, received while the application streams: str or bytes, and whether it is the last."""

    def __init__(self, data, bint final):
        self.data = data
        self.final = final


cpdef str cut_reason(str reason):
    """A close reason of at most 123 bytes of UTF-8, cut on a character boundary (RFC 6455, 5.5)."""
    data = reason.encode("utf-8", "replace")
    if len(data) <= MAX_CONTROL - 2:
        return data.decode()
    return data[: MAX_CONTROL - 2].decode("utf-8", "ignore")


cpdef bint valid_close_code(int code):
    """Whether a Close frame may carry this code (RFC 6455, 7.4; IANA's registry for 1012 to 1014)."""
    return 3000 <= code <= 4999 or (1000 <= code <= 1014 and code not in (1004, 1005, 1006))


cdef size_t message_weight(object message) noexcept:
    """The memory a message holds, as counted against the read limit."""
    if PyUnicode_CheckExact(message):
        return PyUnicode_GET_LENGTH(message) * PyUnicode_KIND(message) + MESSAGE_OVERHEAD
    if PyBytes_CheckExact(message):
        return PyBytes_GET_SIZE(message) + MESSAGE_OVERHEAD
    return message_weight((<Fragment>message).data)


cdef class Session:
    """The protocol state of one open connection.

    ``options`` is a ``ConnectionOptions``; ``client`` tells the role; ``masks`` is a ``MaskPool`` (clients only);
    ``deflate`` is the negotiated ``Deflate`` or None; ``now`` is the time in seconds of a monotonic clock.
    """

    def __cinit__(self):
        self.inbox.slots = self.inbox.inline_slots
        self.inbox.capacity = INBOX_INLINE

    def __init__(self, options, *, bint client, MaskPool masks=None, deflate=None, double now=0.0):
        if client and masks is None:
            raise ValueError("a client needs a source of masking keys (masks)")
        self.is_client = client
        self.options = options
        self.masks = masks
        self.deflate = deflate
        self.max_size = NO_LIMIT if options.max_size is None else options.max_size
        self.max_frame_size = NO_LIMIT if options.max_frame_size is None else options.max_frame_size
        self.max_fragments = NO_LIMIT if options.max_fragments is None else options.max_fragments
        self.read_limit = options.read_limit
        self.strict_pongs = options.strict_pongs
        self.last_seen = now
        self.ping_sent = -1.0

    def __dealloc__(self):
        output_release(&self.output)
        self.drop_inbox()

    # -- what came in ------------------------------------------------------------------------------------------

    cdef size_t receive(self, uint8_t *data, size_t size, double now) except? -1:
        """Read frames from data, which may be overwritten, and return how many bytes were used.

        Fewer than ``size`` are used only when the inbox holds ``read_limit`` bytes: offer the rest again once
        messages have been taken.  After a Close frame or a violation everything is used, and ignored.
        """
        if size and not self.strict_pongs:
            self.alive = True
        self.bytes_received += size
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
        cdef size_t used = 0, step
        while used < size:
            if self.phase > CLOSE_SENT:
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
        else:
            self._begin_data_frame(head, opcode)
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
            self.fragments += 1
            if self.fragments > self.max_fragments:
                raise ProtocolError(f"a message has more than {self.max_fragments} fragments (max_fragments)", 1009)
        else:
            if self.in_message:
                raise ProtocolError("a new message begins before the last one has ended")
            if head.first & RSV1 and self.deflate is None:
                raise ProtocolError("reserved bits are set")
            self.compressed = (head.first & RSV1) != 0
            self.in_message = True
            self.opcode = opcode
            self.message_size = 0
            self.fragments = 1
        if not self.compressed:
            if self.max_size - self.message_size < head.length:
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
        return self._push(message, message_weight(message))

    cdef int _end_of_frame(self) except -1:
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
        return self._push(message, message_weight(message))

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
            self._push(Fragment(data, final), message_weight(data))
        return 0

    cdef int _push_rest(self) except -1:
        """Let a streaming reader have what it can, before it waits or learns of the end."""
        if self.streaming and self.assembly is not None and self.assembly.length:
            self._push_part(False)
        return 0

    cdef int _inflate(self, uint8_t *data, size_t size, bint final) except -1:
        cdef object limit = None if self.max_size == NO_LIMIT else self.max_size - self.message_size
        cdef bytes part
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
            or not self.assembly.exact or self.streaming or self.phase > CLOSE_SENT
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

    cdef int _push(self, object message, size_t size) except -1:
        cdef Inbox *inbox = &self.inbox
        cdef PyObject **slots
        cdef size_t i, capacity
        if self.dropping and inbox.size >= self.read_limit:
            return 0  # we are leaving, and nobody reads: only the peer's Close frame still matters
        if inbox.count == inbox.capacity:
            capacity = inbox.capacity * 2 if inbox.capacity > INBOX_INLINE else 16
            slots = <PyObject **>malloc(capacity * sizeof(PyObject *))
            if slots is NULL:
                raise MemoryError
            for i in range(inbox.count):
                slots[i] = inbox.slots[(inbox.first + i) % inbox.capacity]
            if inbox.slots != inbox.inline_slots:
                free(inbox.slots)
            inbox.slots = slots
            inbox.capacity = capacity
            inbox.first = 0
        i = inbox.first + inbox.count
        if i >= inbox.capacity:
            i -= inbox.capacity
        Py_INCREF(message)
        inbox.slots[i] = <PyObject *>message
        inbox.count += 1
        inbox.size += size
        return 0

    cdef object pop(self):
        """The oldest message; only when ``inbox.count`` is not zero."""
        cdef Inbox *inbox = &self.inbox
        cdef PyObject *slot = inbox.slots[inbox.first]
        cdef object message = <object>slot
        Py_DECREF(slot)
        inbox.size -= message_weight(message)
        inbox.count -= 1
        inbox.first += 1
        if inbox.count == 0:
            inbox.first = 0
            if inbox.slots != inbox.inline_slots:
                free(inbox.slots)
                inbox.slots = inbox.inline_slots
                inbox.capacity = INBOX_INLINE
        elif inbox.first == inbox.capacity:
            inbox.first = 0
        return message

    cdef object newest(self):
        """The message that arrived last; only when ``inbox.count`` is not zero."""
        cdef size_t i = self.inbox.first + self.inbox.count - 1
        return <object>self.inbox.slots[i if i < self.inbox.capacity else i - self.inbox.capacity]

    cdef void drop_inbox(self) noexcept:
        """Forget every message that has not been taken."""
        while self.inbox.count:
            self.pop()

    def take(self):
        """The oldest message that has not been taken, None if there is none; a Fragment if it was streamed."""
        return self.pop() if self.inbox.count else None

    def __len__(self):
        return self.inbox.count

    @property
    def unread(self):
        """The bytes of messages that were received and not yet taken."""
        return self.inbox.size - self.inbox.count * MESSAGE_OVERHEAD

    def stream(self):
        """Deliver the message that is arriving, or the next one, in parts (``Fragment``) as they come."""
        if self.inbox.count == 0 and not self.streaming:
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
            self._push(message, message_weight(message))

    def receive_data(self, data, double now=0.0):
        """Feed bytes from the network and return how many were used; see ``receive``."""
        cdef bytearray scratch = bytearray(data)
        return self.receive(<uint8_t *><char *>scratch, len(scratch), now)

    def receive_eof(self, cause=None):
        """The byte stream has ended: without Close frames this is 1006 (RFC 6455, 7.1.5)."""
        if self.phase != CLOSED:
            if self.cause is None:
                self.cause = cause
            if self.initiator is None:
                self.initiator = Initiator.NETWORK
            self._move(LOSES)

    def give_up(self):
        """This side is about to drop the byte stream without a Close frame."""
        if self.initiator is None:
            self.initiator = Initiator.LOCAL

    # -- control frames ----------------------------------------------------------------------------------------

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
        self.in_frame = False
        return self._control(self.first & 0x0F, payload, now)

    cdef int _control(self, uint8_t opcode, bytes payload, double now) except -1:
        if opcode == OP_CLOSE:
            return self._close_frame(payload)
        if opcode == OP_PONG:
            return self._pong(payload, now)
        if self.phase == OPEN:
            if self.output_blocked:
                # Only the most recent Ping needs an answer (RFC 6455, 5.5.3), so none can pile up.
                self.deferred_pong = payload
            else:
                self.send_frame(FIN | OP_PONG, <const uint8_t *>PyBytes_AS_STRING(payload), PyBytes_GET_SIZE(payload))
        if self.wants_control:
            self._tell(OP_PING, payload, -1.0)
        return 0

    cdef int _pong(self, bytes payload, double now) except -1:
        """A Pong answers the Ping of the same payload, and all that were sent before it (RFC 6455, 5.5.3)."""
        self.alive = True
        if self.pings is not None and payload in self.pings:
            for sent in list(self.pings):
                round_trip = now - self.pings.pop(sent)
                if sent == payload:
                    self.latency = round_trip
                self._tell(OP_PONG, sent, round_trip)
                if sent == payload:
                    break
            if not self.pings:
                self.pings = None
        elif self.wants_control:
            self._tell(OP_PONG, payload, -1.0)
        return 0

    cdef int _tell(self, int opcode, bytes payload, double round_trip) except -1:
        if self.events is None:
            self.events = []
        self.events.append((opcode, payload, round_trip))
        return 0

    def take_events(self):
        """Control frames since the last call: (opcode, payload, round trip in seconds, -1 where unknown)."""
        events, self.events = self.events, None
        return events or []

    def observe_control(self, bint wanted):
        """Whether Pings, and Pongs that answer none of ours, are worth an event."""
        self.wants_control = wanted

    def ping(self, bytes payload, double now):
        """Send a Ping and remember when, for the round trip."""
        self.check_sendable()
        if len(payload) > MAX_CONTROL:
            raise ValueError(f"a ping carries at most 125 bytes, not {len(payload)}")
        if self.pings is None:
            self.pings = {}
        if payload in self.pings:
            raise ValueError(f"a ping with the payload {payload!r} is already waiting for its pong")
        self.pings[payload] = now
        self.send_frame(FIN | OP_PING, <const uint8_t *>PyBytes_AS_STRING(payload), len(payload))

    def pong(self, bytes payload):
        """Send an unsolicited Pong (RFC 6455, 5.5.3)."""
        self.check_sendable()
        if len(payload) > MAX_CONTROL:
            raise ValueError(f"a pong carries at most 125 bytes, not {len(payload)}")
        self.send_frame(FIN | OP_PONG, <const uint8_t *>PyBytes_AS_STRING(payload), len(payload))

    def block_output(self, bint blocked):
        """The driver cannot get rid of output: answer no Ping until it can, then only the last."""
        self.output_blocked = blocked
        if not blocked and self.deferred_pong is not None:
            payload, self.deferred_pong = self.deferred_pong, None
            if self.phase == OPEN:
                self.pong(payload)

    # -- liveness ----------------------------------------------------------------------------------------------

    cdef bytes _ping_payload(self):
        """Eight bytes that tell this keepalive Ping from the ones before."""
        return b"taut" + self.ping_count.to_bytes(4, "big")

    def next_ping_payload(self):
        """The payload of the next keepalive Ping, unlike any that waits for its Pong."""
        self.ping_count += 1
        while self.pings is not None and self._ping_payload() in self.pings:
            self.ping_count += 1
        return self._ping_payload()

    def tick(self, double now, double slack=0.0, bint paused=False, double stalled=0.0):
        """Keep the connection alive, or give it up: call it about every ``slack`` seconds.

        Any received byte proves that the peer is alive (``strict_pongs``: only a Pong does).  While reading is
        ``paused``, or for the seconds that the program ``stalled``, no deadline runs.
        """
        interval, timeout = self.options.ping_interval, self.options.ping_timeout
        if self.phase != OPEN or interval is None:
            return
        self.last_seen += stalled
        if self.ping_sent >= 0:
            self.ping_sent += stalled
        if self.alive or paused:
            self.alive = False
            self.last_seen = now
            self.ping_sent = -1.0
        elif self.ping_sent >= 0 and timeout is not None and now - self.ping_sent >= timeout:
            self.fail(ProtocolError(f"no sign of life for {now - self.last_seen:.3g} s after a ping", 1011))
        elif self.ping_sent < 0 and now - self.last_seen >= interval - slack:
            self.ping_sent = now
            if self.pings is not None and self.ping_count:
                # The last one was answered by other signs of life: what is never ponged must not pile up.
                self.pings.pop(self._ping_payload(), None)
            self.ping(self.next_ping_payload(), now)

    def next_deadline(self):
        """When ``tick`` is due at the latest, in seconds of the same clock; None if never."""
        interval, timeout = self.options.ping_interval, self.options.ping_timeout
        if self.phase != OPEN or interval is None:
            return None
        if self.ping_sent >= 0:
            return None if timeout is None else self.ping_sent + timeout
        return self.last_seen + interval

    # -- closing -----------------------------------------------------------------------------------------------

    cdef int _move(self, int event) except -1:
        self.phase = TRANSITIONS[self.phase][event]
        return 0

    cdef int _close_frame(self, bytes payload) except -1:
        """The peer's Close frame (RFC 6455, 5.5.1 and 7.4)."""
        cdef int code = 1005
        cdef str reason = ""
        if len(payload) == 1:
            raise ProtocolError("a close frame has a payload of 1 byte")
        if payload:
            code = payload[0] << 8 | payload[1]
            if not valid_close_code(code):
                raise ProtocolError(f"invalid close code {code}")
            try:
                reason = payload[2:].decode()
            except UnicodeDecodeError:
                raise ProtocolError("invalid UTF-8 in a close reason", 1007) from None
        self._push_rest()
        self.close_received = (code, reason)
        if self.initiator is None:
            self.initiator = Initiator.REMOTE
        self._move(PEER_CLOSES)
        if self.phase == CLOSE_RECEIVED and self.inbox.count == 0:
            self.drained()
        return 0

    cdef int _fail(self, object exc) except -1:
        """_Fail the WebSocket Connection_ (RFC 6455, 7.1.7), once what came before has been taken."""
        self._push_rest()
        self.assembly = None
        self.in_frame = self.in_message = False
        if self.failure is None and self.phase <= CLOSE_SENT:
            self.failure = self.cause = exc
            if self.initiator is None:
                self.initiator = Initiator.LOCAL
        self._move(FAILS)
        if self.phase == FAILING and self.inbox.count == 0:
            self.drained()
        return 0

    def fail(self, exc):
        """Give the connection up for a ProtocolError found outside: a deadline missed, for example."""
        self._fail(exc)
        self.drained()

    cpdef int drained(self) except -1:
        """Everything received has been taken: send the Close frame that waited for it, if one does."""
        if self.phase == CLOSE_RECEIVED:
            self._write_close(self.close_received[0], "")
        elif self.phase == FAILING:
            self._write_close(self.failure.code, str(self.failure))
        self._move(DRAINS)
        return 0

    def close(self, int code=1000, str reason=""):
        """Start the closing handshake, or complete it where the peer has started it. Later calls do nothing."""
        if not valid_close_code(code):
            raise ValueError(f"close code must be 1000-1003, 1007-1014 or 3000-4999, not {code}")
        if self.phase in (CLOSE_RECEIVED, FAILING):
            self.drained()
        elif self.phase == OPEN:
            if self.initiator is None:
                self.initiator = Initiator.LOCAL
            self._write_close(code, reason)
            self._move(CLOSES)

    cdef int _write_close(self, int code, str reason) except -1:
        cdef bytes payload = b""
        if code != 1005:
            reason = cut_reason(reason)
            payload = code.to_bytes(2, "big") + reason.encode()
        self.close_sent = (code, reason)
        return self.send_frame(FIN | OP_CLOSE, <const uint8_t *>PyBytes_AS_STRING(payload), len(payload))

    @property
    def phase_name(self):
        """Where the connection stands, as named in ``PHASES``."""
        return PHASES[self.phase]

    @property
    def close_info(self):
        """How the connection ended, or is ending; None while it is open."""
        if self.phase == OPEN:
            return None
        initiator = self.initiator or Initiator.NETWORK
        clean = self.close_received is not None and self.close_sent is not None
        code, reason = 1006, ""
        if self.failure is not None:
            code, reason = self.failure.code, str(self.failure)
        elif initiator is Initiator.REMOTE and self.close_received is not None:
            code, reason = self.close_received
        elif initiator is Initiator.LOCAL and self.close_sent is not None and (clean or self.phase != CLOSED):
            code, reason = self.close_sent
        return CloseInfo(initiator, code, reason, clean, self.cause)

    # -- what goes out -----------------------------------------------------------------------------------------

    cdef int check_sendable(self) except -1:
        """Data may leave while open, and while the answers to what came before the end are still being made."""
        if self.phase == CLOSE_SENT or self.phase == CLOSED:
            raise closed_error(self.close_info)
        return 0

    cdef int send_frame(self, uint8_t first, const uint8_t *payload, size_t size) except -1:
        """Add one frame to the output, masked if this is a client."""
        cdef uint32_t key = 0
        if self.is_client:
            self.masks.next(&key)
        output_frame(&self.output, first, payload, size, self.is_client, key)
        self.bytes_sent += size
        return 0

    cdef int send_data(
        self, uint8_t opcode, const uint8_t *payload, size_t size, object data, object compress
    ) except -1:
        """Add a whole message to the output, compressed if that is agreed and pays."""
        cdef bytes body
        self.messages_sent += 1
        if self.deflate is not None and compress is not False and (
            compress is True or size >= <size_t>self.deflate.threshold
        ):
            view = data if data is not None else PyMemoryView_FromMemory(<char *>payload, size, PyBUF_READ)
            body = self.deflate.compress(view)
            return self.send_frame(
                FIN | RSV1 | opcode, <const uint8_t *>PyBytes_AS_STRING(body), PyBytes_GET_SIZE(body)
            )
        return self.send_frame(FIN | opcode, payload, size)

    cdef int send_message(self, object data, object text, object compress) except -1:
        """Add a message given as str or bytes-like; ``text`` overrides the opcode that its type implies."""
        cdef const char *payload
        cdef Py_ssize_t size
        cdef Py_buffer view
        cdef uint8_t opcode
        if PyUnicode_Check(data):
            payload = PyUnicode_AsUTF8AndSize(data, &size)
            opcode = OP_BINARY if text is False else OP_TEXT
            return self.send_data(opcode, <const uint8_t *>payload, size, None, compress)
        opcode = OP_TEXT if text else OP_BINARY
        if PyBytes_CheckExact(data):
            return self.send_data(
                opcode, <const uint8_t *>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), data, compress
            )
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            return self.send_data(opcode, <const uint8_t *>view.buf, view.len, None, compress)
        finally:
            PyBuffer_Release(&view)

    def send(self, data, *, text=None, compress=None):
        """Add a whole message to the output. Raises ConnectionClosed once the connection is closing."""
        self.check_sendable()
        self.send_message(data, text, compress)

    def send_fragment(self, data, bint text, bint first, bint final, compress=None):
        """Add one fragment of a message (RFC 6455, 5.4). Raises ConnectionClosed once the connection is closing."""
        cdef bytes body = data.encode() if PyUnicode_Check(data) else bytes(data)
        cdef uint8_t head = FIN if final else 0
        self.check_sendable()
        if first:
            # The first fragment stands for the whole: a stream of tiny ones would only grow.
            self.fragments_compressed = self.deflate is not None and compress is not False and (
                compress is True or len(body) >= self.deflate.threshold
            )
            head |= OP_TEXT if text else OP_BINARY
            if self.fragments_compressed:
                head |= RSV1
        if self.fragments_compressed:
            body = self.deflate.compress_part(body, final)
        if final:
            self.messages_sent += 1
        self.send_frame(head, <const uint8_t *>PyBytes_AS_STRING(body), len(body))

    def take_output(self):
        """The bytes to send, leaving none."""
        cdef bytes data = PyBytes_FromStringAndSize(<char *>self.output.data, self.output.length)
        output_release(&self.output)
        return data
