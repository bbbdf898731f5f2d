#include "stretch.h"

#include <algorithm>

namespace fusedrnn::cpu {
namespace {

Stretch stretch_from(const Rows& rows, bool reverse, int64_t most_rows, int64_t done) {
  Stretch s{done, done, 0, 0, false, false};
  int64_t& edge = reverse ? s.end : s.begin;
  while (s.end - s.begin < rows.steps && (reverse ? edge < rows.steps : edge > 0)) {
    const int64_t more = rows.active(reverse ? edge : edge - 1);
    if (s.end > s.begin && s.rows + more > most_rows) break;
    s.rows += more, edge += reverse ? 1 : -1;
  }
  s.first_row = s.end > s.begin ? rows.row(s.begin, 0) : 0;
  s.first = done == (reverse ? 0 : rows.steps);
  s.last = edge == (reverse ? rows.steps : 0);
  return s;
}

}  // namespace

Stretch first_stretch(const Rows& rows, bool reverse, int64_t most_rows) {
  return stretch_from(rows, reverse, most_rows, reverse ? 0 : rows.steps);
}

Stretch next_stretch(const Rows& rows, bool reverse, int64_t most_rows, const Stretch& before) {
  if (before.last) return {before.begin, before.begin, 0, 0, false, true};
  return stretch_from(rows, reverse, most_rows, reverse ? before.end : before.begin);
}

namespace {

// First sequence of a part, where parts lie side by side: equal numbers of rows in the steps, not of sequences.
int64_t batch_cut(const Rows& rows, int64_t begin, int64_t end, int part, int parts) {
  if (part == 0) return 0;
  if (part == parts) return rows.batch;
  if (!rows.active_) return rows.batch * part / parts;
  const auto held = [&](int64_t sequences) {
    int64_t n = 0;
    for (int64_t t = begin; t < end; ++t) n += std::min(rows.active_[t], sequences);
    return n;
  };
  const int64_t wanted = held(rows.batch) * part / parts;
  int64_t low = 0, high = rows.batch;
  while (low < high) {  // the fewest sequences that hold `wanted` rows
    const int64_t middle = (low + high) / 2;
    if (held(middle) < wanted) low = middle + 1; else high = middle;
  }
  return low;
}

}  // namespace

Sequences::Sequences(const Rows& rows, int64_t begin, int64_t end, int part, int parts) {
  if (!rows.active_ || parts == 1 || end - begin < rows.steps) {
    begin_ = slot_ = batch_cut(rows, begin, end, part, parts);
    first_ = count_ = batch_cut(rows, begin, end, part + 1, parts) - begin_, later_ = begin_;
    return;
  }
  const auto cut = [&](int k) { return rows.batch * k / (2 * parts); };
  begin_ = cut(part), first_ = cut(part + 1) - begin_;
  const int64_t second = cut(2 * parts - 1 - part);
  later_ = second - first_, count_ = first_ + cut(2 * parts - part) - second;
  slot_ = cut(part) + (rows.batch - cut(2 * parts - part));
}

}  // namespace fusedrnn::cpu
