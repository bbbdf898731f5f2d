// AVX-512 (F, DQ, BW, VL), and the same with products of AVX512_BF16.
#if defined(__x86_64__)
#include <immintrin.h>

#include "standard.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,f16c,prefer-vector-width=512")
#endif

#include "../core/config.h"
#include "kernels.h"

namespace fusedrnn::cpu::avx512 {
// Masks of all: without one GCC 12 warns of its own header.
FUSEDRNN_INLINE __m512 least(__m512 a, __m512 b) { return _mm512_maskz_min_ps(-1, a, b); }
FUSEDRNN_INLINE __m512d least(__m512d a, __m512d b) { return _mm512_maskz_min_pd(-1, a, b); }
FUSEDRNN_INLINE __m512 greatest(__m512 a, __m512 b) { return _mm512_maskz_max_ps(-1, a, b); }
FUSEDRNN_INLINE __m512d greatest(__m512d a, __m512d b) { return _mm512_maskz_max_pd(-1, a, b); }
FUSEDRNN_INLINE __m512 load_first(const float* from, int64_t n) {
  watch(from, n);
  return _mm512_maskz_loadu_ps((1 << n) - 1, from);
}
FUSEDRNN_INLINE __m512d load_first(const double* from, int64_t n) {
  watch(from, n);
  return _mm512_maskz_loadu_pd((1 << n) - 1, from);
}
FUSEDRNN_INLINE __m256i load_pieces(const void* a, const void* b) {
  return _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128(static_cast<const __m128i*>(a))),
                                 _mm_loadu_si128(static_cast<const __m128i*>(b)), 1);
}
FUSEDRNN_INLINE __m512i load_pieces(const void* a, const void* b, const void* c, const void* d) {
  return _mm512_maskz_inserti64x4(0xff, _mm512_castsi256_si512(load_pieces(a, b)), load_pieces(c, d), 1);
}
template <class V>
FUSEDRNN_INLINE void stream(void* to, V value) {
  watch(static_cast<const char*>(to), sizeof(V));
  if constexpr (sizeof(V) == 64) _mm512_stream_si512(static_cast<__m512i*>(to), __m512i(value));
  else *static_cast<V*>(to) = value;  // no whole cache line
}
FUSEDRNN_INLINE void fence() { _mm_sfence(); }

// AVX512_BF16, which not every processor with AVX-512 has: as assembly, so that no compiler uses it anywhere else. Denormals
// are taken for zeros.
FUSEDRNN_INLINE __m256i narrow(__m512 value) {
  __m256i bits;
  asm("vcvtneps2bf16 %1, %0" : "=v"(bits) : "v"(value));
  return bits;
}
FUSEDRNN_INLINE __m512i narrow(__m512 first, __m512 second) {
  __m512i bits;
  asm("vcvtne2ps2bf16 %2, %1, %0" : "=v"(bits) : "v"(second), "v"(first));
  return bits;
}
FUSEDRNN_INLINE __m512 add_pairs(__m512 sum, __m512 a, __m512 b) {
  asm("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
  return sum;
}
FUSEDRNN_INLINE __m512 load_first(const BFloat16* from, int64_t n) {
  watch(from, n);
  const __m256i bits = _mm256_maskz_loadu_epi16((1 << n) - 1, from);
  return __m512(_mm512_maskz_slli_epi32(0xffff, _mm512_maskz_cvtepu16_epi32(0xffff, bits), 16));
}
FUSEDRNN_INLINE void store_first(BFloat16* to, __m512 value, int64_t n) {
  watch(to, n);
  _mm256_mask_storeu_epi16(to, (1 << n) - 1, narrow(value));
}

// sum += *a · b. The number is the instruction's own to spread: GCC 12 would spread a register anew.
FUSEDRNN_INLINE void add_product_of(__m256& sum, const float* a, __m256 b) {
  watch(a, 1);
  asm("vfmadd231ps %1%{1to8%}, %2, %0" : "+v"(sum) : "m"(*a), "v"(b));
}
FUSEDRNN_INLINE void add_product_of(__m256d& sum, const double* a, __m256d b) {
  watch(a, 1);
  asm("vfmadd231pd %1%{1to4%}, %2, %0" : "+v"(sum) : "m"(*a), "v"(b));
}
}  // namespace fusedrnn::cpu::avx512

#define FUSEDRNN_ISA avx512
#define FUSEDRNN_VECTOR_BYTES 64
#define FUSEDRNN_BLOCK_ROWS 12  // 24 accumulators of 32 registers
// Of rows that crowd in 8 ways: GFLOP/s of a block of 12, 10 and 8 of them 81, 109 and 115, of others 117.
#define FUSEDRNN_CROWDED_ROWS 8
// Two threads, T=128, in the time of 12, training: B=16 H=128 RNN 0.88, GRU 0.90, LSTM 0.91, H=512 LSTM 0.94.
#define FUSEDRNN_PART_ROWS 8
// One thread, T=32, in the time of 256: LSTM B=64 H=512 forward 0.94, backward 0.97, H=1024 0.97 and 0.98.
#define FUSEDRNN_DEPTH_SLICE 512
#define FUSEDRNN_HAS_EXTREMA
#define FUSEDRNN_HAS_HALVES
#define FUSEDRNN_HAS_MASKS
#define FUSEDRNN_HAS_STREAMS
#define FUSEDRNN_HAS_PAIRS
#define FUSEDRNN_LOAD_BFLOAT16(w) \
  __m512(_mm512_maskz_slli_epi32(    \
      0xffff, _mm512_maskz_cvtepu16_epi32(0xffff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(w))), 16))
#define FUSEDRNN_LOAD_FLOAT16(w) _mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(w)))
#include "isa.inc"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

namespace fusedrnn::cpu {
const Kernels kAvx512 = FUSEDRNN_KERNELS("avx512");
const Kernels kAvx512Bf16 = FUSEDRNN_KERNELS_WITH_PAIRS("avx512_bf16");
}
#endif
