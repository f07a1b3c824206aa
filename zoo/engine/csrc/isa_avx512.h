/* AVX-512: 16 lanes, 32 registers. With ISA_VNNI also the dot products of integers, with ISA_BF16 those of bfloat16. */
#pragma once

enum { LANES = 16, TILE_TOKENS = 6, STRIP = 6, STRIP_COLS = 1024, INT_TOKENS = 8, INT_CHAINS = 16, CHAINS = 4, ATTEND_TOKENS = 4 };
#define HAS_TOKENS_4 1
#include "vector.h"

INLINE V fma_v(V a, V b, V c) { return (V)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c); }
INLINE V load_f16(const uint16_t *p) { return (V)_mm512_cvtph_ps(_mm256_loadu_si256((const void *)p)); }
INLINE V load_bf16(const uint16_t *p) {
    return (V)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)p)), 16);
}

/* out[i] = the sum of the lanes of the i-th vector: each half is added to the other, until one lane is left. */
INLINE void sum4(V v0, V v1, V v2, V v3, float *out) {
    __m512 a = (__m512)v0, b = (__m512)v1, c = (__m512)v2, d = (__m512)v3;
    __m512 ab = _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
    __m512 cd = _mm512_add_ps(_mm512_shuffle_f32x4(c, d, 0x44), _mm512_shuffle_f32x4(c, d, 0xee));
    __m512 four = _mm512_add_ps(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xdd));
    four = _mm512_add_ps(four, _mm512_permute_ps(four, 0x4e));
    four = _mm512_add_ps(four, _mm512_permute_ps(four, 0xb1));
    const __m512i firsts = _mm512_setr_epi32(0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
    _mm_storeu_ps(out, _mm512_castps512_ps128(_mm512_permutexvar_ps(firsts, four)));
}

/* acc + a * b of the low 16 bits of each lane + a * b of its high 16 bits. */
INLINE W dot_pairs(W acc, W a, W b) {
#if defined(ISA_VNNI)
    return (W)_mm512_dpwssd_epi32((__m512i)acc, (__m512i)a, (__m512i)b);
#else
    return acc + (W)_mm512_madd_epi16((__m512i)a, (__m512i)b);
#endif
}

#if defined(ISA_VNNI)
/* acc + the sum of x * w of the four bytes of each lane; x is unsigned: activations are stored with this offset. */
#define DOT_OFFSET 128
INLINE W dot_quads(W acc, W x, W w) { return (W)_mm512_dpbusd_epi32((__m512i)acc, (__m512i)x, (__m512i)w); }
#endif
