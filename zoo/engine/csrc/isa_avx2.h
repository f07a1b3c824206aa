/* AVX2 with FMA and F16C: 8 lanes, 16 registers. With ISA_VNNI also the dot products of integers of AVX-VNNI. */
#pragma once

#if defined(ISA_VNNI)
enum { AVX2_INT_TOKENS = 5 };
#else
enum { AVX2_INT_TOKENS = 4 }; /* products before they are added take registers too */
#endif
enum { LANES = 8, TILE_TOKENS = 3, STRIP = 24, STRIP_COLS = 256, INT_TOKENS = AVX2_INT_TOKENS, INT_CHAINS = 8, CHAINS = 1, ATTEND_TOKENS = 4 };
#include "vector.h"

INLINE V fma_v(V a, V b, V c) { return (V)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c); }
INLINE V load_f16(const uint16_t *p) { return (V)_mm256_cvtph_ps(_mm_loadu_si128((const void *)p)); }
INLINE V load_bf16(const uint16_t *p) {
    return (V)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const void *)p)), 16);
}

/* out[i] = the sum of the lanes of the i-th vector: each half is added to the other, until one lane is left. */
INLINE void sum4(V v0, V v1, V v2, V v3, float *out) {
    __m256 a = (__m256)v0, b = (__m256)v1, c = (__m256)v2, d = (__m256)v3;
    __m256 ab = _mm256_add_ps(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31));
    __m256 cd = _mm256_add_ps(_mm256_permute2f128_ps(c, d, 0x20), _mm256_permute2f128_ps(c, d, 0x31));
    __m256 two = _mm256_add_ps(_mm256_shuffle_ps(ab, cd, 0x44), _mm256_shuffle_ps(ab, cd, 0xee));
    two = _mm256_add_ps(two, _mm256_permute_ps(two, 0xb1));
    _mm_storeu_ps(out, _mm_blend_ps(_mm256_castps256_ps128(two), _mm256_extractf128_ps(two, 1), 10));
}

/* acc + a * b of the low 16 bits of each lane + a * b of its high 16 bits. */
INLINE W dot_pairs(W acc, W a, W b) {
#if defined(ISA_VNNI)
    return (W)_mm256_dpwssd_avx_epi32((__m256i)acc, (__m256i)a, (__m256i)b);
#else
    return acc + (W)_mm256_madd_epi16((__m256i)a, (__m256i)b);
#endif
}

#if defined(ISA_VNNI)
/* acc + the sum of x * w of the four bytes of each lane; x is unsigned: activations are stored with this offset. */
#define DOT_OFFSET 128
INLINE W dot_quads(W acc, W x, W w) { return (W)_mm256_dpbusd_avx_epi32((__m256i)acc, (__m256i)x, (__m256i)w); }
#endif
