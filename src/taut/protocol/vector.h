/* Sixteen bytes at a time: SSE2, NEON or two 64-bit words, and the unaligned loads under all kernels.
 *
 * Memory is only ever touched through memcpy and unaligned vector loads, so any alignment is fine.  TAUT_PORTABLE
 * switches every vector instruction off, TAUT_NO_AVX2 the AVX2 loop of kernels.h: for testing.
 */
#ifndef TAUT_VECTOR_H
#define TAUT_VECTOR_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__GNUC__)
#define TAUT_INLINE static inline __attribute__((always_inline))
#define TAUT_OUTLINE static __attribute__((noinline, unused))
#define TAUT_LIKELY(condition) __builtin_expect(!!(condition), 1)
#else
#define TAUT_INLINE static inline
#define TAUT_OUTLINE static inline
#define TAUT_LIKELY(condition) (condition)
#endif

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
#define TAUT_BIG_ENDIAN 1
#else
#define TAUT_BIG_ENDIAN 0
#endif

#define TAUT_HIGH_BITS UINT64_C(0x8080808080808080)

#if !defined(TAUT_PORTABLE) && (defined(__SSE2__) || defined(_M_X64))
#include <emmintrin.h>
typedef __m128i taut_vector;
TAUT_INLINE taut_vector taut_load(const uint8_t *p) { return _mm_loadu_si128((const __m128i *)(const void *)p); }
TAUT_INLINE void taut_store(uint8_t *p, taut_vector v) { _mm_storeu_si128((__m128i *)(void *)p, v); }
TAUT_INLINE taut_vector taut_splat(uint32_t key) { return _mm_set1_epi32((int)key); }
TAUT_INLINE taut_vector taut_xor(taut_vector a, taut_vector b) { return _mm_xor_si128(a, b); }
TAUT_INLINE taut_vector taut_or(taut_vector a, taut_vector b) { return _mm_or_si128(a, b); }
TAUT_INLINE int taut_is_ascii(taut_vector v) { return _mm_movemask_epi8(v) == 0; }
#elif !defined(TAUT_PORTABLE) && defined(__aarch64__)
#include <arm_neon.h>
typedef uint8x16_t taut_vector;
TAUT_INLINE taut_vector taut_load(const uint8_t *p) { return vld1q_u8(p); }
TAUT_INLINE void taut_store(uint8_t *p, taut_vector v) { vst1q_u8(p, v); }
TAUT_INLINE taut_vector taut_splat(uint32_t key) { return vreinterpretq_u8_u32(vdupq_n_u32(key)); }
TAUT_INLINE taut_vector taut_xor(taut_vector a, taut_vector b) { return veorq_u8(a, b); }
TAUT_INLINE taut_vector taut_or(taut_vector a, taut_vector b) { return vorrq_u8(a, b); }
TAUT_INLINE int taut_is_ascii(taut_vector v) { return vmaxvq_u8(v) < 0x80; }
#else
typedef struct { uint64_t low, high; } taut_vector;
TAUT_INLINE taut_vector taut_load(const uint8_t *p) { taut_vector v; memcpy(&v, p, 16); return v; }
TAUT_INLINE void taut_store(uint8_t *p, taut_vector v) { memcpy(p, &v, 16); }
TAUT_INLINE taut_vector taut_splat(uint32_t key) {
    uint64_t word = ((uint64_t)key << 32) | key;
    taut_vector v = {word, word};
    return v;
}
TAUT_INLINE taut_vector taut_xor(taut_vector a, taut_vector b) { a.low ^= b.low; a.high ^= b.high; return a; }
TAUT_INLINE taut_vector taut_or(taut_vector a, taut_vector b) { a.low |= b.low; a.high |= b.high; return a; }
TAUT_INLINE int taut_is_ascii(taut_vector v) { return ((v.low | v.high) & TAUT_HIGH_BITS) == 0; }
#endif

#if !defined(TAUT_PORTABLE) && !defined(TAUT_NO_AVX2) && defined(__x86_64__) && defined(__GNUC__)
#define TAUT_AVX2 1
#include <immintrin.h>
/* libgcc and compiler-rt ask the processor once, before main; this is one load and a test. */
TAUT_INLINE int taut_has_avx2(void) { return __builtin_cpu_supports("avx2") != 0; }
#endif

TAUT_INLINE uint32_t taut_load32(const uint8_t *p) { uint32_t w; memcpy(&w, p, 4); return w; }
TAUT_INLINE uint64_t taut_load64(const uint8_t *p) { uint64_t w; memcpy(&w, p, 8); return w; }

#endif
