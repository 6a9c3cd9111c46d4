# cython: language_level=3
"""Frames noted for whoever observes them, in the order in which they were received and sent.

Nobody's code runs while frames are read or written: the observer is only told that there are notes, once for all until
they are taken.  A connection that is not observed pays one comparison a frame.
"""

from libc.stdint cimport uint8_t, uint64_t


cdef class FrameNotes:
    """The notes of one connection."""

    cdef int note_frame(self, bint sent, uint8_t first, uint64_t length, bytes payload) except -1:
        """Note a frame that was received or is sent; only where there is an observer."""
        if self.noted is None:
            self.noted = []
            self.observer()
        self.noted.append((sent, first, length, payload))
        return 0

    def observe_frames(self, observer):
        """Note every frame from now on, and call ``observer()`` with the first note; None: note nothing more."""
        self.observer = observer

    def take_frames(self):
        """The frames since the last call: (sent, first byte, length, payload of a control frame or None)."""
        noted, self.noted = self.noted, None
        return noted or []
