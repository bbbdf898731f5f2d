#include "plan.h"

#include <algorithm>
#include <sstream>

namespace fusedrnn {
namespace {

constexpr int64_t kWidestVector = 64;  // bytes, and those of a cache line

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Equal chunks of at most `limit` outputs, as many as a multiple of the parts that share them.
int64_t chunk_of(int64_t width, int64_t parts, int64_t limit, int64_t lanes) {
  const int64_t chunks = parts * ceil_div(width, parts * limit);
  return ceil_div(ceil_div(width, chunks), lanes) * lanes;
}

// Below this many multiply-adds a step and a thread, the hand-over between threads costs more than the work it takes off:
// 0.13 µs at best, and the whole step whenever one of the threads loses its core. B=1 T=128 training, medians of one and of
// two threads: LSTM H=64 0.83 and 1.05 ms, RNN H=128 0.81 and 0.96, LSTM H=80 1.37 and 1.06, H=100 1.95 and 1.75.
constexpr int64_t kWorkPerThread = 3 << 12;

// The least share of the batch that uses each weight for as long as the next takes to come (4 rows: 0.9 of the rate of many).
constexpr int64_t kFewRowsPerPart = 4;

// Steps of less work are shared by rows even if a thread's share is fewer than usual: they are over before a hand-over pays. With
// AVX-512 6 rows are but half of a block, with AVX2 a whole one. In the time of shared units, two threads, T=50: RNN H=64 inference,
// 12 to 15 rows, 0.75 to 0.80; AVX2, 12 to 23 rows, 0.74 to 0.83, training 0.89 to 0.92, GRU 0.77 to 0.97, LSTM H=50 0.86 to 1.13.
// With AVX-512 and more work GRU H=64 training 0.85, inference of 10 steps 1.2, LSTM 0.9 and 1.3.
constexpr int64_t kNarrowStep = 1 << 16, kNarrowStepOfShortVectors = 1 << 18, kNarrowPartRows = 6;

// Below this many multiply-adds of the inputs' product, about 10 µs, no thread is woken to make it. Steps that can be
// shared are better off so: LSTM, B=1 T=128, in the time of a helped thread, H=80 0.77 and H=128 0.74.
constexpr int64_t kHelpedWork = 1 << 19;

// The same where threads are but woken (1 to 2 µs), for a single step, or for a whole sequence of rows or of a direction of
// their own. Steps of less than kWorkPerThread, two threads in the time of one: RNN B=32 T=128 H=16 inference 0.59 and
// training 0.79, LSTM B=8 T=100 H=16 0.70 and 0.91, GRU B=8 T=20 H=32 1.0, both directions of LSTM B=1 T=128 H=16 0.65.
constexpr int64_t kSingleWorkPerThread = 1 << 16;

// Weights of a direction, in bytes, from which the threads of a single step share its units rather than its rows: LSTM,
// T=1 B=32, H=1024 3.5 -> 3.1 ms, H=512 0.91 -> 0.84.
constexpr int64_t kLargeWeights = 4 << 20;

// Up to so many rows in all, of a depth's sixth at most, and steps, the forward's products are dot products with weights as they
// are: what packing would take is more than the sums over lanes that they have to pay for. In the time of packed weights, B=1,
// one thread and two: LSTM H=64 T=2 0.77 and 0.76, T=10 0.97; H=256 T=2 0.37 and 0.21, T=10 0.81 and 0.46; H=512 T=10 0.70;
// RNN H=1024 T=10 0.70 and 0.68; B=4 T=10 H=512 0.90 and 0.77, AVX2 B=8 T=4 H=256 0.86. About this many rows break even:
// LSTM H=64 B=4 T=4 1.03, H=128 B=4 T=10 1.04, H=650 1.09, H=512 B=42 T=1 0.99, B=64 1.04, and of more steps B=2 T=16 1.00 to
// 1.3. They have other bits than packed weights.
constexpr int64_t kDotRowsOfDepth = 6, kMostDotRows = 40, kMostDotSteps = 12;

// More steps of a single row, of less than so many bytes of w_hh. In the time of packed weights, T=16 inference, one thread and two:
// LSTM H=128 0.86 and 0.80, H=256 0.87 and 0.81, H=512 0.79 and 0.68, GRU H=256 0.86 and 0.50, RNN H=1024 0.75 and 0.68; AVX2 0.80
// to 0.90, bfloat16 0.78 to 0.99, float64 0.66 to 0.90; T=20 0.88 to 0.90 and bfloat16 0.73 to 1.03; T=24 0.92 to 1.04 and 1.17; GRU
// H=1024 1.08 and 0.96.
constexpr int64_t kMostDotStepsOfOne = 20, kNearDotWeights = 8 << 20;

// Where bits may not depend on the number of rows, one step's products are dot products from this depth on. An LSTMCell's call,
// one thread, in the time of packing a slice at a time: H=64 B=1 0.68, B=8 0.87, B=32 1.24, B=256 1.47; H=128 0.47, B=32 1.07,
// 1.22; H=200 0.42, 1.01, 1.15; AVX2 H=64 0.63, 1.00, 1.13, H=128 0.44, 0.94, 1.04.
constexpr int64_t kDotDepth = 64;

// Rows that a step has on average, the weights of its hidden-side product, and its multiply-adds.
int64_t step_rows(const Shape& s) { return s.steps > 0 ? std::max<int64_t>(1, s.rows / s.steps) : 1; }
int64_t step_weights(const Shape& s) { return cell_info(s.cell).gates * s.hidden * s.projection; }
int64_t all_weights(const Shape& s) {  // in bytes, of a direction
  const int64_t projection = s.projected ? s.projection * s.hidden : 0;
  return (cell_info(s.cell).gates * s.hidden * (s.inputs + s.projection) + projection) * bytes_of(s.weights);
}
int64_t step_work(const Shape& s) { return step_rows(s) * step_weights(s); }

// A single step reads every weight once a thread that works on it.
bool shares_weights(const Shape& s) {
  return s.steps <= 1 && all_weights(s) >= kLargeWeights;
}

// How each product uses its weights, the rest being known: packed for all steps, or a slice at a time, or as they are.
void choose_weights(const Shape& s, const VectorUnit& unit, bool batch_invariant, CpuPlan& p) {
  const Weights copied = s.steps > 1 ? Weights::packed : Weights::sliced;
  const Weights copied_inputs = p.inputs_at_once ? Weights::sliced : copied;
  const auto dots_or = [&](Weights otherwise, int64_t depth) {
    const int64_t most = s.batch == 1 && step_weights(s) * bytes_of(s.weights) < kNearDotWeights ? kMostDotStepsOfOne : kMostDotSteps;
    const bool few = s.steps <= most && s.rows <= std::min(depth / kDotRowsOfDepth, kMostDotRows);
    const bool dots = batch_invariant ? s.steps <= 1 && depth >= kDotDepth : few;
    return dots ? Weights::dots : otherwise;
  };
  p.input_weights = dots_or(copied_inputs, s.inputs);
  p.hidden_weights = dots_or(copied, s.projection);

  const bool whole_lines = unit.vector_bytes == kWidestVector, whole_vectors = s.projection % p.vector_lanes == 0;
  const int64_t own_bytes = step_weights(s) * bytes_of(s.weights) / p.unit_parts;  // of w_hh, of a thread
  const auto few = [&](int64_t width, bool any_width) {
    const bool far_apart = !any_width && width * bytes_of(s.weights) >= kFarRow;
    return s.rows <= (far_apart ? kFewestSummedRows : whole_lines ? kSummedRows : kSummedRows / 2);
  };
  const bool one = s.batch == 1 && (s.steps <= kSummedRows || (whole_vectors && own_bytes < kFarWeights));
  const auto sums_or = [&](Weights otherwise, bool wanted, int64_t width) {
    const bool sums = wanted && width >= p.vector_lanes && !p.bfloat16_pairs;  // a vector ends in the row behind, not beyond it
    return sums ? Weights::sums : otherwise;
  };
  p.backward_input_weights = sums_or(copied_inputs, few(s.inputs, false), s.inputs);
  p.backward_hidden_weights = sums_or(copied, one || few(s.projection, whole_lines), s.projection);
  p.backward_projection_weights = copied;
}

// How a single row is multiplied with w_hh, whose use is known.
void choose_row(const Shape& s, const VectorUnit& unit, bool batch_invariant, CpuPlan& p) {
  p.hidden_row = p.backward_hidden_row = {1, 1};
  if (s.batch > 1) return;
  const int64_t outputs = cell_info(s.cell).gates * s.hidden, bytes = step_weights(s) * bytes_of(s.weights);
  const auto vectors = [&](int64_t width) { return ceil_div(width, p.vector_lanes); };
  const auto parts = [&](int64_t width, int64_t depth) {
    const int64_t length = ceil_div(depth, p.bfloat16_pairs ? 2 : 1);
    const bool wanted = vectors(width) <= kFewVectors || length >= kLongDepth * vectors(width);
    if (batch_invariant || !wanted || length < kLongDepth || bytes >= kTurnedWeights) return 1;
    return length < 4 * kLongDepth ? kMostParts / 2 : kMostParts;
  };

  p.hidden_row.parts = parts(outputs, s.projection);
  const int64_t packed_bytes = vectors(outputs) * p.vector_lanes * s.projection * bytes_of(s.weights);
  const bool near = vectors(outputs) <= 2 * unit.row_panels && packed_bytes <= unit.first_cache / 8 * 7;
  const bool middling = bytes / p.unit_parts >= kBesideWeights && bytes / p.unit_parts < kMostBesideWeights;
  if (p.hidden_row.parts > 1 || near || middling) p.hidden_row.panels_beside = unit.row_panels;

  // Rows of weights as they are, that vectors do not end with or that are read from end to end, have whole chains.
  const bool long_rows = s.steps <= kSummedRows && s.projection * bytes_of(s.weights) >= kLongRow;
  const bool whole = long_rows || s.projection % p.vector_lanes != 0;
  if (p.backward_hidden_weights == Weights::sums && whole) return;
  p.backward_hidden_row.parts = parts(s.projection, outputs);
  if (p.backward_hidden_row.parts > 1) p.backward_hidden_row.panels_beside = unit.row_panels;
}

}  // namespace

CpuPlan plan_cpu(const Shape& s, int threads, const VectorUnit& unit, bool batch_invariant) {
  const CellInfo cell = cell_info(s.cell);
  CpuPlan p{};
  p.isa = unit.name;
  p.vector_lanes = unit.vector_bytes / s.element_bytes;
  p.bfloat16_pairs = unit.bfloat16_pairs && s.weights == Dtype::bfloat16;
  p.direction_parts = p.batch_parts = p.unit_parts = 1;

  const auto at_most = [](int64_t value, int64_t limit) {
    return static_cast<int>(std::clamp<int64_t>(value, 1, std::max<int64_t>(1, limit)));
  };
  p.strategy = s.steps > 1 ? "fused" : "single_step";
  const auto threads_for = [&](int64_t work, int64_t least) { return at_most(s.directions * work / least, threads); };
  int free = threads_for(step_work(s), s.steps > 1 ? kWorkPerThread : kSingleWorkPerThread);
  int apart = std::max(free, threads_for(s.steps * step_work(s), kSingleWorkPerThread));  // that hand nothing over
  if (s.directions == 2 && apart >= 2) {
    p.direction_parts = 2;
    free = std::max(1, free / 2);
    apart /= 2;
  }
  const auto unit_parts = [&](int batch_parts) {
    return at_most(std::min(s.hidden, s.projection) / (2 * p.vector_lanes), free / batch_parts);
  };
  const int64_t limit = chunk_limit(cell.gates, p.vector_lanes), limit_of_one = chunk_limit(1, p.vector_lanes);
  const auto share = [&](int batch_parts) {  // rows times units of the thread that has most
    const int64_t parts = unit_parts(batch_parts), chunk = chunk_of(s.hidden, parts, limit, p.vector_lanes);
    return ceil_div(step_rows(s), batch_parts) * ceil_div(ceil_div(s.hidden, chunk), parts) * chunk;
  };
  const bool narrow = step_work(s) < (unit.vector_bytes < kWidestVector ? kNarrowStepOfShortVectors : kNarrowStep);
  const int64_t part_rows = narrow ? std::min<int64_t>(unit.part_rows, kNarrowPartRows) : unit.part_rows;
  p.batch_parts = at_most(step_rows(s) / part_rows, apart);  // rows first: they need no hand-over
  const int more = at_most(step_rows(s) / kFewRowsPerPart, apart);
  if (20 * share(more) < 19 * share(p.batch_parts)) p.batch_parts = more;  // the units cannot be shared evenly
  if (shares_weights(s) && unit_parts(1) == free) p.batch_parts = 1;
  p.unit_parts = unit_parts(p.batch_parts);
  p.own_weights = s.steps > 1 && p.batch_parts > 1 && all_weights(s) <= std::min(kOwnWeights, kMostOwnWeights / p.batch_parts);
  p.inputs_at_once = s.steps > 1 && p.batch_parts == 1 && s.rows <= kRowsAtOnce &&
                     cell.gates * s.hidden * s.inputs * bytes_of(s.weights) >= kInputWeightsAtOnce;
  // Steps too small to share leave the time-parallel half of the work to be shared.
  p.helpers = s.steps > 1 && p.batch_parts * p.unit_parts == 1 && 2 * p.direction_parts <= threads && !p.inputs_at_once &&
              s.batch <= kAheadRows / 2 && s.rows * cell.gates * s.hidden * s.inputs >= kHelpedWork;
  p.threads = p.direction_parts * p.batch_parts * p.unit_parts * (1 + p.helpers);
  const int64_t sums = s.rows * cell.gates * s.hidden * (s.inputs + s.projection);
  // One step's sums are but written, at a rate that a second thread adds little to: RNNCell H=256 takes 52 µs by one and by two.
  p.gradient_threads = at_most(sums / (s.steps > 1 ? 1 : 2) / kSingleWorkPerThread, threads);
  const int64_t row_bytes = gradient_width(s) * s.element_bytes;
  p.packs_gradients = p.bfloat16_pairs || unit.vector_bytes < kWidestVector || row_bytes > kNearGradientRow;
  const int64_t stretch = std::clamp(kStretchBytes / std::max<int64_t>(1, s.directions * row_bytes), kFewestStretchRows, kMostStretchRows);
  p.stretch_rows = std::max(s.batch, std::min(s.rows, stretch));
  p.chunk = chunk_of(s.hidden, p.unit_parts, limit, p.vector_lanes);
  p.backward_chunk = chunk_of(s.hidden, p.unit_parts, limit_of_one, p.vector_lanes);
  // Without a projection h is the hidden units: one owner for both sides of a step.
  p.input_chunk = chunk_of(std::max<int64_t>(1, s.inputs), p.unit_parts, limit_of_one, p.vector_lanes);
  p.projection_chunk = s.projected ? chunk_of(s.projection, p.unit_parts, limit_of_one, p.vector_lanes) : p.backward_chunk;
  choose_weights(s, unit, batch_invariant, p);
  choose_row(s, unit, batch_invariant, p);
  const int64_t stored = p.bfloat16_pairs ? bytes_of(s.weights) : s.element_bytes;
  const int64_t stretch_width = s.directions * (gradient_width(s) + (s.projected ? s.projection : 0));
  p.workspace_bytes = std::max(s.element_bytes * forward_workspace(s, p).total,
                               s.element_bytes * (backward_workspace(s, p).total + gradient_workspace(s, p).total) +
                                   stored * p.stretch_rows * stretch_width);
  const bool whole_lines_saved = unit.vector_bytes == kWidestVector && !p.bfloat16_pairs && s.hidden % p.vector_lanes == 0;
  p.far_saved = whole_lines_saved && s.rows * s.directions * cell.saved * s.hidden * s.element_bytes >= kFarSaved;
  const int64_t saved = ((cell.saved ? cell.slots() : 0) + s.projected) * s.hidden, cells = (cell.states - 1) * s.hidden;
  p.saved_bytes = s.rows * s.directions * (saved * stored + cells * s.element_bytes);
  return p;
}

std::string explain(const Shape& s, const CpuPlan& p) {
  std::ostringstream why;
  if (s.steps <= 1) why << "T = " << s.steps << ": weights are used once; ";
  if (p.direction_parts > 1) why << "both directions side by side; ";
  why << step_work(s) << " multiply-adds a step over " << step_rows(s) << " rows: " << p.batch_parts
      << " batch part(s), " << p.unit_parts << " part(s) of the hidden units";
  if (p.helpers) why << ", and beside each a thread for the products of its inputs";
  if (p.own_weights) why << "; each batch part packs the weights for itself";
  if (shares_weights(s) && p.batch_parts == 1 && p.unit_parts > 1) why << "; large weights: units are shared before rows";
  if (p.backward_hidden_weights == Weights::sums) why << "; so few rows, or one sequence, that the backward takes w_hh as it is";
  if (p.hidden_row.panels_beside > 1 && p.hidden_weights == Weights::packed) why << "; one row, which reads w_hh as one stream";
  if (p.inputs_at_once && p.input_weights == Weights::sliced)
    why << "; few rows for so large a w_ih, which is packed a slice at a time";
  if (p.input_weights == Weights::dots) why << "; so few rows that the forward takes w_ih as it is, for dot products";
  if (p.hidden_weights == Weights::dots) why << "; so few rows that the forward takes w_hh as it is, for dot products";
  if (p.far_saved) why << "; what a backward needs is written past the caches";
  if (p.bfloat16_pairs) why << "; products of bfloat16, summed in float32";
  if (s.rows < s.steps * s.batch && p.batch_parts > 1) why << "; sequences end at different steps, so each part has long and short ones";
  return why.str();
}

namespace {

PackedLayout layout(const CpuPlan& p, int64_t width, int64_t chunk, int64_t depth, int gates = 1, SingleRow row = {1, 1}) {
  return {width, chunk, depth, gates, p.vector_lanes, p.bfloat16_pairs ? 2 : 1, row};
}

}  // namespace

PackedLayout::PackedLayout(int64_t width, int64_t chunk, int64_t depth, int gates, int lanes, int terms, SingleRow row)
    : width(width), chunk(chunk), depth(depth), gates(gates), lanes(lanes), panel(2 * lanes), terms(terms),
      row(row), chunks_(ceil_div(width, chunk)), length_(ceil_div(depth, terms)), whole_(of_size(chunk)),
      last_(of_size(width - (chunks_ - 1) * chunk)) {}

PackedLayout::Chunk PackedLayout::of_size(int64_t size) const {
  const int64_t whole = ceil_div(size, lanes) * lanes;
  // With AVX-512 50 units of an LSTM are 13 vectors instead of 16, and 100 are 25 instead of 28.
  const int64_t stride = ceil_div(size * gates, lanes) * lanes < whole * gates ? size : whole;
  const int64_t read = stride * (gates - 1) + whole;  // by a loop over the last gate's vectors
  const int64_t vectors = ceil_div(stride * gates, lanes), beyond = vectors * lanes - (stride * (gates - 1) + size);
  return {size, stride, ceil_div(read, panel) * panel, vectors, beyond >= lanes / 2};
}

PackedLayout input_layout(const Shape& s, const CpuPlan& p) {
  return layout(p, s.hidden, p.chunk, s.inputs, cell_info(s.cell).gates);
}
PackedLayout hidden_layout(const Shape& s, const CpuPlan& p) {
  return layout(p, s.hidden, p.chunk, s.projection, cell_info(s.cell).gates, p.hidden_row);
}
PackedLayout projection_layout(const Shape& s, const CpuPlan& p) {
  return layout(p, s.projection, p.projection_chunk, s.hidden);
}
PackedLayout input_backward_layout(const Shape& s, const CpuPlan& p) {
  return layout(p, s.inputs, p.input_chunk, cell_info(s.cell).gates * s.hidden);
}
PackedLayout hidden_backward_layout(const Shape& s, const CpuPlan& p) {
  return layout(p, s.projection, p.projection_chunk, cell_info(s.cell).gates * s.hidden, 1, p.backward_hidden_row);
}
PackedLayout projection_backward_layout(const Shape& s, const CpuPlan& p) {
  return layout(p, s.hidden, p.backward_chunk, s.projection);
}

namespace {

// A product's columns, and how it uses its weights.
struct Use {
  PackedLayout layout;
  Weights weights;
};

// ahead: columns of the inputs' product that a thread makes ahead.
Workspace lay_out(const Shape& s, const CpuPlan& p, const Use& input, const Use& hidden_side, const Use& projected,
                  int64_t ahead) {
  const PackedLayout &inputs = input.layout, &hidden = hidden_side.layout, &projection = projected.layout;
  const int64_t widest = whole_lines(std::max({inputs.columns(0), hidden.columns(0), projection.columns(0)}));
  int64_t summed = 0;  // columns that are made at once
  for (const Use* use : {&input, &hidden_side})
    if (use->weights == Weights::sums) summed = std::max(summed, whole_lines(use->layout.width));
  Workspace w{};
  int64_t at = 0;
  const auto take = [&at](int64_t elements) {
    const int64_t here = at;
    at += whole_lines(elements);
    return here;
  };
  const auto take_weights = [&](bool used, const Use& use) {
    const bool packed = used && use.weights == Weights::packed;
    return take(packed ? ceil_div(use.layout.total() * use.layout.terms * bytes_of(s.weights), s.element_bytes) : 0);
  };
  w.inputs = take_weights(true, input);
  w.weights = take_weights(true, hidden_side);
  w.projection = take_weights(s.projected, projected);
  w.input_bias = take(inputs.chunks() * inputs.columns(0));
  w.hidden_bias = take(inputs.chunks() * inputs.columns(0));
  w.copy_stride = at;
  if (p.own_weights) at *= p.batch_parts;
  w.state_stride = s.batch * whole_lines(std::max(s.hidden, s.projection));
  w.state = take(2 * w.state_stride);
  w.direction_stride = at;
  at *= s.directions;
  w.zeros = take(std::max({s.hidden, s.projection, widest, summed}));
  w.scratch = at;
  at = 0;
  const int64_t ahead_rows = p.inputs_at_once ? s.rows : kAheadRows;
  w.pointers = std::max({s.batch, ahead_rows, kPieceRows});
  take(7 * w.pointers * 8 / s.element_bytes);  // of x, h_prev, and what else a walk keeps of its rows
  w.product = take(std::max(kPieceRows * widest, kSummedRows * summed));
  const auto take_room = [&](const Use& use) {
    if (use.weights == Weights::sums) return take(2 * whole_lines(use.layout.width));
    const int64_t row = padded_depth(use.layout) * bytes_of(s.weights) + 8;  // and a pointer to it
    return take(pads(use.layout, use.weights) ? ceil_div(std::max(kPieceRows, ahead_rows) * row, s.element_bytes) : 0);
  };
  w.inputs_room = take_room(input);
  w.hidden_room = take_room(hidden_side);
  w.projection_room = s.projected ? take_room(projected) : at;
  // The last: one thread that makes all columns, since no others are granted, goes on into the room of those.
  w.ahead = take(std::max(kPieceRows * inputs.columns(0), (1 + p.helpers) * ahead_rows * ahead));
  w.scratch_stride = at;
  w.total = w.scratch + p.threads * w.scratch_stride;
  return w;
}

}  // namespace

GradientWorkspace gradient_workspace(const Shape& s, const CpuPlan& p) {
  const int64_t depth = std::min(s.rows, kGradientRows), lanes = kWidestVector / s.element_bytes;
  const int64_t own = ceil_div(cell_info(s.cell).gates * s.hidden, p.gradient_threads) + 2 * lanes;
  GradientWorkspace w{};
  w.packs = p.packs_gradients;
  w.outputs = std::min(std::max(kGradientOutputs, kGradientVectors * p.vector_lanes), own);
  w.zeros = whole_lines(s.projection + 8 * lanes);  // also for as many columns as are packed at once
  w.panel_rows = s.rows < kGradientRows ? kGradientPanelRows : kGradientRows;
  w.packed_d = whole_lines(w.panel_rows * 2 * lanes);
  w.bias_sums = w.packed_d + (w.packs ? whole_lines((depth + lanes) * w.outputs) : 0);  // a vector or two behind each block
  w.pointers = w.bias_sums + whole_lines(w.outputs + lanes);
  w.stride = w.pointers + whole_lines(depth * 8 / s.element_bytes);
  w.total = w.zeros + p.gradient_threads * w.stride;
  return w;
}

Workspace forward_workspace(const Shape& s, const CpuPlan& p) {
  const PackedLayout inputs = input_layout(s, p);
  return lay_out(s, p, {inputs, p.input_weights}, {hidden_layout(s, p), p.hidden_weights},
                 {projection_layout(s, p), p.hidden_weights}, ceil_div(inputs.chunks(), p.unit_parts) * inputs.columns(0));
}
Workspace backward_workspace(const Shape& s, const CpuPlan& p) {
  return lay_out(s, p, {input_backward_layout(s, p), p.backward_input_weights},
                 {hidden_backward_layout(s, p), p.backward_hidden_weights},
                 {projection_backward_layout(s, p), p.backward_projection_weights}, 0);
}

}  // namespace fusedrnn
