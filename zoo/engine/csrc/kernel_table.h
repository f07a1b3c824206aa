/* All kernels of one instruction set. Each kernels_*.c includes an isa_*.h, then this file, with ISA_NAME and KERNELS defined. */
#pragma once

#include "float_kernels.h"
#include "int_kernels.h"
#include "elementwise.h"
#include "attention.h"
#if defined(ISA_BF16)
#include "bf16_kernels.h"
#endif
#if defined(DOT_OFFSET)
#include "int8_activations.h"
#endif

static void product(Rows w, int type, int rows, const float *x, size_t ldx, int n, float *y, size_t ldy, float *scratch) {
    if (type == INT8 || type == INT4) int16_product(w, type, rows, x, ldx, n, y, ldy, scratch);
    else float_product(w, type, rows, x, ldx, n, y, ldy, scratch);
}

/* See zoo_multiply in engine.h. So many independent sums hide the latency of an instruction, and fit in the registers. */
enum { SUMS = 10 };
#define MULTIPLY(STEP)                                                                          \
    do {                                                                                        \
        for (size_t i = 0; i < n * PARTS * 12 / SUMS; i++) UNROLL for (int j = 0; j < SUMS; j++) sums[j] = STEP; \
    } while (0)
static float multiply_integers(Operand operand, size_t n) {
    W sums[SUMS], found = set1_w(0), ones = set1_w(0x01010101);
    __asm__ volatile("" : "+m"(ones)); /* else the compiler computes the result */
    for (int j = 0; j < SUMS; j++) sums[j] = set1_w(0);
    if (operand == OPERAND_INT16) MULTIPLY(dot_pairs(sums[j], sums[j], ones));
#if defined(DOT_OFFSET)
    else if (operand == OPERAND_INT8) MULTIPLY(dot_quads(sums[j], sums[j], ones));
#endif
    else return 0;
    for (int j = 0; j < SUMS; j++) found += sums[j];
    return sum(to_float(found)) + 1;
}

static float multiply(Operand operand, size_t n) {
    V sums[SUMS], found = set1(0);
    W ones = set1_w(0x01010101);
    float less = 0.9990234375f;
    __asm__ volatile("" : "+m"(less), "+m"(ones));
    for (int j = 0; j < SUMS; j++) sums[j] = set1(0);
    if (operand == OPERAND_F32) MULTIPLY(fma_v(sums[j], set1(less), set1(1)));
#if defined(ISA_BF16)
    else if (operand == OPERAND_BF16) MULTIPLY((V)_mm512_dpbf16_ps((__m512)sums[j], (__m512bh)ones, (__m512bh)ones));
#endif
    else return multiply_integers(operand, n);
    for (int j = 0; j < SUMS; j++) found += sums[j];
    return sum(found) + 1;
}

const Kernels KERNELS = {
    ISA_NAME, product, unpack, epilogue, norm, attend, to_f16, quantize16, multiply,
#if defined(ISA_BF16)
    to_bf16, bf16_product,
#else
    NULL, NULL,
#endif
#if defined(DOT_OFFSET)
    quantize8, int8_product,
#else
    NULL, NULL,
#endif
};
