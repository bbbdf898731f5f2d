// A thread that runs PTX: its registers, and what it sees of memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <unordered_map>
#include <vector>

#include "machine.h"
#include "ptx.h"

namespace simt::ptx {

constexpr uint64_t kSharedStart = 1024;  // where a block's shared memory begins in its window, as on Hopper

// --- memory -----------------------------------------------------------------------------------------------------------

// What a block sees of global memory. Its stores are its own, until it releases them or chance does; lines
// that it has read by way of its first-level cache stay what they were, until it acquires or chance drops them. PTX allows more:
// here a release frees all of the block's stores, whoever made them, and within a block memory is the host's.
class Memory {
 public:
  void load(void* to, uint64_t from, size_t bytes, bool cached) {
    if (cached) {
      const uint64_t line = from / kLine * kLine;  // an aligned access lies in one line
      auto [at, fresh] = lines_.try_emplace(line);
      if (fresh || machine.random() % 8 == 0) std::memcpy(at->second.bytes, reinterpret_cast<const void*>(line), kLine);
      std::memcpy(to, at->second.bytes + from % kLine, bytes);
    } else {
      std::memcpy(to, reinterpret_cast<const void*>(from), bytes);
    }
    if (stores_.empty()) return;
    for (size_t i = 0; i < bytes; ++i)
      if (const auto own = stores_.find(from + i); own != stores_.end()) static_cast<unsigned char*>(to)[i] = own->second;
  }

  void store(uint64_t to, const void* from, size_t bytes) {
    for (size_t i = 0; i < bytes; ++i) stores_[to + i] = static_cast<const unsigned char*>(from)[i];
    if (const auto own = lines_.find(to / kLine * kLine); own != lines_.end()) {
      std::memcpy(own->second.bytes + to % kLine, from, bytes);
    }
    if (machine.random() % 256 == 0) release();
  }

  void release() {
    for (const auto& [place, byte] : stores_) *reinterpret_cast<unsigned char*>(place) = byte;
    stores_.clear();
  }

  void acquire() { lines_.clear(); }

 private:
  static constexpr uint64_t kLine = 128;
  struct Line {
    unsigned char bytes[kLine];
  };
  std::unordered_map<uint64_t, unsigned char> stores_;
  std::unordered_map<uint64_t, Line> lines_;
};

// A launch: what its threads share.
struct Grid {
  const Entry* entry;
  void* const* arguments;
  std::unordered_map<const Block*, Memory> memories;  // of blocks that wait for others
};

// --- a thread ---------------------------------------------------------------------------------------------------------

struct Pending {  // a store to a peer's shared memory, which the cluster's barrier alone makes sure of
  unsigned char* to;
  unsigned char bytes[16];
  size_t count;
};

class Thread {
 public:
  explicit Thread(Grid& grid)
      : block(*machine.current->block), memory(machine.launch.shape.cooperative ? &grid.memories[&block] : nullptr),
        entry_(*grid.entry), arguments_(grid.arguments), registers_(entry_.registers, ~uint64_t{0}),
        local_(entry_.local_bytes / sizeof(std::max_align_t) + 1) {}

  void run() {
    const bool counts = machine.current->thread % 32 == 0;
    while (at < entry_.code.size()) {
      machine.launch.instructions += counts;
      const Instruction& i = entry_.code[at++];
      if (i.guard >= 0 && (registers_[i.guard] & 1) == i.negated) continue;
      i.run(*this, i);
    }
  }

  template <class T>
  T get(const Operand& o) const {
    const uint64_t bits = value(o);
    if constexpr (std::is_same_v<T, bool>) return bits & 1;
    else {
      T out;
      std::memcpy(&out, &bits, sizeof out);
      return out;
    }
  }

  template <class T>
  void set(const Operand& o, T value) {
    uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof value);
    registers_[o.index] = bits;
  }

  // Of an address in brackets.
  uint64_t address(const Operand& o) const {
    return o.kind == Operand::Kind::reg ? registers_[o.index] + static_cast<uint64_t>(o.number) : value(o);
  }

  unsigned char* shared(uint64_t address, size_t bytes) const {
    unsigned char* place = block.shared + static_cast<int64_t>(address - kSharedStart);
    check_shared(entry_.code[at - 1].text.c_str(), place, static_cast<int64_t>(bytes));
    return place;
  }

  void check_aligned(uint64_t address, size_t bytes) const {
    if (address % bytes) fault(entry_.code[at - 1].text + ": the address is not aligned");
  }

  void release_to_peers() {
    for (const Pending& p : pending) std::memcpy(p.to, p.bytes, p.count);
    pending.clear();
  }

  Block& block;
  Memory* memory;
  size_t at = 0;
  std::vector<Pending> pending;

 private:
  uint64_t value(const Operand& o) const {
    using Kind = Operand::Kind;
    switch (o.kind) {
      case Kind::reg: return registers_[o.index];
      case Kind::number: return static_cast<uint64_t>(o.number);
      case Kind::parameter: return reinterpret_cast<uint64_t>(arguments_[o.index]) + static_cast<uint64_t>(o.number);
      case Kind::shared: return kSharedStart + static_cast<uint64_t>(o.number);
      case Kind::local: return reinterpret_cast<uint64_t>(local_.data()) + static_cast<uint64_t>(o.number);
      case Kind::tid: return machine.current->thread;
      case Kind::ctaid: return static_cast<uint64_t>(block.index);
      case Kind::ntid: return static_cast<uint64_t>(machine.launch.shape.threads);
      case Kind::nctaid: return static_cast<uint64_t>(machine.launch.shape.blocks);
      case Kind::laneid: return machine.current->thread % 32;
      case Kind::rank: return block.rank;
      case Kind::ranks: return static_cast<uint64_t>(machine.launch.shape.cluster);
    }
    return 0;
  }

  const Entry& entry_;
  void* const* arguments_;
  std::vector<uint64_t> registers_;
  std::vector<std::max_align_t> local_;
};

}  // namespace simt::ptx
