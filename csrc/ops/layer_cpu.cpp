// A layer on the CPU: cast to the arithmetic type, and the kernel; for the backward, a stretch of the steps at a time, the
// kernel and after it the one that adds to the weights' gradients. Owns every buffer of the call.
#include <ATen/Parallel.h>
#include <ATen/autocast_mode.h>

#include <array>
#include <cstring>

#include "../cpu/kernels.h"
#include "../cpu/team.h"
#include "layer.h"
#include "memory_cpu.h"
#include "sequence.h"
#include "settings.h"

namespace fusedrnn::ops {
namespace {

using cpu::Stretch;

// The GEMMs in here run in the type that was chosen for them, whatever autocast would make of a GEMM.
struct NoAutocast {
  c10::impl::ExcludeDispatchKeyGuard guard{c10::autocast_dispatch_keyset};
};

// 16-bit types are for storage: the arithmetic and the carried state are float32. So is all that a kernel sees of activations,
// but where it multiplies bfloat16 (CpuPlan::bfloat16_pairs).
template <class S>
constexpr at::ScalarType type_of = std::is_same_v<S, double>          ? at::kDouble
                                   : std::is_same_v<S, cpu::BFloat16> ? at::kBFloat16
                                                                      : at::kFloat;
template <class S>
using Arithmetic = std::conditional_t<std::is_same_v<S, double>, double, float>;

// A contiguous tensor of the type; mostly it is one already, and then not even the dispatcher is asked.
Tensor as(const Tensor& t, at::ScalarType type) {
  if (t.scalar_type() == type && t.is_contiguous()) return t;
  return t.to(type).contiguous();
}

std::vector<Tensor> as(const std::vector<Tensor>& list, at::ScalarType type) {
  std::vector<Tensor> cast;
  cast.reserve(list.size());
  for (const Tensor& t : list) cast.push_back(as(t, type));
  return cast;
}

// The layer in the kernels' terms, common to both passes. S: what activations are given to kernels in.
template <class S>
struct Cast {
  using T = Arithmetic<S>;
  Sizes sizes;
  Sequence sequence;
  Shape shape;
  CpuPlan plan;
  Rows rows;
  static constexpr at::ScalarType type = type_of<S>, arithmetic = type_of<T>;
  Tensor x;          // sequence.sizes(I)
  Tensor h_0, c_0;   // (D, B, ·) in the order of rows, or undefined
  std::vector<Tensor> w_ih, w_hh, w_hr;  // of the type that they came in
  std::vector<Tensor> b_ih, b_hh;
  std::vector<bool> reverse;
  bool reset_to_hx;

  explicit Cast(const Layer& l) : sizes(check(l)), sequence(l, sizes) {
    x = as(l.x, type);
    const auto state = [&](const OptionalTensor& s) {
      return s ? as(sequence.sort(*s), type) : Tensor();
    };
    h_0 = state(l.h_0), c_0 = state(l.c_0);
    const auto stored = l.x.scalar_type();
    w_ih = as(l.w_ih, stored), w_hh = as(l.w_hh, stored), w_hr = as(l.w_hr, stored);
    b_ih = as(l.b_ih, type), b_hh = as(l.b_hh, type);
    reverse = l.reverse, reset_to_hx = l.reset_to_hx;
    shape = {sizes.kind, sequence.steps(), sizes.B, sequence.total(), sizes.I, sizes.H, sizes.P, sizes.projected,
             static_cast<int>(sizes.D), static_cast<int>(sizeof(T)), sizes.dtype};
    plan = plan_cpu(shape, at::in_parallel_region() ? 1 : cpu::usable_threads(at::get_num_threads()),
                    cpu::vector_unit(), batch_invariant());
    rows = sequence.rows();
  }

  int64_t gates() const { return sizes.cell.gates * sizes.H; }
  int64_t split() const { return sizes.cell.split * sizes.H; }
  // Columns of one direction's saved values, the unprojected output behind them.
  int64_t saved_width() const { return (sizes.cell.slots() + (sizes.projected ? 1 : 0)) * sizes.H; }
};

template <class T>
T* pointer(const Tensor& t) {
  return t.defined() && t.numel() ? static_cast<T*>(t.mutable_data_ptr()) : nullptr;
}
template <class T>
const T* const_pointer(const Tensor& t) {
  return t.defined() && t.numel() ? static_cast<const T*>(t.const_data_ptr()) : nullptr;
}
template <class T>
T* data(const Tensor& t) {
  return static_cast<T*>(t.mutable_data_ptr());
}
template <class T>
const T* at_direction(const T* p, int64_t d, int64_t stride) {
  return p ? p + d * stride : nullptr;
}

template <class S>
ForwardResult forward(const Cast<S>& l, const Layer& layer, bool save, bool cell_states) {
  using T = Arithmetic<S>;
  const Sizes& s = l.sizes;
  const int64_t D = s.D, H = s.H, P = s.P, B = s.B;
  const bool has_c = s.cell.states > 1;
  const bool keeps_values = save && (s.cell.saved > 0 || s.projected);
  const bool keeps_c = has_c && (save || cell_states);
  const int64_t width = keeps_values ? l.saved_width() : 0;

  const bool is_cell = layer.is_cell;  // and a call costs as much as its step: every tensor counts
  const auto absent = [&] { return is_cell ? Tensor() : empty_cpu({0}, l.type); };
  // As many rows as the padded input has, so that the shape does not depend on values; the first N are used.
  const Tensor saved = keeps_values ? empty_cpu({s.N, D, width}, l.type) : absent();
  Tensor y = empty_cpu(l.sequence.sizes(D * P), l.type);
  Tensor c = keeps_c ? empty_cpu(l.sequence.sizes(D * H), l.arithmetic) : is_cell ? Tensor() : empty_cpu({0}, l.arithmetic);
  Tensor h_n = is_cell ? y : empty_cpu({D, B, P}, l.type);
  Tensor c_n = !has_c ? absent() : is_cell ? empty_cpu({B, H}, l.type) : empty_cpu({D, B, H}, l.type);

  Forward<S, T> f{l.shape, l.rows, keeps_values, l.reset_to_hx, D * width, D * P, D * H, const_pointer<S>(l.x), {}};
  for (int64_t d = 0; d < D; ++d) {
    auto& dir = f.direction[d];
    dir.reverse = l.reverse[d];
    dir.w_hh = l.w_hh[d].const_data_ptr();
    dir.w_hr = s.projected ? l.w_hr[d].const_data_ptr() : nullptr;
    dir.w_ih = l.w_ih[d].const_data_ptr();
    dir.b_ih = s.bias ? const_pointer<S>(l.b_ih[d]) : nullptr;
    dir.b_hh = s.bias ? const_pointer<S>(l.b_hh[d]) : nullptr;
    dir.h_0 = at_direction(const_pointer<S>(l.h_0), d, B * P);
    dir.c_0 = at_direction(const_pointer<S>(l.c_0), d, B * H);
    dir.gates = keeps_values ? data<S>(saved) + d * width : nullptr;
    dir.y = data<S>(y) + d * P;
    dir.c = keeps_c ? data<T>(c) + d * H : nullptr;
    dir.h_n = data<S>(h_n) + d * B * P;
    dir.c_n = has_c ? data<S>(c_n) + d * B * H : nullptr;
  }
  cpu::kernels().of<S>().forward(f, l.plan, Scratch(forward_workspace(l.shape, l.plan).total * sizeof(T)).as<T>());

  const auto out = layer.x.scalar_type();
  if (is_cell) return {as(y, out), Tensor(), has_c ? as(c_n, out) : c_n, c, saved};
  l.sequence.clear_padding(y);
  if (keeps_c) l.sequence.clear_padding(c);
  return {as(y, out), as(l.sequence.unsort(h_n), out), as(has_c ? l.sequence.unsort(c_n) : c_n, out), c, saved};
}

// The state before each step of a stretch, (1, rows, width): of one direction's states after each step, and of its first ones.
template <class S, class T>
Tensor before_each_step(const Cast<S>& l, const Stretch& at, const Tensor& states, const Tensor& given, int64_t width,
                        int64_t d) {
  const int64_t ld = l.sizes.D * width;
  const Tensor first = given.defined() ? as(given, type_of<T>) : given;
  Tensor before = at::zeros({1, at.rows, width}, l.x.options().dtype(type_of<T>));
  T* to = data<T>(before);
  const T* from = const_pointer<T>(states) + d * width;
  const T* from_first = at_direction(const_pointer<T>(first), d, l.sizes.B * width);
  for (int64_t t = at.begin; t < at.end; ++t)
    for (int64_t b = 0; b < l.rows.active(t); ++b) {
      const Previous p = previous_of(l.rows, l.reverse[d], t, b);
      const bool from_hx = p.source == Source::first || l.reset_to_hx;
      const T* row = p.source == Source::previous ? from + l.rows.placed(p.row) * ld
                     : from_hx && from_first      ? from_first + b * width
                                                  : nullptr;
      if (row) std::memcpy(to + (l.rows.row(t, b) - at.first_row) * width, row, width * sizeof(T));
    }
  return before;
}

// One direction as a layer, to make anew what its forward did not save. x: (N, I).
template <class S>
Layer to_recompute(const Cast<S>& l, const Layer& layer, int64_t d) {
  const auto of = [&](const std::vector<Tensor>& list) {
    return list.empty() ? list : std::vector<Tensor>{as(list[d], l.type)};
  };
  return {l.sequence.rows_of(l.x), {}, {}, of(l.w_ih), of(l.w_hh), of(l.b_ih), of(l.b_hh), of(l.w_hr), {}, {}, {}, layer.cell,
          {false}, false};
}

// The saved values (rows, 1, width) of a stretch. With the state before each step known they are one step of so many
// sequences.
template <class S>
Tensor recompute_saved(const Cast<S>& l, Layer step, const Stretch& at, const Tensor& y, const Tensor& c, int64_t d) {
  step.x = step.x.narrow(0, at.first_row, at.rows).unsqueeze(0);
  step.h_0 = before_each_step<S, S>(l, at, y, l.h_0, l.sizes.P, d);
  if (c.defined()) step.c_0 = as(before_each_step<S, Arithmetic<S>>(l, at, c, l.c_0, l.sizes.H, d), l.type);
  Cast<S> one(step);
  // Dot products would be for fewer rows.
  for (Weights* use : {&one.plan.input_weights, &one.plan.hidden_weights})
    if (*use == Weights::dots) *use = Weights::sliced;
  return std::get<4>(forward(one, step, /*save=*/true, /*cell_states=*/false));
}

// One tensor a direction, or none if it is not needed; and what holds sums that are to be rounded, if they have to wait.
struct WeightTensors {
  std::vector<Tensor> w_ih, w_hh, b_ih, b_hh, w_hr, sums;
};

// Room for the gradients of the weights, and where they are.
template <class S>
WeightTensors make_weight_gradients(const Cast<S>& l, const Needs& needs, cpu::WeightGradients<Arithmetic<S>, S>& g) {
  using T = Arithmetic<S>;
  const Sizes& s = l.sizes;
  const int64_t GH = l.gates();
  WeightTensors tensors;
  const bool waits = !std::is_same_v<S, T> && !sums_at_once(l.shape, l.plan);
  const auto make = [&](bool needed, std::vector<Tensor>& list, at::IntArrayRef sizes) -> cpu::Gradient<T, S> {
    if (!needed) return {};
    const bool rows = l.sequence.total() > 0;
    list.push_back(rows ? empty_cpu(sizes, l.type) : at::zeros(sizes, l.x.options().dtype(l.type)));
    S* out = pointer<S>(list.back());
    if constexpr (std::is_same_v<S, T>) return {out, out};
    if (waits) tensors.sums.push_back(empty_cpu(sizes, l.arithmetic));
    return {waits ? pointer<T>(tensors.sums.back()) : nullptr, out};
  };
  for (int64_t d = 0; d < s.D; ++d)
    g.direction[d] = {make(needs.w_ih, tensors.w_ih, {GH, s.I}), make(needs.w_hh, tensors.w_hh, {GH, s.P}),
                      make(needs.b_ih && s.bias, tensors.b_ih, {GH}), make(needs.b_hh && s.bias, tensors.b_hh, {GH}),
                      make(needs.w_hr && s.projected, tensors.w_hr, {s.P, s.H})};
  return tensors;
}

template <class S>
std::vector<Tensor> backward(const Layer& layer, const Gradients& gradients, const Tensor& y_in, const Tensor& c_in,
                             const Tensor& saved_in, const Needs& needs, bool overwrite) {
  using T = Arithmetic<S>;
  const Cast<S> l(layer);
  const Sizes& s = l.sizes;
  const int64_t N = l.sequence.total(), D = s.D, H = s.H, P = s.P, B = s.B;
  const bool has_c = s.cell.states > 1;
  const auto cast = [&](const OptionalTensor& t, at::ScalarType type) {
    return t ? as(*t, type) : Tensor();
  };
  const auto state_of = [&](const OptionalTensor& t) {
    return t ? as(l.sequence.sort(*t), l.type) : Tensor();
  };
  const Tensor y = cast(y_in, l.type), c = has_c ? cast(c_in, l.arithmetic) : Tensor();
  const Tensor d_y = cast(gradients.d_y, l.type), d_c = has_c ? cast(gradients.d_c, l.arithmetic) : Tensor();
  const Tensor d_h_n = state_of(gradients.d_h_n), d_c_n = has_c ? state_of(gradients.d_c_n) : Tensor();

  // Saved values are of all rows, or made anew for those of a stretch, and then each direction's for itself.
  const bool has_values = s.cell.saved > 0 || s.projected;
  const bool recomputes = has_values && !saved_in.numel() && N > 0;
  const Tensor saved = recomputes ? Tensor() : as(saved_in, l.type);  // of other kernels, perhaps
  std::vector<Layer> again;
  for (int64_t d = 0; d < D && recomputes; ++d) again.push_back(to_recompute(l, layer, d));
  const int64_t width = recomputes || saved.numel() ? l.saved_width() : 0, ld_saved = recomputes ? width : D * width;
  // Gradients of the gates stand in place of the saved values, or are those of a stretch alone.
  const int64_t d_width = l.split() + l.gates(), ld_d_h = D * P;
  const bool in_place = (overwrite || recomputes) && s.cell.slots() * H >= d_width && width > 0;
  const int64_t ld_d_gates = in_place ? ld_saved : D * d_width;
  // All steps come before all sums where that takes no more memory: the sums then need no room beside the steps, and that is
  // where a training step's memory peaks (LSTM B=32 T=128 H=256: 35.0 MB with both, 32.7 so).
  const bool apart = in_place && !recomputes && !s.projected;
  const int64_t stretch_rows = apart ? N : l.plan.stretch_rows;

  const int64_t steps_room = backward_workspace(l.shape, l.plan).total, sums_room = gradient_workspace(l.shape, l.plan).total;
  const auto room = [](int64_t elements) { return whole_lines((elements * sizeof(S) + sizeof(T) - 1) / sizeof(T)); };
  const int64_t d_gates_room = in_place ? 0 : room(stretch_rows * ld_d_gates);
  const int64_t d_h_room = s.projected ? room(stretch_rows * ld_d_h) : 0;
  std::optional<Scratch> scratch(std::in_place, (steps_room + (apart ? 0 : sums_room + d_gates_room + d_h_room)) * sizeof(T));
  T *const steps = scratch->as<T>(), *sums = steps + steps_room;
  S* const d_gates = reinterpret_cast<S*>(sums + sums_room);
  S* const d_h = reinterpret_cast<S*>(sums + sums_room + d_gates_room);

  const Tensor d_h_0 = needs.h_0 && layer.h_0 ? empty_cpu({D, B, P}, l.arithmetic) : Tensor();
  const Tensor d_c_0 = needs.c_0 && layer.c_0 ? empty_cpu({D, B, H}, l.arithmetic) : Tensor();
  Tensor d_x;  // of each direction
  if (needs.x) d_x = D == 1 ? empty_cpu(l.sequence.sizes(s.I), l.type) : empty_cpu({D, s.N, s.I}, l.type);
  Backward<S, T> f{l.shape, l.rows, l.reset_to_hx, ld_saved, D * P, D * H, D * P, D * H, ld_d_gates, ld_d_h, {}};
  for (int64_t d = 0; d < D; ++d) {
    auto& dir = f.direction[d];
    dir.reverse = l.reverse[d];
    dir.w_ih = l.w_ih[d].const_data_ptr();
    dir.w_hh = l.w_hh[d].const_data_ptr();
    dir.w_hr = s.projected ? l.w_hr[d].const_data_ptr() : nullptr;
    dir.h_0 = at_direction(const_pointer<S>(l.h_0), d, B * P);
    dir.c_0 = at_direction(const_pointer<S>(l.c_0), d, B * H);
    dir.saved = at_direction(const_pointer<S>(saved), d, width);
    dir.y = at_direction(const_pointer<S>(y), d, P);
    dir.c = at_direction(const_pointer<T>(c), d, H);
    dir.d_y = at_direction(const_pointer<S>(d_y), d, P);
    dir.d_c = at_direction(const_pointer<T>(d_c), d, H);
    dir.d_h_n = at_direction(const_pointer<S>(d_h_n), d, B * P);
    dir.d_c_n = at_direction(const_pointer<S>(d_c_n), d, B * H);
    dir.d_gates = !in_place ? d_gates + d * d_width : recomputes ? nullptr : data<S>(saved) + d * width;
    dir.d_h = s.projected ? d_h + d * P : nullptr;
    dir.d_x = needs.x ? data<S>(d_x) + d * s.N * s.I : nullptr;
    dir.d_h_0 = d_h_0.defined() ? data<T>(d_h_0) + d * B * P : nullptr;
    dir.d_c_0 = d_c_0.defined() ? data<T>(d_c_0) + d * B * H : nullptr;
  }
  cpu::WeightGradients<T, S> g{f, const_pointer<S>(l.x), {}};
  std::optional<WeightTensors> weights;

  const auto& kernels = cpu::kernels().of<S>();
  CpuPlan plan = l.plan;
  std::array<Stretch, kMaxDirections> at;
  for (int64_t d = 0; d < D; ++d) at[d] = cpu::first_stretch(l.rows, l.reverse[d], stretch_rows);
  for (bool done = false; !done;) {
    std::vector<Tensor> values;
    for (int64_t d = 0; d < D; ++d) {
      if (recomputes && at[d].rows > 0) {
        values.push_back(recompute_saved(l, again[d], at[d], y, c, d));
        f.direction[d].saved = const_pointer<S>(values.back());
        if (in_place) f.direction[d].d_gates = pointer<S>(values.back());
      }
      if (recomputes) at[d].first_saved = at[d].first_row;
      if (recomputes || !in_place) at[d].first_d_gates = at[d].first_row;
    }
    if (!kernels.backward(f, at.data(), plan, steps)) plan.threads = 1;
    if (apart) scratch.reset(), sums = scratch.emplace(sums_room * sizeof(T), /*tight=*/true).template as<T>();
    if (!weights) weights = make_weight_gradients(l, needs, g);
    if (N > 0) kernels.gradients(g, at.data(), plan, sums);
    done = true;
    for (int64_t d = 0; d < D; ++d) {
      done &= at[d].last;
      at[d] = cpu::next_stretch(l.rows, l.reverse[d], stretch_rows, at[d]);
    }
  }

  const auto out = layer.x.scalar_type();
  const auto none = [&] { return empty_cpu({0}, out); };
  std::vector<Tensor> result;
  if (needs.x && D > 1) d_x = d_x.sum(0).view(l.sequence.sizes(s.I));
  if (needs.x) l.sequence.clear_padding(d_x);
  result.push_back(needs.x ? as(d_x, out) : none());
  result.push_back(d_h_0.defined() ? as(l.sequence.unsort(d_h_0), out) : none());
  result.push_back(d_c_0.defined() ? as(l.sequence.unsort(d_c_0), out) : none());
  const auto append = [&](const std::vector<Tensor>& inputs, const std::vector<Tensor>& grads) {
    for (size_t i = 0; i < inputs.size(); ++i) result.push_back(grads.empty() ? none() : as(grads[i], out));
  };
  append(layer.w_ih, weights->w_ih), append(layer.w_hh, weights->w_hh);
  append(layer.b_ih, weights->b_ih), append(layer.b_hh, weights->b_hh), append(layer.w_hr, weights->w_hr);
  return result;
}

// f, given a value of the type that kernels are to see in activations.
template <class F>
auto with_storage(const Tensor& x, const F& f) {
  if (x.scalar_type() == at::kDouble) return f(double{});
  if (x.scalar_type() == at::kBFloat16 && cpu::kernels().unit.bfloat16_pairs) return f(cpu::BFloat16{});
  return f(float{});
}

}  // namespace

ForwardResult forward_cpu(const Layer& layer, bool save, bool cell_states) {
  const NoAutocast keep_type;
  return with_storage(layer.x, [&](auto type) { return forward(Cast<decltype(type)>(layer), layer, save, cell_states); });
}

std::vector<Tensor> backward_cpu(const Layer& layer, const Gradients& gradients, const Tensor& y, const Tensor& c,
                                 const Tensor& saved, const Needs& needs, bool overwrite) {
  const NoAutocast keep_type;
  return with_storage(layer.x, [&](auto type) {
    return backward<decltype(type)>(layer, gradients, y, c, saved, needs, overwrite);
  });
}

}  // namespace fusedrnn::ops
