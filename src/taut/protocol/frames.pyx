# cython: language_level=3
"""Frames in memory: the output they are written to, and the buffer a message is assembled in.

``Output`` is plain memory that grows while frames are added and is given back once it has been sent, so that an
idle connection owns none.  ``Assembly`` exists only while a message is incomplete: its payload is unmasked straight
into the bytes or str that the user will get when the length is known, or into memory that doubles as the message
grows.  Text is validated as it arrives, so that invalid UTF-8 is refused at the first impossible byte (RFC 6455, 8.1)
and not only at the end of the message.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memmove

from .kernels cimport (
    taut_copy_ascii,
    taut_mask,
    taut_mask_ascii,
    taut_pack_head,
    taut_utf8_feed,
    taut_utf8_pending,
)

from ..errors import ProtocolError

cdef extern from "Python.h":
    object PyUnicode_New(Py_ssize_t size, Py_UCS4 maxchar)
    uint8_t *PyUnicode_1BYTE_DATA(object text)
    size_t PY_SSIZE_T_MAX

cdef enum:
    OUTPUT_START = 512
    ASSEMBLY_START = 4096
    MASK_POOL = 4096
    # The most memory that a declared length alone may reserve; beyond it, memory follows what arrives.
    EXACT_LIMIT = 1 << 26


cdef uint8_t *output_reserve(Output *out, size_t size) except NULL:
    """Make room for size more bytes and return where they go; the caller then adds to ``length``."""
    cdef size_t need = out.length + size
    cdef size_t capacity
    cdef uint8_t *data
    if need < size:
        raise MemoryError
    if need > out.capacity:
        capacity = out.capacity * 2 if out.capacity else OUTPUT_START
        if capacity < need:
            capacity = need
        data = <uint8_t *>realloc(out.data, capacity)
        if data is NULL:
            raise MemoryError
        out.data = data
        out.capacity = capacity
    return out.data + out.length


cdef void output_release(Output *out) noexcept:
    free(out.data)
    out.data = NULL
    out.length = out.capacity = 0


cdef int output_frame_head(Output *out, uint8_t first, uint64_t size) except -1:
    """Append the head of an unmasked frame whose payload is sent from elsewhere."""
    out.length += taut_pack_head(output_reserve(out, 14), first, size, False, 0)
    return 0


cdef int output_frame(
    Output *out, uint8_t first, const uint8_t *payload, size_t size, bint masked, uint32_t key
) except -1:
    """Append one frame: its head, and its payload, masked if this is a client (RFC 6455, 5.3)."""
    cdef uint8_t *dst = output_reserve(out, size + 14)
    cdef size_t head = taut_pack_head(dst, first, size, masked, key)
    if masked:
        taut_mask(dst + head, payload, size, key, 0)
    elif size:
        memcpy(dst + head, payload, size)
    out.length += head + size
    return 0


cdef class MaskPool:
    """Masking keys cut from blocks of an entropy source, one fresh key a frame (RFC 6455, 5.3 and 10.3).

    ``source`` is called with a number of bytes and returns that many unpredictable ones; ``os.urandom`` is what
    drivers pass.
    """

    def __init__(self, source):
        self.source = source
        self.pool = b""
        self.used = 0

    def forget(self):
        """Begin with a fresh block: after a fork, for example, which must not send the parent's keys."""
        self.pool = b""
        self.used = 0

    cdef int next(self, uint32_t *key) except -1:
        if self.used + 4 > <size_t>PyBytes_GET_SIZE(self.pool):
            fresh = self.source(MASK_POOL)
            if type(fresh) is not bytes:
                raise TypeError(f"the source of masking keys must return bytes, not {type(fresh).__name__}")
            if len(fresh) < 4:
                raise ValueError("the source of masking keys returned less than 4 bytes")
            self.pool = fresh
            self.used = 0
        memcpy(key, PyBytes_AS_STRING(self.pool) + self.used, 4)
        self.used += 4
        return 0


cdef class Assembly:
    """One message, or one streamed part of it, while it is incomplete.

    ``data`` is where the payload goes: inside ``target`` when the final size is known (``exact``), else memory of
    its own.  An exact text starts as an ASCII str; the first byte that is not ASCII moves it to memory of its own.
    """

    def __cinit__(self, bint text):
        self.text = text
        self.data = NULL

    def __dealloc__(self):
        if not self.exact:
            free(self.data)

    cdef int expect(self, size_t size) except -1:
        """Promise that the message has exactly ``size`` bytes; only before anything was appended."""
        if size == 0 or size > EXACT_LIMIT:
            return 0
        if self.text:
            self.target = PyUnicode_New(size, 127)
            self.data = PyUnicode_1BYTE_DATA(self.target)
        else:
            self.target = PyBytes_FromStringAndSize(NULL, size)
            self.data = <uint8_t *>PyBytes_AS_STRING(self.target)
        self.exact = True
        self.capacity = size
        return 0

    cdef int append(self, const uint8_t *src, size_t size, bint masked, uint32_t key, size_t offset) except -1:
        """Add payload; ``offset`` is its place in its frame. Raises ProtocolError (1007) for invalid UTF-8."""
        cdef bint ascii = True
        cdef uint8_t *dst
        if size == 0:
            return 0
        if self.capacity - self.length < size:
            self._grow(size)
        dst = self.data + self.length
        if not self.text:
            if masked:
                taut_mask(dst, src, size, key, offset)
            else:
                memcpy(dst, src, size)
        elif masked:
            ascii = taut_mask_ascii(dst, src, size, key, offset)
        else:
            ascii = taut_copy_ascii(dst, src, size)
        return self._check(self.length, size, ascii)

    cdef int append_in_place(self, size_t size, bint masked, uint32_t key, size_t offset) except -1:
        """The same for payload that was read from the network straight to ``data + length``."""
        cdef bint ascii = True
        cdef uint8_t *dst = self.data + self.length
        if not self.text:
            if masked:
                taut_mask(dst, dst, size, key, offset)
        elif masked:
            ascii = taut_mask_ascii(dst, dst, size, key, offset)
        else:
            ascii = taut_copy_ascii(dst, dst, size)
        return self._check(self.length, size, ascii)

    cdef int _check(self, size_t start, size_t size, bint ascii) except -1:
        self.length += size
        if not self.text or (ascii and self.utf8 == 0):
            return 0
        if self.exact:
            self._leave_target()
        if not taut_utf8_feed(&self.utf8, self.data + start, size):
            self.length = start  # what came before is good, and may be wanted by a streaming reader
            raise ProtocolError("invalid UTF-8 in a text message", 1007)
        return 0

    cdef int _leave_target(self) except -1:
        """Move from the final object to memory of our own: not ASCII, or wanted in parts."""
        cdef uint8_t *data = <uint8_t *>malloc(self.capacity)
        if data is NULL:
            raise MemoryError
        memcpy(data, self.data, self.length)
        self.data = data
        self.exact = False
        self.target = None
        return 0

    cdef int _grow(self, size_t size) except -1:
        cdef size_t need = self.length + size
        cdef size_t capacity = self.capacity * 2 if self.capacity else ASSEMBLY_START
        cdef uint8_t *data
        if need < size or self.exact:
            raise MemoryError
        if capacity < need:
            capacity = need
        data = <uint8_t *>realloc(self.data, capacity)
        if data is NULL:
            raise MemoryError
        self.data = data
        self.capacity = capacity
        return 0

    cdef object take(self, bint final):
        """What has been assembled, as str or bytes, leaving the assembly empty.

        If not ``final``, the bytes of an unfinished character stay for the next part.
        """
        cdef size_t kept = 0
        cdef object result
        if self.text:
            kept = taut_utf8_pending(self.utf8)
            if final and kept:
                raise ProtocolError("a text message ends in the middle of a UTF-8 sequence", 1007)
        if self.exact and self.length != self.capacity:
            self._leave_target()  # a part is taken early, by a streaming reader
        if self.exact:
            result = self.target
            self.target = None
            self.exact = False
            self.data = NULL
            self.length = self.capacity = 0
            return result
        if self.text:
            result = PyUnicode_DecodeUTF8(<char *>self.data, self.length - kept, NULL) if self.length else ""
        else:
            result = PyBytes_FromStringAndSize(<char *>self.data, self.length)
        if kept:
            memmove(self.data, self.data + self.length - kept, kept)
        self.length = kept
        return result


cdef object decode_text(const uint8_t *src, size_t size, bint masked, uint32_t key):
    """A whole text payload as str. Raises UnicodeDecodeError when it is not UTF-8."""
    if size == 0:
        return ""
    cdef object text = PyUnicode_New(size, 127)
    cdef uint8_t *dst = PyUnicode_1BYTE_DATA(text)
    if taut_mask_ascii(dst, src, size, key, 0) if masked else taut_copy_ascii(dst, src, size):
        return text
    # Not ASCII: the str was only scratch space, and holds the unmasked UTF-8.
    return PyUnicode_DecodeUTF8(<char *>dst, size, NULL)


cdef object decode_binary(const uint8_t *src, size_t size, bint masked, uint32_t key):
    """A whole binary payload as bytes."""
    cdef object data = PyBytes_FromStringAndSize(NULL, size)
    if masked:
        taut_mask(<uint8_t *>PyBytes_AS_STRING(data), src, size, key, 0)
    else:
        memcpy(PyBytes_AS_STRING(data), src, size)
    return data
