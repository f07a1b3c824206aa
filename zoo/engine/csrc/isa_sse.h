/* SSE2, which every x86-64 processor has: 4 lanes, 16 registers, no fused multiply-add. */
#pragma once

enum { LANES = 4, TILE_TOKENS = 3, STRIP = 24, STRIP_COLS = 256, INT_TOKENS = 2, INT_CHAINS = 8, CHAINS = 1, ATTEND_TOKENS = 2 };
#include "vector.h"

INLINE V fma_v(V a, V b, V c) { return a * b + c; }
INLINE W load_u16(const uint16_t *p) {
    return (W)_mm_unpacklo_epi16(_mm_loadl_epi64((const void *)p), _mm_setzero_si128());
}
INLINE V load_f16(const uint16_t *p) { return widen_f16(load_u16(p)); }
INLINE V load_bf16(const uint16_t *p) { return (V)(load_u16(p) << 16); }

/* out[i] = the sum of the lanes of the i-th vector: each half is added to the other, until one lane is left. */
INLINE void sum4(V v0, V v1, V v2, V v3, float *out) {
    __m128 a = (__m128)v0, b = (__m128)v1, c = (__m128)v2, d = (__m128)v3;
    _MM_TRANSPOSE4_PS(a, b, c, d);
    _mm_storeu_ps(out, _mm_add_ps(_mm_add_ps(a, c), _mm_add_ps(b, d)));
}

/* acc + a * b of the low 16 bits of each lane + a * b of its high 16 bits. */
INLINE W dot_pairs(W acc, W a, W b) { return acc + (W)_mm_madd_epi16((__m128i)a, (__m128i)b); }
