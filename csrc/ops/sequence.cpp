#include "sequence.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <cstring>
#include <numeric>

namespace fusedrnn::ops {

Sequence::Sequence(const Layer& layer, const Sizes& s)
    : T_(s.T), B_(s.B), steps_(s.T), total_(s.N), flat_(s.packed || layer.is_cell) {
  if (s.packed) {
    const Tensor sizes = layer.batch_sizes->contiguous();
    const int64_t* n = sizes.const_data_ptr<int64_t>();
    if (s.T > 0 && n[s.T - 1] != s.B) active_.assign(n, n + s.T);
  } else if (layer.lengths) {
    const Tensor lengths = layer.lengths->to(at::kCPU, at::kLong).contiguous();
    const int64_t* n = lengths.const_data_ptr<int64_t>();
    bool short_one = false;
    for (int64_t b = 0; b < s.B; ++b) {
      TORCH_CHECK_VALUE(n[b] >= 0 && n[b] <= s.T, "lengths must lie in 0..T = 0..", s.T, "; got ", n[b], " at ", b);
      short_one |= n[b] < s.T;
    }
    if (short_one) {
      order_ = at::empty({s.B}, at::kLong);
      int64_t* order = order_.mutable_data_ptr<int64_t>();
      std::iota(order, order + s.B, 0);
      std::stable_sort(order, order + s.B, [n](int64_t a, int64_t b) { return n[a] > n[b]; });
      steps_ = n[order[0]];
      total_ = std::accumulate(n, n + s.B, int64_t(0));
      index_ = at::empty({total_}, at::kLong);
      int64_t* index = index_.mutable_data_ptr<int64_t>();
      active_.resize(steps_);
      for (int64_t t = 0, running = s.B; t < steps_; ++t) {
        while (running > 0 && n[order[running - 1]] <= t) --running;
        active_[t] = running;
        for (int64_t b = 0; b < running; ++b) *index++ = t * s.B + order[b];
      }
    }
  }
  if (!active_.empty()) {
    offset_.resize(steps_);
    for (int64_t t = 0, row = 0; t < steps_; row += active_[t++]) offset_[t] = row;
  }
  if (layer.reset) {
    reset_ = layer.reset->reshape({-1});
    if (padded()) reset_ = reset_.index_select(0, index_);
    reset_ = reset_.contiguous();
  }
}

Rows Sequence::rows() const {
  return {steps_, B_, ragged() ? offset_.data() : nullptr, ragged() ? active_.data() : nullptr, nullptr,
          reset_.defined() ? reset_.const_data_ptr<bool>() : nullptr,
          padded() ? index_.const_data_ptr<int64_t>() : nullptr};
}

at::DimVector Sequence::sizes(int64_t width) const {
  if (flat_) return {total_, width};
  return {T_, B_, width};
}

Tensor Sequence::rows_of(const Tensor& t) const {
  const Tensor all = t.reshape({padded() ? T_ * B_ : total_, t.size(-1)});
  return padded() ? all.index_select(0, index_) : all;
}

void Sequence::clear_padding(const Tensor& t) const {
  if (!padded()) return;
  const int64_t bytes = t.size(-1) * t.element_size(), *order = order_.const_data_ptr<int64_t>();
  char* const rows = static_cast<char*>(t.mutable_data_ptr());
  at::parallel_for(0, T_, std::max<int64_t>(1, at::internal::GRAIN_SIZE / (B_ * bytes + 1)), [&](int64_t begin, int64_t end) {
    for (int64_t step = begin; step < end; ++step)
      for (int64_t slot = step < steps_ ? active_[step] : 0; slot < B_; ++slot)
        std::memset(rows + (step * B_ + order[slot]) * bytes, 0, bytes);
  });
}

Tensor Sequence::sort(const Tensor& state) const { return padded() ? state.index_select(1, order_) : state; }

Tensor Sequence::unsort(const Tensor& state) const {
  return padded() ? at::empty_like(state).index_copy_(1, order_, state) : state;
}

}  // namespace fusedrnn::ops
