/* Functions of single rows: exp, layer norm, the epilogues of products, conversion to float16. */
#pragma once

/* e to the x, within 2 units in the last place: 2^n times a polynomial of the remainder. */
INLINE V exp_v(V x) {
    x = select_v((W)(x < set1(-87.0f)), set1(-87.0f), x);
    x = select_v((W)(x > set1(88.0f)), set1(88.0f), x);
    V n = fma_v(x, set1(1.44269504f), set1(0x1.8p23f)) - 0x1.8p23f;
    V r = fma_v(n, set1(-1.42860677e-6f), fma_v(n, set1(-0.693145752f), x));
    V p = fma_v(r, set1(1.3888889e-3f), set1(8.3333333e-3f));
    p = fma_v(p, r, set1(4.1666667e-2f));
    p = fma_v(p, r, set1(1.6666667e-1f));
    p = fma_v(p, r, set1(0.5f));
    p = fma_v(p, r, set1(1.0f));
    p = fma_v(p, r, set1(1.0f));
    return p * (V)((to_int(n) + 127) << 23);
}

/* Scale the products v of n rows, add the bias, apply the epilogue and write y. v has room for a multiple of 16 rows. */
static void epilogue(float *v, int n, const float *scales, const float *bias, Epilogue then, float *y) {
    if (scales) for (int r = 0; r < n; r++) v[r] *= scales[r];
    if (bias) for (int r = 0; r < n; r++) v[r] += bias[r];
    if (then == GELU_NONE) for (int r = 0; r < n; r++) v[r] = 0.5f * v[r] * (1 + erff(v[r] * 0.707106781f));
    for (int r = 0; r < n && then == GELU_TANH; r += LANES) { /* x / (1 + exp(-2 u)) */
        V x = load(v + r), u = x * fma_v(x * x, set1(0.044715f * 0.797884561f), set1(0.797884561f));
        store(v + r, x / (exp_v(u * -2.0f) + 1.0f));
    }
    if (then == ADD) for (int r = 0; r < n; r++) y[r] += v[r];
    else memcpy(y, v, 4 * (size_t)n);
}

/* Layer norm with the variance of the centred values; bias may be NULL. */
static void norm(const float *x, const float *weight, const float *bias, float eps, int n, float *out) {
    float mean = 0, square = 0;
    V total = set1(0);
    int full = n / LANES * LANES;
    for (int i = 0; i < full; i += LANES) total += load(x + i);
    for (int i = full; i < n; i++) mean += x[i];
    mean = (mean + sum(total)) / n;
    total = set1(0);
    for (int i = 0; i < full; i += LANES) {
        V d = load(x + i) - mean;
        total = fma_v(d, d, total);
    }
    for (int i = full; i < n; i++) square += (x[i] - mean) * (x[i] - mean);
    float scale = 1 / sqrtf((square + sum(total)) / n + eps);
    for (int i = 0; i < full; i += LANES)
        store(out + i, fma_v((load(x + i) - mean) * scale, load(weight + i), bias ? load(bias + i) : set1(0)));
    for (int i = full; i < n; i++) out[i] = (x[i] - mean) * scale * weight[i] + (bias ? bias[i] : 0);
}

/* x as float16, rounded to nearest; what is too large becomes the largest. Reads and writes a multiple of LANES. */
static void to_f16(const float *x, int n, uint16_t *out) {
    for (int i = 0; i < n; i += LANES) {
        W bits = load_w(x + i), size = bits & 0x7fffffff, is_nan = (W)(size > 0x7f800000);
        W too_large = (W)(size > 0x477fe000); /* 65504 */
        size = (too_large & 0x477fe000) | (~too_large & size);
        W normal = (size + 0xfff + ((size >> 13) & 1) - 0x38000000) >> 13;
        W small = (W)((V)size + 0.5f) - 0x3f000000; /* adding 1/2 leaves steps of 2^-24 */
        W is_small = (W)(size < 0x38800000), half = (is_small & small) | (~is_small & normal);
        half = ((~is_nan & half) | (is_nan & 0x7e00)) | ((bits >> 16) & 0x8000);
        for (int j = 0; j < LANES; j++) out[i + j] = (uint16_t)half[j];
    }
}
