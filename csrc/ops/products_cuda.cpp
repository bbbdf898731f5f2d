#include "products_cuda.h"

namespace fusedrnn::ops {
namespace {

// d_w_hh = sum over steps of d_u^T h_prev, d_u (rows, G*H).
Tensor recurrent_weight_gradient(const Backpropagated& b, const Tensor& du, int64_t d) {
  const Sizes& s = b.sizes;
  if (!b.shifted) return du.t().mm(b.previous_h(d));
  const int64_t N = du.size(0), B = s.B;
  if (N == 0) return at::zeros({du.size(1), s.P}, du.options());
  const Tensor y = b.y.narrow(1, d * s.P, s.P);
  const bool reverse = b.reverse[d];
  Tensor dw = reverse ? du.narrow(0, 0, N - B).t().mm(y.narrow(0, B, N - B))
                      : du.narrow(0, B, N - B).t().mm(y.narrow(0, 0, N - B));
  if (b.h_0.defined()) dw.addmm_(du.narrow(0, reverse ? N - B : 0, B).t(), b.h_0[d]);
  return dw;
}

// d_x (rows, I): all directions' share of it.
Tensor input_gradient(const Sizes& s, const std::vector<Tensor>& w_ih, const Tensor& d_gates) {
  const int64_t GH = s.cell.gates * s.H, extra = s.cell.split * s.H, shared = GH - extra;
  Tensor d_x = at::empty({d_gates.size(0), s.I}, d_gates.options());
  for (int64_t d = 0; d < s.D; ++d) {
    const Tensor rows = d_gates.select(1, d), du_shared = rows.narrow(1, extra, shared);
    if (d == 0) at::mm_out(d_x, du_shared, w_ih[d].narrow(0, 0, shared));
    else d_x.addmm_(du_shared, w_ih[d].narrow(0, 0, shared));
    if (extra) d_x.addmm_(rows.narrow(1, 0, extra), w_ih[d].narrow(0, shared, extra));
  }
  return d_x;
}

}  // namespace

ParallelGradients parallel_gradients(const Backpropagated& b, const Needs& needs) {
  const Sizes& s = b.sizes;
  // The last `extra` columns of the input side have a gradient of their own, the `shared` ones before them have
  // that of the hidden side.
  const int64_t GH = s.cell.gates * s.H, extra = s.cell.split * s.H, shared = GH - extra;
  ParallelGradients g;
  if (needs.x) g.d_x = input_gradient(s, b.w_ih, b.d_gates);
  for (int64_t d = 0; d < s.D; ++d) {
    const Tensor rows = b.d_gates.select(1, d), dx = rows.narrow(1, 0, extra), du = rows.narrow(1, extra, GH);
    const Tensor du_shared = du.narrow(1, 0, shared);
    if (needs.w_ih) {
      Tensor dw = at::empty({GH, s.I}, b.x.options());
      Tensor top = dw.narrow(0, 0, shared), bottom = dw.narrow(0, shared, extra);
      at::mm_out(top, du_shared.t(), b.x);
      if (extra) at::mm_out(bottom, dx.t(), b.x);
      g.d_w_ih.push_back(dw);
    }
    if (needs.w_hh) g.d_w_hh.push_back(recurrent_weight_gradient(b, du, d));
    if (s.bias && (needs.b_ih || needs.b_hh)) {
      const Tensor hidden_side = du.sum(0);
      if (needs.b_ih)
        g.d_b_ih.push_back(extra ? at::cat({hidden_side.narrow(0, 0, shared), dx.sum(0)}) : hidden_side.clone());
      if (needs.b_hh) g.d_b_hh.push_back(hidden_side);
    }
    if (s.projected && needs.w_hr) g.d_w_hr.push_back(b.d_h.narrow(1, d * s.P, s.P).t().mm(b.m.select(1, d)));
  }
  return g;
}

}  // namespace fusedrnn::ops
