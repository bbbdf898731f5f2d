// Every cell there is. Kernels, the schema, the planner and the tests iterate this one list:
// a new cell is one header and one line here.
//
// The contract of a cell, per hidden unit (arrays are indexed by gate, state or saved value):
//   activate(x[gates], u[gates]) -> a[max(gates, saved)]
//   update(a, prev[states]) -> next[states]; a's first `saved` values are now what the backward wants
//   backward(saved, prev, next, d_next[states]) -> dx[split], du[gates], d_prev[states]
// x and u are the input- and hidden-side pre-activations, biases included. State 0 is h, the one that
// is multiplied by w_hh (after the projection, if there is one). d_prev[0] is only what reaches h_prev
// without passing w_hh. The forward is in two parts because a loop over units that does both at once waits for one before
// it has begun enough of the other. dx holds the last `split` gates' input-side gradients; for the others dx = du.
#pragma once

#include <cstdint>

#include "gru.h"
#include "lstm.h"
#include "rnn.h"

namespace fusedrnn {

enum class CellKind : int { rnn_tanh, rnn_relu, lstm, gru };

template <class F>
bool for_each_cell(F&& f) {  // f(kind, cell) until one returns true
  return f(CellKind::rnn_tanh, Rnn<false>{}) || f(CellKind::rnn_relu, Rnn<true>{}) ||
         f(CellKind::lstm, Lstm{}) || f(CellKind::gru, Gru{});
}

struct CellInfo {
  const char* name;
  int gates, states, saved, split;
  FUSEDRNN_INLINE int slots() const { return gates > saved ? gates : saved; }  // gx and saved share one buffer
};

CellInfo cell_info(CellKind kind);

}  // namespace fusedrnn
