# cython: language_level=3, nonecheck=True
"""The messages of one connection that wait because its peer does not read: what ``sending.Sender`` cannot send yet.

A connection has an outbox from the first time that a message has to wait.  Messages wait as messages, neither framed
nor compressed: so they can still be dropped, replaced, or overtaken, and a compressor sees only what really leaves, in
the order in which it leaves (RFC 7692, 7.2.1).  Two lanes, urgent before normal, each in order of age.

The message at the head that is larger than ``fragment_size`` is ``current`` while it leaves in fragments: control
frames may go between these, other messages may not (RFC 6455, 5.4).  A ``turn`` holds the place of a message whose
fragments its sender makes itself: its payload is a future, its opcode 0, and it is no message that is counted.

Every message that is added leaves in exactly one way: ``next`` (and, in fragments, the last ``advance``), ``evict``,
``_replace`` or ``discard``.  The counters are added up there and nowhere else, so that at any time

    added = left + dropped + conflated + waiting
"""

from collections import deque

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t

cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL
    bytes PyUnicode_AsUTF8String(object text)
    bint PyUnicode_Check(object)
    bint PyUnicode_CheckExact(object)
    bint PyUnicode_IS_ASCII(object)
    Py_ssize_t PyUnicode_GET_LENGTH(object)
    bint PyBytes_CheckExact(object)

cdef enum:
    OP_TEXT = 1
    OP_BINARY = 2
    # A lane with more than this many entries that are gone, and more than half of all, is tidied up.
    STUBS = 32

cdef dict POLICIES = {"wait": WAITS, "close": CLOSES, "drop_oldest": DROPS_OLDEST, "drop_newest": DROPS_NEWEST}


cdef int policy_of(object overflow, int otherwise) except -1:
    """The policy that a call names, ``otherwise`` if it names none."""
    if overflow is None:
        return otherwise
    policy = POLICIES.get(overflow) if isinstance(overflow, str) else None
    if policy is None:
        raise ValueError(f'overflow must be "wait", "close", "drop_oldest" or "drop_newest", not {overflow!r}')
    return policy


cdef const uint8_t *bytes_of(object payload) except NULL:
    """Where the payload of an entry is; it stays there as long as the payload lives."""
    cdef Py_ssize_t size
    if PyUnicode_CheckExact(payload):
        return <const uint8_t *>PyUnicode_AsUTF8AndSize(payload, &size)
    return <const uint8_t *>PyBytes_AS_STRING(payload)


cdef Entry entry_of(object message, object text, object compress):
    """The message as it waits: by reference where it cannot change, else as a copy."""
    cdef Entry entry = Entry.__new__(Entry)
    cdef Py_buffer view
    entry.compress = compress
    if PyUnicode_Check(message):
        entry.opcode = OP_BINARY if text is False else OP_TEXT
        if PyUnicode_CheckExact(message) and PyUnicode_IS_ASCII(message):
            entry.payload = message
            entry.size = PyUnicode_GET_LENGTH(message)
            return entry
        entry.payload = PyUnicode_AsUTF8String(message)
    else:
        entry.opcode = OP_TEXT if text else OP_BINARY
        if PyBytes_CheckExact(message):
            entry.payload = message
        else:
            PyObject_GetBuffer(message, &view, PyBUF_SIMPLE)
            try:
                entry.payload = PyBytes_FromStringAndSize(<char *>view.buf, view.len)
            finally:
                PyBuffer_Release(&view)
    entry.size = PyBytes_GET_SIZE(entry.payload)
    return entry


cdef class Entry:
    """One message, or one turn.

    ``expendable``: it may be dropped for others. ``gone``: it waits no more. ``lost``: it can never leave. ``latest``:
    the entry that was added last in its place, by the same key.
    """


cdef class Lane:
    """The entries of one priority, in order of age. What is gone stays as a stub until it is at the head."""

    def __cinit__(self):
        self.order = deque()
        self.expendable = deque()

    cdef int append(self, Entry entry) except -1:
        self.order.append(entry)
        if entry.expendable:
            self.expendable.append(entry)
            self.expendable_size += entry.size + COST
        return 0

    cdef Entry pop(self):
        """Take the oldest entry; None if there is none."""
        cdef Entry entry
        while self.order:
            entry = self.order.popleft()
            if entry.gone:
                self.stubs -= 1
            else:
                self._leave(entry)
                return entry
        return None

    cdef Entry oldest_expendable(self):
        cdef Entry entry
        while self.expendable:
            entry = self.expendable[0]
            if not entry.gone and entry.expendable:
                return entry
            self.expendable.popleft()
        return None

    cdef int remove(self, Entry entry) except -1:
        """Take an entry out of the midst of the lane."""
        self._leave(entry)
        self.stubs += 1
        while self.order and (<Entry>self.order[0]).gone:
            self.order.popleft()
            self.stubs -= 1
        if self.stubs > STUBS and self.stubs > len(self.order) // 2:
            self.order = deque([each for each in self.order if not (<Entry>each).gone])
            self.expendable = deque([each for each in self.expendable if not (<Entry>each).gone])
            self.stubs = 0
        return 0

    cdef int _leave(self, Entry entry) except -1:
        entry.gone = True
        if entry.expendable:
            self.expendable_size -= entry.size + COST
        self.oldest_expendable()  # which lets go of those before it that are gone
        return 0


cdef class Outbox:
    """What waits on one connection, and the books of it. ``size``: bytes; ``waiting``: messages."""

    cdef bint is_empty(self) noexcept:
        return self.waiting == 0 and self.turns == 0

    cdef Lane _lane(self, bint urgent):
        if urgent:
            if self.urgent is None:
                self.urgent = Lane.__new__(Lane)
            return self.urgent
        if self.normal is None:
            self.normal = Lane.__new__(Lane)
        return self.normal

    # -- what comes --------------------------------------------------------------------------------------------

    cdef Entry under(self, object key):
        """The message that waits under this key."""
        return None if self.keys is None or key is None else self.keys.get(key)

    cdef int add(self, Entry entry) except -1:
        """Add a message behind those of its lane, or in the place of the one with the same key."""
        cdef Entry old = self.under(entry.key)
        if old is not None and old.urgent >= entry.urgent:
            return self._replace(old, entry)
        if old is not None:
            self.conflated += 1
            self._lane(old.urgent).remove(old)
            self._uncount(old)
        self._lane(entry.urgent).append(entry)
        if entry.key is not None:
            if self.keys is None:
                self.keys = {}
            self.keys[entry.key] = entry
        self.size += entry.size + COST
        self.waiting += 1
        return 0

    cdef int _replace(self, Entry old, Entry entry) except -1:
        """The latest message of a key takes the place of the one before; it is expendable only if both are."""
        cdef Lane lane = self._lane(old.urgent)
        self.conflated += 1
        self.size += entry.size
        self.size -= old.size
        if old.expendable:
            lane.expendable_size -= old.size + COST
            if entry.expendable:
                lane.expendable_size += entry.size + COST
        old.expendable = old.expendable and entry.expendable
        old.payload, old.shared = entry.payload, entry.shared
        old.compress, old.opcode, old.size = entry.compress, entry.opcode, entry.size
        old.latest = entry
        return 0

    # -- what leaves -------------------------------------------------------------------------------------------

    cdef Entry next(self):
        """Take the message, or the turn, that comes first; None if there is none."""
        cdef Entry entry = None
        if self.urgent is not None:
            entry = self.urgent.pop()
            if entry is None:
                self.urgent = None
        if entry is None and self.normal is not None:
            entry = self.normal.pop()
            if entry is None:
                self.normal = None  # an outbox that is empty keeps nothing but its books
        if entry is not None:
            self._uncount(entry)
        return entry

    cdef int _uncount(self, Entry entry) except -1:
        self.size -= entry.size + COST
        if entry.opcode == 0:
            self.turns -= 1
            return 0
        self.waiting -= 1
        if entry.key is not None:
            del self.keys[entry.key]
            if not self.keys:
                self.keys = None
        return 0

    cdef int begin(self, Entry entry, object body, size_t size, uint8_t bits) except -1:
        """The message just taken leaves in fragments: it still waits. ``bits``: RSV1 and opcode of its first frame."""
        self.current, self.body, self.body_size, self.bits = entry, body, size, bits
        self.offset = 0
        self.size += size + COST
        self.waiting += 1
        return 0

    cdef int advance(self, size_t size) except -1:
        """So much of the body has left."""
        self.offset += size
        self.size -= size
        if self.offset == self.body_size:
            self.current = self.body = None
            self.size -= COST
            self.waiting -= 1
        return 0

    # -- what is dropped ---------------------------------------------------------------------------------------

    cdef bint can_make_room(self, size_t need, bint urgent) noexcept:
        """Whether there is so much that may be dropped for a message."""
        cdef size_t there = 0
        if self.normal is not None:
            there += self.normal.expendable_size
        if urgent and self.urgent is not None:
            there += self.urgent.expendable_size
        return there >= need

    cdef int evict(self, bint urgent) except -1:
        """Drop the oldest message that may be dropped; an urgent one only for another."""
        cdef Entry entry = None
        cdef Lane lane = self.normal
        if lane is not None:
            entry = lane.oldest_expendable()
        if entry is None and urgent and self.urgent is not None:
            lane = self.urgent
            entry = lane.oldest_expendable()
        if entry is None:
            return 0
        lane.remove(entry)
        self._uncount(entry)
        self.dropped_oldest += 1
        self.bytes_dropped += entry.size
        return 1

    cdef int refuse(self, Entry entry) except -1:
        """Count a message for which there is no room."""
        self.dropped_newest += 1
        self.bytes_dropped += entry.size
        return 0

    cdef int lose(self, Entry entry) except -1:
        """Count a message that can never leave."""
        entry.lost = True
        if entry.latest is not None:
            entry.latest.lost = True
        self.dropped_at_end += 1
        self.bytes_dropped += entry.size
        return 0

    cdef int discard(self) except -1:
        """Drop everything: the connection is ending. A message that has left in part counts as dropped."""
        cdef Entry entry
        if self.current is not None:
            self.lose(self.current)
            self.advance(self.body_size - self.offset)
        while (entry := self.next()) is not None:
            if entry.opcode:
                self.lose(entry)
            elif not entry.payload.done():
                entry.payload.set_result(None)
        return 0

    # -- turns -------------------------------------------------------------------------------------------------

    cdef int add_turn(self, object future, bint urgent) except -1:
        """Let ``future`` have a result once everything before it has left."""
        cdef Entry entry = Entry.__new__(Entry)
        entry.payload = future
        entry.urgent = urgent
        self._lane(urgent).append(entry)
        self.size += COST
        self.turns += 1
        return 0

    cdef bint forget_turn(self, object future) except -1:
        """Take back a turn that has not come: whether there was one."""
        cdef Lane lane
        cdef Entry entry
        for lane in (self.urgent, self.normal):
            if lane is None:
                continue
            for entry in lane.order:
                if not entry.gone and entry.payload is future:
                    lane.remove(entry)
                    self._uncount(entry)
                    return True
        return False
