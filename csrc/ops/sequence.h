// How a batch of sequences of different lengths becomes the one row layout that kernels know (sorted by
// falling length, step by step, no padding), and back. The padding is never read: it may hold anything.
#pragma once

#include "layer.h"

namespace fusedrnn::ops {

class Sequence {
 public:
  Sequence(const Layer& layer, const Sizes& sizes);

  Rows rows() const;  // points into this object
  int64_t steps() const { return steps_; }
  int64_t total() const { return total_; }
  bool ragged() const { return !offset_.empty(); }
  bool padded() const { return index_.defined(); }  // `lengths` were given, and one is short

  // Sizes of what has `width` values a row: the layer's own, or (rows, width) where it has padding.
  at::DimVector sizes(int64_t width) const;
  Tensor gather(const Tensor& t) const;   // (T, B, F) or (N, F) -> sizes(F), any strides
  Tensor scatter(const Tensor& t) const;  // sizes(F) -> the layer's own layout, zeros in the padding
  Tensor sort(const Tensor& state) const;    // (D, B, F) in the batch's order -> in the order of rows
  Tensor unsort(const Tensor& state) const;

 private:
  int64_t T_, B_, steps_, total_;
  bool flat_;  // the layer's own layout is (N, F)
  std::vector<int64_t> offset_, active_;  // empty: every sequence has every step
  Tensor order_, index_;                  // only with lengths: (B) sequence of a slot, (rows) place in (T·B)
  Tensor reset_;                          // (rows) bool, or undefined
};

}  // namespace fusedrnn::ops
