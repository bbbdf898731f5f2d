// Runs a CUDA grid on the host: every thread a fiber, in an order drawn from a seed.
//
// What is deterministic on hardware is so here; what hardware leaves open - which thread goes first,
// which blocks are in flight, when an asynchronous copy or store lands - is drawn afresh at every launch, so
// that a kernel which needs a barrier it lacks gives a wrong result under some seed. What hardware
// would hang on, or must refuse, is an error that names the kernel, the block, the threads and the
// place. It is stricter than hardware: barriers and warp collectives do not forgive threads that have
// left the kernel. One launch at a time in the process, on the calling thread, to its end.
// Not seen: races between threads that no barrier, collective or flag ever separates within a run.
#pragma once

#include <cstdint>
#include <string>

namespace simt {

struct Index {
  unsigned x, y, z;
};

// Where the running fiber stands: CUDA's threadIdx, blockIdx, blockDim and gridDim.
extern Index thread_index, block_index, block_extent, grid_extent;

// From here on the orders come from this seed; at first it is FUSEDRNN_SIMT_SEED, or 0.
void seed(uint64_t value);

// What the imagined device has. Starts as 232448 bytes a block, 132 blocks at once, clusters of 16.
void set_limits(int64_t max_shared_bytes, int64_t max_coresident_blocks, int max_cluster);

struct Shape {
  int64_t blocks;
  int threads;
  int64_t shared_bytes;
  int cluster;
  bool cooperative;
};

struct Launch {
  std::string kernel;
  Shape shape;
  int64_t barriers;          // __syncthreads that completed, all blocks together
  int64_t cluster_barriers;  // likewise, all clusters together
  int64_t transfers;         // phases of transfer barriers that ended, all blocks together
  int64_t collectives;       // of warps: shuffles, votes, products, __syncwarp
  int64_t releases;          // add_release
  int64_t switches;          // times a fiber was resumed
  int64_t instructions;      // of PTX, where that is interpreted, by the first lane of each warp
};
const Launch& last_launch();

// Runs thread(arguments) once for every thread of the grid; throws std::runtime_error on a fault.
void run(const char* kernel, const Shape& shape, void (*thread)(const void* arguments), const void* arguments);

// Where set, launches go there, with the host's kernel and the addresses of its arguments: ptx.cpp.
using Instead = void (*)(const char* name, const Shape& shape, const void* kernel, void* const* arguments);
inline Instead instead = nullptr;

// -- for the running fiber ----------------------------------------------------------------------------
[[noreturn]] void fault(const std::string& what);  // the launch ends with it

void block_barrier();

// All lanes of mask meet; the last to come performs, given each lane's operands (null outside mask).
using Perform = void (*)(uint32_t mask, void* const operands[32]);
void warp_collective(const char* primitive, uint32_t mask, void* operands, Perform perform);

unsigned char* shared_memory();
void check_shared(const char* primitive, const void* place, int64_t bytes);  // in this block's, and aligned

void copy_async(void* shared, const void* global, int bytes);
void copy_async_commit();
void copy_async_wait(int pending);

unsigned cluster_rank();
unsigned cluster_size();
void* cluster_peer(void* shared, unsigned rank);
void cluster_arrive();
void cluster_wait();

void transfer_init(void* barrier);
void transfer_expect(void* barrier, unsigned bytes);
void transfer_wait(void* barrier, unsigned parity);
void store_async(void* shared, const void* bytes, void* barrier, unsigned rank);  // 16 bytes into that block's

void add_release(unsigned* counter, unsigned n);
unsigned load_acquire(const unsigned* counter);
void wait_at_least(const unsigned* counter, unsigned value);

}  // namespace simt

// The same for ctypes.
extern "C" {
void simt_seed(uint64_t value);
void simt_set_limits(int64_t max_shared_bytes, int64_t max_coresident_blocks, int max_cluster);
int64_t simt_last_launch(const char* what);  // a number of Launch or its Shape by name; -1: none of that name
}
