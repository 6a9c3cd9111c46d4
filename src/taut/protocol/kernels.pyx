# cython: language_level=3
"""The byte kernels of ``kernels.h`` as Python functions, for the tests and for callers in plain Python.

Compiled code cimports the C functions from ``kernels.pxd`` and never comes through here: these check what C
trusts its caller with (the key's length, bounds, overlap) and copy what C would leave in place.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.string cimport memcpy


cdef uint32_t masking_key(object key) except? 0:
    """The four bytes of a masking key as the kernels take them."""
    cdef uint32_t word
    if not isinstance(key, bytes) or len(key) != 4:
        raise ValueError(f"key must be a bytes object of length 4, not {key!r}")
    memcpy(&word, PyBytes_AS_STRING(key), 4)
    return word


def mask(data, key, offset=0):
    """Return data masked with the 4-byte key, `offset` bytes into the payload (RFC 6455, 5.3).

    Masking again with the same key and offset gives the data back.  ValueError if the key is not 4 bytes.
    """
    return mask_ascii(data, key, offset)[0]


def mask_ascii(data, key, offset=0):
    """Like mask(), and also whether every byte of the result is below 0x80."""
    cdef uint32_t word = masking_key(key)
    cdef size_t phase = offset & 3
    cdef Py_buffer view
    cdef bytes result
    cdef bint ascii
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        result = PyBytes_FromStringAndSize(NULL, view.len)
        ascii = taut_mask_ascii(
            <uint8_t *>PyBytes_AS_STRING(result), <const uint8_t *>view.buf, <size_t>view.len, word, phase
        )
    finally:
        PyBuffer_Release(&view)
    return result, ascii


def mask_within(buffer, size_t target, size_t source, size_t size, key, offset=0):
    """Mask buffer[source:source+size] to buffer[target:target+size] and return whether the result is ASCII.

    The two ranges must be the same (masking in place) or disjoint.  ValueError if they overlap otherwise or
    leave the buffer, or if the key is not 4 bytes.
    """
    cdef uint32_t word = masking_key(key)
    cdef size_t phase = offset & 3, length
    cdef Py_buffer view
    cdef uint8_t *start
    PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE | PyBUF_WRITABLE)
    try:
        length = <size_t>view.len
        if size > length or source > length - size or target > length - size:
            raise ValueError(f"source {source} or target {target} with size {size} leaves a buffer of {length} bytes")
        if source != target and source < target + size and target < source + size:
            raise ValueError(f"source {source} and target {target} overlap with size {size}")
        start = <uint8_t *>view.buf
        return bool(taut_mask_ascii(start + target, start + source, size, word, phase))
    finally:
        PyBuffer_Release(&view)


def copy_ascii(data):
    """Return a copy of data and whether every byte of it is below 0x80."""
    cdef Py_buffer view
    cdef bytes result
    cdef bint ascii
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        result = PyBytes_FromStringAndSize(NULL, view.len)
        ascii = taut_copy_ascii(<uint8_t *>PyBytes_AS_STRING(result), <const uint8_t *>view.buf, <size_t>view.len)
    finally:
        PyBuffer_Release(&view)
    return result, ascii


def utf8_feed(taut_utf8 state, data):
    """Validate the next piece of a UTF-8 text: return the new state, or None once a byte cannot be right.

    Begin with state 0; the text may end only with state 0 (RFC 6455, 8.1).  Any other state must be one that this
    function returned.
    """
    cdef Py_buffer view
    cdef int valid
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        valid = taut_utf8_feed(&state, <const uint8_t *>view.buf, <size_t>view.len)
    finally:
        PyBuffer_Release(&view)
    return state if valid else None


def utf8_pending(taut_utf8 state):
    """How many bytes of an unfinished character the state stands for, 0..3."""
    return taut_utf8_pending(state)


def pack_head(first, length, key):
    """Return a frame head (RFC 6455, 5.2): `first` is its first byte, `length` the payload's; key None: not masked.

    ValueError if `first` does not fit 8 bits, `length` does not fit 64, or the key is not 4 bytes.
    """
    cdef uint8_t head[14]
    cdef uint32_t word = 0 if key is None else masking_key(key)
    if not 0 <= first <= 0xFF:
        raise ValueError(f"first must be 0..255, not {first!r}")
    if not 0 <= length <= 0xFFFFFFFFFFFFFFFF:
        raise ValueError(f"length must be 0..2**64-1, not {length!r}")
    cdef size_t size = taut_pack_head(head, first, length, key is not None, word)
    return PyBytes_FromStringAndSize(<char *>head, <Py_ssize_t>size)


def unpack_head(data):
    """Read the frame head that data begins with: return (first, length, key, minimal, size).

    key is None if the frame is not masked; minimal is False if a shorter length field would have done.
    While the head is incomplete, return instead how many bytes it takes to know more.
    """
    cdef Py_buffer view
    cdef taut_head head
    cdef size_t needed
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        needed = taut_unpack_head(<const uint8_t *>view.buf, <size_t>view.len, &head)
    finally:
        PyBuffer_Release(&view)
    if needed:
        return needed
    key = PyBytes_FromStringAndSize(<char *>&head.key, 4) if head.masked else None
    return head.first, head.length, key, bool(head.minimal), head.size
