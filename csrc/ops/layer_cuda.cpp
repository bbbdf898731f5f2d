// A layer on CUDA: one GEMM for everything that is parallel in time, the strategy that the plan names for the
// sequential part, and the same backwards. Owns every buffer of the call. Nothing waits for the device, and no
// value on the device is looked at: a call may be captured into a graph.
//
// Rows are T·B, with padding where lengths are given, or those of a packed input.
#include "problem_cuda.h"
#include "products_cuda.h"
#include "recompute.h"
#include "settings.h"

namespace fusedrnn::ops {
namespace {

// The states of a layer that has no steps, or no sequences.
void pass_through(const Tensor& to, const Tensor& from) { from.defined() ? to.copy_(from) : to.zero_(); }

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
    pass_through(h_n, l.h_0);
    if (has_c) pass_through(c_n, l.c_0);
  } else {
    cuda::AnyForward f{l.shape, l.rows, keeps_values, l.reset_to_hx, D * width, D * P, D * H,
                       nullptr, {}};
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

// What the forward did not save.
Tensor recompute_saved(const Problem& l, const Layer& layer, const Tensor& y, const Tensor& c) {
  const Sizes& s = l.sizes;
  std::vector<Tensor> h, c_before;
  for (int64_t d = 0; d < s.D; ++d) {
    h.push_back(l.before_each_step(y, l.h_0, s.P, d));
    // Of the saved values, only the unprojected h depends on c.
    if (s.projected) c_before.push_back(l.before_each_step(c.to(l.x.scalar_type()), l.c_0, s.H, d));
  }
  // The unprojected h of padding, which is multiplied with gradients of zero, has to be a number.
  const Tensor x = s.projected ? l.x_without_padding() : l.x;
  const Layer rows{x, {}, {}, l.w_ih, l.w_hh, l.b_ih, l.b_hh, l.w_hr, {}, {}, {}, layer.cell, l.reverse, false};
  return recompute(rows, h, c_before, l.saved_width(), recomputed_values() / l.gates(), [](const Layer& step) {
    return forward(step, /*save=*/true, /*cell_states=*/false, "stepwise");
  });
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
                                  const Tensor& saved_in, const Needs& needs, bool overwrite) {
  const Problem l(layer, Pass::backward, requested_strategy());
  const Sizes& s = l.sizes;
  const int64_t N = s.N, D = s.D, H = s.H, P = s.P, B = s.B, GH = l.gates(), extra = s.cell.split * H;
  const bool has_c = s.cell.states > 1;
  const auto wide = [&](const OptionalTensor& t) { return t ? t->to(l.arithmetic).contiguous() : Tensor(); };
  const Tensor y = y_in.reshape({N, D * P}).contiguous(), c = has_c ? wide(c_in) : Tensor();
  const Tensor d_y = contiguous(gradients.d_y), d_h_n = contiguous(gradients.d_h_n);
  const Tensor d_c = has_c ? wide(gradients.d_c) : Tensor(), d_c_n = has_c ? contiguous(gradients.d_c_n) : Tensor();

  const bool has_values = s.cell.saved > 0 || s.projected;
  const bool recomputes = has_values && !saved_in.numel() && N > 0;
  const Tensor saved = recomputes ? recompute_saved(l, layer, y, c) : saved_in.contiguous();
  const int64_t width = saved.numel() ? l.saved_width() : 0, d_width = extra + GH;
  // One thread reads what is saved of a unit at a step and then writes its gradients.
  const bool in_place = (overwrite || recomputes) && s.cell.slots() * H >= d_width && width > 0;
  const Tensor d_gates = in_place ? saved.narrow(2, 0, d_width) : l.empty({N, D, d_width});
  const Tensor d_h = s.projected ? l.empty({N, D * P}) : Tensor();
  const Tensor d_h_0 = l.empty_wide({D, B, P}), d_c_0 = has_c ? l.empty_wide({D, B, H}) : Tensor();

  if (l.nothing_to_do()) {
    pass_through(d_h_0, d_h_n);
    if (has_c) pass_through(d_c_0, d_c_n);
  } else {
    cuda::AnyBackward f{l.shape, l.rows, l.reset_to_hx, D * width, D * P, D * H, D * P, D * H,
                        d_gates.stride(0), D * P, {}};
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
      dir.d_gates = at_element(d_gates, d * d_gates.stride(1));
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

  Tensor m;
  if (s.projected) m = N > 0 ? saved.narrow(2, s.cell.slots() * H, H) : l.empty({N, D, H});
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
