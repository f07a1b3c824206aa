/* Kernels for AVX2 with AVX-VNNI. */
#include "kernels.h"
#include "target.h"

#if defined(HAS_AVXVNNI)
TARGET_BEGIN("avx2,fma,f16c,avxvnni")
#define ISA_VNNI
#include "isa_avx2.h"
#define ISA_NAME "avxvnni"
#define KERNELS kernels_avxvnni
#include "kernel_table.h"
TARGET_END
#endif
