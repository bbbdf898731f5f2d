// The operators' common arguments, and how a way of computing a layer becomes their implementation.
#pragma once

#include <ATen/core/List.h>
#include <torch/library.h>

#include <array>

#include "layer.h"

namespace fusedrnn::ops {

using at::TensorList;
using Bools = c10::List<bool>;

// weights: of each role one a direction, role by role: w_ih, w_hh, b_ih and b_hh or neither, w_hr or not. They are one
// list because in one that may be None the dispatcher looks for no tensors, and hands one of another kind, such as
// vmap's, to a kernel that cannot read it; and because AOTInductor makes None of an empty one.
constexpr const char* kInputs =
    "Tensor x, Tensor? h_0, Tensor? c_0, Tensor[] weights, Tensor? batch_sizes, Tensor? lengths, Tensor? reset, "
    "str cell, bool[] reverse, bool reset_to_hx";

#define FUSEDRNN_INPUT_TYPES \
  const Tensor &x, const OptionalTensor &h_0, const OptionalTensor &c_0, TensorList weights, \
      const OptionalTensor &batch_sizes, \
      const OptionalTensor &lengths, const OptionalTensor &reset, const std::string &cell, const Bools &reverse, \
      bool reset_to_hx
#define FUSEDRNN_INPUTS \
  x, h_0, c_0, weights, batch_sizes, lengths, reset, cell, reverse, reset_to_hx

// How many of the weights are of each role: of one that is there, one a direction.
inline std::array<size_t, 5> of_roles(TensorList weights, size_t directions) {
  const size_t D = directions, roles = D ? weights.size() / D : 0;
  TORCH_CHECK(roles >= 2 && roles <= 5 && weights.size() == roles * D, "weights must hold, for each of ", D,
              " direction(s), w_ih, w_hh, b_ih and b_hh or neither, and w_hr or not; got ", weights.size(), " tensors");
  const size_t bias = roles >= 4 ? D : 0, projection = roles % 2 ? D : 0;
  return {D, D, bias, bias, projection};
}

inline Layer to_layer(FUSEDRNN_INPUT_TYPES) {
  std::array<std::vector<Tensor>, 5> lists;
  const auto counts = of_roles(weights, reverse.size());
  for (size_t i = 0, at = 0; i < counts.size(); at += counts[i++]) lists[i] = weights.slice(at, counts[i]).vec();
  auto& [w_ih, w_hh, b_ih, b_hh, w_hr] = lists;
  return {x, h_0, c_0, std::move(w_ih), std::move(w_hh), std::move(b_ih), std::move(b_hh), std::move(w_hr),
          batch_sizes, lengths, reset, cell, reverse.vec(), reset_to_hx};
}

// An operator by its name, to be called with what F takes.
template <class F>
auto op(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").template typed<F>();
}

using LayerResult = std::tuple<Tensor, Tensor, Tensor, Tensor>;  // y, h_n, c_n, c

template <auto kForward, auto kBackward>
struct Implementation {
  static LayerResult layer(FUSEDRNN_INPUT_TYPES, bool cell_states, bool /*recompute*/) {
    auto [y, h_n, c_n, c, saved] = kForward(to_layer(FUSEDRNN_INPUTS), /*save=*/false, cell_states);
    return {y, h_n, c_n, c};
  }

  static ForwardResult layer_forward(FUSEDRNN_INPUT_TYPES, bool save, bool cell_states) {
    return kForward(to_layer(FUSEDRNN_INPUTS), save, cell_states);
  }

  template <bool kOverwrite>
  static std::vector<Tensor> layer_backward(const OptionalTensor& d_y, const OptionalTensor& d_h_n,
                                            const OptionalTensor& d_c_n, const OptionalTensor& d_c,
                                            FUSEDRNN_INPUT_TYPES, const Tensor& y, const Tensor& c,
                                            const Tensor& saved, const Bools& needs) {
    TORCH_CHECK(needs.size() == 8, "needs must hold 8 values, one an input or list of inputs; got ", needs.size());
    return kBackward(to_layer(FUSEDRNN_INPUTS), Gradients{d_y, d_h_n, d_c_n, d_c}, y, c, saved,
                     Needs{needs[0], needs[1], needs[2], needs[3], needs[4], needs[5], needs[6], needs[7]}, kOverwrite);
  }

  // (h_n, c_n); of cells of one state c_n is empty.
  static std::tuple<Tensor, Tensor> cell_forward(const Tensor& x, const OptionalTensor& h_0, const OptionalTensor& c_0,
                                                 const Tensor& w_ih, const Tensor& w_hh, const OptionalTensor& b_ih,
                                                 const OptionalTensor& b_hh, const std::string& cell) {
    const auto list = [](const OptionalTensor& t) { return t ? std::vector<Tensor>{*t} : std::vector<Tensor>(); };
    const Layer layer{x, h_0, c_0, {w_ih}, {w_hh}, list(b_ih), list(b_hh), {}, {}, {}, {}, cell, {false}, false, true};
    auto [y, h_n, c_n, c, saved] = kForward(layer, /*save=*/false, /*cell_states=*/false);
    if (!c_n.defined()) c_n = at::empty({0}, x.options());
    return {y, c_n.dim() == 3 ? c_n.squeeze(0) : c_n};
  }

  static void implement(torch::Library& m) {
    m.impl("layer", layer);
    m.impl("cell_forward", cell_forward);
    m.impl("layer_forward", layer_forward);
    m.impl("layer_backward", layer_backward<false>);
    m.impl("layer_backward_", layer_backward<true>);
  }
};

using Cpu = Implementation<forward_cpu, backward_cpu>;
using Cuda = Implementation<forward_cuda, backward_cuda>;

}  // namespace fusedrnn::ops
