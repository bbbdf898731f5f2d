// The CPU kernels of every instruction set that the processor has, held against the portable ones, without torch: for
// processors that are only emulated (test_isa.py). A case is a layer's forward, backward and weights' gradients.
//
// Prints the sets and the number of cases; exit status 0: all agree. An argument plants a fault of that size in every
// result of the others, which has to be found.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <type_traits>
#include <vector>

#include "../csrc/cpu/kernels.h"

using namespace fusedrnn;

namespace {

struct Case {
  CellKind cell;
  int64_t T, B, I, H, P;  // P = 0: no projection
  int D;
  Dtype weights;
  bool ragged, reset;
  int threads;
  bool batch_invariant = false;
};

// Numbers that look random and are the same everywhere: in (-1, 1).
struct Numbers {
  uint64_t state = 1;
  uint32_t bits() { return static_cast<uint32_t>((state = state * 6364136223846793005u + 1442695040888963407u) >> 33); }
  double next() { return bits() * 0x1p-30 - 1; }
};

template <class T>
using Buffer = std::vector<T>;

// Weights as bytes, of any type.
Buffer<char> weights(Numbers& numbers, int64_t count, Dtype dtype, double scale) {
  Buffer<char> bytes(count * bytes_of(dtype));
  for (int64_t i = 0; i < count; ++i) {
    char* to = bytes.data() + i * bytes_of(dtype);
    if (dtype == Dtype::float16) {  // sign, 2^-7 to 2^-3, any mantissa
      const uint32_t b = numbers.bits();
      const uint16_t half = static_cast<uint16_t>((b & 0x8000) | (8 + b % 5) << 10 | (b >> 16 & 0x3ff));
      std::memcpy(to, &half, 2);
    } else if (dtype == Dtype::float64) {
      const double value = scale * numbers.next();
      std::memcpy(to, &value, 8);
    } else {
      const float value = static_cast<float>(scale * numbers.next());
      uint32_t bits;
      std::memcpy(&bits, &value, 4);
      if (dtype == Dtype::float32) std::memcpy(to, &bits, 4);
      else bits >>= 16, std::memcpy(to, &bits, 2);
    }
  }
  return bytes;
}

using cpu::BFloat16;

void set(float& to, double value) { to = static_cast<float>(value); }
void set(double& to, double value) { to = value; }
void set(BFloat16& to, double value) {
  const float number = static_cast<float>(value);
  uint32_t bits;
  std::memcpy(&bits, &number, 4);
  to.bits = static_cast<uint16_t>(bits >> 16);
}
double get(double value) { return value; }
double get(BFloat16 value) {
  const uint32_t bits = static_cast<uint32_t>(value.bits) << 16;
  float number;
  std::memcpy(&number, &bits, 4);
  return number;
}

template <class T>
Buffer<T> values(Numbers& numbers, int64_t count) {
  Buffer<T> all(count);
  for (T& value : all) set(value, numbers.next());
  return all;
}

// What a layer gives: named, so that a difference can be told. T: of the arithmetic; S: what tensors hold.
template <class T, class S>
struct Outcome {
  std::vector<std::pair<const char*, Buffer<T>>> numbers;
  std::vector<std::pair<const char*, Buffer<S>>> rounded;
  T* add(const char* name, int64_t count) {
    numbers.emplace_back(name, Buffer<T>(count, T(NAN)));
    return numbers.back().second.data();
  }
  S* add_rounded(const char* name, int64_t count) {
    rounded.emplace_back(name, Buffer<S>(count));
    for (S& value : rounded.back().second) set(value, NAN);
    return rounded.back().second.data();
  }
};

template <class T, class S>
Outcome<T, S> run(const Case& c, const cpu::Kernels& kernels, int64_t stretch_rows) {
  const CellInfo cell = cell_info(c.cell);
  const int64_t T_ = c.T, B = c.B, H = c.H, P = c.P ? c.P : c.H, D = c.D, GH = cell.gates * H;
  Numbers numbers;
  Buffer<int64_t> active, offset;
  int64_t N = 0;
  for (int64_t t = 0; t < T_; ++t) {
    active.push_back(c.ragged ? std::max<int64_t>(1, B - t * B / T_) : B);
    offset.push_back(N);
    N += active.back();
  }
  std::unique_ptr<bool[]> reset(new bool[N]);
  for (int64_t n = 0; n < N; ++n) reset[n] = numbers.bits() % 5 == 0;
  const Rows rows{T_, B, c.ragged ? offset.data() : nullptr, c.ragged ? active.data() : nullptr, nullptr,
                  c.reset ? reset.get() : nullptr, nullptr};
  const Shape shape{c.cell, T_, B, N, c.I, H, P, c.P > 0, c.D, static_cast<int>(sizeof(T)), c.weights};
  VectorUnit unit = kernels.unit;
  unit.first_cache = 48 << 10;  // weights that it holds are read as one stream
  const CpuPlan plan = plan_cpu(shape, c.threads, unit, c.batch_invariant);
  const int64_t most_rows = std::max(B, stretch_rows);  // a step is never cut
  const auto workspace = [&](int64_t elements) {
    return std::unique_ptr<T, decltype(&std::free)>(
        static_cast<T*>(std::aligned_alloc(64, (elements * sizeof(T) + 63) / 64 * 64)), std::free);
  };

  std::vector<Buffer<char>> w_ih, w_hh, w_hr;
  std::vector<Buffer<S>> b_ih, b_hh;
  const double scale = 1 / std::sqrt(static_cast<double>(H));
  for (int64_t d = 0; d < D; ++d) {
    w_ih.push_back(weights(numbers, GH * c.I, c.weights, scale)), w_hh.push_back(weights(numbers, GH * P, c.weights, scale));
    w_hr.push_back(weights(numbers, P * H, c.weights, scale));
    b_ih.push_back(values<S>(numbers, GH)), b_hh.push_back(values<S>(numbers, GH));
  }
  const Buffer<S> x = values<S>(numbers, N * c.I), h_0 = values<S>(numbers, D * B * P), c_0 = values<S>(numbers, D * B * H);
  const Buffer<S> d_y = values<S>(numbers, N * D * P), d_h_n = values<S>(numbers, D * B * P);
  const Buffer<S> d_c_n = values<S>(numbers, D * B * H);
  const Buffer<T> d_c = values<T>(numbers, N * D * H);

  Outcome<T, S> out;
  out.numbers.reserve(64), out.rounded.reserve(64);
  const bool has_c = cell.states > 1, has_values = cell.saved > 0 || c.P > 0;
  const int64_t width = has_values ? (cell.slots() + (c.P > 0)) * H : 0, d_width = cell.split * H + GH;
  Buffer<S> saved(N * D * width), d_gates(most_rows * D * d_width), d_h(most_rows * D * P);
  S* y = out.add_rounded("y", N * D * P);
  S* h_n = out.add_rounded("h_n", D * B * P);
  S* c_n = has_c ? out.add_rounded("c_n", D * B * H) : nullptr;
  T* all_c = has_c ? out.add("c", N * D * H) : nullptr;

  Forward<S, T> f{shape, rows, has_values, false, D * width, D * P, D * H, x.data(), {}};
  for (int64_t d = 0; d < D; ++d)
    f.direction[d] = {d == 1, w_hh[d].data(), c.P ? w_hr[d].data() : nullptr, w_ih[d].data(), b_ih[d].data(), b_hh[d].data(),
                      h_0.data() + d * B * P, c_0.data() + d * B * H, has_values ? saved.data() + d * width : nullptr,
                      y + d * P, has_c ? all_c + d * H : nullptr, h_n + d * B * P, has_c ? c_n + d * B * H : nullptr};
  kernels.of<S>().forward(f, plan, workspace(forward_workspace(shape, plan).total).get());

  S* d_x = out.add_rounded("d_x", D * N * c.I);
  T* d_h_0 = out.add("d_h_0", D * B * P);
  T* d_c_0 = has_c ? out.add("d_c_0", D * B * H) : nullptr;
  Backward<S, T> b{shape, rows, false, D * width, D * P, D * H, D * P, D * H, D * d_width, D * P, {}};
  for (int64_t d = 0; d < D; ++d)
    b.direction[d] = {d == 1, w_ih[d].data(), w_hh[d].data(), c.P ? w_hr[d].data() : nullptr, h_0.data() + d * B * P,
                      c_0.data() + d * B * H, saved.data() + d * width, y + d * P, has_c ? all_c + d * H : nullptr,
                      d_y.data() + d * P, has_c ? d_c.data() + d * H : nullptr, d_h_n.data() + d * B * P,
                      has_c ? d_c_n.data() + d * B * H : nullptr, d_gates.data() + d * d_width,
                      c.P ? d_h.data() + d * P : nullptr, d_x + d * N * c.I, d_h_0 + d * B * P,
                      has_c ? d_c_0 + d * B * H : nullptr};
  cpu::WeightGradients<T, S> g{b, x.data(), {}};
  std::vector<std::vector<T>> waiting;  // sums that are rounded once the last is there
  const auto gradient = [&](const char* name, int64_t n) -> cpu::Gradient<T, S> {
    S* place = out.add_rounded(name, n);
    if constexpr (std::is_same_v<S, T>) return {place, place};
    else return {waiting.emplace_back(n).data(), place};
  };
  for (int64_t d = 0; d < D; ++d)
    g.direction[d] = {gradient("d_w_ih", GH * c.I), gradient("d_w_hh", GH * P), gradient("d_b_ih", GH), gradient("d_b_hh", GH),
                      c.P ? gradient("d_w_hr", P * H) : cpu::Gradient<T, S>{}};
  const auto steps = workspace(backward_workspace(shape, plan).total), sums = workspace(gradient_workspace(shape, plan).total);
  std::vector<cpu::Stretch> at;
  for (int64_t d = 0; d < D; ++d) at.push_back(cpu::first_stretch(rows, d == 1, most_rows));
  for (bool done = false; !done;) {
    for (cpu::Stretch& stretch : at) stretch.first_d_gates = stretch.first_row;
    kernels.of<S>().backward(b, at.data(), plan, steps.get());
    kernels.of<S>().gradients(g, at.data(), plan, sums.get());
    done = true;
    for (int64_t d = 0; d < D; ++d) done &= at[d].last, at[d] = cpu::next_stretch(rows, d == 1, most_rows, at[d]);
  }
  return out;
}

// By how much two tensors differ, of the largest number; not a number where either has one that is none.
template <class T>
double difference(const Buffer<T>& a, const Buffer<T>& b, double fault) {
  double most = 0, largest = 0, sum = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    most = std::max(most, std::fabs(get(a[i]) + fault - get(b[i])));
    largest = std::max(largest, std::fabs(get(b[i])));
    sum += get(a[i]) + get(b[i]);  // keeps what std::max loses
  }
  return sum == sum ? most / std::max(1.0, largest) : sum;
}

template <class T, class S = T>
int compare(const Case& c, const cpu::Kernels& kernels, const cpu::Kernels& portable, double allowed, double fault) {
  // Those that are checked stop for the sums after every few rows, the portable ones never.
  const Outcome<T, S> wanted = run<T, S>(c, portable, c.T * c.B), found = run<T, S>(c, kernels, 5 + c.H % 7);
  int wrong = 0;
  const auto tensors = [&](const auto& ours, const auto& theirs) {
    for (size_t i = 0; i < ours.size(); ++i) {
      const double apart = difference(ours[i].second, theirs[i].second, fault);
      if (apart <= allowed) continue;
      ++wrong;
      std::printf("%s: %s T=%d B=%d I=%d H=%d P=%d D=%d weights %d%s%s, %d threads: %s is off by %.2e\n", kernels.unit.name,
                  cell_info(c.cell).name, int(c.T), int(c.B), int(c.I), int(c.H), int(c.P), c.D, int(c.weights),
                  c.ragged ? " ragged" : "", c.reset ? " reset" : "", c.threads, ours[i].first, apart);
    }
  };
  tensors(found.numbers, wanted.numbers), tensors(found.rounded, wanted.rounded);
  return wrong;
}

int compare(const Case& c, double fault) {
  int wrong = 0;
  for (const cpu::Kernels* kernels : cpu::available()) {
    const bool pairs = kernels->unit.bfloat16_pairs;
    const cpu::Kernels& portable = pairs ? cpu::kPortableBf16 : cpu::kPortable;
    if (kernels == &portable || (pairs && c.weights != Dtype::bfloat16)) continue;  // the same functions as without pairs
    // Two sums that differ in their last bit may be rounded to different bfloat16, of which each has eight.
    wrong += pairs                            ? compare<float, BFloat16>(c, *kernels, portable, 0x1p-7, fault)
             : c.weights == Dtype::float64 ? compare<double>(c, *kernels, portable, 1e-14, fault)
                                           : compare<float>(c, *kernels, portable, 1e-5, fault);
  }
  return wrong;
}

}  // namespace

int main(int arguments, char** argument) {
  const double fault = arguments > 1 ? std::atof(argument[1]) : 0;
  std::vector<Case> cases;
  for (const CellKind cell : {CellKind::rnn_tanh, CellKind::rnn_relu, CellKind::lstm, CellKind::gru}) {
    for (const Dtype dtype : {Dtype::float64, Dtype::float32, Dtype::float16, Dtype::bfloat16}) {
      // rows around every register block (6, 10 and 12), units around vectors, panels and chunks
      for (const auto& [B, H] : {std::pair{1, 1}, {2, 7}, {3, 8}, {5, 15}, {6, 16}, {9, 17}, {10, 24}, {11, 31}, {12, 33},
                                {13, 64}, {25, 70}, {1, 130}})
        for (const int T : {1, 3}) cases.push_back({cell, T, B, 1 + H % 19, H, 0, 1, dtype, false, false, 1});
      cases.push_back({cell, 1, 3, 270, 260, 0, 1, dtype, false, false, 1});  // dot products
      cases.push_back({cell, 34, 1, 13, 50, 0, 1, dtype, false, false, 1});  // one long sequence, gates side by side
      cases.push_back({cell, 9, 1, 16, 50, 0, 1, dtype, false, false, 1});   // a short one
      for (const int64_t H : {16, 50, 64, 130})  // one row's chains in parts, weights packed and as they are
        cases.push_back({cell, 41, 1, 5, H, 0, 1, dtype, false, false, 1});
      cases.push_back({cell, 4, 7, 13, 40, 0, 2, dtype, true, true, 1});
      cases.push_back({cell, 4, 26, 13, 40, 0, 2, dtype, false, true, 4});
    }
    cases.push_back({cell, 30, 20, 40, 72, 0, 1, Dtype::float32, true, false, 3});  // many rows of gradients
    const int64_t wide = cell == CellKind::lstm ? 174 : cell == CellKind::gru ? 198 : 342;  // one row reads w_hh as one stream
    cases.push_back({cell, 3, 1, 13, wide, 0, 1, Dtype::float32, false, false, 1});
    if (cell == CellKind::rnn_tanh)  // weights and gradients past the caches, of whole cache lines and of others
      for (const int64_t H : {736, 731}) cases.push_back({cell, 2, 3, 730, H, 0, 1, Dtype::float32, false, false, 1});
  }
  for (const Dtype dtype : {Dtype::float64, Dtype::float32, Dtype::bfloat16})
    for (const auto& [H, P] : {std::pair{9, 1}, {33, 8}, {70, 35}})
      cases.push_back({CellKind::lstm, 4, 5, 12, H, P, 1, dtype, false, true, 1});
  int wrong = 0;
  for (Case& c : cases)
    for (const bool batch_invariant : {false, true}) {  // products for few rows, and for any number
      if (fault != 0 && wrong > 0) break;
      c.batch_invariant = batch_invariant;
      wrong += compare(c, fault);
    }
  std::string names;
  for (const cpu::Kernels* kernels : cpu::available()) names += std::string(names.empty() ? "" : ", ") + kernels->unit.name;
  std::printf("%s: %zu cases, %d differences\n", names.c_str(), cases.size(), wrong);
  return wrong != 0;
}
