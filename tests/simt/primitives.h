// The host's side of csrc/cuda/primitives.cuh, which includes it: the same names upon the executor,
// and those of CUDA's own spellings that kernels may use. See there for what each one does.
//
// Compile with -x c++ -std=c++20 -DFUSEDRNN_SIMT -I tests, and link tests/simt/executor.cpp.
#pragma once

#include <bit>
#include <cmath>
#include <limits>

#include "executor.h"

#define __global__
#define __grid_constant__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)

using uint3 = simt::Index;
using dim3 = simt::Index;
inline constexpr simt::Index &threadIdx = simt::thread_index, &blockIdx = simt::block_index;
inline constexpr simt::Index &blockDim = simt::block_extent, &gridDim = simt::grid_extent;

struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

inline int __clz(int bits) { return std::countl_zero(static_cast<unsigned>(bits)); }

template <class T>
T __ldg(const T* place) {
  return *place;
}

// One fiber runs at a time, so a plain addition is atomic.
template <class T>
T atomicAdd(T* place, std::type_identity_t<T> n) {
  const T before = *place;
  *place = before + n;
  return before;
}

// -- barriers, shuffles, votes ------------------------------------------------------------------------
inline void __syncthreads() { simt::block_barrier(); }

inline void __syncwarp(unsigned mask = 0xffffffffu) {
  simt::warp_collective("__syncwarp", mask, nullptr, [](uint32_t, void* const*) {});
}

namespace simt {

template <class T>
struct Shuffle {
  T value, result;
  int lane, source;
};

template <class T>
T shuffle(const char* primitive, unsigned mask, T value, int source) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  Shuffle<T> own{value, value, lane, source};
  warp_collective(primitive, mask, &own, [](uint32_t, void* const* lanes) {
    for (int l = 0; l < 32; ++l) {
      auto* to = static_cast<Shuffle<T>*>(lanes[l]);
      if (!to) continue;
      auto* from = static_cast<Shuffle<T>*>(lanes[to->source]);
      if (!from) fault("a shuffle reads lane " + std::to_string(to->source) + ", which its mask does not name");
      to->result = from->value;
    }
  });
  return own.result;
}

inline unsigned ballot(const char* primitive, unsigned mask, bool vote) {
  unsigned own = vote;
  warp_collective(primitive, mask, &own, [](uint32_t, void* const* lanes) {
    unsigned votes = 0;
    for (int l = 0; l < 32; ++l)
      if (lanes[l]) votes |= *static_cast<unsigned*>(lanes[l]) << l;
    for (int l = 0; l < 32; ++l)
      if (lanes[l]) *static_cast<unsigned*>(lanes[l]) = votes;
  });
  return own;
}

}  // namespace simt

// A lane's segment of `width` lanes begins at a multiple of it; a source beyond it is the lane itself.
template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  return simt::shuffle("__shfl_sync", mask, value, (lane & -width) + (source & (width - 1)));
}

template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32) {
  const int lane = static_cast<int>(threadIdx.x % 32), source = lane ^ bits;
  return simt::shuffle("__shfl_xor_sync", mask, value, source < (lane & -width) + width ? source : lane);
}

template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  const int lane = static_cast<int>(threadIdx.x % 32), source = lane + static_cast<int>(delta);
  return simt::shuffle("__shfl_down_sync", mask, value, source < (lane & -width) + width ? source : lane);
}

inline unsigned __ballot_sync(unsigned mask, int vote) { return simt::ballot("__ballot_sync", mask, vote != 0); }
inline int __any_sync(unsigned mask, int vote) { return simt::ballot("__any_sync", mask, vote != 0) != 0; }
inline int __all_sync(unsigned mask, int vote) { return simt::ballot("__all_sync", mask, vote != 0) == mask; }

namespace fusedrnn::cuda {

// -- 16-bit numbers -----------------------------------------------------------------------------------
struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

namespace host {

inline float to_float(BFloat16 value) { return std::bit_cast<float>(static_cast<uint32_t>(value.bits) << 16); }

inline float to_float(Half value) {
  const uint32_t sign = static_cast<uint32_t>(value.bits & 0x8000) << 16, rest = value.bits & 0x7fffu;
  if (rest >= 0x7c00) return std::bit_cast<float>(sign | 0x7f800000 | (rest & 0x3ff) << 13);  // infinite, NaN
  // the exponent's bias is 112 too small for float's: 2^112 puts it right, for subnormals as well
  return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(std::bit_cast<float>(rest << 13) * 0x1p112f));
}

inline BFloat16 to_bfloat16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if (value != value) return {0x7fff};
  return {static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}

inline Half to_half(float value) {
  if (value != value) return {0x7fff};
  const uint16_t sign = static_cast<uint16_t>(std::bit_cast<uint32_t>(value) >> 16 & 0x8000);
  const float size = std::fabs(value);
  if (size >= 65520.0f) return {static_cast<uint16_t>(sign | 0x7c00)};  // rounds past the largest, 65504
  if (size < 0x1p-14f) {  // subnormal: adding 1/2 leaves 2^-24 as the last place, rounded to even
    const uint32_t bits = std::bit_cast<uint32_t>(size + 0.5f) - std::bit_cast<uint32_t>(0.5f);
    return {static_cast<uint16_t>(sign | bits)};
  }
  const uint32_t bits = std::bit_cast<uint32_t>(size) - (112u << 23);
  return {static_cast<uint16_t>(sign | (bits + 0xfff + (bits >> 13 & 1)) >> 13)};
}

}  // namespace host

template <class A, class S>
A convert(S value) {
  if constexpr (std::is_same_v<A, S>) return value;
  else if constexpr (std::is_same_v<S, Half> || std::is_same_v<S, BFloat16>) return convert<A>(host::to_float(value));
  else if constexpr (std::is_same_v<A, Half>) return host::to_half(static_cast<float>(value));
  else if constexpr (std::is_same_v<A, BFloat16>) return host::to_bfloat16(static_cast<float>(value));
  else return static_cast<A>(value);
}

// -- shared memory, cp.async --------------------------------------------------------------------------
inline unsigned char* shared_memory() { return simt::shared_memory(); }

template <int bytes>
void copy_async(void* shared, const void* global) {
  static_assert(bytes == 4 || bytes == 8 || bytes == 16);
  simt::copy_async(shared, global, bytes);
}

inline void copy_async_commit() { simt::copy_async_commit(); }

template <int pending>
void copy_async_wait() {
  simt::copy_async_wait(pending);
}

// -- products of a warp -------------------------------------------------------------------------------
namespace host {

struct Product {
  float* acc;
  const uint32_t *a, *b;
};

// Element i of a register: of two 16-bit ones, or the whole of it as tf32.
template <class S>
float element(uint32_t reg, int i) {
  if constexpr (std::is_same_v<S, float>) return std::bit_cast<float>(reg & 0xffffe000u);
  else return to_float(S{static_cast<uint16_t>(reg >> (16 * i))});
}

inline float towards_zero(double value) {
  const float nearest = static_cast<float>(value);
  return std::isfinite(nearest) && std::fabs(nearest) > std::fabs(value) ? std::nextafter(nearest, 0.0f) : nearest;
}

// Each register holds `pack` neighbours along K, so a fragment is four by two registers either way.
template <class S>
void multiply(uint32_t, void* const* lanes) {
  constexpr int pack = std::is_same_v<S, float> ? 1 : 2, K = 8 * pack;
  float a[16][K], b[K][8], acc[16][8];
  auto each = [&](auto&& visit) {
    for (int l = 0; l < 32; ++l)
      for (int i = 0; i < 4; ++i)
        visit(static_cast<const Product*>(lanes[l])->acc[i], acc[l / 4 + 8 * (i / 2)][2 * (l % 4) + i % 2]);
  };
  for (int l = 0; l < 32; ++l) {
    const auto* from = static_cast<const Product*>(lanes[l]);
    const int g = l / 4, t = l % 4;
    for (int i = 0; i < pack; ++i) {
      for (int r = 0; r < 4; ++r) a[g + 8 * (r % 2)][pack * (t + 4 * (r / 2)) + i] = element<S>(from->a[r], i);
      for (int r = 0; r < 2; ++r) b[pack * (t + 4 * r) + i][g] = element<S>(from->b[r], i);
    }
  }
  each([](float lanes_own, float& sum) { sum = lanes_own; });
  for (int m = 0; m < 16; ++m)
    for (int k = 0; k < K; k += 8)  // that many products and the sum before are added at once, and rounded towards zero
      for (int n = 0; n < 8; ++n) {
        double sum = acc[m][n];
        for (int i = k; i < k + 8; ++i) sum += double{a[m][i]} * b[i][n];
        acc[m][n] = towards_zero(sum);
      }
  each([](float& lanes_own, float sum) { lanes_own = sum; });
}

}  // namespace host

template <class S>
void mma_16x8x16(float (&acc)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  static_assert(std::is_same_v<S, Half> || std::is_same_v<S, BFloat16>);
  host::Product own{acc, a, b};
  simt::warp_collective(std::is_same_v<S, Half> ? "mma_16x8x16<Half>" : "mma_16x8x16<BFloat16>", 0xffffffffu, &own,
                        host::multiply<S>);
}

inline void mma_16x8x8_tf32(float (&acc)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  host::Product own{acc, a, b};
  simt::warp_collective("mma_16x8x8_tf32", 0xffffffffu, &own, host::multiply<float>);
}

inline uint32_t to_tf32(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if (!std::isfinite(value)) return bits;
  return (bits + 0x1000) & 0xffffe000u;
}

namespace host {

struct Rows8x8 {
  uint32_t* r;
  const unsigned char* row;
};

template <int count>
void ldmatrix(const char* primitive, uint32_t (&r)[count], const void* shared_row) {
  Rows8x8 own{r, static_cast<const unsigned char*>(shared_row)};
  if (static_cast<int>(threadIdx.x % 32) < 8 * count) simt::check_shared(primitive, shared_row, 16);
  simt::warp_collective(primitive, 0xffffffffu, &own, [](uint32_t, void* const* lanes) {
    for (int l = 0; l < 32; ++l)
      for (int j = 0; j < count; ++j) {
        const unsigned char* row = static_cast<Rows8x8*>(lanes[8 * j + l / 4])->row;
        std::memcpy(&static_cast<Rows8x8*>(lanes[l])->r[j], row + 4 * (l % 4), 4);
      }
  });
}

}  // namespace host

inline void ldmatrix_x4(uint32_t (&r)[4], const void* shared_row) { host::ldmatrix("ldmatrix_x4", r, shared_row); }
inline void ldmatrix_x2(uint32_t (&r)[2], const void* shared_row) { host::ldmatrix("ldmatrix_x2", r, shared_row); }

// -- clusters, flags, the second-level cache ----------------------------------------------------------
using simt::add_release, simt::load_acquire, simt::wait_at_least;
using simt::cluster_arrive, simt::cluster_rank, simt::cluster_size, simt::cluster_wait;

template <class T>
T* cluster_peer(T* shared, unsigned rank) {
  return static_cast<T*>(simt::cluster_peer(const_cast<std::remove_const_t<T>*>(shared), rank));
}

using TransferBarrier = uint64_t;
using simt::transfer_expect, simt::transfer_init, simt::transfer_wait;

inline void store_async(void* shared, uint4 value, TransferBarrier* barrier, unsigned rank) {
  simt::store_async(shared, &value, barrier, rank);
}

namespace host {

template <class T>
void check_aligned(const char* primitive, const T* place) {
  static_assert(sizeof(T) == 2 || sizeof(T) == 4 || sizeof(T) == 8 || sizeof(T) == 16);
  if (reinterpret_cast<uintptr_t>(place) % sizeof(T)) simt::fault(std::string(primitive) + ": address not aligned");
}

}  // namespace host

template <class T>
T load_l2(const T* place) {
  host::check_aligned("load_l2", place);
  return *place;
}

inline void prefetch_l2(const void*) {}

template <class T>
void store_l2(T* place, T value) {
  host::check_aligned("store_l2", place);
  *place = value;
}

// -- launching ----------------------------------------------------------------------------------------
template <class... P, class... A>
void launch(const char* name, const LaunchShape& shape, Stream, void (*kernel)(P...), A&&... args) {
  static_assert(launchable<P...>);
  struct Call {
    void (*kernel)(P...);
    std::tuple<P...> values;
  } call{kernel, std::tuple<P...>(std::forward<A>(args)...)};
  const simt::Shape grid{shape.blocks, shape.threads, shape.shared_bytes, shape.cluster, shape.cooperative};
  if (simt::instead) {
    return std::apply(
        [&](P&... value) {
          void* const arguments[] = {&value..., nullptr};
          simt::instead(name, grid, reinterpret_cast<const void*>(kernel), arguments);
        },
        call.values);
  }
  simt::run(name, grid,
            [](const void* c) { std::apply(static_cast<const Call*>(c)->kernel, static_cast<const Call*>(c)->values); },
            &call);
}

template <class... P>
int compiled_for(void (*)(P...)) {
  return 90;
}

template <class... P>
int active_clusters(const LaunchShape&, void (*)(P...)) {
  return 1;
}

}  // namespace fusedrnn::cuda
