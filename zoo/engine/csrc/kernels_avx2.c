/* Kernels for AVX2. */
#include "kernels.h"
#include "target.h"

#if defined(__x86_64__)
TARGET_BEGIN("avx2,fma,f16c")
#include "isa_avx2.h"
#define ISA_NAME "avx2"
#define KERNELS kernels_avx2
#include "kernel_table.h"
TARGET_END
#endif
