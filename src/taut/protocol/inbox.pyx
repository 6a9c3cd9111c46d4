# cython: language_level=3
"""The messages of a connection that were received and not yet taken, and what they weigh.

The inbox is plain memory that grows as a ring and is given back as soon as it is empty; the one or two messages that
usually wait need none.  It owns a reference to each message, and counts their memory against the read limit.
"""

from cpython.ref cimport Py_INCREF, PyObject
from libc.stdlib cimport free, malloc

cdef extern from "Python.h":
    bint PyUnicode_CheckExact(object)
    bint PyBytes_CheckExact(object)
    Py_ssize_t PyBytes_GET_SIZE(object)
    Py_ssize_t PyUnicode_GET_LENGTH(object)
    int PyUnicode_KIND(object)
    void Py_DECREF(PyObject *)


cdef class Fragment:
    """A part of a message, received while the application streams: str or bytes, and whether it is the last."""

    def __init__(self, data, bint final):
        self.data = data
        self.final = final


cdef size_t message_weight(object message) noexcept:
    """The memory a message holds, as counted against the read limit."""
    if PyUnicode_CheckExact(message):
        return PyUnicode_GET_LENGTH(message) * PyUnicode_KIND(message) + MESSAGE_OVERHEAD
    if PyBytes_CheckExact(message):
        return PyBytes_GET_SIZE(message) + MESSAGE_OVERHEAD
    return message_weight((<Fragment>message).data)


cdef void inbox_begin(Inbox *inbox) noexcept:
    """Make ready memory that is all zero."""
    inbox.slots = inbox.inline_slots
    inbox.capacity = INBOX_INLINE


cdef int inbox_push(Inbox *inbox, object message) except -1:
    """Add a message behind the others."""
    cdef PyObject **slots
    cdef size_t i, capacity
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
    inbox.size += message_weight(message)
    if inbox.size > inbox.peak:
        inbox.peak = inbox.size
    return 0


cdef object inbox_pop(Inbox *inbox):
    """The oldest message; only when ``count`` is not zero."""
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


cdef object inbox_newest(Inbox *inbox):
    """The message that arrived last; only when ``count`` is not zero."""
    cdef size_t i = inbox.first + inbox.count - 1
    return <object>inbox.slots[i if i < inbox.capacity else i - inbox.capacity]


cdef void inbox_clear(Inbox *inbox) noexcept:
    """Forget every message that has not been taken."""
    while inbox.count:
        inbox_pop(inbox)
