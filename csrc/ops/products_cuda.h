// The share of a layer's backward that is parallel in time, by the library's GEMMs over all rows at once.
#pragma once

#include <functional>

#include "layer.h"

namespace fusedrnn::ops {

// What the sequential part left. All matrices of one dtype; rows are steps of sequences.
struct Backpropagated {
  const Sizes& sizes;
  const std::vector<bool>& reverse;
  Tensor x;                        // (rows, I)
  const std::vector<Tensor>& w_ih;
  Tensor y;                        // (rows, D*P)
  Tensor h_0;                      // (D, B, P), or undefined
  Tensor d_gates;                  // (rows, D, (split+G)*H): the input side's last `split` gates, the hidden side's G
  Tensor d_h;                      // (rows, D*P), defined with a projection
  Tensor m;                        // (rows, D, H) the unprojected h, defined with a projection
  bool shifted;                    // every step has B rows and no reset: h before a step is y a step earlier
  std::function<Tensor(int64_t d)> previous_h;  // otherwise: (rows, P), zeros where there is no step
};

// In the order of layer_backward's results; a list is empty if it is not needed.
struct ParallelGradients {
  Tensor d_x;  // (rows, I), or undefined
  std::vector<Tensor> d_w_ih, d_w_hh, d_b_ih, d_b_hh, d_w_hr;
};

ParallelGradients parallel_gradients(const Backpropagated& b, const Needs& needs);

}  // namespace fusedrnn::ops
