// For test_team.py: a thread that is found on the caller's own processor goes to another that it may run on, and may run on no
// others afterwards than before. Prints where the other thread of two ran, the caller being bound to the first of the two
// processors that are given, and how many processors it was left with.
#include <sched.h>

#include <cstdio>
#include <cstdlib>

#include "../csrc/cpu/team.h"

using namespace fusedrnn::cpu;

namespace {

cpu_set_t set_of(int first, int second) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(first, &set), CPU_SET(second, &set);
  return set;
}

struct Two {
  int home, other, ran = -1, allowed = 0;
};

// The other thread goes home, where it is woken or still waits when the next call comes, free to leave.
void go_home(void* context, int thread, int) {
  Two& two = *static_cast<Two*>(context);
  if (thread == 0) return;
  const cpu_set_t home = set_of(two.home, two.home), both = set_of(two.home, two.other);
  sched_setaffinity(0, sizeof home, &home);
  sched_setaffinity(0, sizeof both, &both);
}

void look(void* context, int thread, int) {
  Two& two = *static_cast<Two*>(context);
  if (thread == 0) return;
  two.ran = sched_getcpu();
  cpu_set_t allowed;
  sched_getaffinity(0, sizeof allowed, &allowed);
  two.allowed = CPU_COUNT(&allowed);
}

}  // namespace

int main(int, char** argument) {
  Two two{std::atoi(argument[1]), std::atoi(argument[2])};
  const cpu_set_t home = set_of(two.home, two.home);
  sched_setaffinity(0, sizeof home, &home);
  for (int i = 0; i < 20; ++i) {
    run_threads(2, go_home, &two);
    run_threads(2, look, &two);
    std::printf("%d %d\n", two.ran, two.allowed);
  }
}
