// Kernels that are right, and the same with one fault planted: what the executor must show, and show
// alone. Between them they use every primitive, so that compiling this file assembles all of the PTX.
//
// Every exported function launches one kernel and returns "" or the error; test_simt.py calls them,
// with FAULTS_MAIN by name as a program, for what AddressSanitizer is to stop.
#include "../../csrc/cuda/primitives.cuh"

namespace fusedrnn::cuda {
namespace {

// -- barriers and shared memory -------------------------------------------------------------------------
__global__ void reverse(const float* x, float* y, bool right) {
  auto* line = reinterpret_cast<float*>(shared_memory());
  line[threadIdx.x] = x[threadIdx.x];
  if (right) __syncthreads();
  y[threadIdx.x] = line[blockDim.x - 1 - threadIdx.x];
}

// Sums over ever further neighbours in one buffer: written only when all have read.
__global__ void prefix_sum(const float* x, float* y, bool right) {
  auto* line = reinterpret_cast<float*>(shared_memory());
  const unsigned t = threadIdx.x;
  float sum = line[t] = x[t];
  for (unsigned reach = 1; reach < blockDim.x; reach *= 2) {
    __syncthreads();
    const float other = t >= reach ? line[t - reach] : 0.0f;
    if (right) __syncthreads();
    line[t] = sum += other;
  }
  y[t] = sum;
}

// Four elements a thread through shared memory, and on to the next thread; twice through one buffer.
__global__ void staged(const float* x, float* y, bool waits, bool waits_for_readers) {
  auto* line = reinterpret_cast<float*>(shared_memory());
  const unsigned t = threadIdx.x, n = 4 * blockDim.x, next = (t + 1) % blockDim.x;
  for (unsigned round = 0; round < 2; ++round) {
    copy_async<16>(line + 4 * t, x + round * n + 4 * t);
    copy_async_commit();
    if (waits) copy_async_wait<0>();
    __syncthreads();
    for (unsigned i = 0; i < 4; ++i) y[round * n + 4 * t + i] = line[4 * next + i];
    if (waits_for_readers) __syncthreads();
  }
}

// Two groups in flight: each is used when it alone must have come.
__global__ void pipelined(const float* x, float* y, int steps) {
  auto* line = reinterpret_cast<float*>(shared_memory());
  const unsigned t = threadIdx.x, n = blockDim.x;
  for (int s = 0; s < 2; ++s) {
    if (s < steps) copy_async<4>(line + s * n + t, x + s * n + t);
    copy_async_commit();
  }
  for (int s = 0; s < steps; ++s) {
    copy_async_wait<1>();
    y[s * n + t] = line[s % 2 * n + t];
    if (s + 2 < steps) copy_async<4>(line + s % 2 * n + t, x + (s + 2) * n + t);
    copy_async_commit();
  }
}

__global__ void write_shared(int at) {
  if (threadIdx.x == 0) shared_memory()[at] = 1;
}

__global__ void read_shared(float* y, int at) { *y = reinterpret_cast<float*>(shared_memory())[at]; }
__global__ void read_global(const float* x, float* y, int at) { *y = x[at]; }

__global__ void barrier_for_some(unsigned first) {
  if (threadIdx.x >= first) __syncthreads();
}

// Takes nearly all of a fiber's stack.
__global__ void deep(unsigned char* y) {
  volatile unsigned char far[64 * 1024 - 1536];
  far[y[0]] = 1;
  __syncthreads();
  y[0] = far[y[0]];
}

// -- warps ------------------------------------------------------------------------------------------------
__global__ void shuffles(const float* x, float* y) {
  const unsigned all = 0xffffffffu, t = threadIdx.x, n = blockDim.x;
  const float own = x[t];
  y[t] = __shfl_sync(all, own, 5);
  y[n + t] = __shfl_xor_sync(all, own, 9);
  y[2 * n + t] = __shfl_down_sync(all, own, 3u);
  y[3 * n + t] = __shfl_down_sync(all, own, 3u, 8);
  __syncwarp();
  y[4 * n + t] = static_cast<float>(__ballot_sync(all, own > 0) & 0xffffu);
  y[5 * n + t] = static_cast<float>(__any_sync(all, own > 1e6f));
  y[6 * n + t] = static_cast<float>(__all_sync(all, own < 1e6f));
  if (t % 32 < 16) y[7 * n + t] = __shfl_xor_sync(0xffffu, own, 1);
  else y[7 * n + t] = __shfl_xor_sync(0xffff0000u, own, 2);
}

enum LaneFault { lane_leaves, masks_differ, lane_reads_outside };

__global__ void lanes_astray(float* y, int kind) {
  const unsigned lane = threadIdx.x % 32;
  float value = static_cast<float>(lane);
  if (kind == lane_leaves && lane) value = __shfl_sync(0xffffffffu, value, 0);
  if (kind == masks_differ) value = __shfl_sync(lane ? 0xffffffffu : 0x3u, value, 0);
  if (kind == lane_reads_outside && lane < 16) value = __shfl_sync(0xffffu, value, 20);
  y[threadIdx.x] = value;
}

template <class S>
__global__ void product(const uint32_t* a, const uint32_t* b, float* acc) {
  const unsigned lane = threadIdx.x;
  float c[4];
  uint32_t a_own[4], b_own[2];
  for (int i = 0; i < 4; ++i) c[i] = acc[4 * lane + i], a_own[i] = a[4 * lane + i];
  for (int i = 0; i < 2; ++i) b_own[i] = b[2 * lane + i];
  if constexpr (std::is_same_v<S, float>) mma_16x8x8_tf32(c, a_own, b_own);
  else mma_16x8x16<S>(c, a_own, b_own);
  for (int i = 0; i < 4; ++i) acc[4 * lane + i] = c[i];
}

// 32 rows of 16 bytes in shared memory, in the order given.
__global__ void matrix_rows(const uint4* rows, const int* order, uint32_t* r) {
  auto* line = reinterpret_cast<uint4*>(shared_memory());
  const unsigned lane = threadIdx.x;
  line[order[lane]] = __ldg(rows + lane);
  __syncthreads();
  uint32_t four[4], two[2];
  ldmatrix_x4(four, line + order[lane]);
  ldmatrix_x2(two, line + order[lane]);
  for (int i = 0; i < 4; ++i) r[6 * lane + i] = four[i];
  for (int i = 0; i < 2; ++i) r[6 * lane + 4 + i] = two[i];
}

template <class A, class S>
__global__ void converted(const S* from, A* to, int n) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < n) to[i] = convert<A>(from[i]);
}

__global__ void tf32(const float* from, uint32_t* to) { to[threadIdx.x] = to_tf32(from[threadIdx.x]); }

__global__ void atomics(float* f, int* i, unsigned* u) {
  atomicAdd(f, 0.5f);
  atomicAdd(i, -1);
  u[1 + atomicAdd(u, 1u)] = 1;
}

// -- clusters -------------------------------------------------------------------------------------------
__global__ void neighbours(const float* x, float* y, bool waits, bool stays) {
  auto* line = reinterpret_cast<float*>(shared_memory());
  const unsigned at = blockIdx.x * blockDim.x + threadIdx.x;
  line[threadIdx.x] = x[at];
  if (waits) cluster_arrive(), cluster_wait();
  y[at] = *cluster_peer(line + threadIdx.x, (cluster_rank() + 1) % cluster_size());
  if (stays) cluster_arrive(), cluster_wait();
}

// Each block of a cluster adds up what all of them have, and that once more...: a column of each thread's right neighbour.
__global__ void all_to_all(const uint4* x, uint4* y, int steps, unsigned expected, bool waits) {
  auto* barriers = reinterpret_cast<TransferBarrier*>(shared_memory());
  auto* lines = reinterpret_cast<uint4*>(shared_memory() + 16);  // (2, blocks, threads)
  const unsigned t = threadIdx.x, n = blockDim.x, blocks = cluster_size(), at = blockIdx.x * n + t;
  if (t == 0)
    for (int i = 0; i < 2; ++i) transfer_init(barriers + i), transfer_expect(barriers + i, expected);
  cluster_arrive(), cluster_wait();
  uint4 value = x[at];
  for (int s = 0; s < steps; ++s) {
    uint4* const line = lines + s % 2 * blocks * n;
    TransferBarrier* const barrier = barriers + s % 2;
    for (unsigned rank = 0; rank < blocks; ++rank) store_async(line + cluster_rank() * n + t, value, barrier, rank);
    if (waits) transfer_wait(barrier, s / 2 % 2);
    if (waits && t == 0) transfer_expect(barrier, expected);
    value = {0, 0, 0, 0};
    for (unsigned rank = 0; rank < blocks; ++rank) {
      const uint4 other = line[rank * n + (t + 1) % n];
      value.x += other.x, value.y += other.y, value.z += other.z, value.w += other.w;
    }
  }
  y[at] = value;
}

__global__ void expects(unsigned bytes, int times, bool starts) {
  auto* barrier = reinterpret_cast<TransferBarrier*>(shared_memory());
  if (starts) transfer_init(barrier);
  for (int i = 0; i < times; ++i) transfer_expect(barrier, bytes);
  transfer_wait(barrier, 0);
}

// -- flags across blocks ----------------------------------------------------------------------------------
// y of each block: the sum of what all blocks' threads have stored.
__global__ void grid_sum(const float* x, float* partial, unsigned* counter, float* y, bool right) {
  const unsigned t = threadIdx.x, n = blockDim.x;
  store_l2(partial + blockIdx.x * n + t, x[blockIdx.x * n + t]);
  if (right) __syncthreads();
  if (t) return;
  add_release(counter, 1);
  wait_at_least(counter, 0xfffffff0u + gridDim.x);  // the counter begins there, and wraps around
  float sum = 0;
  for (unsigned i = 0; i < n * gridDim.x; ++i) sum += load_l2(partial + i);
  y[blockIdx.x] = sum;
}

// The same, but the flag is set by an addition that releases nothing. Only memory weaker than the host's shows it: ptx.cpp.
__global__ void grid_sum_relaxed(const float* x, float* partial, unsigned* counter, float* y, bool right) {
  const unsigned t = threadIdx.x, n = blockDim.x;
  partial[blockIdx.x * n + t] = x[blockIdx.x * n + t];
  __syncthreads();
  if (t) return;
  if (right) add_release(counter, 1);
  else atomicAdd(counter, 1u);
  wait_at_least(counter, gridDim.x);
  float sum = 0;
  for (unsigned i = 0; i < n * gridDim.x; ++i) sum += load_l2(partial + i);
  y[blockIdx.x] = sum;
}

__global__ void spin(unsigned* flag, bool right) {
  if (right && blockIdx.x) add_release(flag, 1);
  if (!blockIdx.x)
    while (load_acquire(flag) == 0) continue;
}

template <class T>
__global__ void through_l2(const T* from, T* to) {
  store_l2(to + threadIdx.x, load_l2(from + threadIdx.x));
}

std::string message;

template <class... P, class... A>
const char* report(const char* name, const LaunchShape& shape, void (*kernel)(P...), A... args) {
  message.clear();
  try {
    launch(name, shape, nullptr, kernel, args...);
  } catch (const std::exception& e) {
    message = e.what();
  }
  return message.c_str();
}

}  // namespace
}  // namespace fusedrnn::cuda

using namespace fusedrnn::cuda;

extern "C" {
const char* run_reverse(const float* x, float* y, int n, bool right) {
  return report("reverse", {1, n, 4 * n}, reverse, x, y, right);
}
const char* run_prefix_sum(const float* x, float* y, int n, bool right) {
  return report("prefix_sum", {1, n, 4 * n}, prefix_sum, x, y, right);
}
const char* run_staged(const float* x, float* y, int n, bool waits, bool waits_for_readers) {
  return report("staged", {1, n, 16 * n}, staged, x, y, waits, waits_for_readers);
}
const char* run_pipelined(const float* x, float* y, int n, int steps) {
  return report("pipelined", {1, n, 8 * n}, pipelined, x, y, steps);
}
const char* run_write_shared(int blocks, int bytes, int at) {
  return report("write_shared", {blocks, 32, bytes}, write_shared, at);
}
const char* run_read_shared(float* y, int bytes, int at) {
  return report("read_shared", {1, 1, bytes}, read_shared, y, at);
}
const char* run_read_global(const float* x, float* y, int at) {
  return report("read_global", {1, 1, 0}, read_global, x, y, at);
}
const char* run_shape(int64_t blocks, int threads, int64_t shared_bytes, int cluster, bool cooperative) {
  return report("shape", {blocks, threads, shared_bytes, cluster, cooperative}, barrier_for_some, 1024u);
}
const char* run_barrier_for_some(int blocks, int n, unsigned first) {
  return report("barrier_for_some", {blocks, n, 0}, barrier_for_some, first);
}
const char* run_deep(unsigned char* y) { return report("deep", {1, 2, 0}, deep, y); }
const char* run_shuffles(const float* x, float* y, int n) { return report("shuffles", {1, n, 0}, shuffles, x, y); }
const char* run_lanes_astray(float* y, int n, int kind) {
  return report("lanes_astray", {1, n, 0}, lanes_astray, y, kind);
}
const char* run_product(const uint32_t* a, const uint32_t* b, float* acc, int kind) {
  return report("product", {1, 32, 0}, kind == 0 ? product<Half> : kind == 1 ? product<BFloat16> : product<float>, a,
                b, acc);
}
const char* run_matrix_rows(const uint4* rows, const int* order, uint32_t* r) {
  return report("matrix_rows", {1, 32, 512}, matrix_rows, rows, order, r);
}
const char* run_to_float(const void* from, float* to, int n, bool half) {
  const LaunchShape shape{(n + 255) / 256, 256, 0};
  return half ? report("converted", shape, converted<float, Half>, static_cast<const Half*>(from), to, n)
              : report("converted", shape, converted<float, BFloat16>, static_cast<const BFloat16*>(from), to, n);
}
const char* run_from_float(const float* from, void* to, int n, bool half) {
  const LaunchShape shape{(n + 255) / 256, 256, 0};
  return half ? report("converted", shape, converted<Half, float>, from, static_cast<Half*>(to), n)
              : report("converted", shape, converted<BFloat16, float>, from, static_cast<BFloat16*>(to), n);
}
const char* run_tf32(const float* from, uint32_t* to, int n) { return report("tf32", {1, n, 0}, tf32, from, to); }
const char* run_atomics(float* f, int* i, unsigned* u, int blocks, int n) {
  return report("atomics", {blocks, n, 0}, atomics, f, i, u);
}
const char* run_neighbours(const float* x, float* y, int blocks, int n, int cluster, bool waits, bool stays) {
  return report("neighbours", {blocks, n, 4 * n, cluster}, neighbours, x, y, waits, stays);
}
const char* run_all_to_all(const uint4* x, uint4* y, int blocks, int n, int cluster, int steps, int expected, bool waits) {
  return report("all_to_all", {blocks, n, 16 + 32 * n * cluster, cluster}, all_to_all, x, y, steps, static_cast<unsigned>(expected), waits);
}
const char* run_expects(int bytes, int times, bool starts) {
  return report("expects", {1, 1, 8}, expects, static_cast<unsigned>(bytes), times, starts);
}
const char* run_grid_sum(const float* x, float* partial, unsigned* counter, float* y, int blocks, int n,
                         bool cooperative, bool right) {
  return report("grid_sum", {blocks, n, 0, 1, cooperative}, grid_sum, x, partial, counter, y, right);
}
const char* run_grid_sum_relaxed(const float* x, float* partial, unsigned* counter, float* y, int blocks, int n, bool right) {
  return report("grid_sum_relaxed", {blocks, n, 0, 1, true}, grid_sum_relaxed, x, partial, counter, y, right);
}
const char* run_spin(unsigned* flag, bool right) { return report("spin", {2, 1, 0, 1, true}, spin, flag, right); }
const char* run_through_l2(const void* from, void* to, int n, int bytes) {
  auto through = [&](auto* f, auto* t) {
    return report("through_l2", {1, n, 0}, through_l2<std::decay_t<decltype(*t)>>, f, t);
  };
  if (bytes == 2) return through(static_cast<const BFloat16*>(from), static_cast<BFloat16*>(to));
  if (bytes == 4) return through(static_cast<const float*>(from), static_cast<float*>(to));
  if (bytes == 8) return through(static_cast<const uint2*>(from), static_cast<uint2*>(to));
  return through(static_cast<const uint4*>(from), static_cast<uint4*>(to));
}
}

#if defined(FAULTS_MAIN)
#include <cstdio>
#include <memory>

int main(int, char** arguments) {
  const std::string which = arguments[1];
  const auto x = std::make_unique<float[]>(256), y = std::make_unique<float[]>(256);
  for (int i = 0; i < 256; ++i) x[i] = 1;
  const std::string error = which == "right"          ? run_reverse(x.get(), y.get(), 256, true)
                            : which == "global read"  ? run_read_global(x.get(), y.get(), 256)
                            : which == "shared read"  ? run_read_shared(y.get(), 128, 32)
                            : which == "shared write" ? run_write_shared(1, 100, 100)
                            : which == "dead-lock"    ? run_barrier_for_some(3, 64, 5)
                            : which == "peer left"    ? run_neighbours(x.get(), y.get(), 8, 32, 8, true, false)
                                                      : "no such case";
  // after a fault the executor is whole
  const char* after = which == "dead-lock" ? run_reverse(x.get(), y.get(), 256, true) : "";
  std::puts(error.c_str());
  return *after || y[0] != 1;
}
#endif
