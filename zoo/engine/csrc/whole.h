/* Products of quantised weights, in whole numbers: weights of 8 or 4 bits times activations of 16. Compiled once for each
 * instruction set, as tile.h, whose types it uses.
 *
 * Sixteen rows lie together, a word of each after the other, so that lane r is row r and nothing is summed across lanes. A word
 * holds 4 or 8 neighbouring columns of a row, the even ones in its low half: of columns 2 i and 2 i + 1 the numbers stand in
 * the two halves of the word, at bits 8 i (or 4 i), as pairs of 16-bit activations do. Activations have a float32 scale for each
 * 32 columns; the sum of 32 products is exact, so only the order of these sums matters, which is always the same. */

typedef int16_t ISA(shorts) __attribute__((vector_size(64), aligned(4), may_alias));
typedef int16_t ISA(half_shorts) __attribute__((vector_size(32), aligned(2), may_alias));
#define H ISA(shorts)

/* acc + a * b, of the low halves of each lane plus of the high halves. */
static inline ALWAYS W ISA(pairs)(W acc, W a, W b) {
#if defined(TILE_BF16) /* processors that have it have VNNI too */
    return (W)_mm512_dpwssd_epi32((__m512i)acc, (__m512i)a, (__m512i)b);
#elif defined(TILE_AVX512)
    return acc + (W)_mm512_madd_epi16((__m512i)a, (__m512i)b);
#else
    return acc + ((a << 16) >> 16) * ((b << 16) >> 16) + (a >> 16) * (b >> 16);
#endif
}

/* A row of activations as numbers and scales: x = number * scale of its 32 columns. A value that is not finite makes its scale NaN. */
static void ISA(quantise)(const float *x, int cols, int16_t *numbers, float *scales) {
    for (int k = 0; k < cols; k += 32) {
        V a = *(const V *)(x + k), b = *(const V *)(x + k + 16), sum = a + b;
        V most = ISA(select)(a < 0, -a, a), other = ISA(select)(b < 0, -b, b);
        most = ISA(select)(other > most, other, most);
        float largest = 0;
        for (int i = 0; i < 16; i++) largest = most[i] > largest ? most[i] : largest;
        float up = largest > 0 ? 32767 / largest : 0;
        V first = a * up + 0x1.8p23f - 0x1.8p23f, second = b * up + 0x1.8p23f - 0x1.8p23f; /* rounded to whole numbers */
        *(ISA(half_shorts) *)(numbers + k) = __builtin_convertvector(__builtin_convertvector(first, W), ISA(half_shorts));
        *(ISA(half_shorts) *)(numbers + k + 16) = __builtin_convertvector(__builtin_convertvector(second, W), ISA(half_shorts));
        scales[k / 32] = largest / 32767 + 0 * ISA(sum)(sum);
    }
}

/* y[n * ldy + r] = row r . x[n] for 16 rows and N activations, constant. */
static inline ALWAYS void ISA(whole_tile)(Rows w, const float *x, size_t ldx, float *y, size_t ldy, int type, int N) {
    const int words = type == INT8 ? 8 : 4, parts = type == INT8 ? 2 : 4, chains = N > 4 ? 1 : parts; /* so that sums need not wait */
    V out[8];
    UNROLL for (int n = 0; n < N; n++) out[n] = (V){0};
    for (int g = 0; g < w.groups; g++, w.data += 64 * words) {
        W acc[8][4];
        UNROLL for (int n = 0; n < N; n++) UNROLL for (int c = 0; c < chains; c++) acc[n][c] = (W){0};
        for (int j = 0; j < words; j++) {
            H word = *(const H *)(w.data + 64 * j);
            FETCH(w.data + 64 * j);
            UNROLL for (int i = 0; i < parts; i++) {
                H part = type == INT8 ? (word << (8 - 8 * i)) >> 8 : (word << (12 - 4 * i)) >> 12;
                UNROLL for (int n = 0; n < N; n++) {
                    int32_t pair = ((const int32_t *)(x + n * ldx))[16 * g + parts * j + i];
                    acc[n][i % chains] = ISA(pairs)(acc[n][i % chains], (W)part, (W){0} + pair);
                }
            }
        }
        V scale = (V){0} + 1.0f;
        if (type == INT4) scale = ISA(from_bf16)((const char *)(w.scales + 16 * g));
        UNROLL for (int n = 0; n < N; n++) {
            W total = acc[n][0];
            UNROLL for (int c = 1; c < chains; c++) total += acc[n][c];
            out[n] += __builtin_convertvector(total, V) * (scale * x[n * ldx + ldx / 2 + g]);
        }
    }
    UNROLL for (int n = 0; n < N; n++) *(V *)(y + n * ldy) = out[n];
}

/* y[n * ldy + r] = row r . x[n] for any number of rows and activations; writes whole vectors of 16 rows. */
static inline ALWAYS void ISA(whole_tiles)(Rows w, int rows, const float *x, size_t ldx, int n, float *y, size_t ldy, int type) {
    for (int r = 0; r < rows; r += 16, w.data += w.stride, w.scales += 16 * w.groups)
        for (int t = 0, step; t < n; t += step) {
            step = n - t >= 8 ? 8 : n - t >= 4 ? 4 : n - t >= 2 ? 2 : 1;
            if (step == 8) ISA(whole_tile)(w, x + t * ldx, ldx, y + t * ldy + r, ldy, type, 8);
            else if (step == 4) ISA(whole_tile)(w, x + t * ldx, ldx, y + t * ldy + r, ldy, type, 4);
            else if (step == 2) ISA(whole_tile)(w, x + t * ldx, ldx, y + t * ldy + r, ldy, type, 2);
            else ISA(whole_tile)(w, x + t * ldx, ldx, y + t * ldy + r, ldy, type, 1);
        }
}

static void ISA(whole_product)(Rows w, int type, int rows, const float *x, size_t ldx, int n, float *y, size_t ldy) {
    if (type == INT8) ISA(whole_tiles)(w, rows, x, ldx, n, y, ldy, INT8);
    else ISA(whole_tiles)(w, rows, x, ldx, n, y, ldy, INT4);
}
#undef H
