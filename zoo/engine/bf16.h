/* Products of many activations on processors that multiply pairs of bfloat16 (AVX-512 BF16): about twice as fast as
 * float32, for prompts. Activations are rounded to bfloat16; sums are float32, in one order, whatever the number of rows. */

/* x as bfloat16; both have room for whole vectors of 32. */
static void round_bf16(const float *x, int n, uint16_t *out) {
    for (int i = 0; i < n; i += 32)
        _mm512_storeu_si512(out + i, (__m512i)_mm512_cvtne2ps_pbh(_mm512_loadu_ps(x + i + 16), _mm512_loadu_ps(x + i)));
}

/* y[n * ldy + r] = row r . x[n] for R rows and N activations, both constant; rows are `stride` apart. */
static inline ALWAYS void tile_bf16(const uint16_t *w, size_t stride, int cols, const uint16_t *x, size_t ldx, float *y, size_t ldy,
                                    int R, int N) {
    __m512 acc[4][6];
    UNROLL for (int r = 0; r < R; r++) UNROLL for (int n = 0; n < N; n++) acc[r][n] = _mm512_setzero_ps();
    for (int k = 0; k < cols; k += 32) {
        __m512bh row[4];
        UNROLL for (int r = 0; r < R; r++) row[r] = (__m512bh)_mm512_loadu_si512(w + r * stride + k);
        UNROLL for (int n = 0; n < N; n++) {
            __m512bh xn = (__m512bh)_mm512_loadu_si512(x + n * ldx + k);
            UNROLL for (int r = 0; r < R; r++) acc[r][n] = _mm512_dpbf16_ps(acc[r][n], row[r], xn);
        }
    }
    UNROLL for (int n = 0; n < N; n++) {
        if (R == 4) sum4_avx512((const vector_avx512 *)&acc[0][n], &acc[1][0] - &acc[0][0], y + n * ldy);
        else UNROLL for (int r = 0; r < R; r++) y[n * ldy + r] = sum_avx512((vector_avx512)acc[r][n]);
    }
}

static inline ALWAYS void tiles_bf16(const uint16_t *w, size_t stride, int cols, int rows, const uint16_t *x, size_t ldx, float *y,
                                     size_t ldy, int N) {
    int r = 0;
    for (; r + 4 <= rows; r += 4) tile_bf16(w + r * stride, stride, cols, x, ldx, y + r, ldy, 4, N);
    for (; r < rows; r++) tile_bf16(w + r * stride, stride, cols, x, ldx, y + r, ldy, 1, N);
}

/* As product in tile.h, of rounded activations. What is not bfloat16, or has an odd number of columns, is unpacked into
 * scratch: INT8 exactly, the sixteen values of an INT4 group rounded once more. */
static void product_bf16(Rows w, int type, int rows, const uint16_t *x, size_t ldx, int n, float *y, size_t ldy, float *scratch) {
    int cols = (int)round_up(w.cols, 32);
    size_t stride = w.stride / 2;
    const uint16_t *data = (const uint16_t *)w.data;
    if (type != BF16 || cols != w.cols) {
        uint16_t *unpacked = (uint16_t *)(scratch + cols);
        for (int r = 0; r < rows; r++, w.data += w.stride, w.scales += w.groups) {
            unpack_avx512(w, type, scratch);
            for (int k = w.cols; k < cols; k++) scratch[k] = 0;
            round_bf16(scratch, cols, unpacked + r * (size_t)cols);
        }
        data = unpacked, stride = cols;
    }
    for (int t = 0; t < n;) {
        int step = n - t >= 6 ? 6 : n - t >= 2 ? 2 : 1;
        if (step == 6) tiles_bf16(data, stride, cols, rows, x + t * ldx, ldx, y + t * ldy, ldy, 6);
        else if (step == 2) tiles_bf16(data, stride, cols, rows, x + t * ldx, ldx, y + t * ldy, ldy, 2);
        else tiles_bf16(data, stride, cols, rows, x + t * ldx, ldx, y + t * ldy, ldy, 1);
        t += step;
    }
}

static const Kernels kernels_bf16 = {product_avx512, unpack_avx512, gelu_avx512, norm_avx512, attend_avx512, round_bf16, product_bf16};
