// The operators' schemas, which implementation serves which device, and autograd.
//
//   fusedrnn::layer           what people call; differentiable
//   fusedrnn::cell            one step of it
//   fusedrnn::cell_forward    the same where nothing is differentiated or traced: the shortest way to the kernel
//   fusedrnn::layer_replay    the layer in differentiable operations (fusedrnn/_ops.py): for torch.func
//   fusedrnn::layer_forward   the layer, and the values that the backward needs
//   fusedrnn::layer_backward  its gradients; itself differentiable (fusedrnn/_ops.py), by replay
//   fusedrnn::layer_backward_ the same over what was saved, for a graph that is not kept: not differentiable
//
// Autograd is a C++ Function, because a call may be one step of a few microseconds.
#include <ATen/SavedTensorHooks.h>
#include <c10/core/impl/TorchDispatchModeTLS.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/graph_task.h>

#include <algorithm>

#include "signature.h"

namespace fusedrnn::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

OptionalTensor optional(const Tensor& t) { return t.defined() ? OptionalTensor(t) : std::nullopt; }

// Whether somebody watches every operator, and may record it or run it otherwise.
bool watched() { return c10::impl::TorchDispatchModeTLS::any_modes_set(); }

// A tensor that stands for others or is traced: what is done to it is recorded, or done several times over.
bool wrapped(const Tensor& t) {
  using c10::DispatchKey;
  constexpr c10::DispatchKeySet wrappers({DispatchKey::Python, DispatchKey::Functionalize, DispatchKey::FuncTorchBatched,
                                          DispatchKey::FuncTorchGradWrapper, DispatchKey::Batched});
  return t.defined() && t.key_set().has_any(wrappers);
}

// The dimension that a layer's tensors have and a cell's have not: time, or directions.
Tensor stepped(const Tensor& t) { return t.defined() ? t.unsqueeze(0) : t; }
OptionalTensor stepped(const OptionalTensor& t) { return t ? OptionalTensor(t->unsqueeze(0)) : std::nullopt; }
Tensor step_of(const Tensor& t) { return t.defined() && t.dim() == 3 ? t.squeeze(0) : t; }

// `is_cell`: x, states and their gradients are those of a cell, and so are the results, h and c. Made a layer's in here, they are
// so below autograd, to which each view would be a node: a training step of LSTMCell, B=1 H=64, takes 43 us instead of 48.
class LayerFunction : public torch::autograd::Function<LayerFunction> {
 public:
  static variable_list forward(AutogradContext* ctx, const Tensor& x, const OptionalTensor& h_0,
                               const OptionalTensor& c_0, TensorList weights, const OptionalTensor& batch_sizes,
                               const OptionalTensor& lengths, const OptionalTensor& reset, const std::string& cell,
                               const Bools& reverse, bool reset_to_hx, bool cell_states, bool recompute, bool is_cell) {
    at::AutoDispatchBelowADInplaceOrView below;
    static const auto call = op<decltype(Cpu::layer_forward)>("fusedrnn::layer_forward");
    // What is not saved, the backward makes anew from y and c; c itself it could make only step by step.
    auto [y, h_n, c_n, c, saved] =
        call.call(is_cell ? stepped(x) : x, is_cell ? stepped(h_0) : h_0, is_cell ? stepped(c_0) : c_0, weights, batch_sizes,
                  lengths, reset, cell, reverse, reset_to_hx, /*save=*/!recompute, cell_states || recompute);

    const auto value = [](const OptionalTensor& t) { return t.value_or(Tensor()); };
    // A tensor of torch.inference_mode cannot be saved; torch.nn's layers save their own copy of one that they transpose.
    const auto own = [](const Tensor& t) { return t.defined() && t.is_inference() ? t.clone() : t; };
    // Read at once, as torch.nn's lengths are when they are packed: a buffer may be filled for the next batch before this one's
    // backward, by NumPy even where no version counter shows it.
    const auto copied = [&](const Tensor& t) { return t.defined() && !wrapped(t) && !watched() ? t.clone() : own(t); };
    variable_list kept{own(x), value(h_0), value(c_0), own(value(batch_sizes)), copied(value(lengths)), copied(value(reset)),
                       y, c, saved};
    kept.insert(kept.end(), weights.begin(), weights.end());
    ctx->save_for_backward(std::move(kept));
    ctx->saved_data["cell"] = cell;
    ctx->saved_data["reverse"] = reverse;
    const bool hooked = at::SavedTensorDefaultHooks::get_hooks().has_value() || watched();  // and what was seen may be kept
    ctx->saved_data["flags"] = reset_to_hx * kResetToHx | hooked * kHooked | is_cell * kCell;
    ctx->set_materialize_grads(false);
    if (is_cell) return {step_of(h_n), step_of(c_n)};
    return {y, h_n, c_n, c};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const variable_list kept = ctx->get_saved_variables();
    const Bools reverse = ctx->saved_data["reverse"].toBoolList();
    const int64_t flags = ctx->saved_data["flags"].toInt();
    const bool is_cell = flags & kCell;
    const TensorList weights = TensorList(kept).slice(kSingle);
    if (std::none_of(grads.begin(), grads.end(), [](const Tensor& grad) { return grad.defined(); }))
      return variable_list(3 + weights.size() + kOthers);  // nothing has come

    // Edges are counted over the inputs that are there. Of each role some direction's may be needed.
    size_t edge = 0;
    const auto needed = [&](size_t inputs) {
      bool any = false;
      for (size_t i = 0; i < inputs; ++i) any |= ctx->needs_input_grad(edge++);
      return any;
    };
    Bools needs;
    needs.push_back(needed(1));
    for (const Tensor& state : {kept[1], kept[2]}) needs.push_back(needed(state.defined()));
    const auto counts = of_roles(weights, reverse.size());
    for (const size_t count : counts) needs.push_back(needed(count));

    // A node may run again before autograd takes from it what it saved: by a hook behind it, on another thread, or after
    // an error. What has been written over is made anew then, as with recompute.
    const Tensor saved = flags & kOverwritten ? at::empty({0}, kept[8].options()) : kept[8];
    // Forward-mode derivatives of the gradients themselves have no formula here.
    const bool dual = std::any_of(grads.begin(), grads.end(), [](const Tensor& grad) {
      return grad.defined() && grad._fw_grad(/*level=*/0).defined();
    });
    // The last to read what was saved may write over it: the graph is not kept, and no hook has seen it or holds it.
    bool overwrite = !dual && !at::GradMode::is_enabled() && !torch::autograd::get_current_graph_task_keep_graph() &&
                     !(flags & kHooked) && !watched() && !wrapped(saved) &&
                     saved.storage().use_count() == 1;
    for (const Tensor& grad : grads) overwrite &= !wrapped(grad);
    if (overwrite) ctx->saved_data["flags"] = flags | kOverwritten;
    const auto run = [&] {
      const auto layers = [&](const Tensor& t) { return optional(is_cell ? stepped(t) : t); };
      const Tensor none;
      const Tensor &d_y = is_cell ? none : grads[0], &d_h_n = grads[is_cell ? 0 : 1], &d_c_n = grads[is_cell ? 1 : 2],
                   &d_c = is_cell ? none : grads[3];
      using Backward = decltype(Cpu::layer_backward<false>);
      static const auto pure = op<Backward>("fusedrnn::layer_backward");
      static const auto in_place = op<Backward>("fusedrnn::layer_backward_");
      static const auto replay = op<Backward>("fusedrnn::layer_backward_replay");
      return (dual ? replay : overwrite ? in_place : pure)
          .call(optional(d_y), layers(d_h_n), layers(d_c_n), optional(d_c), is_cell ? stepped(kept[0]) : kept[0],
                layers(kept[1]), layers(kept[2]), weights, optional(kept[3]), optional(kept[4]), optional(kept[5]),
                ctx->saved_data["cell"].toStringRef(), reverse, flags & kResetToHx, kept[6], kept[7], saved, needs);
    };
    variable_list d;
    const auto steps = [&] {
      for (size_t i = 0; is_cell && i < 3; ++i) d[i] = step_of(d[i]);
    };
    if (at::GradMode::is_enabled() || dual) {
      d = run();  // through autograd: the gradient is differentiated in turn
      steps();
    } else {
      at::AutoDispatchBelowADInplaceOrView below;
      d = run();
      steps();
    }

    // One result an input, undefined for what has none: x, h_0, c_0, the weights, the others.
    for (size_t i = 0; i < 3; ++i)
      if (!needs[i]) d[i] = Tensor();
    size_t at = 3;
    for (size_t i = 0; i < counts.size(); ++i)
      for (size_t j = 0; j < counts[i]; ++j, ++at)
        if (!needs[3 + i]) d[at] = Tensor();
    d.resize(d.size() + kOthers);
    return d;
  }

 private:
  // What is kept before the weights, and inputs behind them: three index tensors, which may be absent, three plain
  // arguments, cell_states, recompute and is_cell.
  static constexpr size_t kSingle = 9, kOthers = 9;
  enum Flags : int64_t { kResetToHx = 1, kHooked = 2, kCell = 4, kOverwritten = 8 };
};

LayerResult layer_autograd(FUSEDRNN_INPUT_TYPES, bool cell_states, bool recompute) {
  const auto any_of = [&](auto&& property) {
    bool any = property(x) || (h_0 && property(*h_0)) || (c_0 && property(*c_0));
    for (const Tensor& t : weights) any = any || property(t);
    return any;
  };
  // torch.func's transforms refuse a C++ Function on principle, and forward-mode derivatives have no formula here:
  // both get the layer replayed in differentiable operations (fusedrnn/_ops.py).
  const bool records = at::GradMode::is_enabled() && any_of([](const Tensor& t) { return t.requires_grad(); });
  const bool transformed =
      c10::impl::tls_is_dispatch_key_included(c10::DispatchKey::FuncTorchDynamicLayerBackMode);
  if ((records && transformed) || any_of([](const Tensor& t) { return t._fw_grad(/*level=*/0).defined(); })) {
    static const auto replay = op<LayerResult(FUSEDRNN_INPUT_TYPES, bool)>("fusedrnn::layer_replay");
    return replay.call(FUSEDRNN_INPUTS, cell_states);
  }
  if (!records) {
    at::AutoDispatchBelowADInplaceOrView below;
    static const auto call = op<decltype(Cpu::layer)>("fusedrnn::layer");
    return call.call(FUSEDRNN_INPUTS, cell_states, recompute);
  }
  const variable_list out = LayerFunction::apply(x, h_0, c_0, weights, batch_sizes, lengths, reset, cell, reverse, reset_to_hx,
                                                 cell_states, recompute, false);
  return {out[0], out[1], out[2], out[3]};
}

TORCH_LIBRARY(fusedrnn, m) {
  const std::string inputs = kInputs;
  const auto define = [&m](const std::string& schema) {
    m.def(torch::schema(schema.c_str()), {at::Tag::pt2_compliant_tag});
  };
  m.set_python_module("fusedrnn._ops");
  define("layer(" + inputs + ", bool cell_states, bool recompute=False) -> (Tensor y, Tensor h_n, Tensor c_n, Tensor c)");
  const std::string cell_inputs = "(Tensor x, Tensor? h_0, Tensor? c_0, Tensor w_ih, Tensor w_hh, Tensor? b_ih, "
                                  "Tensor? b_hh, str cell) -> (Tensor h_n, Tensor c_n)";
  define("cell" + cell_inputs);
  define("cell_forward" + cell_inputs);
  define("layer_replay(" + inputs + ", bool cell_states) -> (Tensor y, Tensor h_n, Tensor c_n, Tensor c)");
  define("layer_forward(" + inputs +
         ", bool save, bool cell_states) -> (Tensor y, Tensor h_n, Tensor c_n, Tensor c, Tensor saved)");
  const std::string gradients = "Tensor? d_y, Tensor? d_h_n, Tensor? d_c_n, Tensor? d_c, ";
  define("layer_backward(" + gradients + inputs + ", Tensor y, Tensor c, Tensor saved, bool[] needs) -> Tensor[]");
  define("layer_backward_replay(" + gradients + inputs + ", Tensor y, Tensor c, Tensor saved, bool[] needs) -> Tensor[]");
  define("layer_backward_(" + gradients + inputs + ", Tensor y, Tensor c, Tensor(a!) saved, bool[] needs) -> Tensor[]");
}

TORCH_LIBRARY_IMPL(fusedrnn, CPU, m) { Cpu::implement(m); }

// One step of one direction: a layer of T = 1. A call takes as long as its step, so where the layer's autograd has
// nothing to do it is not entered: RNNCell, B = 1, H = 64: 14 µs instead of 22.
std::tuple<Tensor, Tensor> cell_step(const Tensor& x, const OptionalTensor& h_0, const OptionalTensor& c_0,
                                     const Tensor& w_ih, const Tensor& w_hh, const OptionalTensor& b_ih,
                                     const OptionalTensor& b_hh, const std::string& cell) {
  TORCH_CHECK_VALUE(x.dim() == 2, "x must be (B, I); got ", x.dim(), "-D");
  const bool records = at::GradMode::is_enabled();
  bool differentiated = false, plain = (x.is_cpu() || x.is_cuda()) && !watched() &&
               !c10::impl::tls_is_dispatch_key_included(c10::DispatchKey::FuncTorchDynamicLayerFrontMode);
  const auto look_at = [&](const Tensor& t) {
    plain = plain && !wrapped(t) && !t._fw_grad(/*level=*/0).defined();
    differentiated |= records && t.requires_grad();
  };
  for (const Tensor* t : {&x, &w_ih, &w_hh}) look_at(*t);
  for (const OptionalTensor* t : {&h_0, &c_0, &b_ih, &b_hh})
    if (*t) look_at(**t);
  if (plain && !differentiated) {
    at::AutoDispatchBelowADInplaceOrView below;
    static const auto call = op<decltype(Cpu::cell_forward)>("fusedrnn::cell_forward");
    return call.call(x, h_0, c_0, w_ih, w_hh, b_ih, b_hh, cell);
  }
  TORCH_CHECK(b_ih.has_value() == b_hh.has_value(), "there must be both of b_ih and b_hh, or neither; got ",
              b_ih ? "b_ih" : "b_hh");
  std::vector<Tensor> weights{w_ih, w_hh};
  if (b_ih) weights.insert(weights.end(), {*b_ih, *b_hh});
  const Bools forwards({false});
  if (plain) {
    const variable_list out = LayerFunction::apply(x, h_0, c_0, TensorList(weights), std::nullopt, std::nullopt, std::nullopt, cell,
                                                   forwards, false, false, false, /*is_cell=*/true);
    return {out[0], out[1]};
  }
  static const auto call = op<decltype(Cpu::layer)>("fusedrnn::layer");
  auto [y, h_n, c_n, c] = call.call(stepped(x), stepped(h_0), stepped(c_0), weights, std::nullopt, std::nullopt, std::nullopt, cell,
                                    forwards, /*reset_to_hx=*/false, /*cell_states=*/false, /*recompute=*/false);
  return {step_of(h_n), step_of(c_n)};
}

#if defined(FUSEDRNN_WITH_CUDA)
TORCH_LIBRARY_IMPL(fusedrnn, CUDA, m) { Cuda::implement(m); }
#else
// Without this the dispatcher would say only that a kernel is missing, not what to do about it.
void refuse_cuda(const c10::OperatorHandle& op, c10::DispatchKeySet, torch::jit::Stack*) {
  TORCH_CHECK_NOT_IMPLEMENTED(false, op.schema().name(), " was given CUDA tensors, but this build of fusedrnn has "
                              "CPU kernels only (python -m fusedrnn info). To build it with CUDA: install a CUDA build of "
                              "torch and the nvcc of the same CUDA version, then run, in fusedrnn's source folder, "
                              "FUSEDRNN_CUDA=1 pip install --no-build-isolation --force-reinstall --no-deps -e . "
                              "Until then, move the module and its input to the CPU, or use torch.nn there "
                              "(fusedrnn.revert).");
}

TORCH_LIBRARY_IMPL(fusedrnn, CUDA, m) {
  for (const char* name : {"layer", "cell_forward", "layer_forward", "layer_backward", "layer_backward_"})
    m.impl(name, torch::CppFunction::makeFromBoxedFunction<&refuse_cuda>());
}
#endif

TORCH_LIBRARY_IMPL(fusedrnn, CompositeImplicitAutograd, m) { m.impl("cell", cell_step); }

TORCH_LIBRARY_IMPL(fusedrnn, Autograd, m) { m.impl("layer", layer_autograd); }

}  // namespace
}  // namespace fusedrnn::ops
