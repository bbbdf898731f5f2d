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

// A part's sequences of a batch, in their order: side by side; or, where sequences end at different steps and parts share them
// all, two blocks, of long ones and of as many short ones: the longest and the shortest, the next to these, and so on. Two
// threads with AVX-512, T=128 B=32, lengths of 1 to T, in the time of parts side by side with as equal numbers of rows: LSTM
// H=256 inference 0.92 and training 0.95, GRU 0.91 and 0.95, H=512 0.90 and 0.93, RNN 0.90 and 0.99; H=16 to 128 0.99 to 1.02,
// AVX2 0.99 to 1.00. (Every other sequence: up to 1.17, for neighbours then write beside each other everywhere.)
class Sequences {
 public:
  // Of part `part`, where parts share steps [begin, end).
  Sequences(const Rows& rows, int64_t begin, int64_t end, int part, int parts);

  int64_t count() const { return count_; }
  // Which of the batch the r-th is.
  int64_t at(int64_t r) const { return r + (r < first_ ? begin_ : later_); }
  // Its place where each part's stand side by side, among those that share the steps.
  int64_t slot(int64_t r) const { return slot_ + r; }
  // How many of them run at a step where so many of the batch do: the first ones.
  int64_t running(int64_t active) const {
    const auto of = [active](int64_t begin, int64_t n) { return active < begin ? 0 : active < begin + n ? active - begin : n; };
    return of(begin_, first_) + (count_ > first_ ? of(later_ + first_, count_ - first_) : 0);
  }

 private:
  int64_t begin_, first_;  // the first block, and how many they are
  int64_t later_, count_;  // where the second block would begin, had it the first one's before it; of both
  int64_t slot_;
};

}  // namespace fusedrnn::cpu
