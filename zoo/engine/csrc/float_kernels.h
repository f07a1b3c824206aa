/* Products with float32, bfloat16 and float16 weights and float32 activations.
 *
 * A weight row and an activation are always multiplied in one order (LANES sums along the row, then the lanes), whatever the
 * number of activations and threads, so that no result depends on either. */
#pragma once

/* Prefetch weights 16 KB ahead into the L2 cache: rows are too short for the hardware prefetcher to follow. */
#define PREFETCH(p) __builtin_prefetch((p) + 16384, 0, 2)

/* LANES weights of a row, from column k on. */
INLINE V weights(const char *row, int k, int type) {
    if (type == F32) return load((const float *)row + k);
    return type == F16 ? load_f16((const uint16_t *)row + k) : load_bf16((const uint16_t *)row + k);
}

/* The weights of a row from column k on, fewer than LANES, followed by zeros. */
NOINLINE void tail(const char *row, int k, int cols, int type, float *out) {
    for (int i = 0; i < LANES; i++) out[i] = 0;
    for (int i = 0; k + i < cols; i++)
        out[i] = type == F32    ? ((const float *)row)[k + i]
                 : type == BF16 ? from_bf16(((const uint16_t *)row)[k + i])
                                : from_f16(((const uint16_t *)row)[k + i]);
}

static void unpack(Rows w, int type, float *out) {
    int k = 0;
    for (; k + LANES <= w.cols; k += LANES) store(out + k, weights(w.data, k, type));
    if (k < w.cols) tail(w.data, k, w.cols, type, out + k);
}

/* The sum of the lanes, in the order of sum4. */
INLINE float sum(V v) {
    float four[4];
    sum4(v, v, v, v, four);
    return four[0];
}

/* Add the products of R rows and N activations at column k. */
INLINE void multiply_add(V acc[4][TILE_TOKENS], const V row[4], const float *x, size_t ldx, int R, int N) {
    UNROLL for (int n = 0; n < N; n++) {
        V xn = load(x + n * ldx);
        UNROLL for (int r = 0; r < R; r++) acc[r][n] = fma_v(row[r], xn, acc[r][n]);
    }
}

/* y[n * ldy + r] = row r . x[n] for R rows and N activations, both constant; weights come from memory. */
INLINE void tile(Rows w, const float *x, size_t ldx, float *y, size_t ldy, int type, int R, int N) {
    V acc[4][TILE_TOKENS], row[4];
    int k = 0, full = w.cols / LANES * LANES;
    UNROLL for (int r = 0; r < R; r++) UNROLL for (int n = 0; n < N; n++) acc[r][n] = set1(0);
    const int line = type == F32 ? 16 : 32; /* weights in a cache line */
    for (; k + line <= full; k += line) {
        UNROLL for (int r = 0; r < R; r++) PREFETCH(w.data + 64 * (R * (size_t)(k / line) + r)); /* in the order of memory */
        UNROLL for (int j = 0; j < line; j += LANES) {
            UNROLL for (int r = 0; r < R; r++) row[r] = weights(w.data + r * w.stride, k + j, type);
            multiply_add(acc, row, x + k + j, ldx, R, N);
        }
    }
    for (; k < full; k += LANES) {
        UNROLL for (int r = 0; r < R; r++) row[r] = weights(w.data + r * w.stride, k, type);
        multiply_add(acc, row, x + k, ldx, R, N);
    }
    if (k < w.cols) {
        float rest[4][LANES];
        for (int r = 0; r < R; r++) tail(w.data + r * w.stride, k, w.cols, type, rest[r]);
        UNROLL for (int r = 0; r < R; r++) row[r] = load(rest[r]);
        multiply_add(acc, row, x + k, ldx, R, N);
    }
    UNROLL for (int n = 0; n < N; n++) {
        if (R == 4) sum4(acc[0][n], acc[1][n], acc[2][n], acc[3][n], y + n * ldy);
        else UNROLL for (int r = 0; r < R; r++) y[n * ldy + r] = sum(acc[r][n]);
    }
}

/* Call CALL(N) with the largest constant N of TILE_TOKENS, 4, 2 and 1 up to `left`, and set `step` to it. */
#define BY_TOKENS(step, left, CALL)                                \
    do {                                                           \
        if ((left) >= TILE_TOKENS) step = TILE_TOKENS, CALL(TILE_TOKENS); \
        else if (TILE_TOKENS > 4 && (left) >= 4) step = 4, CALL(4 < TILE_TOKENS ? 4 : 1); \
        else if (TILE_TOKENS > 2 && (left) >= 2) step = 2, CALL(2); \
        else step = 1, CALL(1);                                    \
    } while (0)

/* Few activations: each four rows are read once from memory and multiplied with all of them. */
INLINE void multiply_few(Rows w, int rows, const float *x, size_t ldx, int n, float *y, size_t ldy, int type) {
    for (int r = 0, height; r < rows; r += height, w.data += height * w.stride) {
        height = rows - r < 4 ? 1 : 4;
        for (int t = 0, step; t < n; t += step) {
            const float *xt = x + t * ldx;
            float *yt = y + t * ldy + r;
#define TILE(N) height == 1 ? tile(w, xt, ldx, yt, ldy, type, 1, N) : tile(w, xt, ldx, yt, ldy, type, 4, N)
            BY_TOKENS(step, n - t, TILE);
#undef TILE
        }
    }
}

/* Repack rows as float32: of each four rows in turn, LANES columns of each; missing rows and columns are zero. */
static void pack(Rows w, int rows, int type, float *out) {
    int cols = (int)round_up(w.cols, LANES);
    for (int r = 0; r < (int)round_up(rows, 4); r++) {
        float *to = out + (size_t)(r / 4) * 4 * cols + r % 4 * LANES;
        const char *row = w.data + r * w.stride;
        int k = 0;
        for (; r < rows && k + LANES <= w.cols; k += LANES, to += 4 * LANES) {
            if (k % 64 == 0) PREFETCH(row + (type == F32 ? 4 : 2) * k);
            store(to, weights(row, k, type));
        }
        for (; k < cols; k += LANES, to += 4 * LANES) {
            if (r < rows) tail(row, k, w.cols, type, to);
            else store(to, set1(0));
        }
    }
}

/* acc[n][r] += row r . x[n] for four packed rows, N activations (constant) and some columns. */
INLINE void packed_tile(const float *w, const float *x, size_t ldx, int cols, float *sums, int first, int N) {
    V acc[4][TILE_TOKENS], row[4];
    UNROLL for (int n = 0; n < N; n++)
        UNROLL for (int r = 0; r < 4; r++) acc[r][n] = first ? set1(0) : load(sums + (4 * n + r) * LANES);
    for (int k = 0; k < cols; k += LANES, w += 4 * LANES) {
        UNROLL for (int r = 0; r < 4; r++) row[r] = load(w + r * LANES);
        multiply_add(acc, row, x + k, ldx, 4, N);
    }
    UNROLL for (int n = 0; n < N; n++) UNROLL for (int r = 0; r < 4; r++) store(sums + (4 * n + r) * LANES, acc[r][n]);
}

/* Many activations, up to STRIP at a time; w is packed, and sums has room for 4 * LANES for each activation and four rows. */
static void multiply_strip(const float *w, int cols, int rows, const float *x, size_t ldx, int n, float *y, size_t ldy, float *sums) {
    int padded = (int)round_up(cols, LANES), blocks = (rows + 3) / 4;
    for (int k = 0; k < padded; k += STRIP_COLS) {
        int some = padded - k < STRIP_COLS ? padded - k : STRIP_COLS;
        for (int b = 0; b < blocks; b++)
            for (int t = 0, step; t < n; t += step) {
                const float *wk = w + 4 * ((size_t)b * padded + k), *xt = x + t * ldx + k;
                float *to = sums + (size_t)(b * STRIP + t) * 4 * LANES;
#define TILE(N) packed_tile(wk, xt, ldx, some, to, k == 0, N)
                BY_TOKENS(step, n - t, TILE);
#undef TILE
            }
    }
    for (int t = 0; t < n; t++)
        for (int b = 0; b < blocks; b++) {
            const float *from = sums + (size_t)(b * STRIP + t) * 4 * LANES;
            sum4(load(from), load(from + LANES), load(from + 2 * LANES), load(from + 3 * LANES), y + t * ldy + 4 * b);
        }
}

/* One activation: a function of its own for each type, so that the loop has all registers. */
#define ONE(name, type)                                                                                \
    NOINLINE void name(Rows w, int rows, const float *x, float *y) {                                   \
        for (; rows >= 4; rows -= 4, y += 4, w.data += 4 * w.stride) tile(w, x, 0, y, 0, type, 4, 1);  \
        for (; rows > 0; rows--, y++, w.data += w.stride) tile(w, x, 0, y, 0, type, 1, 1);             \
    }
ONE(multiply_f32, F32)
ONE(multiply_bf16, BF16)
ONE(multiply_f16, F16)
#undef ONE

static void float_product(Rows w, int type, int rows, const float *x, size_t ldx, int n, float *y, size_t ldy, float *scratch) {
    if (n == 1) {
        (type == F32 ? multiply_f32 : type == BF16 ? multiply_bf16 : multiply_f16)(w, rows, x, y);
    } else if (n > MAX_FEW) {
        float *packed = scratch + BLOCK_ROWS * MAX_STRIP * MAX_LANES;
        pack(w, rows, type, packed);
        for (int t = 0; t < n; t += STRIP)
            multiply_strip(packed, w.cols, rows, x + t * ldx, ldx, n - t < STRIP ? n - t : STRIP, y + t * ldy, ldy, scratch);
    } else if (type == F32) multiply_few(w, rows, x, ldx, n, y, ldy, F32);
    else if (type == BF16) multiply_few(w, rows, x, ldx, n, y, ldy, BF16);
    else multiply_few(w, rows, x, ldx, n, y, ldy, F16);
}
