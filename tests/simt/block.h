// A block in flight: its fibers, its shared memory between guards, and the words for who waits where.
#pragma once

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "fiber.h"

namespace simt {

constexpr int64_t kGuard = kAddressSanitizer ? 0 : 256;  // AddressSanitizer puts its own around shared memory
constexpr unsigned char kGuardByte = 0xa5, kNaNByte = 0xff;

enum class State { fresh, ready, block, warp, cluster, flag, transfer, left };

struct Copy {
  void* to;
  const void* from;
  int bytes, group;
};

struct Block;

// A store to a peer's shared memory that is under way.
struct Transfer {
  Block* block;  // the peer
  unsigned char* to;
  unsigned char bytes[16];
  const void* barrier;  // the peer's
};

// Counts what transfers bring.
struct TransferBarrier {
  int64_t missing = 0;  // bytes; below zero: come before they were expected
  bool expected = false;
  unsigned phase = 0;
};

struct Fiber {
  Block* block = nullptr;
  unsigned thread = 0;
  State state = State::fresh;
  Context context;
  unsigned char* stack = nullptr;
  const char* primitive = "nowhere";  // where it waits, or last did
  uint32_t mask = 0;                  // of a warp's collective, and what it is given there
  void* operands = nullptr;
  const unsigned* counter = nullptr;  // state == flag; and what the last load_acquire saw
  const TransferBarrier* barrier = nullptr;  // state == transfer
  unsigned value = 0;
  bool arrived = false;  // at the cluster's barrier number `phase`
  unsigned phase = 0;
  int group = 0;  // committed groups of copies
  std::vector<Copy> copies;
};

struct Cluster {
  std::vector<std::unique_ptr<Block>> blocks;
  int64_t arrived = 0, blocks_left = 0;
  unsigned phase = 0;
  std::vector<Transfer> transfers;
};

struct Block {
  Cluster* cluster;
  int64_t index, shared_bytes;
  unsigned rank;
  unsigned char* shared;
  std::vector<Fiber> fibers;
  std::vector<uint32_t> at_collective;  // by warp: lanes that wait
  int arrived = 0, left = 0;
  std::map<const void*, TransferBarrier> barriers;  // by where they stand in shared memory

  // The allocation ends where the shared memory does, or at its guard; the memory begins as NaN.
  Block(Cluster* cluster, int64_t index, unsigned rank, int threads, int64_t shared_bytes)
      : cluster(cluster), index(index), shared_bytes(shared_bytes), rank(rank), fibers(threads),
        at_collective((threads + 31) / 32) {
    void* memory = nullptr;
    if (posix_memalign(&memory, 128, shared_bytes + 2 * kGuard)) throw std::bad_alloc();
    shared = static_cast<unsigned char*>(memory) + kGuard;
    std::memset(shared - kGuard, kGuardByte, kGuard);
    std::memset(shared, kNaNByte, shared_bytes);
    std::memset(shared + shared_bytes, kGuardByte, kGuard);
    for (int t = 0; t < threads; ++t) fibers[t].block = this, fibers[t].thread = static_cast<unsigned>(t);
  }

  Block(const Block&) = delete;

  ~Block() {
#if defined(__SANITIZE_ADDRESS__)
    __asan_unpoison_memory_region(shared, shared_bytes);
#endif
    std::free(shared - kGuard);
  }

  // Which write went beyond shared memory; "": none.
  std::string overwritten() const {
    const std::string written = "shared memory written ";
    for (int64_t i = 0; i < kGuard; ++i) {
      if (shared[shared_bytes + i] != kGuardByte)
        return written + "at byte " + std::to_string(shared_bytes + i) + " of " + std::to_string(shared_bytes);
      if (shared[-1 - i] != kGuardByte) return written + std::to_string(i + 1) + " bytes before its start";
    }
    return "";
  }

  // The block has left: from here on its peers must not use its shared memory.
  void bury() {
    std::memset(shared, kNaNByte, shared_bytes);
#if defined(__SANITIZE_ADDRESS__)
    __asan_poison_memory_region(shared, shared_bytes);
#endif
  }

  bool undisturbed() const {
    return kAddressSanitizer ||
           std::all_of(shared, shared + shared_bytes, [](unsigned char c) { return c == kNaNByte; });
  }
};

// -- words ------------------------------------------------------------------------------------------------
inline std::string hexadecimal(uint32_t value) {
  char text[16];
  std::snprintf(text, sizeof text, "0x%08x", value);
  return text;
}

inline std::string counted(int64_t n, const std::string& what) {
  return std::to_string(n) + " " + what + (n == 1 ? "" : "s");
}

// 0..2, 5, 7..9
inline std::string runs_of(const std::vector<unsigned>& rising) {
  std::string text;
  int runs = 0;
  for (size_t i = 0, j; i < rising.size(); i = j) {
    for (j = i + 1; j < rising.size() && rising[j] == rising[j - 1] + 1;) ++j;
    if (++runs > 4) return text + ", ...";
    text += (i ? ", " : "") + std::to_string(rising[i]) + (j - i > 1 ? ".." + std::to_string(rising[j - 1]) : "");
  }
  return text;
}

inline std::string place_of(const Fiber& fiber) {
  const std::string at = fiber.primitive;
  if (fiber.state == State::warp)
    return at + " of warp " + std::to_string(fiber.thread / 32) + ", mask " + hexadecimal(fiber.mask);
  if (fiber.state == State::flag)
    return at + "(" + std::to_string(fiber.value) + "), the counter is " + std::to_string(*fiber.counter);
  if (fiber.state == State::transfer) {
    const TransferBarrier& b = *fiber.barrier;
    return at + (b.expected ? ", " + counted(b.missing, "byte") + " missing" : ", nobody has said how many bytes it expects");
  }
  return at;
}

// Which of a block's threads wait where.
inline std::string whereabouts(const Block& block) {
  std::map<std::string, std::vector<unsigned>> at;
  std::vector<unsigned> left;
  for (const Fiber& fiber : block.fibers)
    (fiber.state == State::left ? left : at[place_of(fiber)]).push_back(fiber.thread);
  std::string text = "block " + std::to_string(block.index) + ": ";
  for (const auto& [place, list] : at)
    text += place + ": " + std::to_string(list.size()) + " of " + counted(block.fibers.size(), "thread") +
            " arrived (" + runs_of(list) + "); ";
  return text + counted(left.size(), "thread") + (left.size() == 1 ? " has" : " have") + " left the kernel" +
         (left.empty() ? "" : " (" + runs_of(left) + ")");
}

}  // namespace simt
