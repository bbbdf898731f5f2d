// A layer on CUDA in the kernels' terms, common to both passes: contiguous inputs, where its rows lie on the device,
// its plan, and the buffers that a strategy asks for.
#pragma once

#include <ATen/ATen.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/version.h>

#include "device.h"
#include "layer.h"

namespace fusedrnn::ops {

inline void* at_element(const Tensor& t, int64_t offset = 0) {
  return t.defined() && t.numel() ? static_cast<char*>(t.mutable_data_ptr()) + offset * t.element_size() : nullptr;
}

inline Tensor contiguous(const OptionalTensor& t) { return t ? t->contiguous() : Tensor(); }

class Problem {
 public:
  Problem(const Layer& layer, Pass pass, const char* strategy);

  int64_t gates() const { return sizes.cell.gates * sizes.H; }
  // Columns of one direction's saved values, the unprojected output behind them.
  int64_t saved_width() const { return (sizes.cell.slots() + (sizes.projected ? 1 : 0)) * sizes.H; }
  bool nothing_to_do() const { return sizes.T == 0 || sizes.B == 0; }

  // A matrix's rows of step t.
  Tensor rows_of(const Tensor& matrix, int64_t t) const { return matrix.narrow(0, offset(t), active(t)); }
  int64_t active(int64_t t) const { return active_.empty() ? sizes.B : active_[t]; }
  int64_t step_at(int64_t d, int64_t s) const { return reverse[d] ? sizes.T - 1 - s : s; }

  Tensor empty(at::IntArrayRef size) const { return at::empty(size, x.options()); }
  Tensor empty_wide(at::IntArrayRef size) const { return at::empty(size, x.options().dtype(arithmetic)); }

  // Float32 products as exact as a float32 GEMM of the library would be under the present settings. (From torch 2.9 on
  // allowTF32CuBLAS throws where they were made by `fp32_precision`.)
  bool exact() const {
#if TORCH_VERSION_MAJOR > 2 || TORCH_VERSION_MINOR >= 10
    return at::globalContext().float32Precision(at::Float32Backend::CUDA, at::Float32Op::MATMUL) != at::Float32Precision::TF32;
#elif TORCH_VERSION_MINOR == 9
    return at::globalContext().float32Precision("cuda", "matmul") != "tf32";
#else
    return !at::globalContext().allowTF32CuBLAS();
#endif
  }

  // x with zeros in the padding, which may hold anything: zero times that need not be zero.
  Tensor x_without_padding() const;

  // The state before each step, (N, width): of one direction's states after each step, and of its first ones.
  Tensor before_each_step(const Tensor& states, const Tensor& first, int64_t width, int64_t d) const;

  struct Buffers {
    Tensor product, operand;  // (D, B, G·H), (D, B, P)
    Tensor m, projected;      // (D, B, H), (D, B, P), with a projection
    Tensor state;             // (D, 2, B, max(H, P))
  };
  Buffers stepwise_buffers() const;

  struct ExchangeBuffers {
    Tensor vectors, counters;
    cuda::Exchange exchange;
  };
  ExchangeBuffers exchange_buffers(const PersistentPass& p) const;

  const Sizes sizes;

 private:
  // The GEMMs in here run in the type that was chosen for them, whatever autocast would make of a GEMM.
  c10::impl::ExcludeDispatchKeyGuard no_autocast_;
  c10::DeviceGuard guard_;

 public:
  const Dtype dtype;
  const at::ScalarType arithmetic;
  const CudaDevice& device;
  const cuda::Stream stream;
  const std::vector<bool> reverse;
  const bool reset_to_hx;
  Shape shape;
  CudaPlan plan;
  Rows rows;        // its pointers are the device's
  Tensor x;         // (N, I)
  Tensor h_0, c_0;  // (D, B, ·) or undefined
  std::vector<Tensor> w_ih, w_hh, b_ih, b_hh, w_hr;

 private:
  int64_t offset(int64_t t) const { return offset_.empty() ? t * sizes.B : offset_[t]; }
  Tensor upload(const std::vector<int64_t>& values) const;
  void take_batch_sizes(const Tensor& batch_sizes);
  void take_lengths(const Tensor& lengths);

  std::vector<int64_t> offset_, active_;  // of a packed input whose sequences end at different steps
  Tensor offsets_, packed_lengths_, lengths_, reset_;
};

}  // namespace fusedrnn::ops
