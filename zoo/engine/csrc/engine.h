/* The interface of the C engine. zoo/engine/native.py declares the same structs; zoo_abi lets it check that it does.
 *
 * Shapes: L layers, B rows of the cache, H heads, V vocabulary. */
#pragma once

#include <stddef.h>
#include <stdint.h>

enum { F32, BF16, F16, INT8, INT4 };

/* A linear layer or an embedding, (rows, cols). */
typedef struct {
    const void *data;             /* row-major; INT8 and INT4 packed as described in int_kernels.h */
    const uint16_t *group_scales; /* INT4: bfloat16, one for each row and group of 32 columns: (rows / 16, groups, 16) */
    const float *row_scales;      /* INT8: one for each row */
    const float *bias;            /* or NULL */
    int32_t rows, cols, type, padding;
} Matrix;

typedef struct { const float *weight, *bias; } Norm;
typedef struct { Norm norm1, norm2; Matrix qkv, out, up, down; } Layer;
typedef struct {
    Matrix tokens, positions, head;
    Norm final_norm;
    const Layer *layers;
    int32_t n_layers, n_heads, width, inner, exact_gelu;
    float eps;
} Model;

/* How the activations of a product may be rounded, for speed; flags of Tokens.rounded. */
enum { ROUND_BF16 = 1, ROUND_INT8 = 2 };

/* The new tokens of one pass. Tokens of one cache row are adjacent and in order. */
typedef struct {
    const int32_t *ids, *row, *position, *wanted; /* wanted: indices of the tokens whose logits are returned */
    void *keys, *values;                          /* caches (L, B, H, room, depth), float16 if `halved`, else float32 */
    float *logits;                                /* (n_wanted, V) */
    int32_t n, n_wanted, batch, room, halved, rounded;
} Tokens;

typedef struct Engine Engine;

#if defined(_WIN32)
#define EXPORT __declspec(dllexport)
#else
#define EXPORT __attribute__((visibility("default")))
#endif

enum { ZOO_ABI = 1 };
/* The version of this interface, plus the sizes of the structs: 1000000 * ZOO_ABI + sizeof(Model) + sizeof(Layer) + sizeof(Tokens). */
EXPORT int64_t zoo_abi(void);
/* Prepare for up to `capacity` tokens a pass. The arrays of the model must outlive the engine.
 * Returns NULL without memory, or if this machine does not have the instruction set `isa` ("": the best). */
EXPORT Engine *zoo_open(const Model *model, int n_threads, int capacity, const char *isa);
/* The name of the instruction set in use. */
EXPORT const char *zoo_isa(const Engine *engine);
/* Which roundings (ROUND_BF16, ROUND_INT8) this processor supports for the weights of the blocks. */
EXPORT int zoo_rounds(const Engine *engine);
/* Run one pass; the caller has checked every id, row, position and length. Passes of several threads run one after another.
 * Returns 0, or -1 if the engine is closed or its threads cannot be started. */
EXPORT int zoo_forward(Engine *engine, const Tokens *tokens);
/* Wait for a running pass, end the threads and free the memory. A closed engine may be closed again. */
EXPORT void zoo_close(Engine *engine);

/* Limits of one thread, measured with the kernels of $ZOO_ENGINE_ISA (the best by default). */
/* Multiply n float32 with a vector, row by row as decoding does, and return the sum. */
EXPORT float zoo_read(const float *values, size_t n);
/* Execute n * 192 multiply-adds of one 32-bit lane in registers: 1 product each for float32, 2 for pairs of bfloat16 or int16,
 * 4 for int8. Returns 0 where the processor has no such instruction. */
EXPORT float zoo_multiply(size_t n);
EXPORT float zoo_multiply_bf16(size_t n);
EXPORT float zoo_multiply_int16(size_t n);
EXPORT float zoo_multiply_int8(size_t n);
