/* Products with quantised weights and activations of 8 bits, an option for prefill: an instruction
 * computes twice as many products as with 16 bits. Weights are packed as described in int_kernels.h. */
#pragma once

/* Quantise a row of activations to 8 bits, in the order in which words of a type of weights hold columns. */
static void quantize8(const float *x, int cols, int type, int8_t *numbers, float *scales) {
    static const int orders[2][8] = {{0, 2, 1, 3, 4, 6, 5, 7}, {0, 4, 1, 5, 2, 6, 3, 7}};
    const int *order = orders[type == INT4];
    for (int k = 0; k < cols; k += GROUP) {
        float bad, largest = largest_of(x + k, &bad), up = largest > 0 && bad == 0 ? 127 / largest : 0;
        int32_t rounded[GROUP];
        for (int i = 0; i < GROUP; i += LANES) store_w(rounded + i, round_v(load(x + k + i), up));
        for (int i = 0; i < GROUP; i += 8)
            for (int j = 0; j < 8; j++) numbers[k + i + j] = (int8_t)(rounded[i + order[j]] + DOT_OFFSET);
        scales[k / GROUP] = largest / 127 + bad;
    }
}

/* Four weights for each lane of a word, as bytes: number i of INT8; of INT4 sixteen times the weights. */
INLINE W weight_quads(W word, int i, int type) {
    if (type == INT8) return word;
    return (i ? word : word << 4) & (int32_t)0xf0f0f0f0;
}

/* What the offset of the activations adds to the sums of each group of a block of 16 rows, negated: (groups, 16). */
INLINE void offsets_of(Rows w, int type, int32_t *offsets) {
    const int words = type == INT8 ? 8 : 4, quads = type == INT8 ? 1 : 2;
    for (int g = 0; g < w.groups; g++)
        for (int p = 0; p < PARTS; p++) {
            W acc = set1_w(0);
            for (int j = 0; j < words; j++) {
                W word = load_w(w.data + 64 * ((size_t)words * g + j) + 4 * LANES * p);
                for (int i = 0; i < quads; i++)
                    acc = dot_quads(acc, set1_w((int32_t)(0x01010101u * DOT_OFFSET)), weight_quads(word, i, type));
            }
            store_w(offsets + ROWS * g + LANES * p, -acc);
        }
}

/* y[n * ldy + r] = row r . x[n] for 16 rows and N activations of 8 bits, constant. */
INLINE void int8_tile(Rows w, const int32_t *offsets, const float *x, size_t ldx, float *y, size_t ldy, int type, int N) {
    const int words = type == INT8 ? 8 : 4, quads = type == INT8 ? 1 : 2;
    const float unit = type == INT8 ? 1 : 0.0625f; /* weight_quads multiplies INT4 by 16 */
    V out[PARTS][INT_TOKENS];
    UNROLL for (int p = 0; p < PARTS; p++) UNROLL for (int n = 0; n < N; n++) out[p][n] = set1(0);
    for (int g = 0; g < w.groups; g++, w.data += 64 * words) {
        W acc[PARTS][INT_TOKENS];
        UNROLL for (int p = 0; p < PARTS; p++)
            UNROLL for (int n = 0; n < N; n++) acc[p][n] = DOT_OFFSET ? load_w(offsets + ROWS * g + LANES * p) : set1_w(0);
        UNROLL for (int j = 0; j < words; j++)
            UNROLL for (int i = 0; i < quads; i++) {
                W weight[PARTS];
                UNROLL for (int p = 0; p < PARTS; p++)
                    weight[p] = weight_quads(load_w(w.data + 64 * j + 4 * LANES * p), i, type);
                UNROLL for (int n = 0; n < N; n++) {
                    W quad = set1_w(((const int32_t *)(x + n * ldx))[8 * g + quads * j + i]);
                    UNROLL for (int p = 0; p < PARTS; p++) acc[p][n] = dot_quads(acc[p][n], quad, weight[p]);
                }
            }
        UNROLL for (int p = 0; p < PARTS; p++) {
            V scale = group_scale(w.scales + ROWS * g + LANES * p, type, unit);
            UNROLL for (int n = 0; n < N; n++) add_group(out, acc[p][n], p, n, scale, x[n * ldx + ldx / 2 + g]);
        }
    }
    UNROLL for (int p = 0; p < PARTS; p++) UNROLL for (int n = 0; n < N; n++) store(y + n * ldy + LANES * p, out[p][n]);
}

INLINE void int8_tiles(Rows w, int rows, const float *x, size_t ldx, int n, float *y, size_t ldy, int type, float *scratch) {
    int32_t *offsets = (int32_t *)scratch;
    for (int r = 0; r < rows; r += ROWS, w.data += w.stride, w.scales += ROWS * w.groups) {
        int t = 0;
        if (DOT_OFFSET) offsets_of(w, type, offsets);
        for (; t + INT_TOKENS <= n; t += INT_TOKENS)
            int8_tile(w, offsets, x + t * ldx, ldx, y + t * ldy + r, ldy, type, INT_TOKENS);
        for (; t < n; t++) int8_tile(w, offsets, x + t * ldx, ldx, y + t * ldy + r, ldy, type, 1);
    }
}

static void int8_product(Rows w, int type, int rows, const float *x, size_t ldx, int n, float *y, size_t ldy, float *scratch) {
    if (type == INT8) int8_tiles(w, rows, x, ldx, n, y, ldy, INT8, scratch);
    else int8_tiles(w, rows, x, ldx, n, y, ldy, INT4, scratch);
}
