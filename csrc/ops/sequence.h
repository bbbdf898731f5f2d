// How a batch of sequences of different lengths becomes the one row layout that kernels know (sorted by
// falling length, step by step, no padding). A padded batch stays where it is: kernels are told the place of each row. The
// padding is never read: it may hold anything.
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

  at::DimVector sizes(int64_t width) const;  // (T, B, width), or (N, width) where the layer's own layout is that
  Tensor rows_of(const Tensor& t) const;     // sizes(F) -> (rows, F), without padding
  void clear_padding(const Tensor& t) const;  // contiguous, sizes(F): zeros in the padding
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
