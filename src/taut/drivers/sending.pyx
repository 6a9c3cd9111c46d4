# cython: language_level=3, nonecheck=True
"""The sending half of a driver: from the handler's messages to the transport.

Cork by blocking: while received messages are waiting for the handler (``in_batch``, or a filled inbox), its output only
accumulates; it leaves in one write when the handler asks for a message that is not there yet, when the read callback
ends, or when it grows past a limit.  An answer to the only message there is leaves at once.

The awaitable that ``send`` returns suspends only while the transport is over its write limit, or when the handler has
done so much in a row that it is the loop's turn.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t

from ..protocol.frames cimport Output, output_frame_head, output_release
from ..protocol.session cimport CLOSE_SENT, CLOSED, Session
from .awaitables cimport DONE, YieldOnce
from .sockets cimport Receiver, SocketTransport

from ..errors import ConcurrencyError, ProtocolError, closed_error

cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL
    bint PyUnicode_CheckExact(object)
    bint PyBytes_CheckExact(object)

cdef enum:
    # Output beyond this leaves even while more messages are waiting.
    CORK_LIMIT = 1 << 16
    # From this size on, a payload is sent from where it is, and not copied behind its head.
    LARGE = 1 << 12
    OP_TEXT = 1
    OP_BINARY = 2
    FIN = 0x80


cdef Py_ssize_t head_size(bytes frame) noexcept:
    """Of a frame that is not masked (RFC 6455, 5.2)."""
    cdef uint8_t length = <uint8_t>PyBytes_AS_STRING(frame)[1]
    return 10 if length == 127 else 4 if length == 126 else 2


cdef class Sender(Receiver):
    """Sends the messages of one session over one transport."""

    def __init__(self, loop):
        self.loop = loop
        self.budget = BUDGET

    cdef int carry(self, object transport, Session session) except -1:
        """Send over this transport from now on."""
        self.transport = transport
        self.session = session
        self.outbox_limit = session.options.outbox_limit
        self.sock = <SocketTransport>transport if isinstance(transport, SocketTransport) else None
        if self.sock is None:
            # aiofastnet's transports skip checks of type and thread here, which bytes from the loop's own thread pass.
            self.write = getattr(transport, "write_nocheck", transport.write)
        transport.set_protocol(self)
        transport.set_write_buffer_limits(session.options.write_limit)
        return 0

    def pause_writing(self):
        self.write_paused = True
        self.session.block_output(True)

    def resume_writing(self):
        self.write_paused = False
        self.session.block_output(False)
        self.flush()
        self._writable()

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
            self.check_outbox()
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
        return self.after_send()

    cdef int _send_large(self, uint8_t opcode, const uint8_t *payload, size_t size, object owner) except -1:
        """Send from where the payload is: behind what was corked, without copying it."""
        cdef Output *out = &self.session.output
        cdef object view
        output_frame_head(out, FIN | opcode, size)
        self.session.messages_sent += 1
        self.session.bytes_sent += size
        if self.session.observer is not None:
            self.session.note_frame(True, FIN | opcode, size, None)
        if self.sock is not None:
            self.sock.send_two(out.data, out.length, payload, size, owner)
        else:
            head = PyBytes_FromStringAndSize(<char *>out.data, out.length)
            # Only bytes may be referred to by a transport that is not ours: their memory cannot change or go away.
            view = owner if PyBytes_CheckExact(owner) else PyBytes_FromStringAndSize(<char *>payload, size)
            self.transport.writelines([head, view])
        output_release(out)
        return 0

    cdef int send_frame_bytes(self, bytes frame) except -1:
        """Send a frame that is ready, and perhaps shared by many connections."""
        cdef Output *out = &self.session.output
        if self.session.observer is not None:
            self.session.note_frame(True, frame[0], PyBytes_GET_SIZE(frame) - head_size(frame), None)
        if self.sock is not None and out.length == 0:
            return self.sock.send_bytes(<uint8_t *>PyBytes_AS_STRING(frame), PyBytes_GET_SIZE(frame), frame)
        self.flush()
        if self.sock is not None:
            return self.sock.send_bytes(<uint8_t *>PyBytes_AS_STRING(frame), PyBytes_GET_SIZE(frame), frame)
        self.write(frame)
        return 0

    cdef int after_send(self) except -1:
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
        return 0 if self.transport is None else self.session.output.length + self.transport.get_write_buffer_size()

    cdef int check_outbox(self) except -1:
        """A peer that does not read is not waited for without end: fail the connection, and send it nothing more."""
        if self.unsent > self.outbox_limit:
            self.session.fail(ProtocolError(f"more than {self.outbox_limit} bytes unsent (outbox_limit)", 1008))
            self.flush()
            self._ending()
        return 0

    # -- hooks, for what does not run per message --------------------------------------------------------------

    def _send_slow(self, message, text, compress):
        raise NotImplementedError

    def _drain(self):
        raise NotImplementedError

    def _writable(self):
        raise NotImplementedError

    def _ending(self):
        raise NotImplementedError
