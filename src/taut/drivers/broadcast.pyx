# cython: language_level=3, nonecheck=True
"""One message to many connections: its frame is made once, and compressed once for all that agreed on the same window.

A connection that does not take what it is sent holds up nobody: there the message waits, by reference to the one
payload, or is dropped, as ``outbox_limit`` and the policy say.
"""

from cpython.bytes cimport PyBytes_GET_SIZE

from ..protocol.session cimport CLOSE_SENT, CLOSED, Session
from .outbox cimport AS_CONFIGURED, Entry, policy_of
from .prepared cimport Prepared
from .sending cimport Sender

from ..errors import ConnectionClosed, QueueFull
from ..types import BroadcastResult, SendStatus

cdef enum:
    OP_TEXT = 1
    OP_BINARY = 2

cdef object BUFFERED = SendStatus.BUFFERED
cdef object DROPPED = SendStatus.DROPPED


cdef class Delivery:
    """How a message is to be delivered, and for how many connections it was what."""

    cdef object text
    cdef object key
    cdef int policy
    cdef bint urgent
    cdef int sent
    cdef int buffered
    cdef int dropped
    cdef list problems

    cdef int count(self, object status) except -1:
        if status is DROPPED:
            self.dropped += 1
        elif status is BUFFERED:
            self.buffered += 1
        else:
            self.sent += 1
        return 0


def broadcast(
    connections,
    message,
    *,
    text=None,
    overflow=None,
    key=None,
    bint urgent=False,
    bint raise_exceptions=False,
):
    """Send one message to many connections without waiting for any of them, and tell for how many it was what.

    ``text``, ``overflow``, ``key``, ``urgent``: as for ``send_nowait``, on each connection by itself. Connections that
    are closing are passed over. What a connection loses because its outbox is full is counted as dropped; where that
    closes it, or its policy is "wait", it is raised as well with ``raise_exceptions``, in one ExceptionGroup after all
    others were served.

    To connections with a codec, ``message`` is a value, which each codec encodes once; message hooks are called for
    each connection. What a codec or a hook raises is raised after all others were served. Raises TypeError when the
    message is neither str nor bytes-like and a connection has no codec.
    """
    cdef list filtered = []
    cdef Delivery delivery = Delivery.__new__(Delivery)
    delivery.text, delivery.key, delivery.urgent, delivery.problems = text, key, urgent, []
    delivery.policy = policy_of(overflow, AS_CONFIGURED)
    if key is not None:
        hash(key)
    if not isinstance(message, (str, bytes, bytearray, memoryview)):
        filtered = list(connections)
        for connection in filtered:
            if (<Sender>connection).message_filter is None:
                raise TypeError(f"a message must be str or bytes-like, not {type(message).__name__}")
    else:
        send_to_all(connections, message, text, filtered, delivery)
    if filtered:
        send_filtered(filtered, message, delivery)
    if delivery.problems and raise_exceptions:
        raise ExceptionGroup("broadcast did not reach every connection", delivery.problems)
    return BroadcastResult(delivery.sent, delivery.buffered, delivery.dropped)


cdef int send_filtered(list connections, object value, Delivery delivery) except -1:
    """Let hooks and codecs make of the value what they make of it, and send that."""
    cdef dict made = {}, groups = {}
    cdef object fault = None
    for connection in connections:
        if connection.session.phase_name in ("CLOSE_SENT", "CLOSED"):
            continue
        try:
            shared = connection.message_filter.shared(connection, value, made)
        except Exception as exc:
            fault = fault or exc
            continue
        if type(shared) is tuple:
            groups.setdefault(id(shared), (shared, []))[1].append(connection)
        else:
            delivery.dropped += 1  # by a hook
    for (message, is_text, _), members in groups.values():
        send_to_all(members, message, delivery.text if is_text is None else is_text, None, delivery)
    if fault is not None:
        raise fault
    return 0


cdef int send_to_all(connections, message, text, list filtered, Delivery delivery) except -1:
    """Send a message to all; ``filtered`` takes those for which it is a value, where it is given."""
    cdef Sender driver
    cdef Session session
    cdef Prepared shared = Prepared.__new__(Prepared)
    cdef size_t size
    shared.payload = message.encode() if isinstance(message, str) else bytes(message)
    shared.opcode = OP_TEXT if (isinstance(message, str) and text is not False) or text else OP_BINARY
    size = PyBytes_GET_SIZE(shared.payload)
    for connection in connections:
        driver = connection
        if driver.message_filter is not None and filtered is not None:
            filtered.append(driver)
            continue
        session = driver.session
        if session.phase == CLOSE_SENT or session.phase == CLOSED:
            continue
        try:
            if driver.write_paused or driver.fragmenting or size > driver.fragment_size:
                delivery.count(
                    driver.hold(entry_of(shared), driver.nowait_policy(delivery.policy), delivery.key, delivery.urgent)
                )
                continue
            if session.is_client:
                session.send_message(message, text, None)  # each with masks of its own
                driver.after_send()
            else:
                driver.send_shared(shared)
            if driver.write_paused:
                delivery.buffered += 1
            else:
                delivery.sent += 1
        except Exception as exc:
            delivery.dropped += 1
            delivery.problems.append(exc)
            if isinstance(exc, (ConnectionClosed, QueueFull)):
                driver.outbox.refuse(entry_of(shared))
    return 0


cdef Entry entry_of(Prepared shared):
    """The message as it waits on one connection."""
    cdef Entry entry = Entry.__new__(Entry)
    entry.shared = shared
    entry.payload = shared.payload
    entry.size = PyBytes_GET_SIZE(shared.payload)
    entry.opcode = shared.opcode
    return entry
