/* Vectors of LANES 32-bit lanes, and what all instruction sets express in the same way. Each isa_*.h chooses LANES, which is the
 * width of its registers, includes this file and adds its own functions. It also chooses the sizes of tiles:
 *
 *   TILE_TOKENS    activations multiplied with four rows at a time: 4 * TILE_TOKENS sums plus operands fill the registers
 *   STRIP          activations and columns multiplied in one go: they stay in the L1 cache (STRIP_COLS: of one row)
 *   INT_TOKENS     activations multiplied with 16 interleaved rows at a time; INT_CHAINS: independent sums at most
 *   CHAINS         independent sums of one score of attention; ATTEND_TOKENS: queries at a time */
#pragma once

#include "kernels.h"

typedef float V __attribute__((vector_size(4 * LANES)));
typedef int32_t W __attribute__((vector_size(4 * LANES)));
typedef int16_t H __attribute__((vector_size(4 * LANES)));
typedef float UnalignedV __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t UnalignedW __attribute__((vector_size(4 * LANES), aligned(1), may_alias));
enum { PARTS = ROWS / LANES }; /* vectors for 16 lanes */

INLINE V load(const float *p) { return *(const UnalignedV *)p; }
INLINE void store(float *p, V v) { *(UnalignedV *)p = v; }
INLINE W load_w(const void *p) { return *(const UnalignedW *)p; }
INLINE void store_w(void *p, W w) { *(UnalignedW *)p = w; }
INLINE V set1(float x) { return x - (V){0}; } /* not 0 + x, which is an addition: it changes -0 */
INLINE W set1_w(int32_t x) { return (W){0} + x; }
INLINE V to_float(W w) { return __builtin_convertvector(w, V); }
INLINE W to_int(V v) { return __builtin_convertvector(v, W); }
INLINE V select_v(W mask, V yes, V no) { return (V)(((W)yes & mask) | ((W)no & ~mask)); }
INLINE V max_v(V a, V b) { return select_v((W)(a > b), a, b); }
INLINE V abs_v(V v) { return (V)((W)v & 0x7fffffff); }

/* float16 in the low halves of the lanes as float32. */
INLINE V widen_f16(W bits) {
    W magnitude = bits & 0x7fff, special = (W)(magnitude > 0x7bff); /* infinity and NaN */
    W finite = (W)((V)(magnitude << 13) * 0x1p112f);                /* exact, for subnormal numbers too */
    W found = (special & ((magnitude << 13) + 0x70000000)) | (~special & finite);
    return (V)(found | ((bits & 0x8000) << 16));
}
