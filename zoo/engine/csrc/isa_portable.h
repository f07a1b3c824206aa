/* Any other processor: 4 lanes of the compiler's vectors. */
#pragma once

enum { LANES = 4, TILE_TOKENS = 2, STRIP = 24, STRIP_COLS = 256, INT_TOKENS = 2, INT_CHAINS = 8, CHAINS = 1, ATTEND_TOKENS = 2 };
#include "vector.h"

INLINE V fma_v(V a, V b, V c) { return a * b + c; }
INLINE W load_u16(const uint16_t *p) { return (W){p[0], p[1], p[2], p[3]}; }
INLINE V load_f16(const uint16_t *p) { return widen_f16(load_u16(p)); }
INLINE V load_bf16(const uint16_t *p) { return (V)(load_u16(p) << 16); }

/* out[i] = the sum of the lanes of the i-th vector: each half is added to the other, until one lane is left. */
INLINE void sum4(V a, V b, V c, V d, float *out) {
    const V v[4] = {a, b, c, d};
    for (int i = 0; i < 4; i++) out[i] = (v[i][0] + v[i][2]) + (v[i][1] + v[i][3]);
}

/* acc + a * b of the low 16 bits of each lane + a * b of its high 16 bits. */
INLINE W dot_pairs(W acc, W a, W b) { return acc + ((a << 16) >> 16) * ((b << 16) >> 16) + (a >> 16) * (b >> 16); }
