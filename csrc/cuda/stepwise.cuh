// The point-wise kernels of the stepwise strategy: one thread a hidden unit of a sequence, all directions in
// one launch. Between them the caller multiplies.
//   forward   begin? (product, step, [product, project])*
//   backward  ([project, product], step, product)*, end
#pragma once

#include "kernels.h"
#include "step.cuh"

namespace fusedrnn::cuda {

// Value i of (D, B, width): which direction, sequence and column.
struct Cursor {
  int64_t direction, b, j;
  __device__ __forceinline__ Cursor(int64_t i, int64_t batch, int64_t width)
      : direction(i / (batch * width)), b(i / width % batch), j(i % width) {}
};

// Place of state k of (b, j) in (D, 2, B, max(H, P)).
__device__ __forceinline__ int64_t state_at(const Shape& s, const Cursor& at, int k) {
  const int64_t width = s.projection > s.hidden ? s.projection : s.hidden;
  return ((at.direction * 2 + k) * s.batch + at.b) * width + at.j;
}

__device__ __forceinline__ int64_t first_index() { return int64_t(blockIdx.x) * blockDim.x + threadIdx.x; }
__device__ __forceinline__ int64_t index_stride() { return int64_t(gridDim.x) * blockDim.x; }

template <class S, class A>
__global__ void forward_begin_kernel(Forward<S, A> f, StepwiseForward w) {
  const int64_t B = f.shape.batch, P = f.shape.projection;
  for (int64_t i = first_index(); i < f.shape.directions * B * P; i += index_stride()) {
    const Cursor at(i, B, P);
    const auto& d = f.direction[at.direction];
    static_cast<S*>(w.operand)[i] = operand_after(f, d, -1, at.b, at.j, value_or_zero<A>(d.h_0, at.b * P + at.j));
  }
}

template <class Cell, bool kProjected, class S, class A>
__global__ void forward_step_kernel(Forward<S, A> f, StepwiseForward w, int64_t s) {
  const int64_t B = f.shape.batch, H = f.shape.hidden;
  for (int64_t i = first_index(); i < f.shape.directions * B * H; i += index_stride()) {
    const Cursor at(i, B, H);
    const auto& d = f.direction[at.direction];
    const int64_t t = step_at(f.rows, d.reverse, s);
    const bool alive = f.rows.alive(t, at.b);
    const int64_t row = f.rows.row(t, at.b);
    A* const carried = static_cast<A*>(w.state);
    A state[Cell::states];
    if (s == 0) {
      first_state<Cell, kProjected>(f, d, at.b, at.j, state);
    } else {
#pragma unroll
      for (int k = 0; k < Cell::states; ++k) state[k] = carried[state_at(f.shape, at, k)];
    }
    if (alive) {
      if (cut_before(f.rows, d.reverse, t, at.b)) restart<Cell, kProjected>(f, d, at.b, at.j, state);
      UnitGates<Cell, S> gates;
      A u[Cell::gates];
      load_gx(f, d, row, at.j, gates);
      const int64_t product = (at.direction * B + at.b) * Cell::gates * H + at.j;
#pragma unroll
      for (int g = 0; g < Cell::gates; ++g) u[g] = value_or_zero<A>(static_cast<const S*>(w.u), product + g * H);
      forward_unit([&](int k) { return bias<Cell>(d, H, at.j, k); }, u, state, gates);
      write_saved(f, d, row, at.j, gates);
    }
    write_c<Cell>(f, d, s, row, at.b, at.j, alive, state);
#pragma unroll
    for (int k = kProjected ? 1 : 0; k < Cell::states; ++k) carried[state_at(f.shape, at, k)] = state[k];
    if constexpr (kProjected) {
      const S m = convert<S>(alive ? state[0] : A(0));
      static_cast<S*>(w.m)[i] = m;
      constexpr int64_t slots = Cell::gates > Cell::saved ? Cell::gates : Cell::saved;
      if (f.save && has_row(f.rows, alive)) d.gates[row * f.ld_gates + slots * H + at.j] = m;
    } else {
      static_cast<S*>(w.operand)[i] = operand_after(f, d, s, at.b, at.j, state[0]);
      write_h(f, d, s, row, at.b, at.j, alive, state[0]);
    }
  }
}

template <class S, class A>
__global__ void forward_project_kernel(Forward<S, A> f, StepwiseForward w, int64_t s) {
  const int64_t B = f.shape.batch, P = f.shape.projection;
  for (int64_t i = first_index(); i < f.shape.directions * B * P; i += index_stride()) {
    const Cursor at(i, B, P);
    const auto& d = f.direction[at.direction];
    const int64_t t = step_at(f.rows, d.reverse, s);
    const bool alive = f.rows.alive(t, at.b);
    A& carried = static_cast<A*>(w.state)[state_at(f.shape, at, 0)];
    const A before = s == 0 ? value_or_zero<A>(d.h_0, at.b * P + at.j) : carried;
    const A h = alive ? convert<A>(static_cast<const S*>(w.projected)[i]) : before;
    carried = h;
    static_cast<S*>(w.operand)[i] = operand_after(f, d, s, at.b, at.j, h);
    write_h(f, d, s, f.rows.row(t, at.b), at.b, at.j, alive, h);
  }
}

// Gradient of h after the s-th step that comes from later steps: kept aside by step s + 1, and through w_hh.
template <class S, class A>
__device__ __forceinline__ A later_gradient(const Backward<S, A>& f, const DirectionBackward<S, A>& d, const StepwiseBackward& w,
                                 int64_t s, const Cursor& at, int64_t i, A kept) {
  const int64_t later = step_at(f.rows, d.reverse, s + 1);
  const bool through = w.d_operand && f.rows.alive(later, at.b);
  const A gradient = kept + (through ? convert<A>(static_cast<const S*>(w.d_operand)[i]) : A(0));
  return cross_to(f, d, s, at.b, gradient, d.d_h_0 + at.b * f.shape.projection + at.j);
}

template <class S, class A>
__global__ void backward_project_kernel(Backward<S, A> f, StepwiseBackward w, int64_t s) {
  const int64_t B = f.shape.batch, P = f.shape.projection;
  for (int64_t i = first_index(); i < f.shape.directions * B * P; i += index_stride()) {
    const Cursor at(i, B, P);
    const auto& d = f.direction[at.direction];
    const int64_t t = step_at(f.rows, d.reverse, s);
    A& kept = static_cast<A*>(w.d_state)[state_at(f.shape, at, 0)];
    A d_h;
    if (s + 1 == f.rows.steps) {
      d_h = value_or_zero<A>(d.d_h_n, at.b * P + at.j);
      d.d_h_0[at.b * P + at.j] = A(0);
    } else {
      d_h = later_gradient(f, d, w, s, at, i, kept);
    }
    const bool alive = f.rows.alive(t, at.b);
    if (has_row(f.rows, alive)) {
      const int64_t row = f.rows.row(t, at.b);
      d.d_h[row * f.ld_d_h + at.j] =
          convert<S>(alive ? d_h + value_or_zero<A>(d.d_y, row * f.ld_d_y + at.j) : A(0));
    }
    kept = alive ? A(0) : d_h;
  }
}

template <class Cell, bool kProjected, class S, class A>
__global__ void backward_step_kernel(Backward<S, A> f, StepwiseBackward w, int64_t s) {
  const int64_t B = f.shape.batch, H = f.shape.hidden;
  for (int64_t i = first_index(); i < f.shape.directions * B * H; i += index_stride()) {
    const Cursor at(i, B, H);
    const auto& d = f.direction[at.direction];
    const int64_t t = step_at(f.rows, d.reverse, s);
    A* const kept = static_cast<A*>(w.d_state);
    A d_state[Cell::states];
    if (s + 1 == f.rows.steps) {
      last_gradient<Cell, kProjected>(f, d, at.b, at.j, d_state);
      if constexpr (!kProjected) d.d_h_0[at.b * H + at.j] = A(0);
      if constexpr (Cell::states > 1) d.d_c_0[at.b * H + at.j] = A(0);
    } else {
      d_state[0] = kProjected ? A(0) : later_gradient(f, d, w, s, at, i, kept[state_at(f.shape, at, 0)]);
      if constexpr (Cell::states > 1) {
        d_state[1] = cross_to(f, d, s, at.b, kept[state_at(f.shape, at, 1)], d.d_c_0 + at.b * H + at.j);
      }
    }
    const int64_t row = f.rows.row(t, at.b);
    if (f.rows.alive(t, at.b)) {
      if constexpr (kProjected) d_state[0] = convert<A>(static_cast<const S*>(w.d_m)[i]);
      UnitGradients<Cell, S, A> unit;
      A du[Cell::gates];
      load_unit<Cell, kProjected>(f, d, t, row, at.b, at.j, unit);
      backward_unit(d_state, du, unit);
      write_d_gates(f, d, row, at.j, unit);
    } else {
      clear_padding<Cell>(f, d, row, at.j);
    }
#pragma unroll
    for (int k = kProjected ? 1 : 0; k < Cell::states; ++k) kept[state_at(f.shape, at, k)] = d_state[k];
  }
}

// What arrives before the first step belongs to h_0 and c_0. One thread a value of (D, B, max(P, H)).
template <class Cell, class S, class A>
__global__ void backward_end_kernel(Backward<S, A> f, StepwiseBackward w) {
  const int64_t B = f.shape.batch, H = f.shape.hidden, P = f.shape.projection, width = P > H ? P : H;
  for (int64_t i = first_index(); i < f.shape.directions * B * width; i += index_stride()) {
    const Cursor at(i, B, width);
    const auto& d = f.direction[at.direction];
    const A* const kept = static_cast<const A*>(w.d_state);
    if (at.j < P) {
      const int64_t here = (at.direction * B + at.b) * P + at.j;
      d.d_h_0[at.b * P + at.j] += later_gradient(f, d, w, -1, at, here, kept[state_at(f.shape, at, 0)]);
    }
    if constexpr (Cell::states > 1) {
      A* const d_c_0 = d.d_c_0 + at.b * H + at.j;
      if (at.j < H) *d_c_0 += cross_to(f, d, -1, at.b, kept[state_at(f.shape, at, 1)], d_c_0);
    }
  }
}

}  // namespace fusedrnn::cuda
