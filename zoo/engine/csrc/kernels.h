/* The table of vector kernels that each instruction set provides, and scalar helpers that all of them share. */
#pragma once

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "engine.h"
#include "platform.h"

enum { ROWS = 16, GROUP = 32 };          /* rows interleaved in packed weights; columns that share a scale */
enum { BLOCK_ROWS = 32, MAX_FEW = 18 };  /* rows of a task; for more than MAX_FEW activations weights are repacked first */
enum { MAX_STRIP = 24, MAX_LANES = 16 }; /* activations multiplied between two readings of the weights; floats in a vector */

/* What is done to a product before it is stored; the two forms of GELU are those of torch's `approximate`. */
typedef enum { STORE, ADD, GELU_TANH, GELU_NONE } Epilogue;

/* Operands of the instructions that probe.c measures. */
typedef enum { OPERAND_F32, OPERAND_BF16, OPERAND_INT16, OPERAND_INT8 } Operand;

/* Some rows of a matrix. For INT8 and INT4, `stride` and `groups` are those of a block of 16 interleaved rows. */
typedef struct { const char *data; const uint16_t *scales; size_t stride; int groups, cols; } Rows;

/* y[n * ldy + r] = row r . x[n], for `rows` rows and n activations. Writes whole vectors: y has room for a multiple of 16 rows. */
typedef void Product(Rows w, int type, int rows, const float *x, size_t ldx, int n, float *y, size_t ldy, float *scratch);

typedef struct {
    const char *name;
    Product *product;
    void (*unpack)(Rows, int type, float *out); /* one row as float32; not for INT8 and INT4 */
    void (*epilogue)(float *v, int n, const float *scales, const float *bias, Epilogue, float *y);
    void (*norm)(const float *x, const float *weight, const float *bias, float eps, int n, float *out);
    void (*attend)(const float *q, size_t ldq, int n, const void *keys, const void *values, int halved, int length, int head,
                   int depth, float *acc, float *out, size_t ldo);
    void (*to_f16)(const float *x, int n, uint16_t *out);
    void (*quantize16)(const float *x, int n, int16_t *numbers, float *scales);
    float (*multiply)(Operand, size_t n);
    /* The rest is NULL where the processor lacks the instructions. */
    void (*to_bf16)(const float *x, int n, uint16_t *out);
    Product *product_bf16;
    void (*quantize8)(const float *x, int n, int type, int8_t *numbers, float *scales);
    Product *product8;
} Kernels;

/* The kernels of an instruction set, by name; "" is the best that this machine has. NULL if it does not have it. */
const Kernels *find_kernels(const char *name);

static inline size_t round_up(size_t n, size_t to) { return (n + to - 1) / to * to; }
static inline float from_bf16(uint16_t bits) {
    union { uint32_t bits; float value; } both = {(uint32_t)bits << 16};
    return both.value;
}
static inline float from_f16(uint16_t bits) {
    uint32_t magnitude = bits & 0x7fff;
    union { uint32_t bits; float value; } both = {magnitude << 13};
    if (magnitude >= 0x7c00) both.bits += 0x70000000; /* infinity and NaN */
    else both.value *= 0x1p112f;                      /* exact, for subnormal numbers too */
    both.bits |= (uint32_t)(bits & 0x8000) << 16;
    return both.value;
}
