/* What this machine can do at most, in one thread: the floors that the engine is compared with. */

#include <stdlib.h> /* says __GLIBC__: the others cannot choose a function at start */

typedef float vector __attribute__((vector_size(64), aligned(4)));
enum { SUMS = 12 }; /* independent, so that none waits for the one before it */

#if defined(__x86_64__) && defined(__GLIBC__)
#define DISPATCHED
#include <immintrin.h>
#define BEST_OF_MACHINE __attribute__((target_clones("avx512f", "fma", "default")))
#else
#define BEST_OF_MACHINE
#endif

static float total(const vector *sums) {
    float found = 0;
    for (int j = 0; j < SUMS; j++)
        for (int i = 0; i < 16; i++) found += sums[j][i];
    return found;
}

/* The sum of n floats, a multiple of 128, read in order. */
BEST_OF_MACHINE float zoo_read(const float *values, size_t n) {
    vector sums[SUMS] = {{0}};
    for (size_t i = 0; i < n; i += 128)
        for (int j = 0; j < 8; j++) {
            const float *line = values + i + 16 * j;
            __builtin_prefetch((const char *)line + 1024);
            sums[j] += *(const vector *)line;
        }
    return total(sums);
}

/* n times SUMS products of 16 floats, each added to a sum: 32 operations each. */
BEST_OF_MACHINE float zoo_multiply(size_t n) {
    vector sums[SUMS] = {{0}};
    float less = 0.9990234375f;
    __asm__ volatile("" : "+m"(less)); /* or the compiler would compute the result itself */
    for (size_t i = 0; i < n; i++)
        for (int j = 0; j < SUMS; j++) sums[j] = sums[j] * less + 1.0f;
    return total(sums);
}

/* The same with 32 bfloat16, which is 64 operations; 0 where the processor has no such instruction. */
#if defined(DISPATCHED) && (__GNUC__ >= 10 || __clang_major__ >= 9)
__attribute__((target("avx512f,avx512bf16"))) static float multiply_bf16(size_t n) {
    __m512 sums[SUMS];
    __m512i ones = _mm512_set1_epi32(0x3f803f80);
    for (int j = 0; j < SUMS; j++) sums[j] = _mm512_setzero_ps();
    for (size_t i = 0; i < n; i++)
        for (int j = 0; j < SUMS; j++) sums[j] = _mm512_dpbf16_ps(sums[j], (__m512bh)ones, (__m512bh)ones);
    return total((const vector *)sums);
}
float zoo_multiply_bf16(size_t n) { return __builtin_cpu_supports("avx512bf16") ? multiply_bf16(n) : 0; }
#else
float zoo_multiply_bf16(size_t n) { return 0 * n; }
#endif
