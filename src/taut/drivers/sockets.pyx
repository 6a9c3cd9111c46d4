# cython: language_level=3
"""A stream transport on a plain non-blocking socket, for loops that watch file descriptors (``add_reader``).

It behaves like the transports of asyncio, with three differences that pay on every message.  A ``Receiver`` gets its
bytes through C calls, into the buffer that it names, one ``recv`` for each readiness event.  A write is one ``send``,
at once, from wherever the bytes are; only what the kernel does not take is kept.  And there is nothing per connection
beside the object itself: no protocol wrapper, no buffer.

Life: reading (and perhaps paused) -> closing (no more reads; the backlog still leaves) -> ended (``connection_lost`` is
due, then the socket is closed).  ``fd`` is -1 from the moment the socket may be closed, so that no late write can reach
a descriptor that belongs to somebody else by then.
"""

import socket
import warnings
from collections import deque

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_SetFromErrno
from cpython.memoryview cimport PyMemoryView_FromMemory
from libc.errno cimport errno
from libc.stdint cimport uint8_t

cdef extern from "Python.h":
    int PyBUF_READ
    bint PyBytes_CheckExact(object)

cdef extern from *:
    """
    #ifdef _WIN32
    #include <winsock2.h>
    struct iovec { void *iov_base; size_t iov_len; };
    static long long taut_recv(int fd, void *p, size_t n) {
        return recv(fd, p, n > 0x7fffffff ? 0x7fffffff : (int)n, 0);
    }
    static long long taut_send(int fd, const void *p, size_t n) {
        return send(fd, p, n > 0x7fffffff ? 0x7fffffff : (int)n, 0);
    }
    static long long taut_send_two(int fd, const void *a, size_t n, const void *b, size_t m) {
        (void)b; (void)m; return taut_send(fd, a, n);
    }
    #else
    #include <sys/types.h>
    #include <sys/socket.h>
    #include <sys/uio.h>
    #include <string.h>
    #ifndef MSG_NOSIGNAL
    #define MSG_NOSIGNAL 0
    #endif
    static long long taut_recv(int fd, void *p, size_t n) { return recv(fd, p, n, 0); }
    static long long taut_send(int fd, const void *p, size_t n) { return send(fd, p, n, MSG_NOSIGNAL); }
    static long long taut_send_two(int fd, const void *a, size_t n, const void *b, size_t m) {
        struct iovec iov[2]; struct msghdr msg; memset(&msg, 0, sizeof msg);
        iov[0].iov_base = (void *)a; iov[0].iov_len = n; iov[1].iov_base = (void *)b; iov[1].iov_len = m;
        msg.msg_iov = iov; msg.msg_iovlen = 2;
        return sendmsg(fd, &msg, MSG_NOSIGNAL);
    }
    #endif
    #include <errno.h>
    static int not_ready(int code) { return code == EAGAIN || code == EWOULDBLOCK || code == EINTR; }
    """
    bint not_ready(int code)
    long long taut_recv(int fd, void *data, size_t size) nogil
    long long taut_send(int fd, const void *data, size_t size) nogil
    long long taut_send_two(int fd, const void *a, size_t n, const void *b, size_t m) nogil

cdef enum:
    SCRATCH = 65536
    HIGH_WATER = 65536
    # Reads in a row, where one does not do, before the loop turns.
    READS = 8

cdef double LAST_READS = 5.0  # seconds to read what came before a write failed


cdef object last_error():
    """The OSError of the system call that has just failed."""
    try:
        PyErr_SetFromErrno(OSError)
    except OSError as exc:
        return exc


cdef class Receiver:
    """Takes bytes from a transport without going through Python."""

    cdef int get_read_buffer(self, uint8_t **data, size_t *size) except -1:
        raise NotImplementedError

    cdef int bytes_received(self, size_t size) except -1:
        raise NotImplementedError


cdef class SocketTransport:
    """A transport on ``sock``, which is connected, and owned by the transport from now on.

    ``connection_made`` is called at once; reading starts in the same breath.
    """

    def __init__(self, loop, sock, protocol):
        self.loop = loop
        self.sock = sock
        self.fd = sock.fileno()
        self.high = HIGH_WATER
        self.low = HIGH_WATER // 4
        self.looks_again = type(loop).__module__.startswith("uvloop")
        self.set_protocol(protocol)
        protocol.connection_made(self)
        if self.fd >= 0 and not self.closing:
            self.reading = True
            loop.add_reader(self.fd, self._read_ready)

    def __del__(self):
        if self.sock is not None:
            warnings.warn(f"unclosed transport on {self.sock}", ResourceWarning)
            self.sock.close()

    def __repr__(self):
        state = "closed" if self.sock is None else "closing" if self.closing else "open"
        return f"<SocketTransport fd={self.fd} {state} unsent={self.backlog_size}>"

    # -- reading -----------------------------------------------------------------------------------------------

    def _read_ready(self):
        cdef int reads = 0
        try:
            while self._read_once():
                reads += 1
                if reads == READS:
                    self.loop.call_soon(self._read_ready)
                    break
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as exc:
            self._fatal(exc)

    cdef bint _read_once(self) except -1:
        """One ``recv``, handed over; True if another has to follow at once.

        One is enough for each readiness event, but on uvloop: it stops watching a socket that has an error, so that a
        reset right behind the bytes just read would go unnoticed.  Whoever has answered them has learnt from the write
        that the socket is sound; else the next read tells.
        """
        cdef uint8_t *data
        cdef size_t size
        cdef long long got
        if self.fd < 0 or not self.reading:
            return False
        if self.receiver is None:
            got = self._read_through_python()
        else:
            self.receiver.get_read_buffer(&data, &size)
            got = taut_recv(self.fd, data, size)
            if got > 0:
                self.has_sent = False
                self.receiver.bytes_received(<size_t>got)
        if got > 0:
            return self.looks_again and not self.has_sent
        if got == 0:
            self._read_end()
        elif not not_ready(errno):
            self._end(last_error())
        return False

    cdef long long _read_through_python(self) except? -1:
        """For a protocol that is no Receiver: during the handshake."""
        cdef uint8_t scratch[SCRATCH]
        cdef long long got = taut_recv(self.fd, scratch, SCRATCH)
        if got > 0:
            self.has_sent = False
            self.protocol.data_received(PyBytes_FromStringAndSize(<char *>scratch, <Py_ssize_t>got))
        return got

    cdef _read_end(self):
        """The peer will send nothing more; stay open for writing only if the protocol says so."""
        self.reading = False
        self.loop.remove_reader(self.fd)
        if not self.protocol.eof_received():
            self.close()

    def pause_reading(self):
        if self.reading:
            self.reading = False
            self.loop.remove_reader(self.fd)

    def resume_reading(self):
        if not self.reading and not self.closing and self.fd >= 0:
            self.reading = True
            self.loop.add_reader(self.fd, self._read_ready)

    def is_reading(self):
        return self.reading

    # -- writing -----------------------------------------------------------------------------------------------

    cdef int send_bytes(self, const uint8_t *data, size_t size, object owner) except -1:
        """Send, or keep what the kernel does not take: by reference to ``owner``, or as a copy if that is None."""
        cdef long long sent = 0
        if self.fd < 0 or self.eof_wanted or self.write_error is not None:
            return 0
        if self.backlog_size == 0:
            sent = taut_send(self.fd, data, size)
            if sent == <long long>size:
                self.has_sent = True
                return 0
            if sent < 0:
                if not not_ready(errno):
                    return self._write_failed(last_error())
                sent = 0
        return self._keep(data + sent, size - <size_t>sent, owner)

    cdef int send_two(
        self, const uint8_t *head, size_t head_size, const uint8_t *data, size_t size, object owner
    ) except -1:
        """Send two pieces as one write; ``owner`` keeps the memory of the second alive."""
        cdef long long sent = 0
        if self.fd < 0 or self.eof_wanted or self.write_error is not None:
            return 0
        if self.backlog_size == 0:
            sent = taut_send_two(self.fd, head, head_size, data, size)
            if sent < 0:
                if not not_ready(errno):
                    return self._write_failed(last_error())
                sent = 0
        if sent < <long long>head_size:
            self._keep(head + sent, head_size - <size_t>sent, None)
            sent = 0
        else:
            sent -= head_size
        if <size_t>sent < size:
            self._keep(data + sent, size - <size_t>sent, owner)
        return 0

    cdef int _write_failed(self, object exc) except -1:
        """The peer takes nothing more; but what it sent before is still here, and read before the end."""
        self.write_error = exc
        self._drop_backlog()
        if self.closing:
            return self._end(exc)
        self.loop.call_soon(self._read_ready)
        if self.last_reads is None:
            self.last_reads = self.loop.call_later(LAST_READS, self._give_up)
        return 0

    def _give_up(self):
        self._end(None)

    cdef int _drop_backlog(self) except -1:
        if self.writing:
            self.writing = False
            self.loop.remove_writer(self.fd)
        self.backlog = None
        self.backlog_size = 0
        return 0

    cdef int _keep(self, const uint8_t *data, size_t size, object owner) except -1:
        cdef object view
        if owner is None:
            owner = PyBytes_FromStringAndSize(<const char *>data, size)
            data = <const uint8_t *>PyBytes_AS_STRING(owner)
        view = PyMemoryView_FromMemory(<char *>data, size, PyBUF_READ)
        if self.backlog is None:
            self.backlog = deque()
        self.backlog.append((owner, view))
        self.backlog_size += size
        if not self.writing:
            self.writing = True
            self.loop.add_writer(self.fd, self._write_ready)
        return self._watch_pressure()

    cdef int _watch_pressure(self) except -1:
        if not self.paused and self.backlog_size > self.high:
            self.paused = True
            self.protocol.pause_writing()
        elif self.paused and self.backlog_size <= self.low:
            self.paused = False
            self.protocol.resume_writing()
        return 0

    def _write_ready(self):
        if self.fd < 0:
            return
        try:
            while self.backlog_size:
                owner, view = self.backlog[0]
                try:
                    sent = self.sock.send(view)
                except (BlockingIOError, InterruptedError):
                    break
                self.backlog_size -= sent
                if sent < len(view):
                    self.backlog[0] = (owner, view[sent:])
                    break
                self.backlog.popleft()
            if self.backlog_size == 0:
                self.backlog = None
                self.writing = False
                self.loop.remove_writer(self.fd)
                if self.eof_wanted:
                    self.sock.shutdown(socket.SHUT_WR)
            self._watch_pressure()
            if self.backlog_size == 0 and self.closing:
                self._end(None)
        except OSError as exc:
            self._write_failed(exc)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as exc:
            self._fatal(exc)

    def write(self, data):
        """Send bytes, keeping what the kernel does not take."""
        cdef bytes owner = data if PyBytes_CheckExact(data) else bytes(data)
        if len(owner):
            self.send_bytes(<const uint8_t *>PyBytes_AS_STRING(owner), PyBytes_GET_SIZE(owner), owner)

    def writelines(self, list_of_data):
        self.write(b"".join(list_of_data))

    def can_write_eof(self):
        return True

    def write_eof(self):
        """Close our direction once everything has left; the peer may still send."""
        if self.eof_wanted or self.fd < 0:
            return
        self.eof_wanted = True
        if self.backlog_size == 0:
            try:
                self.sock.shutdown(socket.SHUT_WR)
            except OSError as exc:
                self._end(exc)

    def get_write_buffer_size(self):
        return self.backlog_size

    def get_write_buffer_limits(self):
        return (self.low, self.high)

    def set_write_buffer_limits(self, high=None, low=None):
        self.high = HIGH_WATER if high is None else high
        self.low = self.high // 4 if low is None else low
        self._watch_pressure()

    # -- the end -----------------------------------------------------------------------------------------------

    def is_closing(self):
        return self.closing

    def close(self):
        """Stop reading, send what is left, then end."""
        if self.closing:
            return
        self.closing = True
        self.pause_reading()
        if self.backlog_size == 0:
            self._end(None)

    def abort(self):
        """End now; what has not left is dropped."""
        self._end(None)

    cdef int _fatal(self, object exc) except -1:
        self.loop.call_exception_handler(
            {"message": "a callback of the protocol failed", "exception": exc, "transport": self,
             "protocol": self.protocol}
        )
        return self._end(exc)

    cdef int _end(self, object exc) except -1:
        if self.ended:
            return 0
        self.ended = self.closing = True
        self.pause_reading()
        self._drop_backlog()
        if self.last_reads is not None:
            self.last_reads.cancel()
            self.last_reads = None
        self.fd = -1
        self.loop.call_soon(self._lost, self.write_error if exc is None else exc)
        return 0

    def _lost(self, exc):
        protocol, self.protocol, self.receiver = self.protocol, None, None
        try:
            protocol.connection_lost(exc)
        finally:
            sock, self.sock = self.sock, None
            sock.close()

    # -- who is served -----------------------------------------------------------------------------------------

    def set_protocol(self, protocol):
        self.protocol = protocol
        self.receiver = <Receiver>protocol if isinstance(protocol, Receiver) else None

    def get_protocol(self):
        return self.protocol

    def get_extra_info(self, name, default=None):
        if self.sock is None:
            return default
        if name == "socket":
            return self.sock
        try:
            if name == "sockname":
                return self.sock.getsockname()
            if name == "peername":
                return self.sock.getpeername()
        except OSError:
            pass
        return default
