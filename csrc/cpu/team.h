// The threads of one call, divided as the plan says, with a barrier for those who share a step: torch's OpenMP pool, or,
// compiled without OpenMP, threads that live as long as the call. Compiled once, for the baseline instruction set.
#pragma once

#include <atomic>
#include <cstdint>

#include "../core/plan.h"

namespace fusedrnn::cpu {

// Spins a little, then yields, so that more threads than cores still make progress.
class alignas(64) Barrier {
 public:
  void reset(int participants) { participants_ = participants, arrived_ = 0, phase_ = 0; }
  void wait();

 private:
  int participants_ = 1;
  std::atomic<int> arrived_{0};
  alignas(64) std::atomic<int> phase_{0};
};

// Where the threads come from, in words.
extern const char* const kThreadsFrom;

// As many of these threads as have a processor to run on: more would but wait for one another at every step's barrier. LSTM,
// B=1 T=128 H=128, 8 threads asked for on 2 cores: 25 ms before this and the shorter spin, 6 with them.
int usable_threads(int threads);

// For tests: that many processors, whatever there are; 0 for the truth.
void pretend_processors(int count);

// What one thread does: some directions, some sequences, some of the hidden units.
struct Part {
  int thread, direction_part, direction_parts, batch_part, batch_parts, unit_part, unit_parts;
  Barrier* step;   // those who share directions and sequences
  Barrier* share;  // those who share directions
  bool helped, helps;  // whether another thread makes the products of the inputs, and whether this is that one
  int helped_thread;   // the thread whose steps these are: `thread`, or the one that is helped
};

// A thread's share of the rows of a product that two make, in sixteenths.
struct Share {
  int begin, end;
};
constexpr Share kWhole{0, 16};
FUSEDRNN_INLINE Share half(const Part& part) { return part.helps ? Share{8, 16} : Share{0, 8}; }

// The same where the helped thread walks over a piece's steps before. A multiply-add of these takes twice as long, of few
// rows, so as many values an input as two a state leave it no time.
FUSEDRNN_INLINE Share beside_steps(const Part& part, const Shape& s) {
  const int64_t more = s.inputs > 2 * s.projection ? s.inputs - 2 * s.projection : 0;
  const int helped = static_cast<int>(16 * more / (2 * s.inputs + 1));
  return part.helps ? Share{helped, 16} : Share{0, helped};
}

// First chunk of part.unit_part + i.
FUSEDRNN_INLINE int64_t chunk_cut(const PackedLayout& layout, const Part& part, int i) {
  return layout.chunks() * (part.unit_part + i) / part.unit_parts;
}

// The chunks that a thread packs: every `step`-th of its own, where others use the same copy, or all.
struct Packing {
  int64_t begin, end;
  int step;
  FUSEDRNN_INLINE Packing(const PackedLayout& layout, const Part& part, const CpuPlan& plan)
      : begin(chunk_cut(layout, part, 0) + (plan.own_weights ? 0 : part.batch_part)), end(chunk_cut(layout, part, 1)),
        step(plan.own_weights ? 1 : part.batch_parts) {}
};

// Where its copy of a direction's packed weights stands.
template <class T>
FUSEDRNN_INLINE T* own_copy(T* direction, const Workspace& ws, const Part& part, const CpuPlan& plan) {
  return direction + (plan.own_weights ? part.batch_part * ws.copy_stride : 0);
}

// Calls body(context, part) on plan.threads threads at once. Where fewer are granted, one thread does all of it: a barrier
// must never wait for a thread that does not exist. Returns whether all were granted.
bool run_team(const CpuPlan& plan, void (*body)(void*, const Part&), void* context);

// Calls body(context, thread, threads) on as many threads as are granted, at most that many, for work without a
// barrier.
void run_threads(int threads, void (*body)(void*, int thread, int threads), void* context);

}  // namespace fusedrnn::cpu
