# cython: language_level=3, nonecheck=True
"""The upper part of sending: what becomes of a message that a handler sends.

As long as the transport takes what it is given, a message is framed and written here and now.  While the transport is
over its write limit, or while another message is being sent in fragments, it waits in the outbox, if its policy and
``outbox_limit`` let it; ``moving.Mover`` moves it on.  A message larger than ``fragment_size`` always goes that way.

The awaitable that ``send`` returns suspends only while something waits, or when the handler has done so much in a row
that it is the loop's turn.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport SIZE_MAX, uint8_t

from ..protocol.session cimport CLOSE_SENT, CLOSED, Session
from .awaitables cimport DONE, YieldOnce
from .moving cimport Mover
from .outbox cimport (
    AS_CONFIGURED,
    CLOSES,
    COST,
    DROPS_NEWEST,
    DROPS_OLDEST,
    REFUSES,
    WAITS,
    Entry,
    Outbox,
    entry_of,
    policy_of,
)
from .writing cimport LARGE

from ..errors import ProtocolError, QueueFull, closed_error
from ..types import SendStatus

cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL
    bint PyUnicode_CheckExact(object)
    Py_ssize_t PyUnicode_GET_LENGTH(object)
    bint PyBytes_CheckExact(object)

cdef enum:
    OP_TEXT = 1
    OP_BINARY = 2
    FIN = 0x80

cdef object SENT = SendStatus.SENT
cdef object BUFFERED = SendStatus.BUFFERED
cdef object DROPPED = SendStatus.DROPPED


cdef class Sender(Mover):
    """Sends the messages of one session over one transport."""

    def __init__(self, loop):
        Mover.__init__(self, loop)
        self.budget = BUDGET

    def send(self, message, *, text=None, compress=None, overflow=None, key=None, bint urgent=False):
        """Send a message: str as Text, bytes-like as Binary, an iterable or async iterable of these in fragments.

        ``text``: True sends bytes that are known to be UTF-8 as Text, False sends str as Binary. ``compress``: False
        leaves this message uncompressed, True compresses it whatever its size (default None: from the threshold on).

        Waits while more than ``write_limit`` bytes are unsent, with ``overflow`` "wait", the default; with another
        policy it does not wait, and ``send_nowait`` says what becomes of the message. So it does for ``key`` and
        ``urgent``. The message is taken when ``send`` is called, whole; cancelling the wait does not take it back.
        Raises ``ConnectionClosed`` once the connection is closing, ``TypeError`` for anything else than the above.
        """
        cdef int policy = WAITS if overflow is None else policy_of(overflow, WAITS)
        if key is not None:
            hash(key)
        if (
            self.fragmenting or self.write_paused or not self._plain(message)
            or self.session.phase == CLOSE_SENT or self.session.phase == CLOSED
        ):
            return self._send_otherwise(message, text, compress, policy, key, urgent)
        self._send_now(message, text, compress)
        if self.write_paused:
            return self._drain(None) if policy == WAITS else DONE
        self.budget -= 1
        if self.budget <= 0:
            self.budget = BUDGET
            return YieldOnce.__new__(YieldOnce)
        return DONE

    def _send_otherwise(self, message, text, compress, int policy, key, bint urgent):
        """Everything but a whole message that can leave at once."""
        cdef Entry entry
        if not self._plain(message):
            if policy != WAITS or key is not None:
                raise TypeError("overflow and key are for messages that are str or bytes-like")
            return self._send_slow(message, text, compress, urgent)
        if self.session.phase == CLOSE_SENT or self.session.phase == CLOSED:
            return self._send_slow(message, text, compress, urgent)
        entry = entry_of(message, text, compress)
        self.hold(entry, policy, key, urgent)
        return self._drain(entry) if policy == WAITS else DONE

    def send_nowait(self, message, *, text=None, compress=None, overflow=None, key=None, bint urgent=False):
        """Send a str or bytes-like message without waiting, and tell what became of it: a ``SendStatus``.

        ``text``, ``compress``: as for ``send``. The rest is for a message that has to wait because the peer does not
        read. ``key``: it replaces the waiting message of the same key. ``urgent``: it overtakes those that are not.
        ``overflow``: what happens when ``outbox_limit`` bytes are unsent already: "close" fails the connection with
        1008, "drop_oldest" drops waiting messages that were sent with the same policy, "drop_newest" this one, "wait"
        raises ``QueueFull`` (default None: as the option ``overflow`` says).

        Raises ``ConnectionClosed`` once the connection is closing.
        """
        cdef int policy = AS_CONFIGURED if overflow is None else policy_of(overflow, AS_CONFIGURED)
        if key is not None:
            hash(key)
        if self.session.phase == CLOSE_SENT or self.session.phase == CLOSED:
            raise closed_error(self.session.close_info)
        if not self._plain(message):
            raise TypeError(f"a message must be str or bytes-like, not {type(message).__name__}")
        if self.write_paused or self.fragmenting:
            return self.hold(entry_of(message, text, compress), self.nowait_policy(policy), key, urgent)
        self._send_now(message, text, compress)
        return BUFFERED if self.write_paused else SENT

    cdef bint _plain(self, object message) except -1:
        return PyUnicode_CheckExact(message) or PyBytes_CheckExact(message) or isinstance(
            message, (str, bytes, bytearray, memoryview)
        )

    cdef int _send_now(self, object message, object text, object compress) except -1:
        cdef size_t most = SIZE_MAX
        if PyBytes_CheckExact(message):
            most = PyBytes_GET_SIZE(message)
        elif PyUnicode_CheckExact(message):
            most = <size_t>PyUnicode_GET_LENGTH(message) << 2  # no character has more bytes (RFC 3629, 3)
        if most >= self.small_size and self._send_sizable(message, text, compress):
            return 0
        self.session.send_message(message, text, compress)
        return self.after_send()

    cdef bint _send_sizable(self, object message, object text, object compress) except -1:
        """Send a message that is too large to be copied behind its head, or to be one frame; False if it is neither."""
        cdef Session session = self.session
        cdef const char *payload
        cdef Py_ssize_t size
        cdef uint8_t opcode
        if not session.is_client and (session.deflate is None or compress is False) and (
            PyUnicode_CheckExact(message) or PyBytes_CheckExact(message)
        ):
            if PyUnicode_CheckExact(message):
                payload = PyUnicode_AsUTF8AndSize(message, &size)
                opcode = OP_BINARY if text is False else OP_TEXT
            else:
                payload = PyBytes_AS_STRING(message)
                size = PyBytes_GET_SIZE(message)
                opcode = OP_TEXT if text else OP_BINARY
            if <size_t>size > self.fragment_size:
                self._send_divided(message, text, compress)
                return True
            if size < LARGE:
                return False
            self.write_large(FIN | opcode, <const uint8_t *>payload, size, message)
            session.messages_sent += 1
            return True
        if not self._is_divided(message):
            return False
        self._send_divided(message, text, compress)
        return True

    cdef bint _is_divided(self, object message) except -1:
        """Whether this is larger than ``fragment_size``, in UTF-8."""
        cdef Py_ssize_t size
        if PyUnicode_CheckExact(message):
            if <size_t>PyUnicode_GET_LENGTH(message) <= self.fragment_size >> 2:
                return False
            PyUnicode_AsUTF8AndSize(message, &size)
        elif PyBytes_CheckExact(message):
            size = PyBytes_GET_SIZE(message)
        elif isinstance(message, str):
            size = len(message.encode())
        else:
            size = memoryview(message).nbytes
        return <size_t>size > self.fragment_size

    cdef int _send_divided(self, object message, object text, object compress) except -1:
        """Send a large message in fragments, as far as the transport takes them."""
        self._outbox().add(entry_of(message, text, compress))
        self.pump(False)
        return 0

    # -- what cannot leave at once -----------------------------------------------------------------------------

    cdef int nowait_policy(self, int policy) except -1:
        """The policy of a message that is not waited for."""
        if policy == AS_CONFIGURED:
            policy = policy_of(self.session.options.overflow, CLOSES)
        return REFUSES if policy == WAITS else policy

    cdef object hold(self, Entry entry, int policy, object key, bint urgent):
        """Let a message wait, or do with it what its policy says: the status of the message."""
        cdef Outbox outbox = self._outbox()
        entry.key = key
        entry.urgent = urgent
        entry.expendable = policy == DROPS_OLDEST
        if not self._has_room(entry, policy):
            if policy == CLOSES:
                self._give_up()
                raise closed_error(self.session.close_info)
            if policy == REFUSES:
                raise QueueFull(entry.size, self.outbox_limit, "outbox_limit")
            if policy != WAITS:
                outbox.refuse(entry)
                return DROPPED
        outbox.add(entry)
        if self.write_paused or self.fragmenting:
            return BUFFERED
        self.pump(False)
        return BUFFERED if self.write_paused else SENT

    cdef bint _has_room(self, Entry entry, int policy) except -1:
        """Whether there is room for a message, which what is expendable makes where that suffices."""
        cdef Outbox outbox = self.outbox
        cdef Entry old = outbox.under(entry.key)
        cdef size_t spared = 0 if old is None else old.size + COST
        cdef size_t unsent = self._unsent() - spared
        if unsent <= self.outbox_limit:
            return True
        if policy == DROPS_NEWEST or not outbox.can_make_room(unsent - self.outbox_limit, entry.urgent):
            return False
        while outbox.evict(entry.urgent):
            spared = 0 if old is None or old.gone else old.size + COST
            if self._unsent() - spared <= self.outbox_limit:
                return True
        return False

    cdef int _give_up(self) except -1:
        """A peer that does not read is not waited for without end: fail the connection, and send it nothing more."""
        self.session.fail(ProtocolError(f"more than {self.outbox_limit} bytes unsent (outbox_limit)", 1008))
        self.flush()
        self._ending()
        return 0

    # -- hooks, for what does not run per message --------------------------------------------------------------

    def _send_slow(self, message, text, compress, urgent):
        raise NotImplementedError

    def _drain(self, entry):
        raise NotImplementedError

    def _ending(self):
        raise NotImplementedError
