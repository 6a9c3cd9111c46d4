# cython: language_level=3, nonecheck=True
"""A connected socket for threads that block: bytes in and out without waiting, plain or through TLS, and the wait.

Nothing in here waits but ``wait_ready``, which is one ``poll``, and holds no lock while it does.  The calls that move
bytes are for one thread at a time: whoever shares a wire between threads holds a lock around them.  They are C from
end to end on a plain socket, so that no signal handler runs between taking bytes and handing them to the kernel.

TLS is an ``ssl.SSLObject`` between two memory buffers, because an ``SSLSocket`` would have to be locked while it waits.
Python code runs there, and a signal handler may raise in its midst: what a wire was doing then is unknown, so that the
wire must be given up.
"""

import os
import ssl as ssl_module
import threading
import time

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals, PyErr_SetFromErrno
from cpython.memoryview cimport PyMemoryView_FromMemory
from libc.stdint cimport uint8_t

cdef extern from "Python.h":
    int PyBUF_READ
    int PyBUF_WRITE
    unsigned long PyThread_get_thread_ident()

cdef extern from *:
    """
    #ifdef _WIN32
    #include <winsock2.h>
    #define TAUT_SHUT_WR SD_SEND
    #define TAUT_SHUT_RDWR SD_BOTH
    static int taut_poll(int fd, int events, int milliseconds) {
        WSAPOLLFD p; p.fd = fd; p.revents = 0;
        p.events = (short)((events & 1 ? POLLRDNORM : 0) | (events & 2 ? POLLWRNORM : 0));
        int n = WSAPoll(&p, 1, milliseconds);
        if (n <= 0) return n;
        return ((p.revents & ~POLLWRNORM) ? 1 : 0) | ((p.revents & ~POLLRDNORM) ? 2 : 0);
    }
    static long long taut_recv(int fd, void *p, size_t n) {
        return recv(fd, p, n > 0x7fffffff ? 0x7fffffff : (int)n, 0);
    }
    static long long taut_send(int fd, const void *p, size_t n) {
        return send(fd, p, n > 0x7fffffff ? 0x7fffffff : (int)n, 0);
    }
    static int taut_interrupted(void) { return 0; }
    static int taut_not_ready(void) { return WSAGetLastError() == WSAEWOULDBLOCK; }
    #else
    #include <errno.h>
    #include <poll.h>
    #include <sys/types.h>
    #include <sys/socket.h>
    #define TAUT_SHUT_WR SHUT_WR
    #define TAUT_SHUT_RDWR SHUT_RDWR
    #ifndef MSG_NOSIGNAL
    #define MSG_NOSIGNAL 0
    #endif
    static int taut_poll(int fd, int events, int milliseconds) {
        struct pollfd p; p.fd = fd; p.revents = 0;
        p.events = (short)((events & 1 ? POLLIN : 0) | (events & 2 ? POLLOUT : 0));
        int n = poll(&p, 1, milliseconds);
        if (n <= 0) return n;
        return ((p.revents & ~POLLOUT) ? 1 : 0) | ((p.revents & ~POLLIN) ? 2 : 0);
    }
    static long long taut_recv(int fd, void *p, size_t n) { return recv(fd, p, n, MSG_DONTWAIT); }
    static long long taut_send(int fd, const void *p, size_t n) { return send(fd, p, n, MSG_DONTWAIT | MSG_NOSIGNAL); }
    static int taut_interrupted(void) { return errno == EINTR; }
    static int taut_not_ready(void) { return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR; }
    #endif
    static int taut_shut(int fd, int how) { return shutdown(fd, how); }
    """
    enum:
        TAUT_SHUT_WR
        TAUT_SHUT_RDWR
    int taut_poll(int fd, int events, int milliseconds) nogil
    long long taut_recv(int fd, void *data, size_t size)
    long long taut_send(int fd, const void *data, size_t size)
    int taut_shut(int fd, int how)
    bint taut_interrupted()
    bint taut_not_ready()

cdef enum:
    CIPHER = 1 << 16
    # Plain bytes encrypted at a time.
    PLAIN = 1 << 17

# A signal that arrives between the last look at the signals and the wait would go unnoticed until the wait ends: where
# signal handlers run, no wait is longer than this (seconds).
cdef double MAIN_THREAD_WAIT = 1.0

cdef unsigned long main_thread = threading.main_thread().ident
cdef object monotonic = time.monotonic
cdef object WantRead = ssl_module.SSLWantReadError
cdef object AtEnd = (ssl_module.SSLEOFError, ssl_module.SSLZeroReturnError)


def _forked():
    """The thread that forks is the main thread of the child."""
    global main_thread
    main_thread = PyThread_get_thread_ident()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


cdef object last_error():
    """The OSError of the system call that has just failed."""
    try:
        PyErr_SetFromErrno(OSError)
    except OSError as exc:
        return exc


cdef bint on_main_thread() noexcept:
    """Whether signal handlers run on this thread."""
    return PyThread_get_thread_ident() == main_thread


cdef int wait_ready(int fd, int events, double timeout) except -1:
    """Wait until ``fd`` is READABLE or WRITABLE, or has failed, at most ``timeout`` seconds (negative: no limit).

    Returns what it is, 0 if nothing: after a time out, which may come early, and when a signal has arrived.  So after a
    0 the signals are due (``PyErr_CheckSignals``); the caller knows best where a handler may run.
    """
    cdef int milliseconds, ready
    if (timeout < 0 or timeout > MAIN_THREAD_WAIT) and on_main_thread():
        timeout = MAIN_THREAD_WAIT
    if timeout < 0:
        milliseconds = -1
    elif timeout > 1e6:
        milliseconds = 1000000000
    else:
        milliseconds = <int>(timeout * 1000)
        if milliseconds < timeout * 1000:
            milliseconds += 1
    with nogil:
        ready = taut_poll(fd, events, milliseconds)
    if ready <= 0:
        if ready < 0 and not taut_interrupted():
            raise last_error()
        return 0
    return ready


cdef class Wire:
    """A connected socket, owned by the wire from now on; with ``ssl``, TLS over it, after ``handshake``.

    ``server_side``, ``server_hostname``: as for ``ssl.SSLContext.wrap_bio``.
    """

    def __init__(self, sock, ssl=None, *, server_side=False, server_hostname=None):
        sock.setblocking(False)
        self.sock = sock
        self.fd = sock.fileno()
        self.cipher = b""
        if ssl is not None:
            self.incoming, self.outgoing = ssl_module.MemoryBIO(), ssl_module.MemoryBIO()
            self.tls = ssl.wrap_bio(
                self.incoming, self.outgoing, server_side=server_side, server_hostname=server_hostname
            )

    @property
    def ssl_object(self):
        """The ``ssl.SSLObject``; None without TLS."""
        return self.tls

    def fileno(self):
        """The descriptor, -1 once the wire is closed."""
        return self.fd

    # -- moving bytes ------------------------------------------------------------------------------------------

    cdef long long receive(self, uint8_t *data, size_t size) except? -2:
        """Up to ``size`` bytes that have arrived: how many, 0 at the end of the stream, -1 if there are none yet."""
        cdef long long got
        if self.tls is None:
            got = taut_recv(self.fd, data, size)
            if got < 0 and not taut_not_ready():
                raise last_error()
            return -1 if got < 0 else got
        view = PyMemoryView_FromMemory(<char *>data, size, PyBUF_WRITE)
        while True:
            try:
                got = self.tls.read(size, view)
                self.push()  # the answer to a key update, for example
                self.more = got > 0
                return got
            except WantRead:
                self.push()
                if self.fill() < 0:
                    self.more = False
                    return -1
            except AtEnd:
                self.more = False
                return 0

    cdef int fill(self) except -2:
        """Move what has arrived to the TLS engine: -1 if nothing has."""
        cdef uint8_t scratch[CIPHER]
        cdef long long got = taut_recv(self.fd, scratch, CIPHER)
        if got > 0:
            self.incoming.write(PyBytes_FromStringAndSize(<char *>scratch, <Py_ssize_t>got))
        elif got == 0:
            self.incoming.write_eof()
        elif taut_not_ready():
            return -1
        else:
            raise last_error()
        return 0

    cdef long long send(self, const uint8_t *data, size_t size) except? -2:
        """Send as much of this as is taken now: how much, which may be 0."""
        cdef long long sent
        if self.ended:
            return <long long>size
        if self.tls is None:
            sent = taut_send(self.fd, data, size)
            if sent < 0:
                if not taut_not_ready():
                    raise last_error()
                return 0
            return sent
        if not self.push():
            return 0
        if size > PLAIN:
            size = PLAIN
        sent = self.tls.write(PyMemoryView_FromMemory(<char *>data, size, PyBUF_READ))
        self.push()
        return sent

    cdef bint idle(self) noexcept:
        """Whether everything that ``send`` took has left."""
        return self.tls is None or (self.cipher_sent == PyBytes_GET_SIZE(self.cipher) and not self.outgoing.pending)

    cdef bint push(self) except -1:
        """Let out what the TLS engine has ready: whether all of it has left."""
        cdef long long sent
        while True:
            if self.cipher_sent == PyBytes_GET_SIZE(self.cipher):
                self.cipher_sent = 0
                self.cipher = self.outgoing.read()
                if not self.cipher:
                    return True
            sent = taut_send(
                self.fd, PyBytes_AS_STRING(self.cipher) + self.cipher_sent,
                PyBytes_GET_SIZE(self.cipher) - self.cipher_sent,
            )
            if sent < 0:
                if not taut_not_ready():
                    raise last_error()
                return False
            self.cipher_sent += <Py_ssize_t>sent

    # -- the end -----------------------------------------------------------------------------------------------

    cdef int end_output(self) except -1:
        """Nothing more will be sent: end our direction, with TLS by its close_notify (RFC 8446, 6.1)."""
        if self.ended:
            return 0
        self.ended = True
        if self.tls is None:
            taut_shut(self.fd, TAUT_SHUT_WR)
            return 0
        try:
            self.tls.unwrap()
        except ssl_module.SSLError:
            pass  # it waits for the peer's, which receive() will see
        self.push()
        return 0

    cdef int shut(self) noexcept:
        """End both directions, and with that every wait on this socket."""
        taut_shut(self.fd, TAUT_SHUT_RDWR)
        return 0

    def close(self):
        """Close the socket; not while anyone may be using it."""
        self.fd = -1
        self.sock.close()

    # -- the opening handshake, step by step -------------------------------------------------------------------

    def handshake(self):
        """A step of the TLS handshake: READABLE or WRITABLE, what to wait for before the next one, or 0: it is done."""
        while True:
            try:
                self.tls.do_handshake()
                return 0 if self.push() else WRITABLE
            except WantRead:
                if not self.push():
                    return WRITABLE
                if self.fill() < 0:
                    return READABLE
            except ssl_module.SSLError:
                self.push()  # the alert that says why (RFC 8446, 6.2)
                raise

    def put(self, bytes data):
        """Send as much of this as is taken now: what is left. """
        cdef Py_ssize_t size = PyBytes_GET_SIZE(data)
        cdef long long sent = 0
        if self.tls is not None and not self.push():
            return data
        if size:
            sent = self.send(<const uint8_t *>PyBytes_AS_STRING(data), size)
        return data[sent:]

    def get(self):
        """What has arrived: b"" at the end of the stream, None if there is nothing yet."""
        cdef uint8_t scratch[CIPHER]
        cdef long long got = self.receive(scratch, CIPHER)
        return None if got < 0 else PyBytes_FromStringAndSize(<char *>scratch, <Py_ssize_t>got)

    def end_sending(self):
        """End our direction of the stream."""
        self.end_output()

    def wait(self, int events, double timeout):
        """Wait for READABLE (1) or WRITABLE (2), at most ``timeout`` seconds (negative: no limit); it may end early."""
        cdef int ready = wait_ready(self.fd, events, timeout)
        if ready == 0:
            PyErr_CheckSignals()
        return ready
