// One layer as an operator: what its arguments are, how they are checked, and who computes it.
// ops/ is the only part of the sources that knows torch; it holds policy and no gate math.
#pragma once

#include <ATen/ATen.h>

#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "../core/problem.h"

namespace fusedrnn::ops {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

// The inputs of fusedrnn::layer. Lists hold one tensor a direction, or none.
struct Layer {
  Tensor x;                                      // (T, B, I), or (N, I) with batch_sizes, or (B, I) of a cell
  OptionalTensor h_0, c_0;                       // (D, B, P), (D, B, H), without D of a cell; none: zeros
  std::vector<Tensor> w_ih, w_hh, b_ih, b_hh, w_hr;
  OptionalTensor batch_sizes, lengths, reset;    // (T) int64 CPU | (B) integer | (T, B) or (N) bool
  std::string cell;
  std::vector<bool> reverse;                     // (D)
  bool reset_to_hx;
  bool is_cell = false;                          // one step of one direction
};

struct Sizes {
  CellKind kind;
  CellInfo cell;
  Dtype dtype;
  int64_t T, B, N, I, H, P, D;  // N = T·B unless packed
  bool packed, bias, projected;
};

// Sizes of a valid layer; raises with the values of what does not fit. Reads no tensor's contents but
// batch_sizes, so that it serves every device.
Sizes check(const Layer& layer);

// y, h_n, c_n, c, saved. Of a cell y (B, H) is h_n as well, and what it has not may be undefined.
using ForwardResult = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;

// Incoming gradients; none means zero.
struct Gradients {
  OptionalTensor d_y, d_h_n, d_c_n, d_c;
};

// What is wanted back.
struct Needs {
  bool x, h_0, c_0, w_ih, w_hh, b_ih, b_hh, w_hr;
};

// Who computes a layer. A backward that is given no saved values, though its cell has some, makes them anew from y
// and c: knowing the state before every step, it takes many steps at once. Given leave to overwrite the saved values, it
// puts the gates' gradients in their place; without, on the CPU, it needs room for a stretch of them. Its results stand in
// the order x, h_0, c_0, then each list in turn; (0,) for what is absent or not needed.
ForwardResult forward_cpu(const Layer& layer, bool save, bool cell_states);
std::vector<Tensor> backward_cpu(const Layer& layer, const Gradients& gradients, const Tensor& y, const Tensor& c,
                                 const Tensor& saved, const Needs& needs, bool overwrite);

ForwardResult forward_cuda(const Layer& layer, bool save, bool cell_states);
std::vector<Tensor> backward_cuda(const Layer& layer, const Gradients& gradients, const Tensor& y, const Tensor& c,
                                  const Tensor& saved, const Needs& needs, bool overwrite);

}  // namespace fusedrnn::ops
