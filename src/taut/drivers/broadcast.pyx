# cython: language_level=3, nonecheck=True
"""One message to many connections: its frame is made once, and compressed once for all that agreed on the same window.

A connection that does not take what it is sent holds up nobody: what the kernel does not accept is kept by reference to
the one frame, up to the connection's ``outbox_limit``.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t

from ..protocol.frames cimport Output, output_frame, output_release
from ..protocol.session cimport CLOSE_SENT, CLOSED, Session
from .sending cimport Sender

from ..errors import ConcurrencyError, closed_error
from ..protocol.deflate import compress_message

cdef enum:
    OP_TEXT = 1
    OP_BINARY = 2
    RSV1 = 0x40
    FIN = 0x80


cdef bytes frame_of(uint8_t first, bytes payload):
    """A server's frame, ready to be sent any number of times."""
    cdef Output out
    out.data = NULL
    out.length = out.capacity = 0
    try:
        output_frame(&out, first, <const uint8_t *>PyBytes_AS_STRING(payload), PyBytes_GET_SIZE(payload), False, 0)
        return PyBytes_FromStringAndSize(<char *>out.data, out.length)
    finally:
        output_release(&out)


cdef bytes compressed_frame(dict frames, object deflate, uint8_t opcode, bytes payload):
    """The compressed frame for connections like this one, made for the first of them."""
    cdef object key = (deflate.window_bits, deflate.options)
    cdef bytes frame = frames.get(key)
    if frame is None:
        frame = frame_of(FIN | RSV1 | opcode, compress_message(payload, deflate.window_bits, deflate.options))
        frames[key] = frame
    return frame


def broadcast(connections, message, *, text=None, bint raise_exceptions=False):
    """Send one message to many connections without waiting for any of them.

    ``text``: as in ``send``. Connections that are closing are passed over. One that is in the middle of a fragmented
    message misses this one, and one whose unsent bytes are over its ``outbox_limit`` is failed with 1008; with
    ``raise_exceptions`` such losses are raised in one ExceptionGroup after all others were served.

    To connections with a codec, ``message`` is a value, which each codec encodes once; message hooks are called for
    each connection. What a codec or a hook raises is raised after all others were served. Raises TypeError when the
    message is neither str nor bytes-like and a connection has no codec.
    """
    cdef list filtered = [], problems = []
    if not isinstance(message, (str, bytes, bytearray, memoryview)):
        filtered = list(connections)
        for connection in filtered:
            if (<Sender>connection).message_filter is None:
                raise TypeError(f"a message must be str or bytes-like, not {type(message).__name__}")
    else:
        send_to_all(connections, message, text, filtered, problems)
    if filtered:
        send_filtered(filtered, message, text, problems)
    if problems and raise_exceptions:
        raise ExceptionGroup("broadcast did not reach every connection", problems)


cdef int send_filtered(list connections, object value, object text, list problems) except -1:
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
        if type(shared) is tuple:  # else it was dropped
            groups.setdefault(id(shared), (shared, []))[1].append(connection)
    for (message, is_text, _), members in groups.values():
        send_to_all(members, message, text if is_text is None else is_text, None, problems)
    if fault is not None:
        raise fault
    return 0


cdef int send_to_all(connections, message, text, list filtered, list problems) except -1:
    """Send a message to all; ``filtered`` takes those for which it is a value, where it is given."""
    cdef Sender driver
    cdef Session session
    cdef bytes payload, frame
    cdef dict frames = {}
    cdef uint8_t opcode
    payload = message.encode() if isinstance(message, str) else bytes(message)
    opcode = OP_TEXT if (isinstance(message, str) and text is not False) or text else OP_BINARY
    frame = frame_of(FIN | opcode, payload)
    for connection in connections:
        driver = connection
        if driver.message_filter is not None and filtered is not None:
            filtered.append(driver)
            continue
        session = driver.session
        if session.phase == CLOSE_SENT or session.phase == CLOSED:
            continue
        try:
            if driver.fragmenting:
                raise ConcurrencyError("send")
            if driver.write_paused:
                driver.check_outbox()
                if session.phase == CLOSED:
                    raise closed_error(session.close_info)
            if session.is_client:
                session.send_message(message, text, None)  # each with masks of its own
                driver.after_send()
                continue
            session.messages_sent += 1
            session.bytes_sent += PyBytes_GET_SIZE(payload)
            if session.deflate is not None and PyBytes_GET_SIZE(payload) >= <Py_ssize_t>session.deflate.threshold:
                driver.send_frame_bytes(compressed_frame(frames, session.deflate, opcode, payload))
                # The peer's window now holds what our compressor has not seen (RFC 7692, 7.2.1).
                session.deflate.restart()
            else:
                driver.send_frame_bytes(frame)
        except Exception as exc:
            problems.append(exc)
    return 0
