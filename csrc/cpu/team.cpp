#include "team.h"

#if defined(_OPENMP)
#include <omp.h>
#endif
#include <sched.h>

#include <algorithm>
#include <system_error>
#include <thread>
#include <vector>

namespace fusedrnn::cpu {

#if defined(_OPENMP)
const char* const kThreadsFrom = "OpenMP";
#else
const char* const kThreadsFrom = "started for each call";
#endif

namespace {

// When the library was loaded: later some thread may be bound to fewer. It heeds the affinity, and is a system call.
#if defined(_OPENMP)
const int processors = omp_get_num_procs();
#else
const int processors = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
#endif

std::atomic<int> pretended{0};

// Polls before a waiting thread offers its core to others, about 12 µs: more than the threads of a step are apart, unless
// one has lost its core.
constexpr int kSpins = 1000;

void pause() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("isb");  // its `yield` is no pause
#endif
}

#if defined(_OPENMP)
// Where this thread runs, or -1 where that is not known.
int processor() {
#if defined(__linux__)
  return sched_getcpu();
#else
  return -1;
#endif
}

// A thread that the system woke on the caller's own processor goes to another one that it may run on. There it would take turns with
// the caller, slices of milliseconds, since neither yields where libgomp waits, until the system moves one of them. In a virtual
// machine of two processors, Linux 6.18, two threads, inference after a `time.sleep(0.05)`, median of 40: LSTM B=8 T=50
// H=64 5.0 ms before this and 0.7 with it, RNN B=1 T=128 H=128 1.3 to 5.0 and 0.6; of the three calls after it the slowest tenth 4.4
// and 0.25 ms.
void leave(int processor) {
#if defined(__linux__)
  cpu_set_t all, others;
  if (sched_getaffinity(0, sizeof all, &all)) return;
  others = all;
  CPU_CLR(processor, &others);
  if (CPU_COUNT(&others) && !sched_setaffinity(0, sizeof others, &others)) sched_setaffinity(0, sizeof all, &all);
#endif
}
#endif

// Calls body(thread, threads) on that many threads at once, or on as many as are granted.
template <class Body>
void in_parallel(int threads, const Body& body) {
#if defined(_OPENMP)
  const int home = processor();
#pragma omp parallel num_threads(threads)
  {
    const int id = omp_get_thread_num();
    if (id > 0 && home >= 0 && processor() == home) leave(home);
    body(id, omp_get_num_threads());
  }
#else
  std::atomic<int> granted{0};  // known when all are there that will be
  std::vector<std::thread> others;
  others.reserve(threads - 1);
  try {
    while (static_cast<int>(others.size()) < threads - 1)
      others.emplace_back([&granted, &body, id = static_cast<int>(others.size()) + 1] {
        granted.wait(0);
        body(id, granted.load());
      });
  } catch (const std::system_error&) {  // the system has no more
  }
  granted = static_cast<int>(others.size()) + 1;
  granted.notify_all();
  body(0, granted.load());
  for (auto& other : others) other.join();
#endif
}

}  // namespace

int usable_threads(int threads) {
  const int pretend = pretended.load(std::memory_order_relaxed);
  return std::min(threads, pretend ? pretend : processors);
}

void pretend_processors(int count) { pretended.store(count, std::memory_order_relaxed); }

void Barrier::wait() {
  if (participants_ == 1) return;
  const int phase = phase_.load(std::memory_order_relaxed);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == participants_) {
    arrived_.store(0, std::memory_order_relaxed);
    phase_.store(phase + 1, std::memory_order_release);
    return;
  }
  for (int spin = 0; phase_.load(std::memory_order_acquire) == phase; ++spin) {
    pause();
    if (spin >= kSpins) sched_yield();
  }
}

bool run_team(const CpuPlan& plan, void (*body)(void*, const Part&), void* context) {
  const auto run_alone = [&] {
    Barrier none;
    body(context, Part{0, 0, 1, 0, 1, 0, 1, &none, &none, false, false, 0});
  };
  if (plan.threads == 1) return run_alone(), true;

  std::vector<Barrier> step(plan.direction_parts * plan.batch_parts), share(plan.direction_parts);
  for (auto& b : step) b.reset(plan.unit_parts);
  for (auto& b : share) b.reset(plan.batch_parts * plan.unit_parts * (1 + plan.helpers));
  std::atomic<bool> granted{true};
  in_parallel(plan.threads, [&](int id, int threads) {
    if (threads < plan.threads) {
      granted = false;
      return;
    }
    const int walkers = plan.threads / (1 + plan.helpers), walker = id % walkers;
    const int unit = walker % plan.unit_parts, group = walker / plan.unit_parts;
    const int batch = group % plan.batch_parts, direction = group / plan.batch_parts;
    body(context, Part{id, direction, plan.direction_parts, batch, plan.batch_parts, unit, plan.unit_parts, &step[group],
                       &share[direction], plan.helpers > 0 && id < walkers, id >= walkers, walker});
  });
  if (!granted) run_alone();
  return granted;
}

void run_threads(int threads, void (*body)(void*, int, int), void* context) {
  if (threads == 1) return body(context, 0, 1);
  in_parallel(threads, [&](int id, int granted) { body(context, id, granted); });
}

}  // namespace fusedrnn::cpu
