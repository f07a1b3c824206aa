/* Products of bfloat16 weights and activations with the dot products of AVX-512 BF16, for prefill: about twice as fast as
 * float32. Activations are rounded to bfloat16; sums are float32, in one order, whatever the number of rows. */
#pragma once

/* x as bfloat16; both have room for a multiple of 32. */
static void to_bf16(const float *x, int n, uint16_t *out) {
    for (int i = 0; i < n; i += 32)
        _mm512_storeu_si512(out + i, (__m512i)_mm512_cvtne2ps_pbh(_mm512_loadu_ps(x + i + 16), _mm512_loadu_ps(x + i)));
}

/* y[n * ldy + r] = row r . x[n] for R rows and N activations, both constant; rows are `stride` apart. */
INLINE void bf16_tile(const uint16_t *w, size_t stride, int cols, const float *x, size_t ldx, float *y, size_t ldy, int R, int N) {
    __m512 acc[4][6];
    UNROLL for (int r = 0; r < R; r++) UNROLL for (int n = 0; n < N; n++) acc[r][n] = _mm512_setzero_ps();
    for (int k = 0; k < cols; k += 32) {
        __m512bh row[4];
        UNROLL for (int r = 0; r < R; r++) row[r] = (__m512bh)_mm512_loadu_si512(w + r * stride + k);
        UNROLL for (int n = 0; n < N; n++) {
            __m512bh xn = (__m512bh)_mm512_loadu_si512((const uint16_t *)(x + n * ldx) + k);
            UNROLL for (int r = 0; r < R; r++) acc[r][n] = _mm512_dpbf16_ps(acc[r][n], row[r], xn);
        }
    }
    UNROLL for (int n = 0; n < N; n++) {
        if (R == 4) sum4((V)acc[0][n], (V)acc[1][n], (V)acc[2][n], (V)acc[3][n], y + n * ldy);
        else UNROLL for (int r = 0; r < R; r++) y[n * ldy + r] = sum((V)acc[r][n]);
    }
}

INLINE void bf16_tiles(const uint16_t *w, size_t stride, int rows, const float *x, size_t ldx, float *y, size_t ldy, int N) {
    int r = 0;
    for (; r + 4 <= rows; r += 4) bf16_tile(w + r * stride, stride, (int)stride, x, ldx, y + r, ldy, 4, N);
    for (; r < rows; r++) bf16_tile(w + r * stride, stride, (int)stride, x, ldx, y + r, ldy, 1, N);
}

/* Rows that do not end with a complete vector are copied into scratch. */
static void bf16_product(Rows w, int type, int rows, const float *x, size_t ldx, int n, float *y, size_t ldy, float *scratch) {
    size_t stride = round_up(w.cols, 32);
    const uint16_t *data = (const uint16_t *)w.data;
    (void)type;
    if ((int)stride != w.cols) {
        uint16_t *copy = (uint16_t *)scratch;
        memset(copy, 0, 2 * rows * stride);
        for (int r = 0; r < rows; r++) memcpy(copy + r * stride, w.data + r * w.stride, w.stride);
        data = copy;
    }
    for (int t = 0, step; t < n; t += step) {
        const float *xt = x + t * ldx;
        float *yt = y + t * ldy;
        step = n - t >= 6 ? 6 : n - t >= 2 ? 2 : 1;
        if (step == 6) bf16_tiles(data, stride, rows, xt, ldx, yt, ldy, 6);
        else if (step == 2) bf16_tiles(data, stride, rows, xt, ldx, yt, ldy, 2);
        else bf16_tiles(data, stride, rows, xt, ldx, yt, ldy, 1);
    }
}
