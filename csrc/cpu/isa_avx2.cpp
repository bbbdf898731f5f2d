// AVX2 with FMA.
#if defined(__x86_64__)
#include <immintrin.h>

#include <cstring>
#include <type_traits>
#include <utility>

#include "kernels.h"
#include "team.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#endif

#define FUSEDRNN_ISA avx2
#define FUSEDRNN_VECTOR_BYTES 32
#define FUSEDRNN_BLOCK_ROWS 6  // 12 accumulators of 16 registers
#define FUSEDRNN_LOAD_BFLOAT16(w) \
  __m256(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(w))), 16))
#define FUSEDRNN_LOAD_FLOAT16(w) _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(w)))
#include "isa.inc"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

namespace fusedrnn::cpu {
const Kernels kAvx2 = FUSEDRNN_KERNELS("avx2");
}
#endif
