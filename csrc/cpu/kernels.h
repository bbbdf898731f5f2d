// What the CPU kernels offer: for each instruction set, the forward and the backward of one layer, and the gradients of
// its weights. Tensors hold what the arithmetic has, float or double; or, where plans have bfloat16_pairs, bfloat16.
//
// The kernels of one set are one translation unit (isa_*.cpp) that includes the same templates under
// another target. The caller chooses once, by what the processor has.
#pragma once

#include <atomic>
#include <string>
#include <type_traits>
#include <vector>

#include "../core/plan.h"
#include "../core/problem.h"
#include "stretch.h"

namespace fusedrnn::cpu {

// Its bits.
struct BFloat16 {
  uint16_t bits;
};

// Has AddressSanitizer, where that watches, look at memory that an instruction of the processor's own reads or writes: it does not
// see those.
template <class E>
inline __attribute__((always_inline)) void watch([[maybe_unused]] const E* place, [[maybe_unused]] int64_t n) {
#if defined(__SANITIZE_ADDRESS__)
  for (int64_t i = 0; i < n; ++i) static_cast<void>(*reinterpret_cast<const volatile char*>(place + i));
#endif
}

// A gradient of some weights: where its sums stand from slice to slice, and where it goes, the same place where tensors hold T. No
// place to go: not wanted. One slice (sums_at_once) needs no other.
template <class T, class S>
struct Gradient {
  T* sums;
  S* out;

  FUSEDRNN_INLINE Gradient after(int64_t elements) const { return {sums ? sums + elements : nullptr, out ? out + elements : nullptr}; }
};

// Those of one direction.
template <class T, class S>
struct DirectionGradients {
  Gradient<T, S> w_ih, w_hh, b_ih, b_hh, w_hr;
};

// The sums over the rows of a backward.
template <class T, class S = T>
struct WeightGradients {
  const Backward<S, T>& backward;  // d_gates, and d_h with a projection, are there
  const S* x;                      // (N, I)
  DirectionGradients<T, S> direction[kMaxDirections];
};

// For tensors that hold S and arithmetic in T. Workspaces are 64-byte aligned and begin with undefined contents.
template <class S, class T>
struct KernelsOf {
  // workspace: forward_workspace(shape, plan).total elements
  void (*forward)(const Forward<S, T>&, const CpuPlan&, T* workspace);
  // at: a stretch of each direction, in the order of the backward. workspace: backward_workspace(shape, plan).total elements,
  // whose contents go from stretch to stretch. Returns whether all of the plan's threads were granted: if not, the weights are
  // packed for one alone, which is all that may walk over the next stretches.
  bool (*backward)(const Backward<S, T>&, const Stretch* at, const CpuPlan&, T* workspace);
  // of the stretches that the backward has come from. workspace: gradient_workspace(shape, plan).total elements
  void (*gradients)(const WeightGradients<T, S>&, const Stretch* at, const CpuPlan&, T* workspace);
};

struct Kernels {
  VectorUnit unit;  // but for what is the processor's: vector_unit
  KernelsOf<float, float> of_float;
  KernelsOf<double, double> of_double;
  KernelsOf<BFloat16, float> of_bfloat16;  // for plans with bfloat16_pairs; null where the set has none

  template <class S>
  const auto& of() const {
    if constexpr (std::is_same_v<S, double>) return of_double;
    else if constexpr (std::is_same_v<S, float>) return of_float;
    else return of_bfloat16;
  }
};

extern const Kernels kPortable;
extern const Kernels kPortableBf16;  // rounds what AVX512_BF16 rounds: for tests on processors without it
#if defined(__x86_64__)
extern const Kernels kAvx2, kAvx512, kAvx512Bf16;
#elif defined(__aarch64__)
extern const Kernels kNeon;
#endif

// Bytes of a core's first-level data cache; 0 where the system does not tell. Tests may pretend another.
extern std::atomic<int64_t> first_cache;

// The sets that this processor can run, widest first.
std::vector<const Kernels*> available();

// The set in use: the widest, or the one that the environment's FUSEDRNN_ISA or the last `use` names.
// Both throw std::invalid_argument for a name that is not available.
const Kernels& kernels();
void use(const std::string& name);

// What a plan has to know of the set in use, on this processor.
VectorUnit vector_unit();

}  // namespace fusedrnn::cpu
