// What the CPU can do at best, for the roofline: reading at every cache level, a barrier of OpenMP, and the logistic
// function; and how long arithmetic in registers takes, which nothing but other users of the processor can change.
// benchmarks/machine.py compiles this.
#define _GNU_SOURCE
#include <omp.h>
#include <sched.h>
#include <string.h>

// Every thread reads its own share of `n` floats `times` times; the sum keeps the compiler from leaving the reads out. piece:
// floats after which every other time goes the other way round, and so begins with what is still in a nearer cache; 0: always
// from the first to the last.
double read_seconds(const float* data, long n, int times, long piece, int threads, float* sum) {
  float total = 0;
  double began = 1e300, ended = 0;  // by the first and the last: more threads than processors do not begin at once
#pragma omp parallel num_threads(threads) reduction(+ : total) reduction(min : began) reduction(max : ended)
  {
    const long share = n / threads / 64 * 64, some = piece && piece < share ? piece : share;
    const long pieces = (share + some - 1) / some;
    const float* mine = data + share * omp_get_thread_num();
    float lanes[64] = {0};
#pragma omp barrier
    began = omp_get_wtime();
    for (int time = 0; time < times; ++time)
      for (long p = 0; p < pieces; ++p) {
        const long first = (piece && time % 2 ? pieces - 1 - p : p) * some, end = first + some < share ? first + some : share;
        for (long i = first; i < end; i += 64)
          for (int lane = 0; lane < 64; ++lane) lanes[lane] += mine[i + lane];
      }
    for (int lane = 0; lane < 64; ++lane) total += lanes[lane];
    ended = omp_get_wtime();
  }
  *sum = total;
  return ended - began;
}

double barrier_seconds(int times, int threads) {
  double start = 0, end = 0;
#pragma omp parallel num_threads(threads)
  {
#pragma omp barrier
#pragma omp master
    start = omp_get_wtime();
    for (int time = 0; time < times; ++time) {
#pragma omp barrier
    }
#pragma omp master
    end = omp_get_wtime();
  }
  return (end - start) / times;
}

// The same arithmetic in registers on as many threads at once, each on a processor of its own, on which the system might not put
// them at once: the seconds of the slowest.
double work_seconds(int times, int threads, float* sum) {
  float total = 0;
  double slowest = 0;
#pragma omp parallel num_threads(threads) reduction(+ : total) reduction(max : slowest)
  {
#if defined(__linux__)
    cpu_set_t all, one;
    int bound = !sched_getaffinity(0, sizeof all, &all), left = omp_get_thread_num(), cpu = 0;
    if (bound) left %= CPU_COUNT(&all);
    while (bound && (!CPU_ISSET(cpu, &all) || left-- > 0)) ++cpu;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    if (bound) bound = !sched_setaffinity(0, sizeof one, &one);
#endif
    float lanes[64];
    for (int lane = 0; lane < 64; ++lane) lanes[lane] = lane;
#pragma omp barrier
    double start = omp_get_wtime();
    for (int time = 0; time < times; ++time)
      for (int lane = 0; lane < 64; ++lane) lanes[lane] = lanes[lane] * 0.5f + 1;
    for (int lane = 0; lane < 64; ++lane) total += lanes[lane];
    slowest = omp_get_wtime() - start;
#if defined(__linux__)
    if (bound) sched_setaffinity(0, sizeof all, &all);
#endif
  }
  *sum = total;
  return slowest;
}

// Ends the threads of these functions, which would otherwise wait on a processor for a while.
void rest(void) { omp_pause_resource_all(omp_pause_hard); }

// 1 / (1 + e^-x), as cheap as can be: e^-x = 2^n · 2^r, |r| <= 1/2, where a sum with a large number rounds to n and leaves the bits
// of 2^n. The polynomial is 3e-6 off, more than a cell may be, and no x is kept from overflowing: what is exact takes longer, so
// it remains a ceiling.
static inline float logistic(float x) {
  const float large = 12582912 + 127;  // 1.5·2^23, and the bias of exponents
  float shifted = -1.44269504f * x + large, r = -1.44269504f * x - (shifted - large), scale;
  float p = 0.99999926f + r * (0.693121815f + r * (0.240247448f + r * (0.0559178603f + r * 0.00957010201f)));
  unsigned bits;
  memcpy(&bits, &shifted, sizeof bits);
  bits <<= 23;
  memcpy(&scale, &bits, sizeof scale);
  return 1 / (1 + p * scale);
}

// Every thread, of kValues of its own, `times` times.
enum { kValues = 1024 };
double function_seconds(int times, int threads, float* sum) {
  float total = 0;
  double began = 1e300, ended = 0;
#pragma omp parallel num_threads(threads) reduction(+ : total) reduction(min : began) reduction(max : ended)
  {
    float values[kValues];
    for (int i = 0; i < kValues; ++i) values[i] = i / 512.0f - 1;
#pragma omp barrier
    began = omp_get_wtime();
    for (int time = 0; time < times; ++time)
      for (int i = 0; i < kValues; ++i) values[i] = logistic(values[i]);
    for (int i = 0; i < kValues; ++i) total += values[i];
    ended = omp_get_wtime();
  }
  *sum = total;
  return ended - began;
}
