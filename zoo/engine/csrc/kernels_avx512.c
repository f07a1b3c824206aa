/* Kernels for AVX-512. */
#include "kernels.h"
#include "target.h"

#if defined(__x86_64__)
TARGET_BEGIN(AVX512)
#include "isa_avx512.h"
#define ISA_NAME "avx512"
#define KERNELS kernels_avx512
#include "kernel_table.h"
TARGET_END
#endif
