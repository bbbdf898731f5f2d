// The CUDA plan: which strategy runs each pass of one problem on one device, cut how, and why. A pure
// function of the problem and of the device's figures, so that every decision can be tested and printed
// without the device; the launcher runs the very plan it is given.
//
// stepwise    every size and type: a step is one GEMM of the library and one point-wise kernel.
// persistent  one launch for the whole sequence, w_hh resident on chip, h (backward: d_u) exchanged at every
//             step. A block owns 16·unit_tiles hidden units, with all their gates, for `batch` sequences; the
//             `slices` blocks that together have all units are a group. Groups never meet.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "problem.h"

namespace fusedrnn {

constexpr int kMostCluster = 16, kPortableCluster = 8;  // blocks; what is more than portable is for the device to allow

struct CudaDevice {
  std::string name;
  int capability;         // 10·major + minor
  int multiprocessors;
  int64_t shared_bytes;   // that one block may have
  int max_cluster;        // blocks of a thread-block cluster that the device can hold; 0 or 1: none
  // [i]: clusters of i blocks, each with a multiprocessor to itself, that it holds at once. Empty: not known, and estimated.
  std::vector<int> clusters = {};
};

enum class CudaStrategy : int { stepwise, persistent };

// Among whom h travels, and so how a step ends: __syncthreads, barriers in shared memory that count what peers store, or a
// counter in memory.
enum class Scope : int { block, cluster, grid };

constexpr int kWarps = 8, kBlockThreads = 32 * kWarps;
constexpr int kTileUnits = 16;   // hidden units of a warp's tile: the rows of a tensor-core product
constexpr int kTileBatch = 8;    // sequences of a tile: its columns
constexpr int kChunkTiles = 2;   // column tiles that a warp multiplies at once
constexpr int kTileGroup = 4;    // a warp's tiles along the depth are a multiple of this

// Tiles of the weights that each warp keeps in registers; `planes` matrices are multiplied side by side
// (forward: a gate each; backward: one). At most 128 registers a thread.
constexpr int held_tiles(int planes) { return planes == 1 ? 32 : 8; }

// The persistent kernel's cut and its shared memory.
struct PersistentPass {
  Scope scope;
  int unit_tiles, depth_parts;  // of a block: unit_tiles · depth_parts = kWarps
  int slices, groups;           // blocks of a group; groups of one direction
  int batch;                    // sequences of a group, a multiple of kTileBatch
  int tiles;                    // along the product's depth, per warp
  int held;                     // of them in registers
  int64_t gate_ld;              // between two gates in the exchanged vector, whose length is that (forward) or G times that:
                                // H, up to whole vectors of 16 bytes
  int64_t ld;                   // between two sequences' vectors in shared memory, in elements
  int buffers;                  // of that vector
  int64_t partial_ld;           // between two columns of the products' partial sums
  // Offsets into shared memory, in bytes.
  int64_t vector_at, partial_at, state_at, weights_at, biases_at, barriers_at, shared_bytes;
  int64_t blocks;               // of the launch, all directions
};

struct CudaPass {
  CudaStrategy strategy;
  PersistentPass persistent;  // when that is the strategy
  std::string reason;         // why, and what was rejected for what reason
};

struct CudaPlan {
  CudaPass forward, backward;
  int64_t workspace_bytes;  // the larger of both passes, freed when the call returns
  int64_t saved_bytes;      // kept from forward to backward besides y
};

// What else a plan depends on.
struct CudaRequest {
  Dtype dtype;
  const char* strategy;  // "auto", "stepwise" or "persistent", or "persistent/32": in blocks of so many units
};

// The strategy of that name, which outlives the call; std::invalid_argument where there is none.
const char* known_strategy(const std::string& name);

// Raises std::invalid_argument when the strategy asked for cannot serve a pass that is `wanted`, with the
// numbers and the nearest strategy that can.
enum class Pass : int { forward = 1, backward = 2, both = 3 };
CudaPlan plan_cuda(const Shape& shape, const CudaRequest& request, const CudaDevice& device, Pass wanted);

// Devices whose figures are known, to plan for without having them.
const std::vector<CudaDevice>& known_cuda_devices();

const char* name_of(CudaStrategy strategy);
const char* name_of(Scope scope);

}  // namespace fusedrnn
