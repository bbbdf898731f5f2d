// For test_stretches.py: 1 to 40 sequences of different lengths, shared by 1 to 9 parts, for all steps and for some. Exit status
// 0: each sequence has one part and one slot, those that run at a step are the first of a part's, and the parts of 80 sequences
// whose lengths are spread evenly have equal numbers of rows.
#include <algorithm>
#include <cstdio>
#include <random>
#include <vector>

#include "../csrc/cpu/stretch.h"

using namespace fusedrnn;
using namespace fusedrnn::cpu;

namespace {

int wrong = 0;

void expect(bool fine, const char* what, int batch, int parts, int64_t end) {
  if (fine) return;
  ++wrong;
  std::printf("%s: %d sequences, %d parts, to step %d\n", what, batch, parts, static_cast<int>(end));
}

void check(const std::vector<int64_t>& active, int batch, int parts, int64_t end) {
  const int64_t steps = static_cast<int64_t>(active.size());
  const Rows rows{steps, batch, nullptr, active.data(), nullptr, nullptr, nullptr};
  std::vector<int> parts_of(batch), slots(batch);
  for (int part = 0; part < parts; ++part) {
    const Sequences own(rows, 0, end, part, parts);
    for (int64_t r = 0; r < own.count(); ++r) {
      const bool there = own.at(r) >= 0 && own.at(r) < batch && own.slot(r) >= 0 && own.slot(r) < batch;
      expect(there && (r == 0 || own.at(r) > own.at(r - 1)), "out of order", batch, parts, end);
      if (there) ++parts_of[own.at(r)], ++slots[own.slot(r)];
    }
    for (int64_t t = 0; t < end; ++t) {
      int64_t running = 0;
      while (running < own.count() && own.at(running) < active[t]) ++running;
      expect(own.running(active[t]) == running, "wrong number at a step", batch, parts, end);
    }
  }
  for (int b = 0; b < batch; ++b)
    expect(parts_of[b] == 1 && slots[b] == 1, "not one part and slot", batch, parts, end);
}

}  // namespace

int main() {
  std::mt19937 random(7);
  for (int batch = 1; batch <= 40; ++batch)
    for (int parts = 1; parts <= 9; ++parts) {
      std::vector<int64_t> active(12);
      for (int64_t& n : active) n = random() % (batch + 1);
      active[0] = batch;
      std::sort(active.rbegin(), active.rend());
      for (const int64_t end : {5, 12}) check(active, batch, parts, end);
    }
  std::vector<int64_t> active(80);  // lengths of 1 to 80
  for (int t = 0; t < 80; ++t) active[t] = 80 - t;
  const Rows rows{80, 80, nullptr, active.data(), nullptr, nullptr, nullptr};
  for (int parts : {2, 4, 5, 8})
    for (int part = 0; part < parts; ++part) {
      int64_t held = 0;
      const Sequences own(rows, 0, 80, part, parts);
      for (int64_t n : active) held += own.running(n);
      expect(held * parts == 80 * 81 / 2, "unequal parts", 80, parts, 80);
    }
  return wrong > 0;
}
