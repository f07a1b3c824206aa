/* Kernels for every processor of the architecture. */
#if defined(__x86_64__)
#include "isa_sse.h"
#elif defined(__aarch64__)
#include "isa_neon.h"
#else
#include "isa_portable.h"
#endif
#define ISA_NAME "generic"
#define KERNELS kernels_generic
#include "kernel_table.h"
