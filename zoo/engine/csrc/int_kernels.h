/* Products with quantised weights, in integers: weights of 8 or 4 bits with activations of 16 bits, or of 8 as an option.
 *
 * 16 rows are interleaved, a 32-bit word of each in turn, so that a lane is a row and nothing is summed across lanes. A word
 * holds 4 (INT8) or 8 (INT4) adjacent columns of a row, the even ones in its low half: columns 2 i and 2 i + 1 are in the two
 * halves of the word, at bit 8 i (or 4 i), as are pairs of 16-bit activations. Activations have a float32 scale for each 32
 * columns. Sums of 32 products are exact, so only the order in which these are added matters, and that is always the same. */
#pragma once

/* The largest magnitude of 32 values, and NaN for `bad` if one is not finite. */
INLINE float largest_of(const float *x, float *bad) {
    V most = set1(0), check = set1(0);
    for (int i = 0; i < GROUP; i += LANES) {
        most = max_v(abs_v(load(x + i)), most);
        check = check + load(x + i) * 0.0f;
    }
    float largest = 0;
    for (int i = 0; i < LANES; i++) largest = most[i] > largest ? most[i] : largest;
    *bad = sum(check);
    return largest;
}

/* x * scale rounded to integers. */
INLINE W round_v(V x, float scale) { return to_int(x * scale + 0x1.8p23f - 0x1.8p23f); }

/* Quantise a row of activations: x = number * scale of its group. The scale of a group with a value that is not finite is NaN. */
static void quantize16(const float *x, int cols, int16_t *numbers, float *scales) {
    for (int k = 0; k < cols; k += GROUP) {
        float bad, largest = largest_of(x + k, &bad), up = largest > 0 && bad == 0 ? 32767 / largest : 0;
        for (int i = k; i < k + GROUP; i += LANES) {
            W rounded = round_v(load(x + i), up);
            for (int j = 0; j < LANES; j++) numbers[i + j] = (int16_t)rounded[j];
        }
        scales[k / GROUP] = largest / 32767 + bad;
    }
}

/* Pairs of weights number i of a word, as 16-bit integers. */
INLINE W weight_pairs(H word, int i, int type) {
    return type == INT8 ? (W)((H)(word << (8 - 8 * i)) >> 8) : (W)((H)(word << (12 - 4 * i)) >> 12);
}

/* y[n] += sums * scales of the weights and of the activations of a group. */
INLINE void add_group(V out[PARTS][INT_TOKENS], W sums, int p, int n, V scale, float x_scale) {
    out[p][n] = fma_v(to_float(sums), scale * x_scale, out[p][n]);
}

INLINE V group_scale(const uint16_t *scales, int type, float unit) {
    return type == INT4 ? load_bf16(scales) * unit : set1(unit);
}

/* y[n * ldy + r] = row r . x[n] for 16 rows and N activations of 16 bits, constant. */
INLINE void int16_tile(Rows w, const float *x, size_t ldx, float *y, size_t ldy, int type, int N) {
    const int words = type == INT8 ? 8 : 4, pairs = type == INT8 ? 2 : 4;
    const int chains = N * PARTS * pairs <= INT_CHAINS ? pairs : 1; /* so that sums need not wait for each other */
    V out[PARTS][INT_TOKENS];
    UNROLL for (int p = 0; p < PARTS; p++) UNROLL for (int n = 0; n < N; n++) out[p][n] = set1(0);
    for (int g = 0; g < w.groups; g++, w.data += 64 * words) {
        W acc[PARTS][INT_TOKENS][4];
        UNROLL for (int p = 0; p < PARTS; p++)
            UNROLL for (int n = 0; n < N; n++) UNROLL for (int c = 0; c < chains; c++) acc[p][n][c] = set1_w(0);
        for (int j = 0; j < words; j++) {
            H word[PARTS];
            UNROLL for (int p = 0; p < PARTS; p++) word[p] = (H)load_w(w.data + 64 * j + 4 * LANES * p);
            PREFETCH(w.data + 64 * j);
            UNROLL for (int i = 0; i < pairs; i++) {
                W weight[PARTS];
                UNROLL for (int p = 0; p < PARTS; p++) weight[p] = weight_pairs(word[p], i, type);
                UNROLL for (int n = 0; n < N; n++) {
                    W pair = set1_w(((const int32_t *)(x + n * ldx))[16 * g + pairs * j + i]);
                    UNROLL for (int p = 0; p < PARTS; p++)
                        acc[p][n][i % chains] = dot_pairs(acc[p][n][i % chains], weight[p], pair);
                }
            }
        }
        UNROLL for (int p = 0; p < PARTS; p++) {
            V scale = group_scale(w.scales + ROWS * g + LANES * p, type, 1);
            UNROLL for (int n = 0; n < N; n++) {
                W total = acc[p][n][0];
                UNROLL for (int c = 1; c < chains; c++) total += acc[p][n][c];
                add_group(out, total, p, n, scale, x[n * ldx + ldx / 2 + g]);
            }
        }
    }
    UNROLL for (int p = 0; p < PARTS; p++) UNROLL for (int n = 0; n < N; n++) store(y + n * ldy + LANES * p, out[p][n]);
}

/* Call CALL(N) with the largest constant N of INT_TOKENS, 4, 2 and 1 up to `left`, and set `step` to it. */
#define BY_INT_TOKENS(step, left, CALL)                                                   \
    do {                                                                                  \
        if ((left) >= INT_TOKENS) step = INT_TOKENS, CALL(INT_TOKENS);                    \
        else if (INT_TOKENS > 4 && (left) >= 4) step = 4, CALL(INT_TOKENS > 4 ? 4 : 1);   \
        else if ((left) >= 2) step = 2, CALL(2);                                          \
        else step = 1, CALL(1);                                                           \
    } while (0)

INLINE void int16_tiles(Rows w, int rows, const float *x, size_t ldx, int n, float *y, size_t ldy, int type) {
    for (int r = 0; r < rows; r += ROWS, w.data += w.stride, w.scales += ROWS * w.groups)
        for (int t = 0, step; t < n; t += step) {
            const float *xt = x + t * ldx;
            float *yt = y + t * ldy + r;
#define TILE(N) int16_tile(w, xt, ldx, yt, ldy, type, N)
            BY_INT_TOKENS(step, n - t, TILE);
#undef TILE
        }
}

/* The weights of a block of 16 rows as pairs of 16-bit integers, (groups, 16 pairs, 16 rows), for many activations. */
INLINE void widen_block(Rows w, int type, int32_t *out) {
    const int pairs = type == INT8 ? 2 : 4;
    for (int j = 0; j < w.groups * 16 / pairs; j++)
        UNROLL for (int i = 0; i < pairs; i++)
            UNROLL for (int p = 0; p < PARTS; p++)
                store_w(out + ROWS * (pairs * j + i) + LANES * p, weight_pairs((H)load_w(w.data + 64 * j + 4 * LANES * p), i, type));
}

/* As int16_tile, for a block that widen_block has prepared; the sums are the same to the bit. */
INLINE void wide_tile(const int32_t *wide, Rows w, const float *x, size_t ldx, float *y, size_t ldy, int type, int N) {
    V out[PARTS][INT_TOKENS];
    UNROLL for (int p = 0; p < PARTS; p++) UNROLL for (int n = 0; n < N; n++) out[p][n] = set1(0);
    for (int g = 0; g < w.groups; g++) {
        W acc[PARTS][INT_TOKENS];
        UNROLL for (int p = 0; p < PARTS; p++) UNROLL for (int n = 0; n < N; n++) acc[p][n] = set1_w(0);
        for (int i = 0; i < 16; i++, wide += ROWS) {
            W weight[PARTS];
            UNROLL for (int p = 0; p < PARTS; p++) weight[p] = load_w(wide + LANES * p);
            UNROLL for (int n = 0; n < N; n++) {
                W pair = set1_w(((const int32_t *)(x + n * ldx))[16 * g + i]);
                UNROLL for (int p = 0; p < PARTS; p++) acc[p][n] = dot_pairs(acc[p][n], weight[p], pair);
            }
        }
        UNROLL for (int p = 0; p < PARTS; p++) {
            V scale = group_scale(w.scales + ROWS * g + LANES * p, type, 1);
            UNROLL for (int n = 0; n < N; n++) add_group(out, acc[p][n], p, n, scale, x[n * ldx + ldx / 2 + g]);
        }
    }
    UNROLL for (int p = 0; p < PARTS; p++) UNROLL for (int n = 0; n < N; n++) store(y + n * ldy + LANES * p, out[p][n]);
}

INLINE void wide_tiles(Rows w, int rows, const float *x, size_t ldx, int n, float *y, size_t ldy, int type, int32_t *wide) {
    for (int r = 0; r < rows; r += ROWS, w.data += w.stride, w.scales += ROWS * w.groups) {
        widen_block(w, type, wide);
        for (int t = 0, step; t < n; t += step) {
            const float *xt = x + t * ldx;
            float *yt = y + t * ldy + r;
#define TILE(N) wide_tile(wide, w, xt, ldx, yt, ldy, type, N)
            BY_INT_TOKENS(step, n - t, TILE);
#undef TILE
        }
    }
}

static void int16_product(Rows w, int type, int rows, const float *x, size_t ldx, int n, float *y, size_t ldy, float *scratch) {
    int32_t *wide = (int32_t *)scratch;
    if (n > MAX_FEW && type == INT8) wide_tiles(w, rows, x, ldx, n, y, ldy, INT8, wide);
    else if (n > MAX_FEW) wide_tiles(w, rows, x, ldx, n, y, ldy, INT4, wide);
    else if (type == INT8) int16_tiles(w, rows, x, ldx, n, y, ldy, INT8);
    else int16_tiles(w, rows, x, ldx, n, y, ldy, INT4);
}
