// What the CPU kernels offer: for each instruction set, the forward and the backward of one layer.
//
// The kernels of one set are one translation unit (isa_*.cpp) that includes the same templates under
// another target. The caller chooses once, by what the processor has.
#pragma once

#include "../core/plan.h"
#include "../core/problem.h"

namespace fusedrnn::cpu {

struct Kernels {
  VectorUnit unit;
  // workspace: forward_workspace(shape, plan).total elements, 64-byte aligned, contents undefined
  void (*forward_float)(const Forward<float>&, const CpuPlan&, float* workspace);
  void (*forward_double)(const Forward<double>&, const CpuPlan&, double* workspace);
  void (*backward_float)(const Backward<float>&, const CpuPlan&, float* workspace);
  void (*backward_double)(const Backward<double>&, const CpuPlan&, double* workspace);

  void forward(const Forward<float>& f, const CpuPlan& p, float* w) const { forward_float(f, p, w); }
  void forward(const Forward<double>& f, const CpuPlan& p, double* w) const { forward_double(f, p, w); }
  void backward(const Backward<float>& b, const CpuPlan& p, float* w) const { backward_float(b, p, w); }
  void backward(const Backward<double>& b, const CpuPlan& p, double* w) const { backward_double(b, p, w); }
};

extern const Kernels kPortable;
#if defined(__x86_64__)
extern const Kernels kAvx2, kAvx512;
#endif

// The widest set of this processor, or the one that FUSEDRNN_ISA (portable, avx2, avx512) names.
// Throws std::runtime_error when the processor lacks what is named.
const Kernels& kernels();

}  // namespace fusedrnn::cpu
