// For test_team.py: teams of every shape on 1 to 8 threads, whose members meet at their barriers. Prints where the threads
// came from and how many there were at most, of a team and of one without barriers; exit status 0: all is well.
#include <algorithm>
#include <cstdio>
#include <utility>

#include "../csrc/cpu/team.h"

using namespace fusedrnn;
using namespace fusedrnn::cpu;

namespace {

constexpr int kSteps = 200, kMost = 8;

struct Work {
  std::atomic<int> calls{0}, wrong{0};
  std::atomic<int> at[kMost] = {};  // the step that each thread has reached
};

// Between two barriers all are at the same step.
void walk(void* context, const Part& part) {
  Work& work = *static_cast<Work*>(context);
  ++work.calls;
  const int first = part.thread - part.unit_part;
  if (part.helps == part.helped && part.helps) ++work.wrong;
  if ((part.thread == part.helped_thread) == part.helps) ++work.wrong;
  for (int step = 1; step <= kSteps; ++step) {
    work.at[part.thread] = step;
    part.step->wait();
    for (int i = 0; i < part.unit_parts && !part.helps; ++i)
      if (work.at[first + i] != step) ++work.wrong;
    part.step->wait();
  }
  part.share->wait();
}

void count(void* context, int thread, int threads) {
  Work& work = *static_cast<Work*>(context);
  ++work.calls;
  if (thread < 0 || thread >= threads || threads > kMost) ++work.wrong;
  ++work.at[thread];
}

}  // namespace

int main() {
  int failures = 0, largest_team = 0, most = 0;
  for (int directions = 1; directions <= 2; ++directions)
    for (int batch = 1; batch <= 3; ++batch)
      for (const auto [units, helpers] : {std::pair{1, 0}, {1, 1}, {2, 0}, {3, 0}, {5, 0}, {7, 0}, {8, 0}}) {
        if (directions * batch * units * (1 + helpers) > kMost) continue;
        CpuPlan plan{};
        plan.direction_parts = directions, plan.batch_parts = batch, plan.unit_parts = units, plan.helpers = helpers;
        plan.threads = directions * batch * units * (1 + helpers);
        Work work;
        run_team(plan, walk, &work);
        // all of them, or one where fewer were granted
        if ((work.calls != plan.threads && work.calls != 1) || work.wrong) {
          ++failures;
          std::printf("%d threads: %d calls, %d wrong\n", plan.threads, work.calls.load(), work.wrong.load());
        }
        largest_team = std::max(largest_team, work.calls.load());
      }
  for (int threads = 1; threads <= kMost; ++threads) {
    Work work;
    run_threads(threads, count, &work);
    if (work.calls < 1 || work.calls > threads || work.wrong || work.at[0] != 1) ++failures;
    most = std::max(most, work.calls.load());
  }
  std::printf("%s, %d, %d\n", kThreadsFrom, largest_team, most);
  return failures;
}
