# cython: language_level=3, nonecheck=True
"""One message for many connections: each form of it that some connection needs is made once, for the first of them.

A compressed form refers to nothing sent before, so that all connections that agreed on the same window can share it,
whenever each of them sends it.  It becomes part of the peer's window all the same: whoever sends it lets the
connection's own compressor begin afresh (``Deflate.restart``).
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t

from ..protocol.frames cimport Output, output_frame, output_release

from ..protocol.deflate import compress_message

cdef enum:
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


cdef class Prepared:
    """A message in every form that it has been needed in so far."""

    cdef bytes frame(self):
        """Its frame, not compressed."""
        if self._frame is None:
            self._frame = frame_of(FIN | self.opcode, self.payload)
        return self._frame

    cdef bytes body(self, object deflate):
        """Its payload, compressed for connections like this one."""
        cdef object kind = (deflate.window_bits, deflate.options)
        cdef bytes body
        if self.bodies is None:
            self.bodies = {}
        body = self.bodies.get(kind)
        if body is None:
            body = self.bodies[kind] = compress_message(self.payload, deflate.window_bits, deflate.options)
        return body

    cdef bytes compressed_frame(self, object deflate):
        """Its frame, compressed for connections like this one."""
        cdef object kind = (deflate.window_bits, deflate.options)
        cdef bytes frame
        if self.frames is None:
            self.frames = {}
        frame = self.frames.get(kind)
        if frame is None:
            frame = frame_of(
                FIN | RSV1 | self.opcode, compress_message(self.payload, deflate.window_bits, deflate.options)
            )
            self.frames[kind] = frame
        return frame
