/* ARM's Advanced SIMD (NEON): 4 lanes, 32 registers. With ISA_DOT also the dot products of bytes. */
#pragma once

#include <arm_neon.h>

enum { LANES = 4, TILE_TOKENS = 5, STRIP = 20, STRIP_COLS = 256, INT_TOKENS = 4, INT_CHAINS = 8, CHAINS = 1, ATTEND_TOKENS = 4 };
#include "vector.h"

INLINE V fma_v(V a, V b, V c) { return (V)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b); }
INLINE V load_f16(const uint16_t *p) { return (V)vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p))); }
INLINE V load_bf16(const uint16_t *p) { return (V)vshll_n_u16(vld1_u16(p), 16); }

/* out[i] = the sum of the lanes of the i-th vector: neighbours first. */
INLINE void sum4(V a, V b, V c, V d, float *out) {
    float32x4_t ab = vpaddq_f32((float32x4_t)a, (float32x4_t)b), cd = vpaddq_f32((float32x4_t)c, (float32x4_t)d);
    vst1q_f32(out, vpaddq_f32(ab, cd));
}

/* acc + a * b of the low 16 bits of each lane + a * b of its high 16 bits. */
INLINE W dot_pairs(W acc, W a, W b) {
    int16x8_t x = (int16x8_t)a, y = (int16x8_t)b;
    return acc + (W)vpaddq_s32(vmull_s16(vget_low_s16(x), vget_low_s16(y)), vmull_high_s16(x, y));
}

#if defined(ISA_DOT)
/* acc + the sum of x * w of the four bytes of each lane, both signed. */
#define DOT_OFFSET 0
INLINE W dot_quads(W acc, W x, W w) { return (W)vdotq_s32((int32x4_t)acc, (int8x16_t)x, (int8x16_t)w); }
#endif
