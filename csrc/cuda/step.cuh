// One hidden unit of one sequence at one step, forward and backward: everything but the products with w_hh
// and w_hr. Both strategies run exactly this; they differ in which thread owns a unit and in how h travels.
//
// S is what tensors hold, A the type of the arithmetic and of the carried state.
#pragma once

#include "../core/problem.h"
#include "primitives.cuh"

namespace fusedrnn::cuda {

// The s-th step in processing order.
__device__ __forceinline__ int64_t step_at(const Rows& rows, bool reverse, int64_t s) { return reverse ? rows.steps - 1 - s : s; }

// Whether the state is cut right before step t of sequence b; never before a step that is padding.
__device__ __forceinline__ bool cut_before(const Rows& rows, bool reverse, int64_t t, int64_t b) {
  return rows.reset && rows.alive(t, b) && previous_of(rows, reverse, t, b).source == Source::boundary;
}

// Padding has a row, to be filled with zeros, unless the rows of ended sequences are left out.
__device__ __forceinline__ bool has_row(const Rows& rows, bool alive) { return alive || !rows.offset; }

template <class A, class S>
__device__ __forceinline__ A value_or_zero(const S* p, int64_t i) {
  return p ? convert<A>(p[i]) : A(0);
}

// --- forward ------------------------------------------------------------------------------------------------

// The state before the first step.
template <class Cell, bool kProjected, class S, class A>
__device__ __forceinline__ void first_state(const Forward<S, A>& f, const DirectionForward<S, A>& d, int64_t b, int64_t j,
                                 A* state) {
  state[0] = kProjected ? A(0) : value_or_zero<A>(d.h_0, b * f.shape.hidden + j);
  if constexpr (Cell::states > 1) state[1] = value_or_zero<A>(d.c_0, b * f.shape.hidden + j);
}

// The state that a cut puts in place of the one before it.
template <class Cell, bool kProjected, class S, class A>
__device__ __forceinline__ void restart(const Forward<S, A>& f, const DirectionForward<S, A>& d, int64_t b, int64_t j, A* state) {
  if (f.reset_to_hx) return first_state<Cell, kProjected>(f, d, b, j, state);
  for (int k = 0; k < Cell::states; ++k) state[k] = A(0);
}

// gx of one unit and what the backward wants of it, as they stand in memory: a conversion would wait for what is loaded.
template <class Cell, class S>
struct UnitGates {
  S x[Cell::gates];
  S saved[Cell::saved ? Cell::saved : 1];
};

template <class Cell, class S, class A>
__device__ __forceinline__ void load_gx(const Forward<S, A>& f, const DirectionForward<S, A>& d, int64_t row, int64_t j,
                             UnitGates<Cell, S>& gates) {
  const S* from = d.gates + row * f.ld_gates + j;
#pragma unroll
  for (int g = 0; g < Cell::gates; ++g) gates.x[g] = from[g * f.shape.hidden];
}

// The k-th of a unit's biases: of every gate what is added to u, for all but the last `split` ones the sum of both sides'; then of
// those what is added to x.
template <class Cell>
constexpr int kBiases = Cell::gates + Cell::split;
template <class Cell, class A, class S>
__device__ __forceinline__ A bias(const DirectionForward<S, A>& d, int64_t hidden, int64_t j, int k) {
  constexpr int joined = Cell::gates - Cell::split;
  if (k >= Cell::gates) return value_or_zero<A>(d.b_ih, (k - Cell::split) * hidden + j);
  const A b_hh = value_or_zero<A>(d.b_hh, k * hidden + j);
  return k < joined ? value_or_zero<A>(d.b_ih, k * hidden + j) + b_hh : b_hh;
}

// state, already cut if it has to be -> the state after a step, which must exist. gates.x without b_ih, u without b_hh; biases(k)
// is the k-th of the above. gates.saved, h and c are the caller's to write: what others wait for comes first, and a
// projection may follow.
template <class Cell, class S, class A, class Biases>
__device__ __forceinline__ void forward_unit(Biases&& biases, A* u, A* state, UnitGates<Cell, S>& gates) {
  A x[Cell::gates], next[Cell::states], saved[Cell::saved ? Cell::saved : 1];
#pragma unroll
  for (int g = 0; g < Cell::gates; ++g) {
    x[g] = convert<A>(gates.x[g]);
    if (g >= Cell::gates - Cell::split) x[g] += biases(g + Cell::split);
    u[g] += biases(g);
  }
  Cell::activate(x, u, saved);
  Cell::update(saved, state, next);
#pragma unroll
  for (int k = 0; k < Cell::saved; ++k) gates.saved[k] = convert<S>(saved[k]);
#pragma unroll
  for (int k = 0; k < Cell::states; ++k) state[k] = next[k];
}

// Writes what the backward wants of a unit, if anybody wants it.
template <class Cell, class S, class A>
__device__ __forceinline__ void write_saved(const Forward<S, A>& f, const DirectionForward<S, A>& d, int64_t row, int64_t j,
                                 const UnitGates<Cell, S>& gates) {
  if (!f.save) return;
  S* to = d.gates + row * f.ld_gates + j;
#pragma unroll
  for (int k = 0; k < Cell::saved; ++k) to[k * f.shape.hidden] = gates.saved[k];
}

// h as the next step's product takes it: cut if a boundary lies between.
template <class S, class A>
__device__ __forceinline__ S operand_after(const Forward<S, A>& f, const DirectionForward<S, A>& d, int64_t s, int64_t b,
                                int64_t p, A h) {
  if (s + 1 < f.rows.steps && cut_before(f.rows, d.reverse, step_at(f.rows, d.reverse, s + 1), b)) {
    return f.reset_to_hx && d.h_0 ? d.h_0[b * f.shape.projection + p] : convert<S>(A(0));
  }
  return convert<S>(h);
}

// Writes h after the s-th step to y, zeros in the padding, and after the last one to h_n. row: the step's, if it has one.
template <class S, class A>
__device__ __forceinline__ void write_h(const Forward<S, A>& f, const DirectionForward<S, A>& d, int64_t s, int64_t row, int64_t b,
                             int64_t p, bool alive, A h) {
  if (has_row(f.rows, alive)) d.y[row * f.ld_y + p] = convert<S>(alive ? h : A(0));
  if (s + 1 == f.rows.steps) d.h_n[b * f.shape.projection + p] = convert<S>(h);
}

// The same of c and c_n.
template <class Cell, class S, class A>
__device__ __forceinline__ void write_c(const Forward<S, A>& f, const DirectionForward<S, A>& d, int64_t s, int64_t row, int64_t b,
                             int64_t j, bool alive, const A* state) {
  if constexpr (Cell::states > 1) {
    if (d.c && has_row(f.rows, alive)) d.c[row * f.ld_c + j] = alive ? state[1] : A(0);
    if (s + 1 == f.rows.steps) d.c_n[b * f.shape.hidden + j] = convert<S>(state[1]);
  }
}

// --- backward: steps from the last to the first ---------------------------------------------------------------

// The gradients of the state after the last step: what reaches it from outside.
template <class Cell, bool kProjected, class S, class A>
__device__ __forceinline__ void last_gradient(const Backward<S, A>& f, const DirectionBackward<S, A>& d, int64_t b, int64_t j,
                                   A* d_state) {
  d_state[0] = kProjected ? A(0) : value_or_zero<A>(d.d_h_n, b * f.shape.hidden + j);
  if constexpr (Cell::states > 1) d_state[1] = value_or_zero<A>(d.d_c_n, b * f.shape.hidden + j);
}

// Takes the gradient that step s + 1 passes back across the way from step s. A cut lets nothing through; what
// it was replaced by, h_0, gets the gradient instead.
template <class S, class A>
__device__ __forceinline__ A cross_to(const Backward<S, A>& f, const DirectionBackward<S, A>& d, int64_t s, int64_t b, A gradient,
                           A* first_gradient) {
  if (!cut_before(f.rows, d.reverse, step_at(f.rows, d.reverse, s + 1), b)) return gradient;
  if (f.reset_to_hx) *first_gradient += gradient;
  return A(0);
}

// What the backward of a unit reads, as it stands in memory, and what it leaves.
template <class Cell, class S, class A>
struct UnitGradients {
  S saved[Cell::saved ? Cell::saved : 1], y, y_before, d_y;
  A c, c_before, d_c;
  S d_gates[Cell::split + Cell::gates];
};

// Reads for step (t, b), which must exist.
template <class Cell, bool kProjected, class S, class A>
__device__ __forceinline__ void load_unit(const Backward<S, A>& f, const DirectionBackward<S, A>& d, int64_t t, int64_t row, int64_t b,
                               int64_t j, UnitGradients<Cell, S, A>& unit) {
  const int64_t H = f.shape.hidden;
  const Previous p = previous_of(f.rows, d.reverse, t, b);
  const bool from_hx = p.source == Source::first || (p.source == Source::boundary && f.reset_to_hx);
  const S zero = convert<S>(A(0));
#pragma unroll
  for (int k = 0; k < Cell::saved; ++k) unit.saved[k] = d.saved[row * f.ld_saved + k * H + j];
  if constexpr (kProjected) {
    unit.y = unit.y_before = unit.d_y = zero;  // no cell with a projection asks for y, and d_state has d_y
  } else {
    unit.d_y = d.d_y ? d.d_y[row * f.ld_d_y + j] : zero;
    unit.y = d.y[row * f.ld_y + j];
    unit.y_before = p.source == Source::previous ? d.y[p.row * f.ld_y + j] : from_hx && d.h_0 ? d.h_0[b * H + j] : zero;
  }
  if constexpr (Cell::states > 1) {
    unit.d_c = value_or_zero<A>(d.d_c, row * f.ld_d_c + j);
    unit.c = d.c[row * f.ld_c + j];
    unit.c_before = p.source == Source::previous ? d.c[p.row * f.ld_c + j]
                    : from_hx                    ? value_or_zero<A>(d.c_0, b * H + j)
                                                 : A(0);
  }
}

// Brings into L2 what load_unit will read, but for the state before.
template <class Cell, class S, class A>
__device__ __forceinline__ void prefetch_unit(const Backward<S, A>& f, const DirectionBackward<S, A>& d, int64_t row, int64_t j) {
  for (int k = 0; k < Cell::saved; ++k) prefetch_l2(d.saved + row * f.ld_saved + k * f.shape.hidden + j);
  prefetch_l2(d.y + row * f.ld_y + j);
  if (d.d_y) prefetch_l2(d.d_y + row * f.ld_d_y + j);
  if constexpr (Cell::states > 1) {
    prefetch_l2(d.c + row * f.ld_c + j);
    if (d.d_c) prefetch_l2(d.d_c + row * f.ld_d_c + j);
  }
}

// d_state, the gradient of the state after a step without d_y and d_c, but with d_y if there is a projection -> that of the
// state before it, but for what passes w_hh. du[G] is the hidden side's; unit.d_gates are the caller's to write.
template <class Cell, class S, class A>
__device__ __forceinline__ void backward_unit(A* d_state, A* du, UnitGradients<Cell, S, A>& unit) {
  A saved[Cell::saved ? Cell::saved : 1], before[Cell::states], after[Cell::states], d_before[Cell::states];
  A dx[Cell::split ? Cell::split : 1];
#pragma unroll
  for (int k = 0; k < Cell::saved; ++k) saved[k] = convert<A>(unit.saved[k]);
  d_state[0] += convert<A>(unit.d_y);
  after[0] = convert<A>(unit.y), before[0] = convert<A>(unit.y_before);
  if constexpr (Cell::states > 1) {
    d_state[1] += unit.d_c;
    after[1] = unit.c, before[1] = unit.c_before;
  }
  Cell::backward(saved, before, after, d_state, dx, du, d_before);
#pragma unroll
  for (int k = 0; k < Cell::split; ++k) unit.d_gates[k] = convert<S>(dx[k]);
#pragma unroll
  for (int g = 0; g < Cell::gates; ++g) unit.d_gates[Cell::split + g] = convert<S>(du[g]);
#pragma unroll
  for (int k = 0; k < Cell::states; ++k) d_state[k] = d_before[k];
}

// A unit's share of d_gates.
template <class Cell, class S, class A>
__device__ __forceinline__ void write_d_gates(const Backward<S, A>& f, const DirectionBackward<S, A>& d, int64_t row, int64_t j,
                                   const UnitGradients<Cell, S, A>& unit) {
  S* to = d.d_gates + row * f.ld_d_gates + j;
#pragma unroll
  for (int k = 0; k < Cell::split + Cell::gates; ++k) to[k * f.shape.hidden] = unit.d_gates[k];
}

// The padding's share of d_gates: zeros, so that the sums over all rows may include it.
template <class Cell, class S, class A>
__device__ __forceinline__ void clear_padding(const Backward<S, A>& f, const DirectionBackward<S, A>& d, int64_t row, int64_t j) {
  if (!has_row(f.rows, false)) return;
  S* d_gates = d.d_gates + row * f.ld_d_gates + j;
#pragma unroll
  for (int k = 0; k < Cell::split + Cell::gates; ++k) d_gates[k * f.shape.hidden] = convert<S>(A(0));
}

}  // namespace fusedrnn::cuda
