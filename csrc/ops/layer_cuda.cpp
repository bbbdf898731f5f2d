// A layer on CUDA: one GEMM for everything that is parallel in time, the strategy that the plan names for the
// sequential part, and the same backwards. Owns every buffer of the call. Nothing waits for the device, and no
// value on the device is looked at: a call may be captured into a graph.
//
// Rows are T·B, with padding where lengths are given, or those of a packed input.
#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>
#include <c10/core/DeviceGuard.h>

#include "device.h"
#include "layer.h"
#include "products.h"
#include "strategy.h"

namespace fusedrnn::ops {
namespace {

// Gates that a backward recomputes at once.
constexpr int64_t kRecomputedValues = int64_t(1) << 24;

Dtype dtype_of(const Tensor& x) {
  switch (x.scalar_type()) {
    case at::kDouble: return Dtype::float64;
    case at::kFloat: return Dtype::float32;
    case at::kHalf: return Dtype::float16;
    default: return Dtype::bfloat16;
  }
}

void* at_element(const Tensor& t, int64_t offset = 0) {
  return t.defined() && t.numel() ? static_cast<char*>(t.mutable_data_ptr()) + offset * t.element_size() : nullptr;
}

std::vector<Tensor> contiguous(const std::vector<Tensor>& list) {
  std::vector<Tensor> result;
  for (const Tensor& t : list) result.push_back(t.contiguous());
  return result;
}

Tensor contiguous(const OptionalTensor& t) { return t ? t->contiguous() : Tensor(); }

// The layer in the kernels' terms, common to both passes.
class Problem {
 public:
  Problem(const Layer& l, Pass pass, const char* strategy)
      : sizes(check(l)), no_autocast_(c10::autocast_dispatch_keyset), guard_(l.x.device()), dtype(dtype_of(l.x)),
        arithmetic(dtype == Dtype::float64 ? at::kDouble : at::kFloat), device(cuda_device_of(l.x)),
        stream(current_stream(l.x)), reverse(l.reverse), reset_to_hx(l.reset_to_hx) {
    x = l.x.reshape({sizes.N, sizes.I}).contiguous();
    h_0 = contiguous(l.h_0), c_0 = contiguous(l.c_0);
    w_ih = contiguous(l.w_ih), w_hh = contiguous(l.w_hh), w_hr = contiguous(l.w_hr);
    b_ih = contiguous(l.b_ih), b_hh = contiguous(l.b_hh);
    rows = {sizes.T, sizes.B, nullptr, nullptr, nullptr, nullptr};
    if (sizes.packed) take_batch_sizes(*l.batch_sizes);
    if (l.lengths) take_lengths(*l.lengths);
    if (l.reset) {
      reset_ = l.reset->contiguous();
      rows.reset = reset_.const_data_ptr<bool>();
    }
    shape = {sizes.kind, sizes.T, sizes.B, sizes.N, sizes.H, sizes.P, sizes.projected, static_cast<int>(sizes.D),
             static_cast<int>(c10::elementSize(arithmetic))};
    plan = plan_cuda(shape, {dtype, strategy}, device, pass);
  }

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

  // Float32 products as exact as a float32 GEMM of the library would be under the present settings.
  bool exact() const { return !at::globalContext().allowTF32CuBLAS(); }

  // x with zeros in the padding, which may hold anything: zero times that need not be zero.
  Tensor x_without_padding() const {
    if (!lengths_.defined()) return x;
    const Tensor steps = at::arange(sizes.T, lengths_.options()).unsqueeze(1);
    return x.view({sizes.T, sizes.B, sizes.I})
        .masked_fill((steps >= lengths_).unsqueeze(-1), 0)
        .view({sizes.N, sizes.I});
  }

  // The state before each step, (N, width): of one direction's states after each step, and of its first ones.
  Tensor before_each_step(const Tensor& states, const Tensor& first, int64_t width, int64_t d) const {
    const Tensor out = empty({sizes.N, width});
    cuda::before_each_step(dtype,
                           {rows, reverse[d], reset_to_hx, width, sizes.D * width, at_element(states, d * width),
                            at_element(first, d * sizes.B * width), at_element(out)},
                           stream);
    return out;
  }

  // Pieces of the stepwise strategy's workspace.
  struct Buffers {
    Tensor product, operand, m, projected, state;
  };
  Buffers stepwise_buffers() const {
    const int64_t D = sizes.D, B = sizes.B;
    Buffers b{empty({D, B, gates()}), empty({D, B, sizes.P}), Tensor(), Tensor(),
              empty_wide({D, 2, B, std::max(sizes.H, sizes.P)})};
    if (sizes.projected) b.m = empty({D, B, sizes.H}), b.projected = empty({D, B, sizes.P});
    return b;
  }

  struct ExchangeBuffers {
    Tensor vectors, counters;
    cuda::Exchange exchange;
  };
  ExchangeBuffers exchange_buffers(const PersistentPass& p) const {
    ExchangeBuffers b{};
    if (p.scope != Scope::grid) return b;
    b.vectors = at::zeros({sizes.D * p.groups, 2, p.batch, p.ld}, x.options());
    b.counters = at::zeros({sizes.D * p.groups}, x.options().dtype(at::kInt));
    b.exchange = {at_element(b.vectors), static_cast<uint32_t*>(at_element(b.counters))};
    return b;
  }

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
  Rows rows;         // its pointers are the device's
  Tensor x;          // (N, I)
  Tensor h_0, c_0;   // (D, B, ·) or undefined
  std::vector<Tensor> w_ih, w_hh, b_ih, b_hh, w_hr;

 private:
  int64_t offset(int64_t t) const { return offset_.empty() ? t * sizes.B : offset_[t]; }

  Tensor upload(const std::vector<int64_t>& values) const {
    const Tensor t = at::empty({static_cast<int64_t>(values.size())}, x.options().dtype(at::kLong));
    cuda::upload(t.mutable_data_ptr<int64_t>(), values.data(), t.numel(), stream);
    return t;
  }

  void take_batch_sizes(const Tensor& batch_sizes) {
    const Tensor sizes_of_steps = batch_sizes.contiguous();
    const int64_t* n = sizes_of_steps.const_data_ptr<int64_t>();
    if (sizes.T == 0 || n[sizes.T - 1] == sizes.B) return;  // every sequence has every step
    active_.assign(n, n + sizes.T);
    std::vector<int64_t> length(sizes.B, 0);
    for (int64_t t = 0, row = 0; t < sizes.T; row += active_[t++]) {
      offset_.push_back(row);
      for (int64_t b = 0; b < active_[t]; ++b) length[b] = t + 1;
    }
    offsets_ = upload(offset_), packed_lengths_ = upload(length);
    rows.offset = offsets_.const_data_ptr<int64_t>();
    rows.length = packed_lengths_.const_data_ptr<int64_t>();
  }

  // Lengths that lie on the device are taken as they come: what is below 0 counts as 0, what is above T as T.
  void take_lengths(const Tensor& lengths) {
    if (lengths.device() == x.device() && !x.is_cpu()) {
      lengths_ = lengths.to(at::kLong).contiguous();
    } else {
      const Tensor here = lengths.to(at::kCPU, at::kLong).contiguous();
      const int64_t* n = here.const_data_ptr<int64_t>();
      bool short_one = false;
      for (int64_t b = 0; b < sizes.B; ++b) {
        TORCH_CHECK_VALUE(n[b] >= 0 && n[b] <= sizes.T, "lengths must lie in 0..T = 0..", sizes.T, "; got ", n[b],
                          " at ", b);
        short_one |= n[b] < sizes.T;
      }
      if (!short_one) return;
      lengths_ = upload({n, n + sizes.B});
    }
    rows.length = lengths_.const_data_ptr<int64_t>();
  }

  std::vector<int64_t> offset_, active_;  // of a packed input whose sequences end at different steps
  Tensor offsets_, packed_lengths_, lengths_, reset_;
};

// --- forward ----------------------------------------------------------------------------------------------------

void forward_stepwise(const Problem& l, const cuda::AnyForward& f) {
  const Sizes& s = l.sizes;
  const Problem::Buffers buffers = l.stepwise_buffers();
  cuda::StepwiseForward w{nullptr, at_element(buffers.operand), at_element(buffers.m), at_element(buffers.projected),
                          at_element(buffers.state)};
  const bool cut_at_once = l.h_0.defined() && l.rows.reset;
  if (cut_at_once) cuda::forward_begin(l.dtype, f, w, l.stream);
  for (int64_t step = 0; step < s.T; ++step) {
    const Tensor& operand = step > 0 || cut_at_once ? buffers.operand : l.h_0;
    if (operand.defined()) {
      for (int64_t d = 0; d < s.D; ++d) {
        const int64_t n = l.active(l.step_at(d, step));
        Tensor u = buffers.product[d].narrow(0, 0, n);
        at::mm_out(u, operand[d].narrow(0, 0, n), l.w_hh[d].t());
      }
      w.u = at_element(buffers.product);
    }
    cuda::forward_step(l.dtype, f, w, step, l.stream);
    if (s.projected) {
      for (int64_t d = 0; d < s.D; ++d) {
        Tensor h = buffers.projected[d];
        at::mm_out(h, buffers.m[d], l.w_hr[d].t());
      }
      cuda::forward_project(l.dtype, f, w, step, l.stream);
    }
  }
}

ForwardResult forward(const Layer& layer, bool save, bool cell_states, const char* strategy) {
  const Problem l(layer, Pass::forward, strategy);
  const Sizes& s = l.sizes;
  const int64_t N = s.N, D = s.D, H = s.H, P = s.P, B = s.B, GH = l.gates();
  const bool has_c = s.cell.states > 1;
  const bool keeps_values = save && (s.cell.saved > 0 || s.projected);
  const bool keeps_c = has_c && (save || cell_states);
  const int64_t width = keeps_values ? l.saved_width() : GH;

  const Tensor gates = l.empty({N, D, width});
  for (int64_t d = 0; d < D; ++d) {
    Tensor gx = gates.select(1, d).narrow(1, 0, GH);
    at::mm_out(gx, l.x, l.w_ih[d].t());
  }
  const Tensor y = l.empty({N, D * P}), h_n = l.empty({D, B, P});
  const Tensor c = keeps_c ? l.empty_wide({N, D * H}) : l.empty_wide({0});
  const Tensor c_n = has_c ? l.empty({D, B, H}) : l.empty({0});

  if (l.nothing_to_do()) {
    const auto last = [](const Tensor& to, const Tensor& from) { from.defined() ? to.copy_(from) : to.zero_(); };
    last(h_n, l.h_0);
    if (has_c) last(c_n, l.c_0);
  } else {
    cuda::AnyForward f{l.shape,  l.rows, HiddenProduct::fused, keeps_values, l.reset_to_hx, D * width, D * P, D * H,
                       s.I,      nullptr, {}};
    for (int64_t d = 0; d < D; ++d) {
      auto& dir = f.direction[d];
      dir.reverse = l.reverse[d];
      dir.w_hh = at_element(l.w_hh[d]);
      dir.b_ih = s.bias ? at_element(l.b_ih[d]) : nullptr;
      dir.b_hh = s.bias ? at_element(l.b_hh[d]) : nullptr;
      dir.h_0 = at_element(l.h_0, d * B * P);
      dir.c_0 = at_element(l.c_0, d * B * H);
      dir.gates = at_element(gates, d * width);
      dir.y = at_element(y, d * P);
      dir.c = keeps_c ? at_element(c, d * H) : nullptr;
      dir.h_n = at_element(h_n, d * B * P);
      dir.c_n = has_c ? at_element(c_n, d * B * H) : nullptr;
    }
    if (l.plan.forward.strategy == CudaStrategy::persistent) {
      const auto exchange = l.exchange_buffers(l.plan.forward.persistent);
      cuda::persistent_forward(l.dtype, f, l.plan.forward.persistent, exchange.exchange, l.exact(), l.stream);
    } else {
      forward_stepwise(l, f);
    }
  }
  auto sizes = layer.x.sizes().vec();
  const auto shaped = [&](const Tensor& rows) {
    sizes.back() = rows.size(-1);
    return rows.view(sizes);
  };
  return {shaped(y), h_n, c_n, keeps_c ? shaped(c) : c, keeps_values ? gates : l.empty({0})};
}

// --- backward ---------------------------------------------------------------------------------------------------

// What the forward did not save, from the states that it left: with the state before each of them known, all steps
// are one step of so many sequences.
Tensor recompute(const Problem& l, const Layer& layer, const Tensor& y, const Tensor& c) {
  const Sizes& s = l.sizes;
  std::vector<Tensor> h, c_before;
  for (int64_t d = 0; d < s.D; ++d) {
    h.push_back(l.before_each_step(y, l.h_0, s.P, d));
    // Of the saved values, only the unprojected h depends on c.
    if (s.projected) c_before.push_back(l.before_each_step(c.to(l.x.scalar_type()), l.c_0, s.H, d));
  }
  const Tensor saved = l.empty({s.N, s.D, l.saved_width()});
  // A piece at a time: its products need room of their own.
  const int64_t piece = std::max<int64_t>(1, kRecomputedValues / l.gates());
  for (int64_t row = 0; row < s.N; row += piece) {
    const int64_t n = std::min(piece, s.N - row);
    const auto rows_of = [&](const std::vector<Tensor>& states) {
      std::vector<Tensor> own;
      for (const Tensor& t : states) own.push_back(t.narrow(0, row, n));
      return own.empty() ? OptionalTensor() : OptionalTensor(at::stack(own));
    };
    const Layer step{l.x.narrow(0, row, n).unsqueeze(0), rows_of(h), rows_of(c_before), l.w_ih, l.w_hh, l.b_ih, l.b_hh,
                     l.w_hr, {}, {}, {}, layer.cell, std::vector<bool>(s.D, false), false};
    saved.narrow(0, row, n).copy_(std::get<4>(forward(step, /*save=*/true, /*cell_states=*/false, "stepwise")));
  }
  return saved;
}

void backward_stepwise(const Problem& l, const cuda::AnyBackward& f, const Tensor& d_gates, const Tensor& d_h) {
  const Sizes& s = l.sizes;
  const int64_t GH = l.gates(), extra = s.cell.split * s.H;
  const Problem::Buffers buffers = l.stepwise_buffers();
  cuda::StepwiseBackward w{nullptr, at_element(buffers.m), at_element(buffers.state)};
  const auto pass_through_w_hh = [&](int64_t step) {  // what d_u of the step gives the h before it
    for (int64_t d = 0; d < s.D; ++d) {
      const Tensor du = l.rows_of(d_gates.select(1, d).narrow(1, extra, GH), l.step_at(d, step));
      Tensor d_operand = buffers.operand[d].narrow(0, 0, du.size(0));
      at::mm_out(d_operand, du, l.w_hh[d]);
    }
    w.d_operand = at_element(buffers.operand);
  };
  for (int64_t step = s.T - 1; step >= 0; --step) {
    if (step + 1 < s.T) pass_through_w_hh(step + 1);
    if (s.projected) {
      cuda::backward_project(l.dtype, f, w, step, l.stream);
      for (int64_t d = 0; d < s.D; ++d) {
        const Tensor rows = l.rows_of(d_h.narrow(1, d * s.P, s.P), l.step_at(d, step));
        Tensor d_m = buffers.m[d].narrow(0, 0, rows.size(0));
        at::mm_out(d_m, rows, l.w_hr[d]);
      }
    }
    cuda::backward_step(l.dtype, f, w, step, l.stream);
  }
  pass_through_w_hh(0);
  cuda::backward_end(l.dtype, f, w, l.stream);
}

}  // namespace

ForwardResult forward_cuda(const Layer& layer, bool save, bool cell_states) {
  return forward(layer, save, cell_states, requested_strategy());
}

std::vector<Tensor> backward_cuda(const Layer& layer, const Gradients& gradients, const Tensor& y_in, const Tensor& c_in,
                                  const Tensor& saved_in, const Needs& needs) {
  const Problem l(layer, Pass::backward, requested_strategy());
  const Sizes& s = l.sizes;
  const int64_t N = s.N, D = s.D, H = s.H, P = s.P, B = s.B, GH = l.gates(), extra = s.cell.split * H;
  const bool has_c = s.cell.states > 1;
  const auto wide = [&](const OptionalTensor& t) { return t ? t->to(l.arithmetic).contiguous() : Tensor(); };
  const Tensor y = y_in.reshape({N, D * P}).contiguous(), c = has_c ? wide(c_in) : Tensor();
  const Tensor d_y = contiguous(gradients.d_y), d_h_n = contiguous(gradients.d_h_n);
  const Tensor d_c = has_c ? wide(gradients.d_c) : Tensor(), d_c_n = has_c ? contiguous(gradients.d_c_n) : Tensor();

  const bool has_values = s.cell.saved > 0 || s.projected;
  const Tensor saved = has_values && !saved_in.numel() && N > 0 ? recompute(l, layer, y, c) : saved_in;
  const int64_t width = saved.numel() ? l.saved_width() : 0, d_width = extra + GH;
  const Tensor d_gates = l.empty({N, D, d_width});
  const Tensor d_h = s.projected ? l.empty({N, D * P}) : Tensor();
  const Tensor d_h_0 = l.empty_wide({D, B, P}), d_c_0 = has_c ? l.empty_wide({D, B, H}) : Tensor();

  if (l.nothing_to_do()) {
    const auto last = [](const Tensor& to, const Tensor& from) { from.defined() ? to.copy_(from) : to.zero_(); };
    last(d_h_0, d_h_n);
    if (has_c) last(d_c_0, d_c_n);
  } else {
    cuda::AnyBackward f{l.shape, l.rows, HiddenProduct::fused, l.reset_to_hx, D * width, D * P, D * H, D * P, D * H,
                        D * d_width, D * P, {}};
    for (int64_t d = 0; d < D; ++d) {
      auto& dir = f.direction[d];
      dir.reverse = l.reverse[d];
      dir.w_hh = at_element(l.w_hh[d]);
      dir.h_0 = at_element(l.h_0, d * B * P);
      dir.c_0 = at_element(l.c_0, d * B * H);
      dir.saved = at_element(saved, d * width);
      dir.y = at_element(y, d * P);
      dir.c = at_element(c, d * H);
      dir.d_y = at_element(d_y, d * P);
      dir.d_c = at_element(d_c, d * H);
      dir.d_h_n = at_element(d_h_n, d * B * P);
      dir.d_c_n = at_element(d_c_n, d * B * H);
      dir.d_gates = at_element(d_gates, d * d_width);
      dir.d_h = at_element(d_h, d * P);
      dir.d_h_0 = at_element(d_h_0, d * B * P);
      dir.d_c_0 = at_element(d_c_0, d * B * H);
    }
    if (l.plan.backward.strategy == CudaStrategy::persistent) {
      const auto exchange = l.exchange_buffers(l.plan.backward.persistent);
      cuda::persistent_backward(l.dtype, f, l.plan.backward.persistent, exchange.exchange, l.exact(), l.stream);
    } else {
      backward_stepwise(l, f, d_gates, d_h);
    }
  }

  const Tensor m = s.projected ? saved.narrow(2, s.cell.slots() * H, H) : Tensor();
  const ParallelGradients g = parallel_gradients(
      {s, l.reverse, needs.w_ih ? l.x_without_padding() : l.x, l.w_ih, y, l.h_0, d_gates, d_h, m,
       !l.rows.length && !l.rows.reset, [&](int64_t d) { return l.before_each_step(y, l.h_0, P, d); }},
      needs);

  const auto none = [&] { return l.empty({0}); };
  std::vector<Tensor> result;
  result.push_back(needs.x ? g.d_x.view(layer.x.sizes()) : none());
  result.push_back(needs.h_0 && layer.h_0 ? d_h_0.to(l.x.scalar_type()) : none());
  result.push_back(needs.c_0 && layer.c_0 ? d_c_0.to(l.x.scalar_type()) : none());
  const auto append = [&](const std::vector<Tensor>& inputs, const std::vector<Tensor>& grads) {
    for (size_t i = 0; i < inputs.size(); ++i) result.push_back(grads.empty() ? none() : grads[i]);
  };
  append(layer.w_ih, g.d_w_ih), append(layer.w_hh, g.d_w_hh);
  append(layer.b_ih, g.d_b_ih), append(layer.b_hh, g.d_b_hh), append(layer.w_hr, g.d_w_hr);
  return result;
}

}  // namespace fusedrnn::ops
