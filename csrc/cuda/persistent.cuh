// What both passes of the persistent strategy share: where a block stands, the weights that stay on chip, and
// the vector that travels between steps.
//
// A warp's product is a tile of 16 hidden units by 8 sequences: the weights are the tensor cores' stationary
// operand A, the exchanged vectors (h, backward d_u) their operand B. Each warp multiplies its share of the
// depth; the partial sums meet in shared memory, where each (unit, sequence) has a thread of its own.
//
// Every block has but two warps a scheduler, so instructions count: a step of LSTM B=16 H=512 float16 takes a warp 778 of PTX
// forward and 898 backward (tests/simt/instructions.py), in clusters of 16 blocks. In clusters of eight 1345 and 1587, and 1898 and
// 1836 when whether a sequence runs was asked, and where a unit stands computed, anew by each part of a step, biases came from
// memory, and each gate's partial sums were found by themselves. With divisions by the units of a block, places in shared memory
// of 64 bits and a store of each value to each peer they were 2256 and 2975.
#pragma once

#include "kernels.h"
#include "step.cuh"

namespace fusedrnn::cuda {

// --- the tensor cores' view of a type ---------------------------------------------------------------------------

template <class S>
struct Tile {
  static constexpr int depth = 32 / sizeof(S);  // of one product
  static constexpr int packed = 4 / sizeof(S);  // values in a register
};

// The value, as if just read: what follows from it is computed here and now. Otherwise the compiler would split
// the weights once for the whole sequence, and have twice as many values to keep in registers as there are.
__device__ __forceinline__ uint32_t fresh(uint32_t value) {
#if defined(__CUDA_ARCH__)
  asm volatile("" : "+r"(value));
#endif
  return value;
}

__device__ __forceinline__ void split_tf32(uint32_t bits, uint32_t& high, uint32_t& low) {
  float value, rounded;
  memcpy(&value, &bits, 4);
  high = to_tf32(value);
  memcpy(&rounded, &high, 4);
  low = to_tf32(value - rounded);
}

// acc += a·b. A float32 product is had from the high and low halves of both sides, but for low·low: 2^-22 of it, less
// than what the sum's own rounding leaves. Tensor cores round their sums towards zero, errors of one sign that would add up
// along a chain: each tile is summed by itself, and added to the others by ordinary additions. What overflows, or is
// infinite, may become NaN here where it would stay infinite: a low half may have the other sign, and infinity has none.
__device__ __forceinline__ void multiply_halves(float (&acc)[4], const uint32_t (&a_high)[4], const uint32_t (&a_low)[4],
                                                const uint32_t (&b)[2], bool exact) {
  uint32_t b_high[2], b_low[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) split_tf32(b[i], b_high[i], b_low[i]);
  if (!exact) return mma_16x8x8_tf32(acc, a_high, b_high);
  float tile[4] = {};
  mma_16x8x8_tf32(tile, a_low, b_high);
  mma_16x8x8_tf32(tile, a_high, b_low);
  mma_16x8x8_tf32(tile, a_high, b_high);
#pragma unroll
  for (int i = 0; i < 4; ++i) acc[i] += tile[i];
}

template <class S>
__device__ __forceinline__ void multiply_tile(float (&acc)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                                              bool exact) {
  if constexpr (sizeof(S) == 2) {
    mma_16x8x16<S>(acc, a, b);
  } else {
    uint32_t a_high[4], a_low[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) split_tf32(fresh(a[i]), a_high[i], a_low[i]);
    multiply_halves(acc, a_high, a_low, b, exact);
  }
}

// --- where a block stands -----------------------------------------------------------------------------------------

struct Place {
  int direction, group, slice;
  int64_t first_unit, first_sequence;
  int warp, lane, unit_tile, depth_part;

  __device__ __forceinline__ explicit Place(const PersistentPass& p) {
    const int block = static_cast<int>(blockIdx.x);
    slice = block % p.slices;  // consecutive: a cluster is a group
    group = block / p.slices % p.groups;
    direction = block / p.slices / p.groups;
    first_unit = int64_t(slice) * p.unit_tiles * kTileUnits;
    first_sequence = int64_t(group) * p.batch;
    warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
    unit_tile = warp % p.unit_tiles, depth_part = warp / p.unit_tiles;
  }
};

// A block multiplies chunks of so many sequences at a time.
__device__ __forceinline__ int chunks_of(const PersistentPass& p) {
  return (p.batch / kTileBatch + kChunkTiles - 1) / kChunkTiles;
}
__device__ __forceinline__ int tiles_of(const PersistentPass& p, int chunk) {
  const int left = p.batch / kTileBatch - chunk * kChunkTiles;
  return left < kChunkTiles ? left : kChunkTiles;
}

// One unit of one sequence, and the thread's e-th in its chunk; always the same thread's.
// Registers are dear where it is kept: what is an addition away is found anew.
struct Unit {
  int unit, sequence;  // in the block, in the group
  bool there;

  __device__ __forceinline__ int column() const { return sequence & (kChunkTiles * kTileBatch - 1); }  // in the chunk
  __device__ __forceinline__ int b(const Place& at) const { return static_cast<int>(at.first_sequence) + sequence; }
  __device__ __forceinline__ int j(const Place& at) const { return static_cast<int>(at.first_unit) + unit; }
  // Its place among the block's carried states.
  __device__ __forceinline__ int state(const PersistentPass& p) const { return sequence * p.unit_tiles * kTileUnits + unit; }

  Unit() = default;
  __device__ __forceinline__ Unit(const PersistentPass& p, const Place& at, const Shape& shape, int chunk, int e) {
    const int units = p.unit_tiles * kTileUnits, log2_units = 31 - __clz(units);  // a power of two, lest there be divisions
    const int column = e >> log2_units;
    unit = e & (units - 1), sequence = chunk * kChunkTiles * kTileBatch + column;
    there = column < tiles_of(p, chunk) * kTileBatch && b(at) < static_cast<int>(shape.batch) && j(at) < static_cast<int>(shape.hidden);
  }
};

__device__ __forceinline__ int units_per_thread(const PersistentPass& p) {
  return (p.unit_tiles * kTileUnits * kTileBatch * kChunkTiles + kBlockThreads - 1) / kBlockThreads;
}

// --- the weights --------------------------------------------------------------------------------------------------

// One warp's tiles of `kPlanes` matrices: the first in registers, the rest in shared memory, each lane's own. Where half of the
// registers hold all, the other half has the low halves of float32, which are else found anew at every step: LSTM B=8 H=256 in
// blocks of 16 units, forward 853 instructions of PTX a warp and step where there were 1227, backward 975 and 1336.
template <class S, int kPlanes>
class Stationary {
 public:
  // element(plane, row of the warp's unit tile, place along the depth) is the weight, zero beyond the matrix.
  template <class F>
  __device__ __forceinline__ Stationary(const PersistentPass& p, const Place& at, unsigned char* weights, F&& element)
      : tiles_(p.tiles), first_(at.depth_part * p.tiles) {
    rest_ = reinterpret_cast<uint4*>(weights) + at.warp * (p.tiles - p.held) * kPlanes * 32 + at.lane;
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
      if (i >= tiles_) break;
#pragma unroll
      for (int plane = 0; plane < kPlanes; ++plane) load(held_[i][plane], plane, i, at.lane, element);
    }
    if constexpr (kSplits) {
#pragma unroll
      for (int i = 0; i < kHeld / 2; ++i) {
        if (i >= tiles_ || tiles_ > kHeld / 2) break;
#pragma unroll
        for (int plane = 0; plane < kPlanes; ++plane) {
#pragma unroll
          for (int r = 0; r < 4; ++r) {
            const uint32_t value = held_[i][plane][r];
            split_tf32(value, held_[i][plane][r], held_[kHeld / 2 + i][plane][r]);
          }
        }
      }
    }
    for (int i = kHeld; i < tiles_; ++i) {
#pragma unroll
      for (int plane = 0; plane < kPlanes; ++plane) {
        uint32_t a[4];
        load(a, plane, i, at.lane, element);
        rest_[((i - kHeld) * kPlanes + plane) * 32] = uint4{a[0], a[1], a[2], a[3]};
      }
    }
  }

  // partial[depth_part][plane][column][unit] = this warp's share of the products with `column_tiles` tiles of v.
  __device__ __forceinline__ void multiply(const PersistentPass& p, const Place& at, const S* v, int column_tiles,
                                           bool exact, float* partial) const {
    static_assert(kChunkTiles == 2);
    if (column_tiles == 1) multiply_columns<1>(p, at, v, exact, partial);
    else multiply_columns<2>(p, at, v, exact, partial);
  }

  // The whole products of a unit and a column.
  static __device__ __forceinline__ void sums(const PersistentPass& p, const float* partial, const Unit& at, float (&sum)[kPlanes]) {
    const int ld = static_cast<int>(p.partial_ld), plane_ld = columns_of(p) * ld;
    const float* from = partial + at.column() * ld + at.unit;
#pragma unroll
    for (int plane = 0; plane < kPlanes; ++plane) sum[plane] = from[plane * plane_ld];
#pragma unroll 1
    for (int part = 1; part < p.depth_parts; ++part) {
      from += kPlanes * plane_ld;
#pragma unroll
      for (int plane = 0; plane < kPlanes; ++plane) sum[plane] += from[plane * plane_ld];
    }
  }

 private:
  static constexpr int kHeld = held_tiles(kPlanes);
  static constexpr bool kSplits = sizeof(S) == 4;

  // Of the partial sums.
  static __device__ __forceinline__ int columns_of(const PersistentPass& p) {
    return kTileBatch * (p.batch < kTileBatch * kChunkTiles ? 1 : kChunkTiles);
  }

  // Fragment A of tile i: register r holds row lane/4 + 8·(r%2), columns from packed·(lane%4) + depth/2·(r/2).
  template <class F>
  __device__ __forceinline__ void load(uint32_t (&a)[4], int plane, int i, int lane, F&& element) const {
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      S values[Tile<S>::packed];
#pragma unroll
      for (int q = 0; q < Tile<S>::packed; ++q) {
        const int64_t k = int64_t(first_ + i) * Tile<S>::depth + Tile<S>::packed * (lane % 4) + Tile<S>::depth / 2 * (r / 2) + q;
        values[q] = element(plane, lane / 4 + 8 * (r % 2), k);
      }
      memcpy(&a[r], values, 4);
    }
  }

  // The same of so many column tiles: none is asked for inside.
  template <int kColumnTiles>
  __device__ __forceinline__ void multiply_columns(const PersistentPass& p, const Place& at, const S* v, bool exact,
                                                   float* partial) const {
    constexpr int kSets = kPlanes == 1 ? 4 / kColumnTiles : 1;  // accumulators, so that products need not wait for each other
    float acc[kSets][kColumnTiles][kPlanes][4] = {};
    const int ld = static_cast<int>(p.ld), partial_ld = static_cast<int>(p.partial_ld);  // of shared memory, which is small
    const S* mine = v + at.lane / 4 * ld + first_ * Tile<S>::depth + Tile<S>::packed * (at.lane % 4);
    const auto multiply_held = [&](auto&& product) {
#pragma unroll
      for (int i0 = 0; i0 < kHeld; i0 += kTileGroup) {
        if (i0 >= tiles_) break;
#pragma unroll
        for (int q = 0; q < kTileGroup; ++q) product(i0 + q, acc[q % kSets]);
      }
    };
    const auto whole = [&](int i, auto& sums) { multiply_tiles<false>(ld, mine, i, exact, held_[i], held_[i], sums); };
    if constexpr (kSplits) {
      const auto split = [&](int i, auto& sums) {
        if (i < kHeld / 2) multiply_tiles<true>(ld, mine, i, exact, held_[i], held_[(kHeld / 2 + i) % kHeld], sums);
      };
      if (tiles_ <= kHeld / 2) multiply_held(split);
      else multiply_held(whole);
    } else {
      multiply_held(whole);
    }
    for (int i0 = kHeld; i0 < tiles_; i0 += kTileGroup) {
#pragma unroll
      for (int q = 0; q < kTileGroup; ++q) {
        uint32_t a[kPlanes][4];
#pragma unroll
        for (int plane = 0; plane < kPlanes; ++plane) {
          const uint4 four = rest_[((i0 - kHeld + q) * kPlanes + plane) * 32];
          a[plane][0] = four.x, a[plane][1] = four.y, a[plane][2] = four.z, a[plane][3] = four.w;
        }
        multiply_tiles<false>(ld, mine, i0 + q, exact, a, a, acc[q % kSets]);
      }
    }
    const int plane_ld = columns_of(p) * partial_ld;
    float* const to = partial + at.depth_part * kPlanes * plane_ld + at.lane % 4 * 2 * partial_ld + at.unit_tile * kTileUnits + at.lane / 4;
#pragma unroll
    for (int n = 0; n < kColumnTiles; ++n) {
#pragma unroll
      for (int plane = 0; plane < kPlanes; ++plane) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          float sum = acc[0][n][plane][i];
#pragma unroll
          for (int set = 1; set < kSets; ++set) sum += acc[set][n][plane][i];
          to[plane * plane_ld + (n * kTileBatch + i % 2) * partial_ld + i / 2 * 8] = sum;
        }
      }
    }
  }

  // Fragment B: register r holds column lane/4, rows from packed·(lane%4) + depth/2·r.
  // kSplit: a and low are the halves of the weights, else a is all of them.
  template <bool kSplit, int kColumnTiles>
  __device__ __forceinline__ void multiply_tiles(int ld, const S* mine, int i, bool exact, const uint32_t (&a)[kPlanes][4],
                                                 const uint32_t (&low)[kPlanes][4], float (&acc)[kColumnTiles][kPlanes][4]) const {
#pragma unroll
    for (int n = 0; n < kColumnTiles; ++n) {
      const S* from = mine + n * kTileBatch * ld + i * Tile<S>::depth;
      uint32_t b[2];  // aligned, or else each would be loaded byte by byte
      memcpy(&b[0], __builtin_assume_aligned(from, 4), 4);
      memcpy(&b[1], __builtin_assume_aligned(from + Tile<S>::depth / 2, 4), 4);
#pragma unroll
      for (int plane = 0; plane < kPlanes; ++plane) {
        if constexpr (kSplit) multiply_halves(acc[n][plane], a[plane], low[plane], b, exact);
        else multiply_tile<S>(acc[n][plane], a[plane], b, exact);
      }
    }
  }

  int tiles_, first_;
  uint4* rest_;
  uint32_t held_[kHeld][kPlanes][4];
};

// --- the vector that travels --------------------------------------------------------------------------------------

// Step n multiplies the vectors that were sent for n: (batch, kGates·gate_ld), one a sequence. While some block still
// reads those, others may already send for n + 1, hence two places; nobody sends for n + 2 before all have
// published n + 1, after reading n.
//
// In a cluster a block's values meet in its own place and go from there to each peer's, 16 bytes at a time, each store
// counted by the peer's barrier: a step waits one way between two blocks. With a store of each value to each peer, and the
// cluster's barrier after them, a thread of LSTM B=16 H=512 float16 in eight blocks stored 64 times backward, now 7 times; and
// that barrier is a way of its own, begun when all stores have arrived.
template <class S, int kGates>
class Travelling {
 public:
  __device__ __forceinline__ Travelling(const PersistentPass& p, const Place& at, const Shape& shape, unsigned char* block,
                                        const Exchange& exchange)
      : p_(p), slice_(at.slice), shared_(reinterpret_cast<S*>(block + p.vector_at)) {
    if (p.scope == Scope::cluster) {
      const int64_t left = shape.batch - at.first_sequence, units = shape.hidden - at.first_unit;
      sequences_ = left < 1 ? 1 : static_cast<int>(left < p.batch ? left : p.batch);  // one of zeros where B = 0
      first_ = static_cast<int>(at.first_unit);
      own_ = units < p.unit_tiles * kTileUnits ? static_cast<int>(units + kVector - 1) / kVector : p.unit_tiles * kTileUnits / kVector;
      barriers_ = reinterpret_cast<TransferBarrier*>(block + p.barriers_at);
      if (threadIdx.x == 0) {
        for (int i = 0; i < 2; ++i) {
          transfer_init(barriers_ + i);
          expect(i);
        }
      }
    } else if (p.scope == Scope::grid) {
      const int64_t group = int64_t(at.direction) * p.groups + at.group;
      memory_ = static_cast<S*>(exchange.vectors) + group * 2 * p.batch * p.ld;
      counter_ = exchange.counters + group;
    }
    for (int64_t i = threadIdx.x; i < p.buffers * p.batch * p.ld; i += kBlockThreads) shared_[i] = convert<S>(0.0f);
  }

  // Meets the blocks of the group, before the first step: none may send before all have cleared their places.
  __device__ __forceinline__ void meet() {
    if (p_.scope == Scope::cluster) {
      cluster_arrive();
      cluster_wait();
    } else {
      __syncthreads();
    }
  }

  __device__ __forceinline__ S* vectors(int64_t n) const {  // in this block, (batch, ld)
    return shared_ + (p_.buffers == 2 ? buffer(n) : 0);
  }

  __device__ __forceinline__ void send(int64_t n, int sequence, int k, S value) {
    const int place = sequence * static_cast<int>(p_.ld) + k;
    if (p_.scope == Scope::grid) store_l2(memory_ + buffer(n) + place, value);
    else vectors(n)[place] = value;
  }

  // All of this thread's values for n are sent. Whatever it writes from here to `receive` nobody waits for.
  __device__ __forceinline__ void publish(int64_t n) {
    if (p_.scope == Scope::cluster) {
      __syncthreads();
      send_to_peers(n);
    } else if (p_.scope == Scope::grid) {
      __syncthreads();
      if (threadIdx.x == 0) add_release(counter_, 1);
    }
  }

  // Waits until all threads of the group have published n.
  __device__ __forceinline__ void receive(int64_t n) {
    if (p_.scope == Scope::cluster) {
      transfer_wait(barriers_ + (n & 1), static_cast<unsigned>(n - 1 >> 1 & 1));
      if (threadIdx.x == 0) expect(static_cast<int>(n & 1));  // n + 2's
      return;
    }
    if (p_.scope == Scope::block) return __syncthreads();
    if (threadIdx.x == 0) wait_at_least(counter_, static_cast<uint32_t>(n * p_.slices));
    __syncthreads();
    const uint4* from = reinterpret_cast<const uint4*>(memory_ + buffer(n));
    uint4* to = reinterpret_cast<uint4*>(shared_);
    const int count = p_.batch * static_cast<int>(p_.ld) * int(sizeof(S)) / 16;
    for (int i = static_cast<int>(threadIdx.x); i < count; i += kBlockThreads) to[i] = load_l2(from + i);
    __syncthreads();
  }

 private:
  static constexpr int kVector = 16 / sizeof(S);

  // What all peers send for one step.
  __device__ __forceinline__ void expect(int which) {
    const int vectors = static_cast<int>(p_.gate_ld) / kVector - own_;
    transfer_expect(barriers_ + which, static_cast<unsigned>(vectors * kGates * sequences_ * 16));
  }

  __device__ __forceinline__ void send_to_peers(int64_t n) {
    const int log2_vectors = 31 - __clz(p_.unit_tiles * kTileUnits / kVector);  // of a sequence and gate, if the slice is whole
    const int count = sequences_ << log2_vectors;
    // Threads that are left when each vector has one share the peers.
    const int log2_team = count < kBlockThreads ? 32 - __clz(count - 1) : 31 - __clz(kBlockThreads);
    const int team = static_cast<int>(threadIdx.x) >> log2_team, teams = kBlockThreads >> log2_team;
    S* const own = vectors(n) + first_;
#pragma unroll
    for (int gate = 0; gate < kGates; ++gate) {
      for (int i = static_cast<int>(threadIdx.x) & ((1 << log2_team) - 1); i < count; i += 1 << log2_team) {
        const int sequence = i >> log2_vectors, vector = i & ((1 << log2_vectors) - 1);
        if (vector >= own_) continue;
        S* const place = own + sequence * static_cast<int>(p_.ld) + gate * static_cast<int>(p_.gate_ld) + vector * kVector;
        const uint4 values = *reinterpret_cast<const uint4*>(place);
        for (int away = 1 + team; away < p_.slices; away += teams) {  // each block begins with another peer
          const int rank = slice_ + away;
          store_async(place, values, barriers_ + (n & 1), rank < p_.slices ? rank : rank - p_.slices);
        }
      }
    }
  }

  // Of the two places, of no more values than shared memory holds, where n's begins.
  __device__ __forceinline__ int buffer(int64_t n) const { return static_cast<int>(n & 1) * p_.batch * static_cast<int>(p_.ld); }

  const PersistentPass& p_;
  int slice_, first_ = 0, own_ = 0, sequences_ = 0;  // of a cluster: this block's first unit, its vectors a gate
  S* shared_;
  TransferBarrier* barriers_ = nullptr;
  S* memory_ = nullptr;
  uint32_t* counter_ = nullptr;
};

}  // namespace fusedrnn::cuda
