/* TARGET_BEGIN(features) and TARGET_END: compile what lies between for these instructions. Each file is compiled with the same
 * flags everywhere, and the choice among the results is made at run time. */
#pragma once

#define PRAGMA(text) _Pragma(#text)
#if defined(__clang__)
#define TARGET_BEGIN(features) PRAGMA(clang attribute push(__attribute__((target(features))), apply_to = function))
#define TARGET_END PRAGMA(clang attribute pop)
#else
#define TARGET_BEGIN(features) PRAGMA(GCC push_options) PRAGMA(GCC target(features))
#define TARGET_END PRAGMA(GCC pop_options)
#endif

#if defined(__x86_64__)
#include <cpuid.h>
#if defined(__clang__)
#define AVX512 "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c"
#else
#define AVX512 "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c,prefer-vector-width=512"
#endif
#if __GNUC__ >= 10 || __clang_major__ >= 9
#define HAS_AVX512BF16
#endif
#if __GNUC__ >= 11 || __clang_major__ >= 12
#define HAS_AVXVNNI
#endif
#elif defined(__clang__)
#define DOTPROD "dotprod"
#else
#define DOTPROD "arch=armv8.2-a+dotprod"
#endif
