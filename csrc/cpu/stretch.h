// How the rows of a batch are cut: in time, for the backward, and among threads.
#pragma once

#include <cstdint>

#include "../core/problem.h"

namespace fusedrnn::cpu {

// Steps of one direction that the backward takes in one go: their gates' gradients are then summed into the weights', and may
// make room for the next ones.
struct Stretch {
  int64_t begin, end;       // steps, in time
  int64_t first_row, rows;  // of all sequences
  bool first, last;         // of the backward, which begins where the forward ended
  int64_t first_saved = 0, first_d_gates = 0;  // the rows that stand first in there; in d_h it is first_row
};

// As many steps as have at most so many rows, but one at least. Of no steps at all there is one stretch, without rows, which
// is the first and the last.
Stretch first_stretch(const Rows& rows, bool reverse, int64_t most_rows);
// Behind the last one comes one without rows that is not the first.
Stretch next_stretch(const Rows& rows, bool reverse, int64_t most_rows, const Stretch& before);

// First sequence of part `part`, where parts of the batch share steps [begin, end): equal numbers of rows, not of sequences.
int64_t batch_cut(const Rows& rows, int64_t begin, int64_t end, int part, int parts);

}  // namespace fusedrnn::cpu
