// AVX2 with FMA.
#if defined(__x86_64__)
#include <immintrin.h>

#include "standard.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#endif

#include "../core/config.h"
#include "kernels.h"

namespace fusedrnn::cpu::avx2 {
FUSEDRNN_INLINE __m256 least(__m256 a, __m256 b) { return _mm256_min_ps(a, b); }
FUSEDRNN_INLINE __m256d least(__m256d a, __m256d b) { return _mm256_min_pd(a, b); }
FUSEDRNN_INLINE __m256 greatest(__m256 a, __m256 b) { return _mm256_max_ps(a, b); }
FUSEDRNN_INLINE __m256d greatest(__m256d a, __m256d b) { return _mm256_max_pd(a, b); }
FUSEDRNN_INLINE __m256 load_first(const float* from, int64_t n) {
  watch(from, n);
  const __m256i place = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_maskload_ps(from, _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)), place));
}
FUSEDRNN_INLINE __m256d load_first(const double* from, int64_t n) {
  watch(from, n);
  return _mm256_maskload_pd(from, _mm256_cmpgt_epi64(_mm256_set1_epi64x(n), _mm256_setr_epi64x(0, 1, 2, 3)));
}
FUSEDRNN_INLINE __m256i load_pieces(const void* a, const void* b) {
  return _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128(static_cast<const __m128i*>(a))),
                                 _mm_loadu_si128(static_cast<const __m128i*>(b)), 1);
}
template <class V>
FUSEDRNN_INLINE void stream(void* to, V value) {
  watch(static_cast<const char*>(to), sizeof(V));
  if constexpr (sizeof(V) == 32) _mm256_stream_si256(static_cast<__m256i*>(to), __m256i(value));
  else *static_cast<V*>(to) = value;  // too small a part of a cache line
}
FUSEDRNN_INLINE void fence() { _mm_sfence(); }
}  // namespace fusedrnn::cpu::avx2

#define FUSEDRNN_ISA avx2
#define FUSEDRNN_VECTOR_BYTES 32
#define FUSEDRNN_BLOCK_ROWS 6  // 12 accumulators of 16 registers
#define FUSEDRNN_PART_ROWS 12  // two blocks; 8: B=16 0.84 to 0.91 of the speed
#define FUSEDRNN_DEPTH_SLICE 256
#define FUSEDRNN_HAS_EXTREMA
#define FUSEDRNN_HAS_MASKS
#define FUSEDRNN_HAS_STREAMS
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
