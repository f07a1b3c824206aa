/* The choice of an instruction set at run time. */
#include "kernels.h"
#include "target.h"
#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

extern const Kernels kernels_generic, kernels_avx2, kernels_avxvnni, kernels_avx512, kernels_avx512bf16, kernels_dotprod;

#if defined(__x86_64__)
/* F16C by CPUID leaf 1, ECX bit 29, as older versions of Clang do not know the name. */
static int has_avx2(void) {
    unsigned a, b, c = 0, d;
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __get_cpuid(1, &a, &b, &c, &d) && (c >> 29 & 1);
}
static int has_avx512(void) {
    return has_avx2() && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}
/* CPUID leaf 7, subleaf 1, EAX bit 4; as not all compilers know the name. */
static int has_avxvnni(void) {
    unsigned a = 0, b, c, d;
    return has_avx2() && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & 16);
}
#elif defined(__aarch64__)
static int has_dotprod(void) {
#if defined(__APPLE__)
    return 1; /* all of Apple's arm64 Macs */
#elif defined(__linux__)
    return (getauxval(AT_HWCAP) >> 20) & 1; /* HWCAP_ASIMDDP */
#else
    return 0;
#endif
}
#endif

static int matches(const Kernels *kernels, const char *name) { return !*name || !strcmp(name, kernels->name); }

const Kernels *find_kernels(const char *name) {
#if defined(HAS_AVX512BF16)
    if (matches(&kernels_avx512bf16, name) && has_avx512() && __builtin_cpu_supports("avx512bf16") &&
        __builtin_cpu_supports("avx512vnni"))
        return &kernels_avx512bf16;
#endif
#if defined(__x86_64__)
    if (matches(&kernels_avx512, name) && has_avx512()) return &kernels_avx512;
#endif
#if defined(HAS_AVXVNNI)
    if (matches(&kernels_avxvnni, name) && has_avxvnni()) return &kernels_avxvnni;
#endif
#if defined(__x86_64__)
    if (matches(&kernels_avx2, name) && has_avx2()) return &kernels_avx2;
#elif defined(__aarch64__)
    if (matches(&kernels_dotprod, name) && has_dotprod()) return &kernels_dotprod;
#endif
    return matches(&kernels_generic, name) ? &kernels_generic : NULL;
}
