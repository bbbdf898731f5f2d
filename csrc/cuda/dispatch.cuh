// From a problem whose types are left open to the kernel of its types.
#pragma once

#include <bit>
#include <stdexcept>

#include "kernels.h"
#include "primitives.cuh"

namespace fusedrnn::cuda {

template <class To, class From>
To typed(const From& open) {  // the same pointers, their types filled in
  static_assert(sizeof(To) == sizeof(From));
  return std::bit_cast<To>(open);
}

template <class Storage, class Arithmetic>
struct Types {};

template <class F>
void for_dtype(Dtype dtype, F&& f) {  // f(Types<S, A>{})
  switch (dtype) {
    case Dtype::float64: return f(Types<double, double>{});
    case Dtype::float32: return f(Types<float, float>{});
    case Dtype::float16: return f(Types<Half, float>{});
    case Dtype::bfloat16: return f(Types<BFloat16, float>{});
  }
}

template <class F>
void for_cell(CellKind kind, F&& f) {  // f(cell)
  for_each_cell([&](CellKind k, auto cell) {
    if (k == kind) f(cell);
    return k == kind;
  });
}

// f(Types<S, float>{}, cell), for the types that tensor cores multiply.
template <class F>
void for_tile_types(Dtype dtype, CellKind kind, F&& f) {
  for_dtype(dtype, [&]<class S, class A>(Types<S, A> types) {
    if constexpr (sizeof(S) <= 4) {
      for_cell(kind, [&](auto cell) { f(types, cell); });
    } else {
      throw std::invalid_argument("the persistent strategy has no float64 kernel");
    }
  });
}

inline LaunchShape launch_shape(const PersistentPass& p) {
  return {p.blocks, kBlockThreads, p.shared_bytes, p.scope == Scope::cluster ? p.slices : 1, p.scope == Scope::grid};
}

// Blocks for `count` values, one a thread; the kernels loop, so there may be fewer.
inline LaunchShape one_thread_each(int64_t count) {
  constexpr int threads = 256;
  constexpr int64_t most = int64_t(1) << 30;
  const int64_t blocks = (count + threads - 1) / threads;
  return {blocks < most ? blocks : most, threads, 0};
}

}  // namespace fusedrnn::cuda
