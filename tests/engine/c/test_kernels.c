/* Compare the kernels of one instruction set with scalar double-precision references. Usage: test_kernels [isa]
 * Exit status: 0 if all agree, 1 if one does not, 77 if this machine does not have the instruction set. */
#include <stdio.h>

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("no-tree-vectorize") /* of the references; GCC 12 for aarch64 fails on one */
#endif

#include "kernels.h"

static uint64_t state = 88172645463325252ull;
static double uniform(void) { /* in [-1, 1), xorshift */
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return (double)(state >> 11) / (double)(1ull << 52) - 1;
}

static int failures;
static void check(int right, const char *what, int a, int b, double found, double expected) {
    if (right) return;
    if (failures++ < 10) printf("  %s (%d, %d): found %.9g, expected %.9g\n", what, a, b, found, expected);
}
static int near(double a, double b, double bound) { return fabs(a - b) <= bound; }

static void *zeros(size_t bytes) {
    void *memory = aligned_new(round_up(bytes + 64, 64));
    memset(memory, 0, round_up(bytes + 64, 64));
    return memory;
}

static uint16_t bf16_of(float value) { /* truncated */
    union { float value; uint32_t bits; } both = {value};
    return (uint16_t)(both.bits >> 16);
}

enum { MAX_ROWS = 48, MAX_COLS = 1344, MAX_N = 31 };
static double weights[MAX_ROWS][MAX_COLS], inputs[MAX_N][MAX_COLS];

static void check_products(const char *what, const float *y, size_t ldy, int rows, int cols, int n, double bound) {
    for (int t = 0; t < n; t++)
        for (int r = 0; r < rows; r++) {
            double expected = 0, size = 0;
            for (int k = 0; k < cols; k++) expected += weights[r][k] * inputs[t][k], size += fabs(weights[r][k] * inputs[t][k]);
            check(near(y[t * ldy + r], expected, bound * size + 1e-6), what, r, t, y[t * ldy + r], expected);
        }
}

static void test_float_product(const Kernels *kernels, int type, int rows, int cols, int n) {
    size_t size = type == F32 ? 4 : 2, ldx = round_up(cols, 256), ldy = round_up(rows, ROWS);
    char *data = malloc((size_t)rows * cols * size); /* exactly: reading past the end is for the sanitizer to find */
    float *x = zeros(4 * n * ldx), *y = zeros(4 * n * ldy), *scratch = zeros(4 * BLOCK_ROWS * (ldx + MAX_STRIP * MAX_LANES));
    for (int r = 0; r < rows; r++)
        for (int k = 0; k < cols; k++) {
            float value = (float)uniform();
            size_t at = (size_t)r * cols + k;
            if (type == F32) ((float *)data)[at] = value;
            else if (type == BF16) ((uint16_t *)data)[at] = bf16_of(value), value = from_bf16(bf16_of(value));
            else { /* any finite float16 */
                uint16_t bits = (uint16_t)(((uint32_t)(uniform() * 0x8000) & 0xbbff));
                ((uint16_t *)data)[at] = bits, value = from_f16(bits);
            }
            weights[r][k] = value;
        }
    for (int t = 0; t < n; t++) for (int k = 0; k < cols; k++) inputs[t][k] = x[t * ldx + k] = (float)uniform();
    Rows w = {data, NULL, cols * size, 0, cols};
    kernels->product(w, type, rows, x, ldx, n, y, ldy, scratch);
    check_products(type == F32 ? "float32 product" : type == F16 ? "float16 product" : "bfloat16 product", y, ldy, rows, cols, n, 2e-6);
    float *row = zeros(4 * ldx), alone[MAX_ROWS];
    kernels->unpack(w, type, row);
    for (int k = 0; k < cols; k++) check(row[k] == weights[0][k], "unpack", 0, k, row[k], weights[0][k]);
    for (int t = 0; t < n; t++) {
        kernels->product(w, type, rows, x + t * ldx, ldx, 1, alone, MAX_ROWS, scratch);
        for (int r = 0; r < rows; r++) check(alone[r] == y[t * ldy + r], "one activation and many", r, t, y[t * ldy + r], alone[r]);
    }
    if (type == BF16 && kernels->product_bf16) {
        uint16_t *rounded = zeros(4 * n * ldx);
        for (int t = 0; t < n; t++) kernels->to_bf16(x + t * ldx, (int)round_up(cols, 32), rounded + 2 * t * ldx);
        for (int t = 0; t < n; t++) for (int k = 0; k < cols; k++) inputs[t][k] = from_bf16(rounded[2 * t * ldx + k]);
        kernels->product_bf16(w, type, rows, (float *)rounded, ldx, n, y, ldy, scratch);
        check_products("product of bfloat16 activations", y, ldy, rows, cols, n, 2e-6);
        aligned_free(rounded);
    }
    free(data), aligned_free(x), aligned_free(y), aligned_free(scratch), aligned_free(row);
}

static void test_int_product(const Kernels *kernels, int type, int rows, int cols, int n) {
    int blocks = (rows + ROWS - 1) / ROWS, groups = (cols + GROUP - 1) / GROUP, per_word = type == INT8 ? 4 : 8, bits = 32 / per_word;
    size_t stride = (type == INT8 ? 512 : 256) * (size_t)groups, ldx = round_up(cols, 256), ldy = (size_t)blocks * ROWS;
    uint32_t *data = zeros(blocks * stride);
    uint16_t *scales = zeros(2 * (size_t)blocks * groups * ROWS);
    float *x = zeros(4 * n * ldx), *prepared = zeros(4 * n * ldx), *y = zeros(4 * n * ldy), *scratch = zeros(4 * BLOCK_ROWS * ldx);
    for (int i = 0; i < blocks * groups * ROWS; i++) scales[i] = bf16_of((float)(uniform() * 0.1));
    for (int r = 0; r < rows; r++)
        for (int k = 0; k < cols; k++) {
            int number = (int)(uniform() * (type == INT8 ? 127.5 : 7.99)), inside = k % per_word;
            if (type == INT4 && uniform() > 0.9) number = -8;
            uint32_t field = (uint32_t)number & (type == INT8 ? 255 : 15);
            data[r / ROWS * (stride / 4) + ROWS * (k / per_word) + r % ROWS] |= field << (bits * (inside / 2) + 16 * (inside % 2));
            weights[r][k] = number * (type == INT8 ? 1 : from_bf16(scales[(r / ROWS * groups + k / GROUP) * ROWS + r % ROWS]));
        }
    for (int t = 0; t < n; t++) for (int k = 0; k < cols; k++) x[t * ldx + k] = (float)uniform();
    Rows w = {(const char *)data, scales, stride, groups, cols};
    for (int bytes = 2; bytes >= (kernels->product8 ? 1 : 2); bytes--) {
        for (int t = 0; t < n; t++) {
            float *to = prepared + t * ldx, *group_scales = to + ldx / 2;
            if (bytes == 2) kernels->quantize16(x + t * ldx, groups * GROUP, (int16_t *)to, group_scales);
            else kernels->quantize8(x + t * ldx, groups * GROUP, type, (int8_t *)to, group_scales);
            for (int k = 0; k < cols; k++) { /* the reference rounds by itself */
                double largest = 0, levels = bytes == 2 ? 32767 : 127;
                for (int i = k / GROUP * GROUP; i < k / GROUP * GROUP + GROUP; i++) largest = fmax(largest, fabs(x[t * ldx + i]));
                inputs[t][k] = nearbyint(x[t * ldx + k] * (float)(levels / largest)) * largest / levels;
            }
        }
        (bytes == 2 ? kernels->product : kernels->product8)(w, type, rows, prepared, ldx, n, y, ldy, scratch);
        /* A number halfway between two may be rounded either way: by that the sums may differ. */
        const char *what = type == INT8 ? (bytes == 2 ? "int8 product" : "int8 product, 8-bit activations")
                                        : (bytes == 2 ? "int4 product" : "int4 product, 8-bit activations");
        check_products(what, y, ldy, rows, cols, n, bytes == 2 ? 1e-5 : 3e-5);
    }
    aligned_free(data), aligned_free(scales), aligned_free(x), aligned_free(prepared), aligned_free(y), aligned_free(scratch);
}

static void test_float16(const Kernels *kernels) {
    uint16_t *all = zeros(2 << 16);
    float *found = zeros(4 << 16);
    for (int i = 0; i < 1 << 16; i++) all[i] = (uint16_t)i;
    kernels->unpack((Rows){(const char *)all, NULL, 2 << 16, 0, 1 << 16}, F16, found);
    for (int i = 0; i < 1 << 16; i++) {
        int exponent = i >> 10 & 31, fraction = i & 1023;
        double value = exponent == 31 ? (fraction ? NAN : INFINITY)
                       : exponent     ? ldexp(1024 + fraction, exponent - 25)
                                      : ldexp(fraction, -24);
        if (i & 0x8000) value = -value;
        check(isnan(value) ? isnan(found[i]) : found[i] == value, "float16 to float32", i, 0, found[i], value);
        check(isnan(value) ? isnan(from_f16(all[i])) : from_f16(all[i]) == value, "float16 to float32, scalar", i, 0, from_f16(all[i]), value);
    }
    uint16_t *back = zeros(2 << 16);
    kernels->to_f16(found, 1 << 16, back);
    for (int i = 0; i < 1 << 16; i++) {
        int expected = (i & 0x7fff) > 0x7c00 ? 0x7e00 | (i & 0x8000) : (i & 0x7fff) == 0x7c00 ? i - 1 : i;
        check((back[i] | ((i & 0x7fff) > 0x7c00 ? 0x8000 : 0)) == (expected | ((i & 0x7fff) > 0x7c00 ? 0x8000 : 0)), "float32 to float16",
              i, 0, back[i], expected);
    }
    aligned_free(all), aligned_free(found), aligned_free(back);
}

static void test_rows(const Kernels *kernels, int n) {
    float *x = zeros(4 * (n + 64)), *y = zeros(4 * (n + 64)), *weight = zeros(4 * (n + 64)), *bias = zeros(4 * (n + 64));
    double mean = 0, variance = 0;
    for (int i = 0; i < n; i++) x[i] = (float)(3 * uniform() + 0.5), weight[i] = (float)uniform(), bias[i] = (float)uniform(), mean += x[i] / n;
    for (int i = 0; i < n; i++) variance += (x[i] - mean) * (x[i] - mean) / n;
    kernels->norm(x, weight, bias, 1e-5f, n, y);
    for (int i = 0; i < n; i++) {
        double expected = (x[i] - mean) / sqrt(variance + 1e-5) * weight[i] + bias[i];
        check(near(y[i], expected, 2e-6), "layer norm", i, n, y[i], expected);
    }
    for (int then = STORE; then <= GELU_NONE; then++) {
        float *v = zeros(4 * (n + 64));
        for (int i = 0; i < n; i++) v[i] = x[i], y[i] = weight[i];
        kernels->epilogue(v, n, weight, bias, (Epilogue)then, y);
        for (int i = 0; i < n; i++) {
            double u = (double)x[i] * weight[i] + bias[i], expected = u;
            if (then == ADD) expected = u + weight[i];
            if (then == GELU_TANH) expected = 0.5 * u * (1 + tanh(sqrt(2 / 3.14159265358979) * (u + 0.044715 * u * u * u)));
            if (then == GELU_NONE) expected = 0.5 * u * (1 + erf(u / sqrt(2)));
            check(near(y[i], expected, 1e-6), "epilogue", i, then, y[i], expected);
        }
        aligned_free(v);
    }
    aligned_free(x), aligned_free(y), aligned_free(weight), aligned_free(bias);
}

static void test_attention(const Kernels *kernels, int head, int length, int n, int halved) {
    int depth = (int)round_up(head, ROWS), room = (int)round_up(length + n, ROWS), ldq = 3 * head + 5;
    float *q = zeros(4 * (size_t)n * ldq), *acc = zeros(4 * 8 * (size_t)depth), *out = zeros(4 * (size_t)n * head);
    float *keys = zeros(4 * (size_t)room * depth), *values = zeros(4 * (size_t)room * depth);
    for (int i = 0; i < n * ldq; i++) q[i] = (float)(2 * uniform());
    for (int at = 0; at < room; at++)
        for (int d = 0; d < head; d++) {
            keys[at / ROWS * depth * ROWS + ROWS * d + at % ROWS] = from_f16((uint16_t)(0x3000 + (int)(2000 * uniform())));
            values[(size_t)at * depth + d] = from_f16((uint16_t)(0x3000 + (int)(2000 * uniform())));
        }
    uint16_t *half_keys = zeros(2 * (size_t)room * depth), *half_values = zeros(2 * (size_t)room * depth);
    kernels->to_f16(keys, room * depth, half_keys), kernels->to_f16(values, room * depth, half_values);
    kernels->attend(q, ldq, n, halved ? (void *)half_keys : keys, halved ? (void *)half_values : values, halved, length, head, depth, acc, out, head);
    for (int j = 0; j < n; j++) {
        double score[256], total = 0, most = -1e300;
        for (int at = 0; at < length + j; at++) {
            score[at] = 0;
            for (int d = 0; d < head; d++) score[at] += q[j * ldq + d] * keys[at / ROWS * depth * ROWS + ROWS * d + at % ROWS];
            score[at] /= sqrt(head), most = fmax(most, score[at]);
        }
        for (int at = 0; at < length + j; at++) total += score[at] = exp(score[at] - most);
        for (int d = 0; d < head; d++) {
            double expected = 0;
            for (int at = 0; at < length + j; at++) expected += score[at] / total * values[(size_t)at * depth + d];
            check(near(out[j * head + d], expected, 3e-6), "attention", j, d, out[j * head + d], expected);
        }
    }
    aligned_free(q), aligned_free(acc), aligned_free(out), aligned_free(keys), aligned_free(values);
    aligned_free(half_keys), aligned_free(half_values);
}

int main(int argc, char **argv) {
    const Kernels *kernels = find_kernels(argc > 1 ? argv[1] : "");
    if (!kernels) return 77;
    static const int sizes[][3] = {{37, 100, 1}, {16, 33, 2}, {5, 7, 3}, {32, 770, 31}, {29, 1344, 20}, {33 - 1, 64, 18}, {19, 257, 23}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        int rows = sizes[i][0] > BLOCK_ROWS ? BLOCK_ROWS : sizes[i][0];
        for (int type = F32; type <= F16; type++) test_float_product(kernels, type, rows, sizes[i][1], sizes[i][2]);
        for (int type = INT8; type <= INT4; type++) test_int_product(kernels, type, rows, sizes[i][1], sizes[i][2]);
    }
    test_float16(kernels);
    test_rows(kernels, 77), test_rows(kernels, 768);
    for (int halved = 0; halved < 2; halved++) test_attention(kernels, 24, 1, 7, halved), test_attention(kernels, 19, 43, 6, halved);
    printf("%s: %s\n", kernels->name, failures ? "FAILED" : "ok");
    return failures != 0;
}
