// The CPU plan: how one problem is divided over threads, and why. A pure function of the problem and
// the machine, so every decision can be tested and printed; the kernel runs the very plan it is given.
#pragma once

#include <cstdint>
#include <string>

#include "problem.h"

namespace fusedrnn {

// What a plan has to know of an instruction set.
struct VectorUnit {
  const char* name;
  int vector_bytes;
  int part_rows;        // a thread's share of the batch at which its products run as fast as with more
  bool bfloat16_pairs;  // adds products of two pairs of bfloat16 to a float32 at once
  int row_panels;       // whose sums of a single row registers hold
  int64_t first_cache;  // bytes of a core's first-level data cache; 0 where the system does not tell
};

// How a product uses its weights.
enum class Weights : int {
  packed,  // once for all steps
  sliced,  // packed a slice at a time, wherever they are used; the bits are those of `packed`
  dots,    // as they are, in the forward: an output is a dot product with a row of them
  sums,    // as they are, in the backward: the outputs are sums of their rows; the bits are those of `packed`
};

// How a product goes on that has but one row, in every step.
struct SingleRow {
  int panels_beside;  // of packed weights, whose rows stand side by side, row by row; 1: each panel is by itself
  int parts;          // of the depth, each a chain of multiply-adds by itself
};

struct CpuPlan {
  const char* strategy;  // "fused": the whole sequence; "single_step": T <= 1
  const char* isa;
  int vector_lanes;     // per register, of the arithmetic type
  int threads;          // = direction_parts · batch_parts · unit_parts · (1 + helpers)
  int direction_parts;  // directions side by side
  int batch_parts;      // no synchronisation between these
  int unit_parts;       // a barrier a step among these
  bool own_weights;     // a batch part packs weights for itself alone
  int helpers;          // 1: beside each a thread for x's product and d_x, a barrier every kAheadRows rows between the two
  bool inputs_at_once;   // x's product is made for all steps before the first, d_x after the last
  Weights input_weights, hidden_weights;  // of w_ih; of w_hh and w_hr; in the forward
  Weights backward_input_weights, backward_hidden_weights, backward_projection_weights;  // of w_ih, w_hh and w_hr
  SingleRow hidden_row, backward_hidden_row;  // of the products with w_hh
  bool far_saved;        // the forward writes what it saves past the caches
  bool bfloat16_pairs;  // tensors hold bfloat16, products are of pairs of them, and all else is float32
  int gradient_threads;  // that share the outputs of the weights' gradients
  bool packs_gradients;  // for these sums, a slice of rows at a time; else gates' gradients are read where they stand
  int64_t stretch_rows;  // whose gates' gradients are there at a time, where these have no place of their own: whole steps
  int64_t chunk;        // hidden units whose gates are computed together
  int64_t backward_chunk;  // and whose gradients are
  int64_t projection_chunk;
  int64_t input_chunk;  // columns of d_x
  int64_t workspace_bytes;  // of the forward, or of a stretch of the backward and its sums, whichever is more
  int64_t saved_bytes;      // kept from forward to backward besides y
};

// batch_invariant: no decision that shows in a row's bits may depend on how many others there are.
CpuPlan plan_cpu(const Shape& shape, int threads, const VectorUnit& unit, bool batch_invariant);

// Why the plan is what it is, for people; apart from it because a call may last but microseconds.
std::string explain(const Shape& shape, const CpuPlan& plan);

// Columns of a packed matrix: `width` outputs of each of `gates` gates, cut into chunks of `chunk` outputs.
struct PackedLayout {
  // A chunk's columns: its gates' outputs beside each other, `gate_stride` apart, and what makes them whole panels.
  struct Chunk {
    int64_t size;         // outputs of each gate
    int64_t gate_stride;  // of gates that begin with a vector; or `size`, where gates side by side fill fewer vectors
    int64_t columns;      // room for whole vectors of each gate
    int64_t vectors;      // that hold outputs
    bool half;            // the last of them no more than half filled
  };

  int64_t width, chunk, depth;  // depth: length of the inner product
  int gates, lanes, panel;      // panel = 2·lanes columns
  int terms;                    // of the inner product that one element holds
  SingleRow row;

  PackedLayout(int64_t width, int64_t chunk, int64_t depth, int gates, int lanes, int terms, SingleRow row);

  FUSEDRNN_INLINE int64_t chunks() const { return chunks_; }
  FUSEDRNN_INLINE int64_t size(int64_t c) const { return of(c).size; }
  FUSEDRNN_INLINE int64_t gate_stride(int64_t c) const { return of(c).gate_stride; }
  FUSEDRNN_INLINE int64_t columns(int64_t c) const { return of(c).columns; }
  FUSEDRNN_INLINE int64_t vectors(int64_t c) const { return of(c).vectors; }
  FUSEDRNN_INLINE bool half(int64_t c) const { return of(c).half; }
  FUSEDRNN_INLINE int64_t length() const { return length_; }  // of a column, in elements
  FUSEDRNN_INLINE int64_t elements(int64_t c) const { return columns(c) * length(); }
  FUSEDRNN_INLINE int64_t begin(int64_t c) const { return c * elements(0); }
  FUSEDRNN_INLINE int64_t total() const { return begin(chunks() - 1) + elements(chunks() - 1); }

 private:
  // Every chunk but the last has the same size. They are kept because asking for one costs divisions, as many as a narrow
  // row's step.
  FUSEDRNN_INLINE const Chunk& of(int64_t c) const { return c + 1 < chunks_ ? whole_ : last_; }
  Chunk of_size(int64_t size) const;
  int64_t chunks_, length_;
  Chunk whole_, last_;
};

// Whether rows have to be copied before a product, to where zeros follow them: pairs are read to the end of the last one.
FUSEDRNN_INLINE bool pads(const PackedLayout& layout, Weights use) {
  return layout.terms > 1 && use != Weights::dots && layout.depth % layout.terms != 0;
}
FUSEDRNN_INLINE int64_t padded_depth(const PackedLayout& layout) { return (layout.depth + 31) / 32 * 32; }

// The products. Forward: x·w_ihᵀ, h·w_hhᵀ and, projected, m·w_hrᵀ; backward: d_x = d_gx·w_ih, d_u·w_hh, d_h·w_hr.
PackedLayout input_layout(const Shape& shape, const CpuPlan& plan);
PackedLayout hidden_layout(const Shape& shape, const CpuPlan& plan);
PackedLayout projection_layout(const Shape& shape, const CpuPlan& plan);
PackedLayout input_backward_layout(const Shape& shape, const CpuPlan& plan);
PackedLayout hidden_backward_layout(const Shape& shape, const CpuPlan& plan);
PackedLayout projection_backward_layout(const Shape& shape, const CpuPlan& plan);

// Most units of a chunk: enough that its epilogue is a long loop, few enough that its pre-activations stay in the
// first-level cache between the product and the epilogue. A whole number of every vector. Of products without gates more, if it
// takes them to make kChunkVectors: one row's multiply-adds are in flight together then. One thread, B=1 T=128, in the time of
// 64: RNN H=128 and 256 inference 0.97, H=100 training 0.80 (with packed.inc's blocks); B=16 H=128 0.98, B=4 H=256 1.00.
constexpr int64_t kChunkUnits = 64, kChunkVectors = 8;
FUSEDRNN_INLINE constexpr int64_t chunk_limit(int gates, int64_t lanes) {
  return gates > 1 || kChunkVectors * lanes < kChunkUnits ? kChunkUnits : kChunkVectors * lanes;
}

// Rows that a product takes at once: enough to use a chunk of weights well while it is in a near cache, few enough
// that what comes out stays in one until the next loop over it. Half and twice as many: no difference beyond the noise
// of the machine it was tried on (10 %).
constexpr int64_t kPieceRows = 96;

// Rows of x, of several steps, whose product is made ahead where a step has but a few: w_ih is read once for all, where
// a step at a time would read as many weights again as for w_hh. Half and twice as many: likewise no difference.
constexpr int64_t kAheadRows = 48;

// Up to so many rows in all, and from so many bytes of w_ih, the product of all inputs is made at once: w_ih is then
// packed a slice at a time, which stays in a cache, instead of being written to memory, read again and driving w_hh out of
// the cache. GRU, B=1 H=1024: T=10 from 4.0 to 2.4 ms, T=100 from 18 to 15. In the time without, of 2.5 MB, one thread, LSTM H=400
// inference: B=1 T=24 0.91, T=64 0.95, T=200 1.00, B=16 T=10 0.92; two threads 0.88 to 1.05. Of 1 MB and less 0.98 and 1.01.
constexpr int64_t kRowsAtOnce = 256, kInputWeightsAtOnce = 2 << 20;

// The backward takes weights as they are for so many rows in all (half as many where a vector is less than a cache line), and
// w_hh for a single sequence, whose steps read it at the rate of packed weights; but for no more than so many steps where its rows
// fill no whole vectors, and so lie across cache lines. In the time of packed weights, a training step, AVX-512, one thread and
// two: LSTM H=256 B=2 T=2 0.80 and 0.85, B=4 T=10 0.88 and 0.93, B=16 T=2 0.87 and 0.86; GRU H=256 B=4 T=10 0.90 and 0.81, H=650
// 0.87 and 0.88; RNN H=64 0.98; of 60 to 160 rows 0.94 to 1.03. AVX2, one thread, GRU H=256 B=2 T=10 0.88, B=4 T=10 1.04, B=6
// 1.27. One row, T=128, AVX-512: LSTM H=64 0.99, H=256 0.94; GRU H=100 T=100 1.13.
constexpr int64_t kSummedRows = 40;

// Fewer where a matrix's rows are so many bytes, a page, and share a set of the first-level cache: RNN H=1024, one thread, w_ih
// AVX-512 B=2 T=2 0.87, B=4 T=10 1.05; AVX2 0.93 and 1.16. Of w_hh with AVX-512 0.78 and 1.03, and on two threads 0.55 and 0.86.
constexpr int64_t kFewestSummedRows = 8, kFarRow = 4096;

// Bytes of the weights that a thread multiplies with, from which they come from afar in every step. The forward then packs them
// past the caches, which fetches nothing that is overwritten, and no more than kSummedRows steps of the backward take them as
// they are. In the time without that, B=1: forward T=10, GRU H=1024 0.77, LSTM H=512 0.83; backward T=100, one thread and two,
// GRU H=1024 0.92 and 0.78, LSTM H=512 0.96 and 0.88. A quarter as many are in a cache when the next call comes: LSTM H=256,
// T=10 inference 1.2 to 1.5 of the time.
constexpr int64_t kFarWeights = 2 << 20;

// Bytes of a direction's weights, and of all copies, up to which every thread that has rows of its own packs all of them: what another
// has packed lies in that one's cache, and comes from there line by line. In the time of one copy that two threads share, T=10 B=16,
// inference and training: RNN H=128 0.80 and 0.90, H=256 0.92 and 0.96, GRU H=128 0.93 and 0.88, H=200 0.91 and 0.99, LSTM H=128 0.94
// and 0.86; T=30 LSTM B=16 H=64 training 0.95, B=32 H=128 0.95; T=128 1.00 to 1.02. Of 1.5 MB 0.97 and 0.94, of 2 MB 1.06 and 1.11.
constexpr int64_t kOwnWeights = 1 << 20, kMostOwnWeights = 4 << 20;

// A single row's chains of multiply-adds are cut into so many parts, half as many where they are short, if there are but few vectors
// of outputs or each chain is so many times as long: as many chains at once as keep the multiply-adds busy, and parts that every
// other step takes from the last to the first (one_row.inc). In the time of whole chains, B=1 T=128, one thread: RNN H=16 to 64
// inference 0.85 to 0.91; training steps LSTM H=16 to 64 0.91 to 0.96, H=128 0.99, H=256 0.91, H=320 0.89, GRU H=16 to 64 0.92 to
// 0.95, RNN H=128 0.97. A gated forward's, of many vectors: LSTM H=64 1.14, GRU H=128 1.10; RNN H=100 1.13.
constexpr int64_t kFewVectors = 4, kLongDepth = 16;
constexpr int kMostParts = 8;

// Whole chains read all of w_hh as one stream where a thread has from so many bytes of it to so many, and where one group of panels
// holds all of its outputs and most of a first-level cache holds them. In the time of panels one behind the other, B=1 T=128
// inference, one thread: LSTM H=176 0.96, H=200 0.93, H=224 0.91, H=256 0.95, GRU H=256 0.96; AVX2 H=200 0.95, H=256 0.97, GRU
// H=256 0.96; LSTM H=32 and 50 0.98 and 0.95, GRU 0.93 and 0.91. What a first cache holds much of takes 1.0 to 1.25, more than
// fits in a second one 0.97 to 1.03.
constexpr int64_t kBesideWeights = 448 << 10, kMostBesideWeights = 5 << 18;

// Bytes of w_hh from which chains stay whole, and of a thread's from which the backward reads it in the same direction in every
// step: with parts in turn, T=40 LSTM H=1024 training took 1.05 times as long.
constexpr int64_t kTurnedWeights = 8 << 20;

// Bytes of a row of weights from which one row alone is multiplied with each of theirs from end to end, as processors look
// ahead in memory, instead of in blocks of columns. T=10 B=1, one thread, the backward in the time of packed weights, in
// blocks and so: GRU H=1024 1.14 and 0.77, LSTM H=512 0.94 and 0.86; but H=256 0.65 and 0.88.
constexpr int64_t kLongRow = 2048;

// Elements in whole vectors of any instruction set, which of numbers of 4 bytes or more are whole cache lines.
FUSEDRNN_INLINE int64_t whole_lines(int64_t elements) { return (elements + 15) / 16 * 16; }

// Offsets, in elements, of the pieces of the workspace. Each is a whole number of cache lines.
struct Workspace {
  int64_t inputs, weights, projection;  // packed, per direction and copy
  int64_t input_bias, hidden_bias;      // in the columns of the gates' products, likewise
  int64_t copy_stride;          // between two copies of these: one for each batch part, or for all
  int64_t zeros;                // one row of zeros, as wide as any
  int64_t state;                // forward: m, or h, and c of a step, backward: carried d_h and d_c; per direction
  int64_t state_stride;         // between the two
  int64_t scratch;              // per thread: `pointers` to rows, the product of a piece, and of the inputs one or two more
  int64_t pointers, product, ahead;  // in there: how many pointers, and where the two products stand
  int64_t inputs_room, hidden_room, projection_room;  // and what each product needs: rows that it pads, or one of sums and one of weights
  int64_t direction_stride, scratch_stride;
  int64_t total;
};
// Rows whose share of the weights' gradients is summed at once, and outputs: the packed slice of these gradients stays
// in the second-level cache, which is larger where vectors are. All of the other side is packed once for so many outputs,
// so they are a little more than a power of two, for the last of a thread's not to be left over (512 outputs are 43 blocks
// of 12). Up to 528 with AVX-512, and in groups alike: one thread, GRU B=64 T=128 H=128 and B=32 T=128 H=256, these sums in
// 0.93 of the time.
constexpr int64_t kGradientRows = 256, kGradientOutputs = 264, kGradientVectors = 33;

// Bytes of a row of gates' gradients up to which AVX-512's blocks read them where they stand: a slice is then in a second-level
// cache. In the time of packing them first, training, B=32 T=128, one thread and two: LSTM H=16 0.95 and 0.99, H=50 0.97 and 0.95,
// H=64 0.96 and 0.95, H=100 0.97 and 0.98, GRU H=64 0.97 and 0.97, H=100 0.98 and 0.95, RNN H=64 1.0 and 0.99; LSTM B=16 H=128
// 0.99 and 0.98. Of twice as wide rows, a page from each other, 1.0 and 1.06 to 1.13, B=4 T=16 1.08; AVX2, whose blocks are half as
// high and wide, 1.00 to 1.02.
constexpr int64_t kNearGradientRow = 2048;

// Rows of all the panels that are multiplied with a block at a time, if there are fewer than a slice has: a row of the sums is
// then written in long pieces, where it lies a page and more from the next. One thread, B=1 GRU H=1024, T=10 0.56 and T=100
// 0.88 of the time; with 256 rows 0.60 and 0.91.
constexpr int64_t kGradientPanelRows = 512;

// Pieces of the workspace of the weights' gradients: a row of zeros, and for each thread, in elements from its own begin, a
// packed panel of the other side, packed gradients if they are, their sums and pointers to rows.
struct GradientWorkspace {
  bool packs;
  int64_t zeros, packed_d, bias_sums, pointers, stride;
  int64_t outputs;  // that a thread has at once, in whole blocks
  int64_t panel_rows;  // of all the panels that it packs at once
  int64_t total;
};

// Bytes of a matrix of sums from which it is written past the caches, where it is written but once: nothing is fetched to be
// overwritten. B=1 T=10, LSTM H=512 0.58 and GRU H=1024 0.7 of the time of the sums; a step of SGD with them, which reads them
// from memory then, 0.86 and 0.75. Less is still in a cache when an optimizer comes: LSTM H=256 1.0 to 1.15.
constexpr int64_t kFarSums = 2 << 20;

// Bytes of saved values from which the forward writes them past the caches, where a vector is a whole cache line: they are read
// again when all of them are there, and what is overwritten need not be fetched. T=128, forward and whole step, in the time
// without that, on one thread as on two: LSTM B=64 H=128 0.94 and 0.98, GRU 0.90 and 0.97, LSTM B=32 H=256 0.97 and 0.99, GRU
// B=16 H=128 (4 MB) 0.90 and 0.96; of 2 MB 0.96 and 1.00, of 0.3 MB 1.00 and 1.03, for the backward finds less in a cache.
constexpr int64_t kFarSaved = 4 << 20;

// Where gates' gradients have no place of their own, the backward stops after so many bytes of them, or rows, for these to be
// summed into the weights' gradients while a cache has them, and for the next ones to take their place. In the time of all
// steps before all sums, backward and sums: RNN B=64 T=128 H=128, one thread 0.95; two, where each reads what the other wrote,
// 1.00 (384 rows 1.01, 1536 1.01).
constexpr int64_t kStretchBytes = 3 << 20, kFewestStretchRows = kRowsAtOnce, kMostStretchRows = 768;

GradientWorkspace gradient_workspace(const Shape& shape, const CpuPlan& plan);

// Whether all rows are one slice, so that no sum waits for another.
inline bool sums_at_once(const Shape& shape, const CpuPlan& plan) {
  return shape.rows <= kGradientRows && shape.rows <= plan.stretch_rows;
}

Workspace forward_workspace(const Shape& shape, const CpuPlan& plan);
Workspace backward_workspace(const Shape& shape, const CpuPlan& plan);

// Elements of a direction's row of gates' gradients.
inline int64_t gradient_width(const Shape& s) { return (cell_info(s.cell).split + cell_info(s.cell).gates) * s.hidden; }

}  // namespace fusedrnn
