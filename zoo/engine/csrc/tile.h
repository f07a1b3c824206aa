/* The vector kernels, compiled once for each instruction set: kernels.c includes this file with ISA(name) giving every copy
 * names of its own. They are written with the compiler's 16-lane vectors, which it splits where registers are narrower.
 *
 * A product of a weight row with an activation is always summed in one order (16 lanes along the row, then the
 * lanes), whatever the number of threads and of activations: no result depends on either. */

typedef float ISA(vector) __attribute__((vector_size(64), aligned(4), may_alias));
typedef int32_t ISA(words) __attribute__((vector_size(64), aligned(4), may_alias));
typedef uint16_t ISA(halves) __attribute__((vector_size(32), aligned(2), may_alias));
#define V ISA(vector)
#define W ISA(words)

static inline ALWAYS V ISA(select)(W mask, V yes, V no) { return (V)(((W)yes & mask) | ((W)no & ~mask)); }

static inline ALWAYS V ISA(from_half)(const uint16_t *p) {
#if defined(TILE_AVX512)
    return (V)_mm512_cvtph_ps(_mm256_loadu_si256((const void *)p));
#elif defined(TILE_AVX2)
    union { V whole; __m256 half[2]; } both;
    both.half[0] = _mm256_cvtph_ps(_mm_loadu_si128((const void *)p));
    both.half[1] = _mm256_cvtph_ps(_mm_loadu_si128((const void *)(p + 8)));
    return both.whole;
#else
    W bits = __builtin_convertvector(*(const ISA(halves) *)p, W);
    V magnitude = (V)((bits & 0x7fff) << 13) * 0x1p112f; /* exact, for subnormal numbers too */
    return (V)((W)magnitude | ((bits & 0x8000) << 16));
#endif
}

static inline ALWAYS V ISA(from_bf16)(const char *p) {
#if defined(TILE_AVX512)
    return (V)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)p)), 16);
#elif defined(TILE_AVX2)
    union { V whole; __m256i half[2]; } both;
    both.half[0] = _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const void *)p)), 16);
    both.half[1] = _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const void *)(p + 16))), 16);
    return both.whole;
#else
    return (V)(__builtin_convertvector(*(const ISA(halves) *)p, W) << 16);
#endif
}

/* Sixteen weights of a row, from column k on. */
static inline ALWAYS V ISA(weights)(const char *row, int k, int type) {
    if (type == F32) return *(const V *)(row + 4 * (size_t)k);
    return type == F16 ? ISA(from_half)((const uint16_t *)row + k) : ISA(from_bf16)(row + 2 * (size_t)k);
}

/* The odd end of a row from column k on, with zeros behind it. */
static __attribute__((noinline)) void ISA(rest)(const char *row, int k, int cols, int type, V *out) {
    float rest[16] = {0};
    for (int i = 0; k + i < cols; i++)
        rest[i] = type == F32    ? ((const float *)row)[k + i]
                  : type == BF16 ? from_bf16(((const uint16_t *)row)[k + i])
                                 : from_half(((const uint16_t *)row)[k + i]);
    *out = *(V *)rest;
}

/* The sum of 16 lanes: each half is added to the other, until one is left. */
static inline ALWAYS float ISA(sum)(V v) {
    float total[16];
    *(V *)total = v;
    for (int width = 8; width; width /= 2)
        for (int i = 0; i < width; i++) total[i] += total[i + width];
    return total[0];
}

/* Four such sums at once, in the same order. */
static inline ALWAYS void ISA(sum4)(const V *v, size_t stride, float *out) {
#if defined(TILE_AVX512)
    __m512 a = (__m512)v[0], b = (__m512)v[stride], c = (__m512)v[2 * stride], d = (__m512)v[3 * stride];
    __m512 ab = _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
    __m512 cd = _mm512_add_ps(_mm512_shuffle_f32x4(c, d, 0x44), _mm512_shuffle_f32x4(c, d, 0xee));
    __m512 four = _mm512_add_ps(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xdd));
    four = _mm512_add_ps(four, _mm512_permute_ps(four, 0x4e));
    four = _mm512_add_ps(four, _mm512_permute_ps(four, 0xb1));
    const __m512i firsts = _mm512_setr_epi32(0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
    _mm_storeu_ps(out, _mm512_castps512_ps128(_mm512_permutexvar_ps(firsts, four)));
#else
    for (int i = 0; i < 4; i++) out[i] = ISA(sum)(v[i * stride]);
#endif
}

/* y[n * ldy + r] = row r . x[n] for R rows and N activations, both constant. */
static inline ALWAYS void ISA(tile)(Rows w, const float *x, size_t ldx, float *y, size_t ldy, int type, int R, int N) {
    V acc[4][6];
    int k = 0, whole = w.cols / 16 * 16;
    UNROLL for (int r = 0; r < R; r++) UNROLL for (int n = 0; n < N; n++) acc[r][n] = (V){0};
#define STEP(k, weights_of_row) do {                                              \
        V row[4];                                                                     \
        UNROLL for (int r = 0; r < R; r++) row[r] = weights_of_row;                   \
        UNROLL for (int n = 0; n < N; n++) {                                          \
            V xn = *(const V *)(x + n * ldx + (k));                                   \
            UNROLL for (int r = 0; r < R; r++) acc[r][n] += row[r] * xn;              \
        }                                                                             \
    } while (0)
    const int line = type == F32 ? 16 : 32; /* weights in 64 bytes */
    for (; k + line <= whole; k += line) {
        UNROLL for (int r = 0; r < R; r++) FETCH(w.data + 64 * (R * (size_t)(k / line) + r)); /* in the order of memory */
        UNROLL for (int j = 0; j < line / 16; j++) STEP(k + 16 * j, ISA(weights)(w.data + r * w.stride, k + 16 * j, type));
    }
    for (; k < whole; k += 16) STEP(k, ISA(weights)(w.data + r * w.stride, k, type));
    V rest[4];
    for (int r = 0; r < R && k < w.cols; r++) ISA(rest)(w.data + r * w.stride, k, w.cols, type, &rest[r]);
    if (k < w.cols) STEP(k, rest[r]);
#undef STEP
    UNROLL for (int n = 0; n < N; n++) {
        if (R == 4) ISA(sum4)(&acc[0][n], &acc[1][0] - &acc[0][0], y + n * ldy);
        else UNROLL for (int r = 0; r < R; r++) y[n * ldy + r] = ISA(sum)(acc[r][n]);
    }
}

/* Some rows, four at a time, each with all activations: rows come from memory, activations from the cache. */
static inline ALWAYS void ISA(tiles)(Rows w, int rows, const float *x, size_t ldx, int n, float *y, size_t ldy, int type) {
    for (int r = 0; r < rows;) {
        int height = rows - r < 4 ? 1 : 4;
        for (int t = 0, step; t < n; t += step) {
            const float *xt = x + t * ldx;
            float *yt = y + t * ldy + r;
            step = n - t >= 6 ? 6 : n - t >= 4 ? 4 : n - t >= 2 ? 2 : 1;
#define TILE(N) height == 1 ? ISA(tile)(w, xt, ldx, yt, ldy, type, 1, N) : ISA(tile)(w, xt, ldx, yt, ldy, type, 4, N)
            if (step == 6) TILE(6);
            else if (step == 4) TILE(4);
            else if (step == 2) TILE(2);
            else TILE(1);
#undef TILE
        }
        w.data += height * w.stride, r += height;
    }
}

/* A row as float32. */
static void ISA(unpack)(Rows w, int type, float *out) {
    int k = 0;
    for (; k + 16 <= w.cols; k += 16) *(V *)(out + k) = ISA(weights)(w.data, k, type);
    if (k < w.cols) ISA(rest)(w.data, k, w.cols, type, (V *)(out + k));
}

#include "whole.h"

/* y[n * ldy + r] = row r . x[n] for any number of rows and activations. For many activations weights are unpacked once, into
 * scratch, and all the rows take six activations at a time, which stay in the first cache. */
static void ISA(product)(Rows w, int type, int rows, const float *x, size_t ldx, int n, float *y, size_t ldy, float *scratch) {
    if (type == INT8 || type == INT4) {
        ISA(whole_product)(w, type, rows, x, ldx, n, y, ldy);
        return;
    }
    int step = n > (type == F32 ? FIRST_CACHE / (4 * w.cols) : MANY) ? 6 : n;
    if (n > MANY && type != F32) {
        size_t stride = round_up(w.cols, 16);
        for (int r = 0; r < rows; r++, w.data += w.stride) ISA(unpack)(w, type, scratch + r * stride);
        w = (Rows){(const char *)scratch, w.scales, 4 * stride, 0, w.cols}, type = F32;
    }
    for (int t = 0; t < n; t += step, x += step * ldx, y += step * ldy) {
        int some = n - t < step ? n - t : step;
        if (type == F32) ISA(tiles)(w, rows, x, ldx, some, y, ldy, F32);
        else if (type == BF16) ISA(tiles)(w, rows, x, ldx, some, y, ldy, BF16);
        else ISA(tiles)(w, rows, x, ldx, some, y, ldy, F16);
    }
}

/* e to the x, within 2 units in the last place: 2^n times a polynomial of the remainder. */
static inline ALWAYS V ISA(exp)(V x) {
    x = ISA(select)(x < -87.0f, (V){0} - 87.0f, x);
    x = ISA(select)(x > 88.0f, (V){0} + 88.0f, x);
    V shifted = x * 1.44269504f + 0x1.8p23f, n = shifted - 0x1.8p23f;
    V r = x - n * 0.693145752f - n * 1.42860677e-6f;
    V p = r * 1.3888889e-3f + 8.3333333e-3f;
    p = ((((p * r + 4.1666667e-2f) * r + 1.6666667e-1f) * r + 0.5f) * r + 1.0f) * r + 1.0f;
    return p * (V)((__builtin_convertvector(n, W) + 127) << 23);
}

/* From the products v of some rows with an activation to what they are for: y. v has room for whole vectors. */
static void ISA(finish)(float *v, int n, const float *scales, const float *bias, Then then, float *y) {
    if (scales) for (int r = 0; r < n; r++) v[r] *= scales[r];
    if (bias) for (int r = 0; r < n; r++) v[r] += bias[r];
    if (then == GELU_NONE) for (int r = 0; r < n; r++) v[r] = 0.5f * v[r] * (1 + erff(v[r] * 0.707106781f));
    for (int r = 0; r < n && then == GELU_TANH; r += 16) { /* x / (1 + exp(-2 u)) */
        V x = *(V *)(v + r), u = 0.797884561f * (x + 0.044715f * x * x * x);
        *(V *)(v + r) = x / (1 + ISA(exp)(-2 * u));
    }
    if (then == ADD) for (int r = 0; r < n; r++) y[r] += v[r];
    else memcpy(y, v, 4 * (size_t)n);
}

/* Layer norm with the variance from the centred values; bias may be absent. */
static void ISA(norm)(const float *x, const float *weight, const float *bias, float eps, int n, float *out) {
    float mean = 0, square = 0;
    V total = {0};
    int whole = n / 16 * 16;
    for (int i = 0; i < whole; i += 16) total += *(const V *)(x + i);
    for (int i = whole; i < n; i++) mean += x[i];
    mean = (mean + ISA(sum)(total)) / n;
    total = (V){0};
    for (int i = 0; i < whole; i += 16) { V d = *(const V *)(x + i) - mean; total += d * d; }
    for (int i = whole; i < n; i++) square += (x[i] - mean) * (x[i] - mean);
    float scale = 1 / sqrtf((square + ISA(sum)(total)) / n + eps);
    for (int i = 0; i < whole; i += 16)
        *(V *)(out + i) = (*(const V *)(x + i) - mean) * scale * *(const V *)(weight + i) + (bias ? *(const V *)(bias + i) : (V){0});
    for (int i = whole; i < n; i++) out[i] = (x[i] - mean) * scale * weight[i] + (bias ? bias[i] : 0);
}

/* What a token makes of its next 16 products q . k, of which it sees `count`: weights, with what came before weighed down.
 * Not inline, so that the compiler rounds alike for one token and for several. */
static __attribute__((noinline)) void ISA(soften)(float *weight, int count, float scale, float *largest, float *total, float *acc,
                                                  int depth) {
    const W lanes = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    V score = *(V *)weight * scale;
    float most[16], before = *largest;
    *(V *)most = ISA(select)(lanes < count, score, (V){0} + before);
    UNROLL for (int width = 8; width; width /= 2)
        for (int i = 0; i < width; i++) most[i] = most[i] > most[i + width] ? most[i] : most[i + width];
    if (most[0] > before) { /* else all that came before keeps its weight */
        float kept = before == -INFINITY ? 0 : ISA(exp)((V){0} + (before - most[0]))[0];
        *(V *)total *= kept;
        for (int d = 0; d < depth; d += 16) *(V *)(acc + d) *= kept;
        *largest = most[0];
    }
    V p = ISA(select)(lanes < count, ISA(exp)(score - *largest), (V){0});
    *(V *)total += p;
    *(V *)weight = p;
}

/* One head's attention of Q neighbouring tokens, constant, over the cached positions, of which the first token sees `length`
 * and each next one more: 16 positions at a time with a running maximum (online softmax). Keys lie as (blocks of 16 positions,
 * channel, position), values as (position, channel), both padded to `depth` channels; `halved`, constant, as float16. */
static inline ALWAYS void ISA(attend_some)(const float *q, size_t ldq, const void *keys, const void *values, int halved, int length,
                                           int head, int depth, float *acc, float *out, size_t ldo, int Q) {
#define CACHED(from, at) (halved ? ISA(from_half)((const uint16_t *)(from) + (at)) : *(const V *)((const float *)(from) + (at)))
    float weight[4][16], total[4][16], largest[4], scale = 1 / sqrtf((float)head);
    for (int j = 0; j < Q; j++) largest[j] = -INFINITY, *(V *)total[j] = (V){0};
    for (int d = 0; d < Q * depth; d++) acc[d] = 0;
    for (int first = 0; first < length + Q - 1; first += 16) {
        size_t block = (size_t)first * depth;
        int d = 0, seen = length - first, most = seen + Q - 1 < 16 ? seen + Q - 1 : 16;
        V part[4][4];
        UNROLL for (int j = 0; j < Q; j++) UNROLL for (int i = 0; i < 4; i++) part[j][i] = (V){0};
        for (; d + 4 <= head; d += 4)
            UNROLL for (int i = 0; i < 4; i++)
                UNROLL for (int j = 0; j < Q; j++) part[j][i] += q[j * ldq + d + i] * CACHED(keys, block + 16 * (d + i));
        for (; d < head; d++) UNROLL for (int j = 0; j < Q; j++) part[j][0] += q[j * ldq + d] * CACHED(keys, block + 16 * d);
        for (int j = 0; j < Q; j++) {
            *(V *)weight[j] = (part[j][0] + part[j][1]) + (part[j][2] + part[j][3]);
            ISA(soften)(weight[j], seen + j, scale, &largest[j], total[j], acc + j * depth, depth);
        }
        for (d = 0; d < depth; d += 16) {
            V sum[4];
            UNROLL for (int j = 0; j < Q; j++) sum[j] = *(V *)(acc + j * depth + d);
            for (int i = 0; i < most; i++)
                UNROLL for (int j = 0; j < Q; j++) sum[j] += weight[j][i] * CACHED(values, block + (size_t)i * depth + d);
            UNROLL for (int j = 0; j < Q; j++) *(V *)(acc + j * depth + d) = sum[j];
        }
    }
    for (int j = 0; j < Q; j++) {
        float inverse = 1 / ISA(sum)(*(V *)total[j]);
        for (int d = 0; d < head; d++) out[j * ldo + d] = acc[j * depth + d] * inverse;
    }
#undef CACHED
}

static void ISA(attend)(const float *q, size_t ldq, int n, const void *keys, const void *values, int halved, int length, int head,
                        int depth, float *acc, float *out, size_t ldo) {
    for (int i = 0, step; i < n; i += step, q += step * ldq, out += step * ldo, length += step) {
        step = n - i >= 4 ? 4 : 1;
#define ATTEND(HALVED, Q) ISA(attend_some)(q, ldq, keys, values, HALVED, length, head, depth, acc, out, ldo, Q)
        if (halved && step == 4) ATTEND(1, 4);
        else if (halved) ATTEND(1, 1);
        else if (step == 4) ATTEND(0, 4);
        else ATTEND(0, 1);
#undef ATTEND
    }
}

/* x as float16, rounded to nearest; what is too large becomes the largest. Reads and writes whole vectors. */
static void ISA(halve)(const float *x, int n, uint16_t *out) {
    for (int i = 0; i < n; i += 16) {
        W bits = *(const W *)(x + i), size = bits & 0x7fffffff, is_number = size <= 0x7f800000, is_small = size < 0x38800000;
        W too_large = size > 0x477fe000; /* 65504 */
        size = (too_large & 0x477fe000) | (~too_large & size);
        W normal = (size + 0xfff + ((size >> 13) & 1) - 0x38000000) >> 13;
        W small = (W)((V)size + 0.5f) - 0x3f000000; /* adding a half leaves steps of 2^-24 */
        W half = (is_small & small) | (~is_small & normal);
        half = ((is_number & half) | (~is_number & 0x7e00)) | ((bits >> 16) & 0x8000);
        *(ISA(halves) *)(out + i) = __builtin_convertvector(half, ISA(halves));
    }
}

#if defined(TILE_BF16)
#include "bf16.h"
#endif

static const Kernels ISA(kernels) = {
    ISA(product), ISA(unpack), ISA(finish), ISA(norm), ISA(attend), ISA(halve), ISA(quantise),
#if defined(TILE_BF16)
    round_row, rounded_product,
#endif
};
#undef V
#undef W
