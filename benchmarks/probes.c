// What the CPU can do at best, for the roofline: reading at every cache level, and a barrier of OpenMP; and how long
// arithmetic in registers takes, which nothing but other users of the processor can change. benchmarks/machine.py
// compiles this.
#include <omp.h>

// Every thread reads its own share of `n` floats `times` times; the sum keeps the compiler from leaving the reads out.
double read_seconds(const float* data, long n, int times, int threads, float* sum) {
  float total = 0;
  double start = 0;
#pragma omp parallel num_threads(threads) reduction(+ : total)
  {
    long share = n / threads / 64 * 64;
    const float* mine = data + share * omp_get_thread_num();
    float lanes[64] = {0};
#pragma omp barrier
#pragma omp master
    start = omp_get_wtime();
    for (int time = 0; time < times; ++time)
      for (long i = 0; i < share; i += 64)
        for (int lane = 0; lane < 64; ++lane) lanes[lane] += mine[i + lane];
    for (int lane = 0; lane < 64; ++lane) total += lanes[lane];
  }
  *sum = total;
  return omp_get_wtime() - start;
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

double work_seconds(int times, int threads, float* sum) {
  float total = 0;
  double start = omp_get_wtime();
#pragma omp parallel num_threads(threads) reduction(+ : total)
  {
    float lanes[64];
    for (int lane = 0; lane < 64; ++lane) lanes[lane] = lane;
    for (int time = 0; time < times; ++time)
      for (int lane = 0; lane < 64; ++lane) lanes[lane] = lanes[lane] * 0.5f + 1;
    for (int lane = 0; lane < 64; ++lane) total += lanes[lane];
  }
  *sum = total;
  return omp_get_wtime() - start;
}
