/* Incremental validation of UTF-8 (RFC 3629) as text messages need it (RFC 6455, 8.1).
 *
 * A message arrives in pieces that may end inside a character, and must be refused as soon as a byte cannot be right.
 * taut_utf8_step is the definition: one byte, one small state.  taut_utf8_feed runs it, and where a piece is at a
 * character boundary first skips what is surely good: ASCII 64 bytes at a time, other text 16.  The skips accept only
 * whole characters and never refuse: at anything unusual they stop and leave the byte to the step.
 */
#ifndef TAUT_UTF8_H
#define TAUT_UTF8_H

#include "vector.h"

/* Where a stream stands: 0 between characters; inside one, the range the next byte must be in, how many bytes are
 * still to come and how many have been seen.  Only the byte after the lead can have a range narrower than 80..BF, and
 * that range is what refuses overlong forms, surrogates and what lies beyond U+10FFFF at the first possible byte. */
typedef uint32_t taut_utf8;

#define TAUT_UTF8_INVALID UINT32_MAX
#define TAUT_UTF8_STATE(low, high, missing, seen) \
    ((taut_utf8)(low) | (taut_utf8)(high) << 8 | (taut_utf8)(missing) << 16 | (taut_utf8)(seen) << 24)

TAUT_INLINE taut_utf8 taut_utf8_lead(uint8_t byte) {
    if (byte < 0x80) return 0;
    if (byte < 0xC2) return TAUT_UTF8_INVALID; /* a continuation, or an overlong form of ASCII */
    if (byte < 0xE0) return TAUT_UTF8_STATE(0x80, 0xBF, 1, 1);
    if (byte == 0xE0) return TAUT_UTF8_STATE(0xA0, 0xBF, 2, 1); /* below: overlong */
    if (byte == 0xED) return TAUT_UTF8_STATE(0x80, 0x9F, 2, 1); /* above: surrogates */
    if (byte < 0xF0) return TAUT_UTF8_STATE(0x80, 0xBF, 2, 1);
    if (byte == 0xF0) return TAUT_UTF8_STATE(0x90, 0xBF, 3, 1); /* below: overlong */
    if (byte < 0xF4) return TAUT_UTF8_STATE(0x80, 0xBF, 3, 1);
    if (byte == 0xF4) return TAUT_UTF8_STATE(0x80, 0x8F, 3, 1); /* above: beyond U+10FFFF */
    return TAUT_UTF8_INVALID;
}

/* The state after one more byte. */
TAUT_INLINE taut_utf8 taut_utf8_step(taut_utf8 state, uint8_t byte) {
    if (state == 0) {
        return taut_utf8_lead(byte);
    }
    if (byte < (state & 0xFF) || byte > ((state >> 8) & 0xFF)) {
        return TAUT_UTF8_INVALID;
    }
    taut_utf8 missing = (state >> 16) & 0xFF, seen = state >> 24;
    return missing == 1 ? 0 : TAUT_UTF8_STATE(0x80, 0xBF, missing - 1, seen + 1);
}

/* How many bytes of the unfinished character have been seen: 0..3. */
TAUT_INLINE size_t taut_utf8_pending(taut_utf8 state) { return state >> 24; }

/* The position of the first byte from i on that is not ASCII, or n. */
TAUT_INLINE size_t taut_skip_ascii(const uint8_t *data, size_t i, size_t n) {
    while (n - i >= 64) {
        taut_vector a = taut_or(taut_load(data + i), taut_load(data + i + 16));
        taut_vector b = taut_or(taut_load(data + i + 32), taut_load(data + i + 48));
        if (!taut_is_ascii(taut_or(a, b))) break;
        i += 64;
    }
    while (n - i >= 16 && taut_is_ascii(taut_load(data + i))) i += 16;
    if (n - i >= 8 && (taut_load64(data + i) & TAUT_HIGH_BITS) == 0) i += 8;
    while (i < n && data[i] < 0x80) i++;
    return i;
}

/* The length of the well-formed character of two to four bytes at p, of which four may be read; 0 if there is none. */
TAUT_INLINE size_t taut_utf8_character(const uint8_t *p) {
    const uint32_t c = p[0];
    if (c < 0xE0) {
        return (c >= 0xC2 && (p[1] & 0xC0) == 0x80) ? 2 : 0;
    }
    if (c < 0xF0) {
        const uint32_t code = (c & 0x0F) << 12 | (uint32_t)(p[1] & 0x3F) << 6 | (p[2] & 0x3F);
        const int shaped = ((p[1] & 0xC0) == 0x80) & ((p[2] & 0xC0) == 0x80);
        return (shaped & (code >= 0x800) & ((code & 0xF800) != 0xD800)) ? 3 : 0;
    }
    const uint32_t code = (c & 0x0F) << 18 | (uint32_t)(p[1] & 0x3F) << 12;
    const int shaped = ((p[1] & 0xC0) == 0x80) & ((p[2] & 0xC0) == 0x80) & ((p[3] & 0xC0) == 0x80);
    return (shaped & (code >= 0x10000) & (code < 0x110000)) ? 4 : 0;
}

#if !defined(TAUT_PORTABLE) && defined(__GNUC__)
#define TAUT_BLOCKS 1
typedef uint8_t taut_block __attribute__((vector_size(16)));

/* Check characters from the boundary i on, 16 bytes at a time, and return a boundary up to which all is well-formed.
 *
 * Whether a byte is right depends on it and the three before it: it must be a continuation exactly if one of those is
 * a lead that reaches this far, and four leads narrow the byte that follows them.  All four vectors are plain loads, so
 * i must be 3 or more, and a last block that overlaps the one before it covers any length from 19.  The check is exact:
 * the loop stops at a chunk with an impossible byte in it, and where ASCII takes over. */
TAUT_OUTLINE size_t taut_utf8_check(const uint8_t *data, size_t i, size_t n) {
    for (int more = 1; more && i < n;) {
        const size_t stop = n - i > 256 ? i + 256 : n;
        taut_block wrong = {0}, seen = {0};
        for (size_t j = i; j < stop; j += 16) {
            const uint8_t *p = data + (stop - j < 16 ? stop - 16 : j);
            taut_block c, c1, c2, c3;
            memcpy(&c, p, 16);
            memcpy(&c1, p - 1, 16);
            memcpy(&c2, p - 2, 16);
            memcpy(&c3, p - 3, 16);
            seen |= c;
            wrong |= (taut_block)(((c & 0xC0) == 0x80) ^ ((c1 >= 0xC0) | (c2 >= 0xE0) | (c3 >= 0xF0)));
            wrong |= (taut_block)(((c & 0xFE) == 0xC0) | (c >= 0xF5));
            wrong |= (taut_block)(((c1 == 0xE0) & (c < 0xA0)) | ((c1 == 0xED) & (c >= 0xA0)));
            wrong |= (taut_block)(((c1 == 0xF0) & (c < 0x90)) | ((c1 == 0xF4) & (c >= 0x90)));
        }
        uint64_t words[4];
        memcpy(words, &wrong, 16);
        memcpy(words + 2, &seen, 16);
        if (words[0] | words[1]) break;
        more = ((words[2] | words[3]) & TAUT_HIGH_BITS) != 0;
        i = stop;
    }
    return data[i - 1] >= 0xC0 ? i - 1 : data[i - 2] >= 0xE0 ? i - 2 : data[i - 3] >= 0xF0 ? i - 3 : i;
}
#else
#define TAUT_BLOCKS 0
TAUT_INLINE size_t taut_utf8_check(const uint8_t *data, size_t i, size_t n) { (void)data; (void)n; return i; }
#endif

/* Whether taut_utf8_check may run from i on, and enough is left for it to pay. */
TAUT_INLINE int taut_utf8_blocks_apply(size_t i, size_t n) {
    return TAUT_BLOCKS && i >= 3 && n >= 19 && n - i >= 8;
}

/* Skip whole well-formed characters from i on; stops at n, or at one that is not well-formed or too near the end. */
TAUT_OUTLINE size_t taut_utf8_skip(const uint8_t *data, size_t i, size_t n) {
    for (;;) {
        i = taut_skip_ascii(data, i, n);
        if (n - i < 4) return i;
        if (taut_utf8_blocks_apply(i, n)) {
            size_t boundary = taut_utf8_check(data, i, n);
            if (boundary > i) {
                i = boundary;
                continue;
            }
        }
        do {
            size_t length = taut_utf8_character(data + i);
            if (length == 0) return i;
            i += length;
        } while (n - i >= 4 && data[i] >= 0x80 && !taut_utf8_blocks_apply(i, n));
    }
}

/* Take n more bytes.  Returns 1, or 0 as soon as a byte cannot continue well-formed UTF-8 (state is then left as it
 * was).  Text may end only with state 0.  The byte by byte step decides; the skips only spare it what is surely good. */
TAUT_INLINE int taut_utf8_feed(taut_utf8 *state, const uint8_t *data, size_t n) {
    taut_utf8 now = *state;
    size_t i = 0;
    while (i < n) {
        if (now == 0 && n - i >= 4) {
            i = taut_utf8_skip(data, i, n);
            if (i == n) break;
        }
        now = taut_utf8_step(now, data[i++]);
        if (now == TAUT_UTF8_INVALID) return 0;
    }
    *state = now;
    return 1;
}

#endif
