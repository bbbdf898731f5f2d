// What the CPU kernels offer: for each instruction set, the forward and the backward of one layer, and the gradients of
// its weights. Tensors hold what the arithmetic has, float or double; or, where plans have bfloat16_pairs, bfloat16.
//
// The kernels of one set are one translation unit (isa_*.cpp) that includes the same templates under
// another target. The caller chooses once, by what the processor has.
#pragma once

#include <string>
#include <vector>

#include "../core/plan.h"
#include "../core/problem.h"

namespace fusedrnn::cpu {

// Its bits.
struct BFloat16 {
  uint16_t bits;
};

// Gradients of one direction's weights. Null: not wanted.
template <class T>
struct DirectionGradients {
  T *w_ih, *w_hh, *b_ih, *b_hh, *w_hr;
};

// The sums over all rows that follow a backward: at least one row.
template <class T, class S = T>
struct WeightGradients {
  const Backward<S, T>& backward;  // done: d_gates, and d_h with a projection, are there
  const S* x;                      // (N, I)
  DirectionGradients<T> direction[kMaxDirections];
};

struct Kernels {
  VectorUnit unit;
  // workspace: forward_workspace(shape, plan).total elements, 64-byte aligned, contents undefined
  void (*forward_float)(const Forward<float>&, const CpuPlan&, float* workspace);
  void (*forward_double)(const Forward<double>&, const CpuPlan&, double* workspace);
  void (*backward_float)(const Backward<float>&, const CpuPlan&, float* workspace);
  void (*backward_double)(const Backward<double>&, const CpuPlan&, double* workspace);

  // workspace: gradient_workspace(shape, plan).total elements
  void (*gradients_float)(const WeightGradients<float>&, const CpuPlan&, float* workspace);
  void (*gradients_double)(const WeightGradients<double>&, const CpuPlan&, double* workspace);

  // for plans with bfloat16_pairs; null where the set has none
  void (*forward_bfloat16)(const Forward<BFloat16, float>&, const CpuPlan&, float* workspace);
  void (*backward_bfloat16)(const Backward<BFloat16, float>&, const CpuPlan&, float* workspace);
  void (*gradients_bfloat16)(const WeightGradients<float, BFloat16>&, const CpuPlan&, float* workspace);

  void forward(const Forward<float>& f, const CpuPlan& p, float* w) const { forward_float(f, p, w); }
  void forward(const Forward<double>& f, const CpuPlan& p, double* w) const { forward_double(f, p, w); }
  void backward(const Backward<float>& b, const CpuPlan& p, float* w) const { backward_float(b, p, w); }
  void backward(const Backward<double>& b, const CpuPlan& p, double* w) const { backward_double(b, p, w); }
  void gradients(const WeightGradients<float>& g, const CpuPlan& p, float* w) const { gradients_float(g, p, w); }
  void gradients(const WeightGradients<double>& g, const CpuPlan& p, double* w) const { gradients_double(g, p, w); }
  void forward(const Forward<BFloat16, float>& f, const CpuPlan& p, float* w) const { forward_bfloat16(f, p, w); }
  void backward(const Backward<BFloat16, float>& b, const CpuPlan& p, float* w) const { backward_bfloat16(b, p, w); }
  void gradients(const WeightGradients<float, BFloat16>& g, const CpuPlan& p, float* w) const { gradients_bfloat16(g, p, w); }
};

extern const Kernels kPortable;
extern const Kernels kPortableBf16;  // rounds what AVX512_BF16 rounds: for tests on processors without it
#if defined(__x86_64__)
extern const Kernels kAvx2, kAvx512, kAvx512Bf16;
#elif defined(__aarch64__)
extern const Kernels kNeon;
#endif

// The sets that this processor can run, widest first.
std::vector<const Kernels*> available();

// The set in use: the widest, or the one that the environment's FUSEDRNN_ISA or the last `use` names.
// Both throw std::invalid_argument for a name that is not available.
const Kernels& kernels();
void use(const std::string& name);

}  // namespace fusedrnn::cpu
