# cython: language_level=3, nonecheck=True
"""The lower part of sending: from the session's output, and from payloads where they are, to the transport.

Cork by blocking: while received messages are waiting for the handler (``in_batch``, or a filled inbox), its output only
accumulates; it leaves in one write when the handler asks for a message that is not there yet, when the read callback
ends, or when it grows past a limit.  An answer to the only message there is leaves at once.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport SIZE_MAX, uint8_t

from ..protocol.frames cimport Output, output_frame_head, output_release
from ..protocol.session cimport Session
from .sockets cimport Receiver, SocketTransport

cdef extern from "Python.h":
    bint PyBytes_CheckExact(object)


cdef size_t payload_size(bytes frame) noexcept:
    """How much of a frame that is not masked is payload (RFC 6455, 5.2)."""
    cdef uint8_t length = <uint8_t>PyBytes_AS_STRING(frame)[1]
    return <size_t>PyBytes_GET_SIZE(frame) - (10 if length == 127 else 4 if length == 126 else 2)


cdef class Writer(Receiver):
    """Writes what one session has to send over one transport."""

    def __init__(self, loop):
        self.loop = loop

    cdef int carry(self, object transport, Session session) except -1:
        """Send over this transport from now on."""
        self.transport = transport
        self.session = session
        self.take_options()
        self.sock = <SocketTransport>transport if isinstance(transport, SocketTransport) else None
        if self.sock is None:
            # aiofastnet's transports skip checks of type and thread here, which bytes from the loop's own thread pass.
            self.write = getattr(transport, "write_nocheck", transport.write)
        transport.set_protocol(self)
        transport.set_write_buffer_limits(session.options.write_limit)
        return 0

    def take_options(self):
        """What the options of the session say about sending holds from now on."""
        options = self.session.options
        self.outbox_limit = options.outbox_limit
        self.fragment_size = SIZE_MAX if options.fragment_size is None else options.fragment_size
        self.small_size = min(<size_t>LARGE, self.fragment_size)

    cdef int write_large(self, uint8_t first, const uint8_t *payload, size_t size, object owner) except -1:
        """Send a frame of a server from where its payload is: behind what was corked, without copying it."""
        cdef Output *out = &self.session.output
        cdef object view
        output_frame_head(out, first, size)
        self.session.bytes_sent += size
        if self.session.observer is not None:
            self.session.note_frame(True, first, size, None)
        if self.sock is not None:
            self.sock.send_two(out.data, out.length, payload, size, owner)
        else:
            head = PyBytes_FromStringAndSize(<char *>out.data, out.length)
            # Only bytes may be referred to by a transport that is not ours: their memory cannot change or go away.
            if PyBytes_CheckExact(owner) and PyBytes_GET_SIZE(owner) == <Py_ssize_t>size:
                view = owner
            else:
                view = PyBytes_FromStringAndSize(<char *>payload, size)
            output_release(out)  # first: a transport may call back while it is written to
            self.transport.writelines([head, view])
            return 0
        output_release(out)
        return 0

    cdef int send_frame_bytes(self, bytes frame) except -1:
        """Send a frame that is ready, and perhaps shared by many connections."""
        cdef Output *out = &self.session.output
        if self.session.observer is not None:
            self.session.note_frame(True, frame[0], payload_size(frame), None)
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
            output_release(out)  # first: a transport may call back while it is written to
            self.write(data)
            return 0
        output_release(out)
        return 0

    cdef size_t buffered(self) except? 0:
        """Bytes that are corked, or kept by the transport."""
        if self.transport is None:
            return 0
        if self.sock is not None:
            return self.session.output.length + <size_t>self.sock.backlog_size
        return self.session.output.length + <size_t>self.transport.get_write_buffer_size()
