// What a kernel asks of the device beyond C++: the one place where PTX stands.
//
// Two implementations of the same names. Compiled by nvcc, each is an instruction or a few. Compiled
// by a host C++ compiler with FUSEDRNN_SIMT defined (and tests/ on the include path), each is a call
// into an executor that runs a grid's threads as fibers, so that the kernels' own sources can be
// proven on a machine without a GPU; <simt/primitives.h> also gives CUDA's spellings then.
// Kernels use dynamic shared memory alone, and no other CUDA spelling than those that header lists.
//
// Needs sm_80: mma on 16-bit and tf32 operands, cp.async. Clusters need sm_90 and trap below it.
#pragma once

#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <tuple>
#include <type_traits>

#include "../core/config.h"

namespace fusedrnn::cuda {

using Stream = void*;  // a cudaStream_t

struct LaunchShape {
  int64_t blocks;  // none: nothing is launched
  int threads;     // of a block
  int64_t shared_bytes;
  int cluster = 1;           // blocks that reach each other's shared memory
  bool cooperative = false;  // all blocks in flight together: they may wait for each other
};

// The parameters of a kernel are copied into its launch: plain values, at most 4 KiB of them.
template <class... P>
constexpr bool launchable = (std::is_trivially_copyable_v<P> && ...) && (sizeof(P) + ... + 0) <= 4096;

}  // namespace fusedrnn::cuda

#if defined(FUSEDRNN_SIMT)

#include <simt/primitives.h>

#else

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

namespace fusedrnn::cuda {

using Half = __half;
using BFloat16 = __nv_bfloat16;

// Rounds to nearest even; to and from a 16-bit type through float.
template <class A, class S>
FUSEDRNN_INLINE A convert(S value) {
  if constexpr (std::is_same_v<A, S>) return value;
  else if constexpr (std::is_same_v<S, Half>) return convert<A>(__half2float(value));
  else if constexpr (std::is_same_v<S, BFloat16>) return convert<A>(__bfloat162float(value));
  else if constexpr (std::is_same_v<A, Half>) return __float2half_rn(static_cast<float>(value));
  else if constexpr (std::is_same_v<A, BFloat16>) return __float2bfloat16_rn(static_cast<float>(value));
  else return static_cast<A>(value);
}

// The block's dynamic shared memory.
__device__ __forceinline__ unsigned char* shared_memory() {
  extern __shared__ __align__(128) unsigned char fusedrnn_shared_memory[];
  return fusedrnn_shared_memory;
}

__device__ __forceinline__ unsigned shared_address(const void* shared) {
  return static_cast<unsigned>(__cvta_generic_to_shared(shared));
}

// -- cp.async: global to shared memory behind the thread's back -------------------------------------
// Both addresses are multiples of `bytes`. Copies of 16 bytes read from L2, so they see what other
// blocks wrote during the kernel; smaller ones may read a stale line of L1.
template <int bytes>
__device__ __forceinline__ void copy_async(void* shared, const void* global) {
  static_assert(bytes == 4 || bytes == 8 || bytes == 16);
  if constexpr (bytes == 16)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(shared)), "l"(global) : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(shared_address(shared)), "l"(global), "n"(bytes)
                 : "memory");
}

// Closes a group: what this thread has asked for since the last commit.
__device__ __forceinline__ void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// All groups of this thread but the latest `pending` have arrived. Other threads' need a barrier.
template <int pending>
__device__ __forceinline__ void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

// -- products of a warp: acc (16, 8) += a (16, K) · b (K, 8), in float ------------------------------
// Lane l = 4g + t. Element (r, c) of a 16-bit fragment stands beside (r, c + 1) in a register, low half
// first; for b it is (k, n) beside (k + 1, n).
//   acc[0..3]             (g, 2t) (g, 2t+1) (g+8, 2t) (g+8, 2t+1)
//   K = 16, a[0..3] from  (g, 2t) (g+8, 2t) (g, 2t+8) (g+8, 2t+8)     b[0..1] from (2t, g) (2t+8, g)
//   K = 8,  a[0..3]       (g, t)  (g+8, t)  (g, t+4)  (g+8, t+4)      b[0..1]      (t, g)  (t+4, g)
template <class S>
__device__ __forceinline__ void mma_16x8x16(float (&acc)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  static_assert(std::is_same_v<S, Half> || std::is_same_v<S, BFloat16>);
  if constexpr (std::is_same_v<S, Half>)
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(acc[0]), "+f"(acc[1]), "+f"(acc[2]), "+f"(acc[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  else
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(acc[0]), "+f"(acc[1]), "+f"(acc[2]), "+f"(acc[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// A float's bits as a tf32 operand: 10 bits of mantissa, rounded to nearest, ties away from zero.
__device__ __forceinline__ uint32_t to_tf32(float value) {
  uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
  return bits;
}

__device__ __forceinline__ void mma_16x8x8_tf32(float (&acc)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(acc[0]), "+f"(acc[1]), "+f"(acc[2]), "+f"(acc[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// 8x8 matrices of 16-bit elements: lanes 8j..8j+7 name the rows of matrix j (16 bytes each, aligned);
// r[j] of lane 4g + t receives elements 2t and 2t+1 of its row g. x2 heeds lanes 0..15 alone.
__device__ __forceinline__ void ldmatrix_x4(uint32_t (&r)[4], const void* shared_row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(shared_row))
               : "memory");
}

__device__ __forceinline__ void ldmatrix_x2(uint32_t (&r)[2], const void* shared_row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(shared_address(shared_row))
               : "memory");
}

// -- clusters: blocks that reach each other's shared memory -----------------------------------------
// A block that has left the kernel has no shared memory: the last access to a peer's comes before a
// cluster barrier, or is a store_async that the peer waits for. Of a cluster barrier every thread
// arrives once and waits once, in turn.
//
// A transfer barrier counts what stores bring to a block: 8 bytes of its shared memory, aligned. A phase
// ends when a thread of the block has said how many bytes it expects and as many have come, in whatever
// order; the next one begins at once. Phases have the parities 0, 1, 0, ... Peers see that it is there after
// a cluster barrier.
using TransferBarrier = uint64_t;

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
__device__ __forceinline__ unsigned cluster_rank() { __trap(); return 0; }
__device__ __forceinline__ unsigned cluster_size() { __trap(); return 1; }
template <class T>
__device__ __forceinline__ T* cluster_peer(T* shared, unsigned) { __trap(); return shared; }
__device__ __forceinline__ void cluster_arrive() { __trap(); }
__device__ __forceinline__ void cluster_wait() { __trap(); }
__device__ __forceinline__ void transfer_init(TransferBarrier*) { __trap(); }
__device__ __forceinline__ void transfer_expect(TransferBarrier*, unsigned) { __trap(); }
__device__ __forceinline__ void transfer_wait(TransferBarrier*, unsigned) { __trap(); }
__device__ __forceinline__ void store_async(void*, uint4, TransferBarrier*, unsigned) { __trap(); }
#else
__device__ __forceinline__ unsigned cluster_rank() {
  unsigned rank;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}

__device__ __forceinline__ unsigned cluster_size() {
  unsigned size;
  asm("mov.u32 %0, %%cluster_nctarank;" : "=r"(size));
  return size;
}

// The same place in the shared memory of block `rank` of this cluster, as an ordinary address.
template <class T>
__device__ __forceinline__ T* cluster_peer(T* shared, unsigned rank) {
  uint64_t peer;
  asm("mapa.u64 %0, %1, %2;" : "=l"(peer) : "l"(shared), "r"(rank));
  return reinterpret_cast<T*>(peer);
}

__device__ __forceinline__ void cluster_arrive() { asm volatile("barrier.cluster.arrive.release;" ::: "memory"); }
__device__ __forceinline__ void cluster_wait() { asm volatile("barrier.cluster.wait.acquire;" ::: "memory"); }

__device__ __forceinline__ void transfer_init(TransferBarrier* barrier) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(shared_address(barrier)) : "memory");
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

// The bytes that this phase brings; once a phase.
__device__ __forceinline__ void transfer_expect(TransferBarrier* barrier, unsigned bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes) : "memory");
}

// Until the phase of that parity has ended; what it brought is there then.
__device__ __forceinline__ void transfer_wait(TransferBarrier* barrier, unsigned parity) {
  unsigned ended;
  do {
    asm volatile(
        "{\n\t"
        ".reg .pred ended;\n\t"
        "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 ended, [%1], %2;\n\t"
        "selp.u32 %0, 1, 0, ended;\n\t"
        "}"
        : "=r"(ended)
        : "r"(shared_address(barrier)), "r"(parity)
        : "memory");
  } while (!ended);
}

__device__ __forceinline__ unsigned peer_address(const void* shared, unsigned rank) {
  unsigned peer;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(peer) : "r"(shared_address(shared)), "r"(rank));
  return peer;
}

// Stores into the same place, of 16 bytes, of block `rank`, behind the thread's back, and tells that block's barrier.
__device__ __forceinline__ void store_async(void* shared, uint4 value, TransferBarrier* barrier, unsigned rank) {
  asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [%0], {%1,%2,%3,%4}, [%5];" ::"r"(
                   peer_address(shared, rank)),
               "r"(value.x), "r"(value.y), "r"(value.z), "r"(value.w), "r"(peer_address(barrier, rank))
               : "memory");
}
#endif

// -- across the blocks of a cooperative grid --------------------------------------------------------
// Publishes what this thread has written, and what others had before a barrier with it.
__device__ __forceinline__ void add_release(unsigned* counter, unsigned n) {
  asm volatile("red.release.gpu.global.add.u32 [%0], %1;" ::"l"(counter), "r"(n) : "memory");
}

__device__ __forceinline__ unsigned load_acquire(const unsigned* counter) {
  unsigned value;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(counter) : "memory");
  return value;
}

// Until the counter has come to value or gone past it; it may wrap around.
__device__ __forceinline__ void wait_at_least(const unsigned* counter, unsigned value) {
  for (int tries = 0; static_cast<int>(load_acquire(counter) - value) < 0; ++tries)
    if (tries >= 32) __nanosleep(32);
}

// Past L1, which other blocks' writes during the kernel do not reach.
template <class T>
__device__ __forceinline__ T load_l2(const T* place) {
  static_assert(sizeof(T) == 2 || sizeof(T) == 4 || sizeof(T) == 8 || sizeof(T) == 16);
  T value;
  if constexpr (sizeof(T) == 2) {
    uint16_t v;
    asm volatile("ld.global.cg.u16 %0, [%1];" : "=h"(v) : "l"(place) : "memory");
    memcpy(&value, &v, 2);
  } else if constexpr (sizeof(T) == 4) {
    uint32_t v;
    asm volatile("ld.global.cg.u32 %0, [%1];" : "=r"(v) : "l"(place) : "memory");
    memcpy(&value, &v, 4);
  } else if constexpr (sizeof(T) == 8) {
    uint64_t v;
    asm volatile("ld.global.cg.u64 %0, [%1];" : "=l"(v) : "l"(place) : "memory");
    memcpy(&value, &v, 8);
  } else {
    uint4 v;
    asm volatile("ld.global.cg.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(place)
                 : "memory");
    memcpy(&value, &v, 16);
  }
  return value;
}

// Brings the line of that place into L2, for somebody to read soon.
__device__ __forceinline__ void prefetch_l2(const void* place) { asm volatile("prefetch.global.L2 [%0];" ::"l"(place)); }

template <class T>
__device__ __forceinline__ void store_l2(T* place, T value) {
  static_assert(sizeof(T) == 2 || sizeof(T) == 4 || sizeof(T) == 8 || sizeof(T) == 16);
  if constexpr (sizeof(T) == 2) {
    uint16_t v;
    memcpy(&v, &value, 2);
    asm volatile("st.global.cg.u16 [%0], %1;" ::"l"(place), "h"(v) : "memory");
  } else if constexpr (sizeof(T) == 4) {
    uint32_t v;
    memcpy(&v, &value, 4);
    asm volatile("st.global.cg.u32 [%0], %1;" ::"l"(place), "r"(v) : "memory");
  } else if constexpr (sizeof(T) == 8) {
    uint64_t v;
    memcpy(&v, &value, 8);
    asm volatile("st.global.cg.u64 [%0], %1;" ::"l"(place), "l"(v) : "memory");
  } else {
    uint4 v;
    memcpy(&v, &value, 16);
    asm volatile("st.global.cg.v4.u32 [%0], {%1,%2,%3,%4};" ::"l"(place), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w)
                 : "memory");
  }
}

// -- launching, on the host -------------------------------------------------------------------------
inline const char* advice(cudaError_t error) {
  switch (error) {
    case cudaErrorNoKernelImageForDevice:
    case cudaErrorInvalidDeviceFunction:
    case cudaErrorUnsupportedPtxVersion:
      return ". The build has no code for this device: build fusedrnn again on a machine that has it, or with its "
             "compute capability in TORCH_CUDA_ARCH_LIST (python -m fusedrnn info says what it was built for)";
    case cudaErrorInsufficientDriver:
      return ". The driver is older than the CUDA that fusedrnn was built with (python -m fusedrnn info): update it";
    default: return "";
  }
}

inline void check_launch(cudaError_t error, const char* name, const LaunchShape& s) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // so that the next call's answer is its own
  throw std::runtime_error(std::string("CUDA kernel ") + name + " (" + std::to_string(s.blocks) + " blocks of " +
                           std::to_string(s.threads) + " threads, " + std::to_string(s.shared_bytes) +
                           " bytes of shared memory, clusters of " + std::to_string(s.cluster) +
                           (s.cooperative ? ", cooperative" : "") + "): " + cudaGetErrorString(error) + advice(error));
}

// More than 48 KiB of dynamic shared memory, and clusters of more than 8 blocks, are had on demand alone. All the memory that the
// device has is asked for, whatever this launch needs: another thread's demand would else lower the kernel's limit between this one
// and its launch.
template <class... P>
cudaError_t allow(void (*kernel)(P...), const LaunchShape& shape) {
  const void* const function = reinterpret_cast<const void*>(kernel);
  cudaError_t error = cudaSuccess;
  if (shape.shared_bytes > 48 * 1024) {
    int device = 0, most = 0;
    error = cudaGetDevice(&device);
    if (error == cudaSuccess) error = cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
    if (error == cudaSuccess) error = cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize, most);
  }
  if (shape.cluster > 8 && error == cudaSuccess) {
    error = cudaFuncSetAttribute(function, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
  }
  return error;
}

// A launch's shape as the runtime wants it, which points into itself.
struct Configuration {
  cudaLaunchAttribute attributes[2] = {};
  cudaLaunchConfig_t config = {};

  Configuration(const Configuration&) = delete;
  Configuration(const LaunchShape& shape, Stream stream) {
    config.gridDim = dim3(static_cast<unsigned>(shape.blocks));
    config.blockDim = dim3(static_cast<unsigned>(shape.threads));
    config.dynamicSmemBytes = static_cast<size_t>(shape.shared_bytes);
    config.stream = static_cast<cudaStream_t>(stream);
    config.attrs = attributes;
    if (shape.cluster > 1) {
      cudaLaunchAttribute& a = attributes[config.numAttrs++];
      a.id = cudaLaunchAttributeClusterDimension;
      a.val.clusterDim.x = static_cast<unsigned>(shape.cluster);
      a.val.clusterDim.y = a.val.clusterDim.z = 1;
    }
    if (shape.cooperative) {
      cudaLaunchAttribute& a = attributes[config.numAttrs++];
      a.id = cudaLaunchAttributeCooperative;
      a.val.cooperative = 1;
    }
  }
};

template <class... P, class... A>
void launch(const char* name, const LaunchShape& shape, Stream stream, void (*kernel)(P...), A&&... args) {
  static_assert(launchable<P...>);
  if (shape.blocks == 0) return;
  auto checked = [&](cudaError_t error) { check_launch(error, name, shape); };
  checked(shape.blocks < 0 || shape.blocks > INT32_MAX ? cudaErrorInvalidConfiguration : cudaSuccess);
  checked(allow(kernel, shape));
  const Configuration c(shape, stream);
  std::tuple<P...> values(std::forward<A>(args)...);
  std::apply(
      [&](P&... value) {
        void* pointers[] = {&value..., nullptr};
        checked(cudaLaunchKernelExC(&c.config, reinterpret_cast<const void*>(kernel), pointers));
      },
      values);
}

// How many of its clusters the present device holds at once; none where it refuses them.
template <class... P>
int active_clusters(const LaunchShape& shape, void (*kernel)(P...)) {
  const Configuration c(shape, nullptr);
  int clusters = 0;
  cudaError_t error = allow(kernel, shape);
  if (error == cudaSuccess) error = cudaOccupancyMaxActiveClusters(&clusters, reinterpret_cast<const void*>(kernel), &c.config);
  if (error == cudaSuccess) return clusters;
  cudaGetLastError();  // so that the next call's answer is its own
  return 0;
}

// For what capability, as 10·major + minor, the code of this kernel was compiled that the present device runs.
template <class... P>
int compiled_for(void (*kernel)(P...)) {
  cudaFuncAttributes attributes{};
  check_launch(cudaFuncGetAttributes(&attributes, reinterpret_cast<const void*>(kernel)), "of any name", {});
  return attributes.ptxVersion;
}

}  // namespace fusedrnn::cuda

#endif
