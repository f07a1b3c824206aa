/* Kernels for ARM with the dot products of bytes (ARMv8.2). */
#include "kernels.h"
#include "target.h"

#if defined(__aarch64__)
TARGET_BEGIN(DOTPROD)
#define ISA_DOT
#include "isa_neon.h"
#define ISA_NAME "dotprod"
#define KERNELS kernels_dotprod
#include "kernel_table.h"
TARGET_END
#endif
