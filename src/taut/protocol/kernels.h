/* The byte kernels under the frame reader and writer: masking, the ASCII test, frame heads, and utf8.h.
 *
 * Nothing here knows Python, allocates, or keeps state between calls; a caller may drop the GIL around any of them.
 * Every length is unsigned, from size_t up to the 64 bits of a frame's length field (RFC 6455, 5.2): a peer may
 * declare 2**64-1 bytes, and no arithmetic here may turn that into a small or a negative number.
 *
 * A masking key travels as the uint32_t whose bytes *in memory* are the four bytes of the key on the wire; masking is
 * then a plain XOR on either byte order.  Zero is a key like any other.
 */
#ifndef TAUT_KERNELS_H
#define TAUT_KERNELS_H

#include "utf8.h"
#include "vector.h"

/* ---- masking (RFC 6455, 5.3) ----------------------------------------------------------------------------------- */

/* The key as it applies from `offset` bytes further on: its bytes in memory, rotated. */
TAUT_INLINE uint32_t taut_rotate_key(uint32_t key, size_t offset) {
    unsigned shift = (unsigned)(offset & 3) * 8;
    unsigned back = (32 - shift) & 31;
    return TAUT_BIG_ENDIAN ? (key << shift) | (key >> back) : (key >> shift) | (key << back);
}

/* All the maskers below cover a length that is no multiple of their width by two overlapping pieces, one from the
 * start and one that ends at the end.  Both are loaded before either is stored, so that masking in place XORs no byte
 * twice.  `tail` is the key at n, hence at n minus any multiple of four. */

#ifdef TAUT_AVX2
__attribute__((target("avx2")))
TAUT_OUTLINE int taut_mask_avx2(uint8_t *dst, const uint8_t *src, size_t n, uint32_t key, uint32_t tail) {
    const size_t aligned = 32 - ((uintptr_t)dst & 31); /* 1..32 */
    const uint8_t *last = src + n - 128;
    const __m256i end = _mm256_set1_epi32((int)tail);
    const __m256i middle = _mm256_set1_epi32((int)taut_rotate_key(key, aligned));
    __m256i h = _mm256_xor_si256(_mm256_loadu_si256((const __m256i *)(const void *)src), _mm256_set1_epi32((int)key));
    __m256i t0 = _mm256_xor_si256(_mm256_loadu_si256((const __m256i *)(const void *)last), end);
    __m256i t1 = _mm256_xor_si256(_mm256_loadu_si256((const __m256i *)(const void *)(last + 32)), end);
    __m256i t2 = _mm256_xor_si256(_mm256_loadu_si256((const __m256i *)(const void *)(last + 64)), end);
    __m256i t3 = _mm256_xor_si256(_mm256_loadu_si256((const __m256i *)(const void *)(last + 96)), end);
    __m256i seen = _mm256_or_si256(_mm256_or_si256(h, t0), _mm256_or_si256(_mm256_or_si256(t1, t2), t3));
    for (size_t i = aligned; i < n - 128; i += 128) {
        const uint8_t *s = src + i;
        uint8_t *d = dst + i;
        __m256i a = _mm256_xor_si256(_mm256_loadu_si256((const __m256i *)(const void *)s), middle);
        __m256i b = _mm256_xor_si256(_mm256_loadu_si256((const __m256i *)(const void *)(s + 32)), middle);
        __m256i c = _mm256_xor_si256(_mm256_loadu_si256((const __m256i *)(const void *)(s + 64)), middle);
        __m256i e = _mm256_xor_si256(_mm256_loadu_si256((const __m256i *)(const void *)(s + 96)), middle);
        _mm256_storeu_si256((__m256i *)(void *)d, a);
        _mm256_storeu_si256((__m256i *)(void *)(d + 32), b);
        _mm256_storeu_si256((__m256i *)(void *)(d + 64), c);
        _mm256_storeu_si256((__m256i *)(void *)(d + 96), e);
        seen = _mm256_or_si256(_mm256_or_si256(seen, _mm256_or_si256(a, b)), _mm256_or_si256(c, e));
    }
    _mm256_storeu_si256((__m256i *)(void *)dst, h);
    _mm256_storeu_si256((__m256i *)(void *)(dst + n - 128), t0);
    _mm256_storeu_si256((__m256i *)(void *)(dst + n - 96), t1);
    _mm256_storeu_si256((__m256i *)(void *)(dst + n - 64), t2);
    _mm256_storeu_si256((__m256i *)(void *)(dst + n - 32), t3);
    return _mm256_movemask_epi8(seen) == 0;
}
#endif

/* More than 64 bytes. */
TAUT_OUTLINE int taut_mask_long(uint8_t *dst, const uint8_t *src, size_t n, uint32_t key, uint32_t tail) {
#ifdef TAUT_AVX2
    if (n >= 256 && taut_has_avx2()) {
        return taut_mask_avx2(dst, src, n, key, tail);
    }
#endif
    const uint8_t *last = src + n - 64;
    const taut_vector start = taut_splat(key), end = taut_splat(tail);
    taut_vector t0 = taut_xor(taut_load(last), end), t1 = taut_xor(taut_load(last + 16), end);
    taut_vector t2 = taut_xor(taut_load(last + 32), end), t3 = taut_xor(taut_load(last + 48), end);
    taut_vector seen = taut_or(taut_or(t0, t1), taut_or(t2, t3));
    for (size_t i = 0; i < n - 64; i += 64) {
        taut_vector a = taut_xor(taut_load(src + i), start), b = taut_xor(taut_load(src + i + 16), start);
        taut_vector c = taut_xor(taut_load(src + i + 32), start), d = taut_xor(taut_load(src + i + 48), start);
        taut_store(dst + i, a);
        taut_store(dst + i + 16, b);
        taut_store(dst + i + 32, c);
        taut_store(dst + i + 48, d);
        seen = taut_or(seen, taut_or(taut_or(a, b), taut_or(c, d)));
    }
    taut_store(dst + n - 64, t0);
    taut_store(dst + n - 48, t1);
    taut_store(dst + n - 32, t2);
    taut_store(dst + n - 16, t3);
    return taut_is_ascii(seen);
}

/* dst[i] = src[i] ^ key byte (i + offset) & 3.  dst is src, or does not overlap it.
 * Returns 1 if every byte written is below 0x80, else 0; everything is written either way. */
TAUT_INLINE int taut_mask_ascii(uint8_t *dst, const uint8_t *src, size_t n, uint32_t key, size_t offset) {
    const uint32_t start = taut_rotate_key(key, offset);
    const uint32_t tail = taut_rotate_key(start, n);
    if (n > 64) {
        return taut_mask_long(dst, src, n, start, tail);
    }
    if (n > 16) {
        const taut_vector first = taut_splat(start), end = taut_splat(tail);
        taut_vector a = taut_xor(taut_load(src), first), b = taut_xor(taut_load(src + n - 16), end);
        taut_vector seen = taut_or(a, b);
        if (n > 32) {
            taut_vector c = taut_xor(taut_load(src + 16), first), d = taut_xor(taut_load(src + n - 32), end);
            taut_store(dst + 16, c);
            taut_store(dst + n - 32, d);
            seen = taut_or(seen, taut_or(c, d));
        }
        taut_store(dst, a);
        taut_store(dst + n - 16, b);
        return taut_is_ascii(seen);
    }
    if (n >= 8) {
        uint64_t a = taut_load64(src) ^ (((uint64_t)start << 32) | start);
        uint64_t b = taut_load64(src + n - 8) ^ (((uint64_t)tail << 32) | tail);
        memcpy(dst, &a, 8);
        memcpy(dst + n - 8, &b, 8);
        return ((a | b) & TAUT_HIGH_BITS) == 0;
    }
    if (n >= 4) {
        uint32_t a = taut_load32(src) ^ start, b = taut_load32(src + n - 4) ^ tail;
        memcpy(dst, &a, 4);
        memcpy(dst + n - 4, &b, 4);
        return ((a | b) & (uint32_t)TAUT_HIGH_BITS) == 0;
    }
    uint8_t bytes[4], seen = 0;
    memcpy(bytes, &start, 4);
    for (size_t i = 0; i < n; i++) {
        dst[i] = (uint8_t)(src[i] ^ bytes[i]);
        seen |= dst[i];
    }
    return seen < 0x80;
}

/* The same without the ASCII test. */
TAUT_INLINE void taut_mask(uint8_t *dst, const uint8_t *src, size_t n, uint32_t key, size_t offset) {
    (void)taut_mask_ascii(dst, src, n, key, offset);
}

/* Copy n bytes; 1 if all of them are below 0x80, else 0. */
TAUT_INLINE int taut_copy_ascii(uint8_t *dst, const uint8_t *src, size_t n) {
    return taut_mask_ascii(dst, src, n, 0, 0);
}

/* ---- frame heads (RFC 6455, 5.2) ------------------------------------------------------------------------------- */

typedef struct {
    uint8_t first;   /* FIN, RSV1-3 and the opcode */
    uint8_t masked;  /* 0 or 1 */
    uint8_t minimal; /* 0 if a shorter length field would have done, which 5.2 forbids */
    uint8_t size;    /* bytes of the head itself: 2..14 */
    uint32_t key;    /* 0 if not masked */
    uint64_t length; /* of the payload, as declared: up to 2**64-1, though 5.2 forbids the top bit */
} taut_head;

#define TAUT_HEAD_MAX 14

TAUT_INLINE uint64_t taut_read_big_endian(const uint8_t *p, size_t n) {
    uint64_t value = 0;
    for (size_t i = 0; i < n; i++) value = value << 8 | p[i];
    return value;
}

/* Write a head with the shortest length field, 2..14 bytes, and return its size. */
TAUT_INLINE size_t taut_pack_head(uint8_t *dst, uint8_t first, uint64_t length, int masked, uint32_t key) {
    const uint8_t mask = masked ? 0x80 : 0;
    size_t size = 2;
    dst[0] = first;
    if (TAUT_LIKELY(length < 126)) {
        dst[1] = (uint8_t)(mask | length);
    } else if (length <= 0xFFFF) {
        dst[1] = mask | 126;
        dst[2] = (uint8_t)(length >> 8);
        dst[3] = (uint8_t)length;
        size = 4;
    } else {
        dst[1] = mask | 127;
        for (unsigned i = 0; i < 8; i++) dst[2 + i] = (uint8_t)(length >> (56 - 8 * i));
        size = 10;
    }
    if (masked) {
        memcpy(dst + size, &key, 4);
        size += 4;
    }
    return size;
}

/* Read a head of which `avail` bytes are there.  Returns 0 with *out filled once it is complete; else how many bytes
 * from src on it takes to know more, always above avail. */
TAUT_INLINE size_t taut_unpack_head(const uint8_t *src, size_t avail, taut_head *out) {
    if (avail < 2) return 2;
    const uint8_t masked = src[1] >> 7, code = src[1] & 0x7F;
    const size_t extended = code < 126 ? 0 : code == 126 ? 2 : 8;
    const size_t size = 2 + extended + (size_t)masked * 4;
    if (avail < size) return size;
    out->first = src[0];
    out->masked = masked;
    out->size = (uint8_t)size;
    out->key = masked ? taut_load32(src + 2 + extended) : 0;
    if (TAUT_LIKELY(code < 126)) {
        out->length = code;
        out->minimal = 1;
    } else if (code == 126) {
        out->length = taut_read_big_endian(src + 2, 2);
        out->minimal = out->length >= 126;
    } else {
        out->length = taut_read_big_endian(src + 2, 8);
        out->minimal = out->length > 0xFFFF;
    }
    return 0;
}

#endif
