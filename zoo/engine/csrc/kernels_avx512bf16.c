/* Kernels for AVX-512 with VNNI and BF16. */
#include "kernels.h"
#include "target.h"

#if defined(HAS_AVX512BF16)
TARGET_BEGIN(AVX512 ",avx512bf16,avx512vnni")
#define ISA_VNNI
#define ISA_BF16
#include "isa_avx512.h"
#define ISA_NAME "avx512bf16"
#define KERNELS kernels_avx512bf16
#include "kernel_table.h"
TARGET_END
#endif
