#include "problem_cuda.h"

#include <ATen/autocast_mode.h>

namespace fusedrnn::ops {
namespace {

std::vector<Tensor> contiguous(const std::vector<Tensor>& list) {
  std::vector<Tensor> result;
  for (const Tensor& t : list) result.push_back(t.contiguous());
  return result;
}

}  // namespace

Problem::Problem(const Layer& l, Pass pass, const char* strategy)
    : sizes(check(l)), no_autocast_(c10::autocast_dispatch_keyset), guard_(l.x.device()), dtype(sizes.dtype),
      arithmetic(dtype == Dtype::float64 ? at::kDouble : at::kFloat), device(cuda_device(l.x.get_device())),
      stream(current_stream(l.x)), reverse(l.reverse), reset_to_hx(l.reset_to_hx) {
  x = l.x.reshape({sizes.N, sizes.I}).contiguous();
  h_0 = contiguous(l.h_0), c_0 = contiguous(l.c_0);
  if (l.is_cell)
    for (Tensor* state : {&h_0, &c_0})
      if (state->defined()) *state = state->unsqueeze(0);
  w_ih = contiguous(l.w_ih), w_hh = contiguous(l.w_hh), w_hr = contiguous(l.w_hr);
  b_ih = contiguous(l.b_ih), b_hh = contiguous(l.b_hh);
  rows = {sizes.T, sizes.B, nullptr, nullptr, nullptr, nullptr, nullptr};
  if (sizes.packed) take_batch_sizes(*l.batch_sizes);
  if (l.lengths) take_lengths(*l.lengths);
  if (l.reset) {
    reset_ = l.reset->contiguous();
    rows.reset = reset_.const_data_ptr<bool>();
  }
  shape = {sizes.kind, sizes.T, sizes.B, sizes.N, sizes.I, sizes.H, sizes.P, sizes.projected,
           static_cast<int>(sizes.D), static_cast<int>(c10::elementSize(arithmetic)), dtype};
  try {
    plan = plan_cuda(shape, {dtype, strategy}, device, pass);
  } catch (const std::invalid_argument& refusal) {  // in a backward autograd would make a RuntimeError of it
    C10_THROW_ERROR(ValueError, refusal.what());
  }
}

Tensor Problem::upload(const std::vector<int64_t>& values) const {
  const Tensor t = at::empty({static_cast<int64_t>(values.size())}, x.options().dtype(at::kLong));
  cuda::upload(t.mutable_data_ptr<int64_t>(), values.data(), t.numel(), stream);
  return t;
}

void Problem::take_batch_sizes(const Tensor& batch_sizes) {
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
void Problem::take_lengths(const Tensor& lengths) {
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

Tensor Problem::x_without_padding() const {
  if (!lengths_.defined()) return x;
  const Tensor steps = at::arange(sizes.T, lengths_.options()).unsqueeze(1);
  return x.view({sizes.T, sizes.B, sizes.I})
      .masked_fill((steps >= lengths_).unsqueeze(-1), 0)
      .view({sizes.N, sizes.I});
}

Tensor Problem::before_each_step(const Tensor& states, const Tensor& first, int64_t width, int64_t d) const {
  const Tensor out = empty({sizes.N, width});
  cuda::before_each_step(dtype,
                         {rows, reverse[d], reset_to_hx, width, sizes.D * width, at_element(states, d * width),
                          at_element(first, d * sizes.B * width), at_element(out)},
                         stream);
  return out;
}

Problem::Buffers Problem::stepwise_buffers() const {
  const int64_t D = sizes.D, B = sizes.B;
  Buffers b{empty({D, B, gates()}), empty({D, B, sizes.P}), Tensor(), Tensor(),
            empty_wide({D, 2, B, std::max(sizes.H, sizes.P)})};
  if (sizes.projected) b.m = empty({D, B, sizes.H}), b.projected = empty({D, B, sizes.P});
  return b;
}

Problem::ExchangeBuffers Problem::exchange_buffers(const PersistentPass& p) const {
  ExchangeBuffers b{};
  if (p.scope != Scope::grid) return b;
  b.vectors = at::zeros({sizes.D * p.groups, 2, p.batch, p.ld}, x.options());
  b.counters = at::zeros({sizes.D * p.groups}, x.options().dtype(at::kInt));
  b.exchange = {at_element(b.vectors), static_cast<uint32_t*>(at_element(b.counters))};
  return b;
}

}  // namespace fusedrnn::ops
