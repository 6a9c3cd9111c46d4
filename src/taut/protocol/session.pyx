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
from libc.stdint cimport uint8_t, uint32_t

from .budgets cimport budgets_begin
from .frames cimport MaskPool, output_frame, output_release
from .reader cimport FrameReader

from ..errors import ProtocolError, closed_error
from ..types import CloseInfo, Initiator

cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL
    bint PyUnicode_Check(object)
    bint PyBytes_CheckExact(object)
    int PyBUF_READ

cdef enum:
    FIN = 0x80
    RSV1 = 0x40
    OP_TEXT = 0x1
    OP_BINARY = 0x2
    OP_CLOSE = 0x8
    OP_PING = 0x9
    OP_PONG = 0xA
    CONTROL = 0x08
    MAX_CONTROL = 125

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


cpdef str cut_reason(str reason):
    """A close reason of at most 123 bytes of UTF-8, cut on a character boundary (RFC 6455, 5.5)."""
    data = reason.encode("utf-8", "replace")
    if len(data) <= MAX_CONTROL - 2:
        return data.decode()
    return data[: MAX_CONTROL - 2].decode("utf-8", "ignore")


cpdef bint valid_close_code(code):
    """Whether a Close frame may carry this code (RFC 6455, 7.4; IANA's registry for 1012 to 1014)."""
    if not isinstance(code, int):
        return False
    return 3000 <= code <= 4999 or (1000 <= code <= 1014 and code not in (1004, 1005, 1006))


cdef class Session(FrameReader):
    """The protocol state of one open connection.

    ``options`` is a ``ConnectionOptions``; ``client`` tells the role; ``masks`` is a ``MaskPool`` (clients only);
    ``deflate`` is the negotiated ``Deflate`` or None; ``now`` is the time in seconds of a monotonic clock.

    ``before_close``: called before a Close frame is added to the output, where the driver holds messages back: with
    True they are to be added now; with False the peer is given up, and they are to be forgotten.
    """

    def __init__(self, options, *, bint client, MaskPool masks=None, deflate=None, double now=0.0):
        if client and masks is None:
            raise ValueError("a client needs a source of masking keys (masks)")
        FrameReader.__init__(self, options, client, deflate, now)
        self.options = options
        self.masks = masks
        self.last_seen = now
        self.ping_sent = -1.0

    def __dealloc__(self):
        output_release(&self.output)

    def set_options(self, options, double now):
        """Go on with other ``ConnectionOptions``, from the next frame in each direction."""
        if options.rate_limits != self.options.rate_limits:
            budgets_begin(&self.budgets, options.rate_limits, now)
        self.options = options
        self._limit(options)

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
            answered = []
            for sent in self.pings:
                answered.append(sent)
                if sent == payload:
                    break
            for sent in answered:
                ping_time, self.messages_confirmed = self.pings.pop(sent)
                self._tell(OP_PONG, sent, now - ping_time)
            self.latency = now - ping_time
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
        self.pings[payload] = (now, self.messages_sent)
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
        self.ended = self.phase > CLOSE_SENT
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
        if self.phase == CLOSE_SENT and self.close_sent[0] == code:
            self.messages_confirmed = self.messages_sent  # it answers our Close frame, which came after all of them
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
        if self.before_close is not None:
            self.before_close(False)
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

    def close(self, code=1000, str reason=""):
        """Start the closing handshake, or complete it where the peer has started it. Later calls do nothing."""
        if not valid_close_code(code):
            raise ValueError(f"close code must be 1000-1003, 1007-1014 or 3000-4999, not {code!r}")
        self._begin_close(code, reason)

    def close_without_code(self):
        """The same, with a Close frame that carries nothing, as a proxy has to pass it on."""
        self._begin_close(1005, "")

    cdef int _begin_close(self, int code, str reason) except -1:
        if self.phase in (CLOSE_RECEIVED, FAILING):
            self.drained()
        elif self.phase == OPEN:
            if self.initiator is None:
                self.initiator = Initiator.LOCAL
            self._write_close(code, reason)
            self._move(CLOSES)
        return 0

    cdef int _write_close(self, int code, str reason) except -1:
        cdef bytes payload = b""
        if code != 1005:
            reason = cut_reason(reason)
            payload = code.to_bytes(2, "big") + reason.encode()
        if self.before_close is not None:
            self.before_close(True)
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
        if self.observer is not None:
            control = PyBytes_FromStringAndSize(<const char *>payload, size) if first & CONTROL else None
            self.note_frame(True, first, size, control)
        return 0

    cdef int send_data(
        self, uint8_t opcode, const uint8_t *payload, size_t size, object data, object compress
    ) except -1:
        """Add a whole message to the output, compressed if that is agreed and pays."""
        cdef bytes body
        if self.deflate is not None and compress is not False and (
            compress is True or size >= <size_t>self.deflate.threshold
        ):
            view = data if data is not None else PyMemoryView_FromMemory(<char *>payload, size, PyBUF_READ)
            body = self.deflate.compress(view)
            self.send_frame(FIN | RSV1 | opcode, <const uint8_t *>PyBytes_AS_STRING(body), PyBytes_GET_SIZE(body))
        else:
            self.send_frame(FIN | opcode, payload, size)
        self.messages_sent += 1
        return 0

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
