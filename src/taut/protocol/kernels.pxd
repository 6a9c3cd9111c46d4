from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t


cdef extern from "kernels.h" nogil:
    ctypedef uint32_t taut_utf8

    ctypedef struct taut_head:
        uint8_t first
        uint8_t masked
        uint8_t minimal
        uint8_t size
        uint32_t key
        uint64_t length

    const size_t TAUT_HEAD_MAX

    void taut_mask(uint8_t *dst, const uint8_t *src, size_t n, uint32_t key, size_t offset) noexcept
    int taut_mask_ascii(uint8_t *dst, const uint8_t *src, size_t n, uint32_t key, size_t offset) noexcept
    int taut_copy_ascii(uint8_t *dst, const uint8_t *src, size_t n) noexcept

    int taut_utf8_feed(taut_utf8 *state, const uint8_t *data, size_t n) noexcept
    size_t taut_utf8_pending(taut_utf8 state) noexcept

    size_t taut_pack_head(uint8_t *dst, uint8_t first, uint64_t length, int masked, uint32_t key) noexcept
    size_t taut_unpack_head(const uint8_t *src, size_t avail, taut_head *out) noexcept
