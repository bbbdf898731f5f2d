// The sequential problem that every kernel solves: one layer, all its directions, given x or the
// time-parallel input product gx.   (x | gx, w_hh, b, h_0, c_0) -> y, h_n, c_n, saved; and back.
//
// Plain structs of sizes and pointers: nothing here owns memory, allocates or checks. The caller
// (csrc/ops) has validated every size and keeps every buffer alive.
#pragma once

#include <cstdint>

#include "cells/list.h"

namespace fusedrnn {

constexpr int kMaxDirections = 2;

// What tensors hold. The arithmetic is float64 for the first and float32 for the others.
enum class Dtype : int { float64, float32, float16, bfloat16 };

constexpr int bytes_of(Dtype dtype) { return dtype == Dtype::float64 ? 8 : dtype == Dtype::float32 ? 4 : 2; }

struct Shape {
  CellKind cell;
  int64_t steps;       // T
  int64_t batch;       // B
  int64_t rows;        // N = sum of the sequences' lengths; T·B when none is short
  int64_t inputs;      // I
  int64_t hidden;      // H
  int64_t projection;  // P: width of h; P = H without a projection
  bool projected;
  int directions;     // D
  int element_bytes;  // of the arithmetic type: 4 or 8
  Dtype weights;      // what w_ih, w_hh and w_hr hold
};

// Which row of an (N, ·) matrix holds step t of sequence b, and whether there is such a step. Either the
// rows of ended sequences are left out, and sequences are sorted by falling length, as in a PackedSequence:
// those that run at step t are 0..active(t)-1 and lie side by side. Or every step has B rows (no offset), and
// `length` tells those that are padding.
//
// On the CPU, x, y, c and their gradients may have rows elsewhere, in an order of the caller's and with others between:
// `place` says where.
struct Rows {
  int64_t steps, batch;
  const int64_t* offset;   // (T) first row of step t;         nullptr: t·B
  const int64_t* active_;  // (T) sequences running at step t; nullptr: B, or as `length` says
  const int64_t* length;   // (B) steps of each sequence;      nullptr: as `active_` says
  const bool* reset;       // (N) true: a boundary just before this row's step; nullptr: none
  const int64_t* place;    // (N) where x, y, c and their gradients have the row; nullptr: at the row itself

  FUSEDRNN_INLINE int64_t active(int64_t t) const { return active_ ? active_[t] : batch; }
  FUSEDRNN_INLINE bool alive(int64_t t, int64_t b) const { return length ? t < length[b] : b < active(t); }
  FUSEDRNN_INLINE int64_t row(int64_t t, int64_t b) const { return (offset ? offset[t] : t * batch) + b; }
  FUSEDRNN_INLINE int64_t placed(int64_t row) const { return place ? place[row] : row; }
};

// Where the state before a step comes from.
enum class Source : int { previous, first, boundary };

struct Previous {
  Source source;
  int64_t row;  // of the previous step, when source == previous
};

// The step that precedes (t, b) in processing order. A boundary before step t cuts the sequence into
// [.. t-1] and [t ..] for either direction: so backwards in time it lies on the way from t to t-1.
FUSEDRNN_INLINE Previous previous_of(const Rows& rows, bool reverse, int64_t t, int64_t b) {
  if (!reverse) {
    if (rows.reset && rows.reset[rows.row(t, b)]) return {Source::boundary, -1};
    if (t == 0) return {Source::first, -1};
    return {Source::previous, rows.row(t - 1, b)};
  }
  if (t + 1 >= rows.steps || !rows.alive(t + 1, b)) return {Source::first, -1};
  const int64_t row = rows.row(t + 1, b);
  if (rows.reset && rows.reset[row]) return {Source::boundary, -1};
  return {Source::previous, row};
}

// Matrices are row-major; ld is the distance between rows in elements; a direction's pointers already
// stand at its own columns. Pointers that may be null say so. T is what tensors hold, A the type of the
// arithmetic and of whatever must keep its precision; on the CPU they are one, and `weights` alone may be narrower.
template <class T, class A = T>
struct DirectionForward {
  bool reverse;
  const void* w_hh;  // (G·H, P)
  const void* w_hr;  // (P, H), null without projection
  const void* w_ih;  // (G·H, I), read if x is
  const T* b_ih;    // (G·H), null without bias
  const T* b_hh;    // (G·H), null without bias
  const T* h_0;     // (B, P), null: zeros
  const T* c_0;     // (B, H), null: zeros
  T* gates;         // (N, G·H) gx on entry, unless x is given; (N, slots·H [+ H]) saved on exit, when saving
  T* y;             // (N, P)
  A* c;             // (N, H) all cell states, null: not kept
  T* h_n;           // (B, P)
  T* c_n;           // (B, H), null for cells without c
};

template <class T, class A = T>
struct Forward {
  Shape shape;
  Rows rows;
  bool save;  // keep what the backward needs
  bool reset_to_hx;
  int64_t ld_gates, ld_y, ld_c;
  const T* x;  // (N, I), or null: its product stands in gates
  DirectionForward<T, A> direction[kMaxDirections];
};

template <class T, class A = T>
struct DirectionBackward {
  bool reverse;
  const void* w_ih;  // read if d_x is wanted
  const void* w_hh;
  const void* w_hr;
  const T* h_0;
  const T* c_0;
  const T* saved;  // (N, slots·H [+ H])
  const T* y;      // (N, P)
  const A* c;      // (N, H), null for cells without c
  const T* d_y;    // (N, P), null: zeros
  const A* d_c;    // (N, H), null: zeros
  const T* d_h_n;  // (B, P), null: zeros
  const T* d_c_n;  // (B, H), null: zeros
  T* d_gates;      // (N, (split + G)·H): d_x of the last `split` gates, then d_u of all
  T* d_h;          // (N, P) whole gradient of each h_t, for d_w_hr; null without projection
  T* d_x;          // (N, I), this direction's share; null: not wanted, or the caller's
  A* d_h_0;        // (B, P) written; on the CPU null where it is not wanted
  A* d_c_0;        // (B, H) written, null for cells without c and on the CPU where it is not wanted
};

template <class T, class A = T>
struct Backward {
  Shape shape;
  Rows rows;
  bool reset_to_hx;
  int64_t ld_saved, ld_y, ld_c, ld_d_y, ld_d_c, ld_d_gates, ld_d_h;
  DirectionBackward<T, A> direction[kMaxDirections];
};

}  // namespace fusedrnn
