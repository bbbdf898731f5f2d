// The scheduler: a pool of fibers that can run, drawn from at random.
//
// A draw takes any fiber of any block in flight. Besides, a victim - a thread, a warp or a block - is
// now and then held back until nothing else can run: a race that needs somebody to come very late is
// likelier to show so than by even chances.
#pragma once

#include <cstdint>
#include <numeric>
#include <stdexcept>

#include "block.h"
#include "executor.h"

namespace simt {

constexpr size_t kStackBytes = kAddressSanitizer ? 256 << 10 : 64 << 10;
constexpr int kStackMargin = 2048;  // less room than this at a switch: the stack overflows
constexpr int kBlocksInFlight = 4;  // at most, of a grid whose blocks need not be in flight together

struct Limits {
  int64_t shared_bytes = 232448, coresident_blocks = 132;
  int cluster = 16;
};

class Machine {
 public:
  void run(const char* kernel, const Shape& shape, void (*thread)(const void*), const void* arguments);

  void seed(uint64_t value) {
    random_ = (value + 1) * 0x9e3779b97f4a7c15ull;
    for (int i = 0; i < 4; ++i) random();  // neighbouring seeds drift apart
  }
  uint64_t random() {  // xorshift64*
    random_ ^= random_ >> 12;
    random_ ^= random_ << 25;
    random_ ^= random_ >> 27;
    return random_ * 0x2545f4914f6cdd1dull;
  }
  size_t below(size_t n) { return static_cast<size_t>((random() >> 32) * n >> 32); }

  // -- of the running fiber
  [[noreturn]] void fault(const std::string& what);  // also of none: an exception then

  void suspend(State state, const char* primitive) {
    current->state = state;
    current->primitive = primitive;
    Context::change(current->context, home_);
  }
  void yield(const char* primitive) {
    ready_.push_back(current);
    suspend(State::ready, primitive);
  }
  void wait_for_flag(const unsigned* counter, unsigned value) {
    current->counter = counter;
    current->value = value;
    flagged_.push_back(current);
    suspend(State::flag, "wait_at_least");
  }
  void spin() {  // a load_acquire sees what it saw before
    ++spins_;
    yield("load_acquire, spinning");
  }
  void progress() { spins_ = 0; }  // anything else

  // -- of others
  void wake(Fiber* fiber) {
    fiber->state = State::ready;
    ready_.push_back(fiber);
  }
  void poll_flags();
  void land(Cluster& cluster, size_t transfer);             // stores it and tells its barrier
  void end_phase(Block& block, TransferBarrier& barrier);  // if all has come

  Fiber* current = nullptr;
  Launch launch;
  Limits limits;

 private:
  void check_shape();
  void admit();
  void resume(Fiber* fiber);
  void block_left(Block& block);
  void hold_someone();
  bool held(const Fiber* fiber) const {
    return fiber->block == held_block_ && fiber->thread - held_first_ < held_count_;
  }
  bool land_any();
  void unblock();
  std::string who() const;
  std::string deadlock() const;
  void clear();
  static void enter();

  uint64_t random_ = 1;
  void (*thread_)(const void*) = nullptr;
  const void* arguments_ = nullptr;
  Context home_;
  std::string failure_;
  std::vector<int64_t> to_start_;  // clusters
  std::vector<std::unique_ptr<Cluster>> in_flight_;
  size_t most_in_flight_ = 0;
  std::vector<Fiber*> ready_, kept_, flagged_;
  Block* held_block_ = nullptr;
  unsigned held_first_ = 0, held_count_ = 0;
  int64_t spins_ = 0;  // in a row
  std::vector<std::unique_ptr<unsigned char[]>> stacks_;
  std::vector<unsigned char*> free_stacks_;
};

inline Machine machine;

inline void Machine::run(const char* kernel, const Shape& shape, void (*thread)(const void*), const void* arguments) {
  launch = {kernel, shape, 0, 0, 0, 0, 0, 0, 0};
  check_shape();
  thread_ = thread;
  arguments_ = arguments;
  block_extent = {static_cast<unsigned>(shape.threads), 1, 1};
  grid_extent = {static_cast<unsigned>(shape.blocks), 1, 1};
  to_start_.resize(shape.blocks / shape.cluster);
  std::iota(to_start_.begin(), to_start_.end(), 0);
  const size_t some = (1 + below(kBlocksInFlight)) / shape.cluster;
  most_in_flight_ = shape.cooperative ? to_start_.size() : std::max<size_t>(1, some);
  struct Cleared {
    ~Cleared() { machine.clear(); }
  } cleared;
  admit();
  hold_someone();
  for (progress(); !in_flight_.empty(); admit()) {
    if (random() % 8 == 0) land_any();
    if (ready_.empty() || spins_ > 1024 + 64 * static_cast<int64_t>(ready_.size())) unblock();
    std::swap(ready_[below(ready_.size())], ready_.back());
    Fiber* fiber = ready_.back();
    ready_.pop_back();
    if (held(fiber)) kept_.push_back(fiber);
    else resume(fiber);
    if (!held_block_ && !spins_ && random() % 32 == 0) hold_someone();
  }
}

inline void Machine::clear() {
  current = nullptr;
  ready_.clear(), kept_.clear(), flagged_.clear(), in_flight_.clear(), to_start_.clear(), failure_.clear();
  held_block_ = nullptr;
  free_stacks_.clear();
  // neighbours' tops lie in different cache sets
  for (size_t i = 0; i < stacks_.size(); ++i) free_stacks_.push_back(stacks_[i].get() + i % 16 * 256);
}

inline void Machine::check_shape() {
  const Shape& s = launch.shape;
  auto require = [&](bool met, const std::string& what) {
    if (!met) fault("no such launch: " + what);
  };
  require(s.blocks >= 0 && s.blocks <= INT32_MAX, "a grid has 0 to 2147483647 blocks");
  require(s.threads >= 1 && s.threads <= 1024, "a block has 1 to 1024 threads");
  require(s.shared_bytes >= 0 && s.shared_bytes <= limits.shared_bytes,
          std::to_string(s.shared_bytes) + " bytes of shared memory, a block has at most " +
              std::to_string(limits.shared_bytes));
  require(s.cluster >= 1 && s.cluster <= limits.cluster,
          "a cluster has 1 to " + std::to_string(limits.cluster) + " blocks");
  require(s.blocks % std::max(s.cluster, 1) == 0, "blocks are no multiple of the cluster's");
  require(!s.cooperative || s.blocks <= limits.coresident_blocks,
          std::to_string(s.blocks) + " blocks cannot be in flight together, at most " +
              std::to_string(limits.coresident_blocks) + " can");
}

// Starts clusters while there is room.
inline void Machine::admit() {
  const Shape& s = launch.shape;
  while (!to_start_.empty() && in_flight_.size() < most_in_flight_) {
    std::swap(to_start_[below(to_start_.size())], to_start_.back());
    auto cluster = std::make_unique<Cluster>();
    for (int rank = 0; rank < s.cluster; ++rank) {
      cluster->blocks.push_back(std::make_unique<Block>(cluster.get(), to_start_.back() * s.cluster + rank,
                                                        static_cast<unsigned>(rank), s.threads, s.shared_bytes));
      for (Fiber& fiber : cluster->blocks.back()->fibers) ready_.push_back(&fiber);
    }
    in_flight_.push_back(std::move(cluster));
    to_start_.pop_back();
  }
}

// Where a fiber begins.
inline void Machine::enter() {
  Context::entered(machine.home_);
  try {
    machine.thread_(machine.arguments_);
  } catch (const std::exception& e) {
    machine.fault(std::string("an exception left the kernel: ") + e.what());
  }
  machine.current->state = State::left;
  Context::change(machine.current->context, machine.home_, true);
  std::abort();
}

inline void Machine::resume(Fiber* fiber) {
  if (fiber->state == State::fresh) {
    if (free_stacks_.empty()) {
      stacks_.emplace_back(new unsigned char[kStackBytes + 4096]);
      free_stacks_.push_back(stacks_.back().get() + (stacks_.size() - 1) % 16 * 256);
    }
    fiber->stack = free_stacks_.back();
    free_stacks_.pop_back();
    fiber->context.start(fiber->stack, kStackBytes, enter);
  }
  fiber->state = State::ready;
  current = fiber;
  thread_index.x = fiber->thread;
  block_index.x = static_cast<unsigned>(fiber->block->index);
  ++launch.switches;
  Context::change(home_, fiber->context);
  current = nullptr;
  if (!failure_.empty()) throw std::runtime_error(failure_);
  if (fiber->context.room() < kStackMargin)
    fault("block " + std::to_string(fiber->block->index) + ", thread " + std::to_string(fiber->thread) +
          ": the stack overflows");
  if (fiber->state == State::left) {
    free_stacks_.push_back(fiber->stack);
    progress();
    if (++fiber->block->left == launch.shape.threads) block_left(*fiber->block);
  }
}

// Its shared memory is checked, and that nothing is on its way to it; a cluster goes when the last of its blocks has left.
inline void Machine::block_left(Block& block) {
  auto require = [this](const Block& b, const std::string& wrong) {
    if (!wrong.empty()) fault("block " + std::to_string(b.index) + ": " + wrong);
  };
  require(block, block.overwritten());
  for (const Transfer& t : block.cluster->transfers)
    require(block, t.block == &block ? "has left while a peer's store to it was on its way" : "");
  if (held_block_ == &block) held_block_ = nullptr;
  Cluster& cluster = *block.cluster;
  if (launch.shape.cluster > 1) block.bury();
  if (++cluster.blocks_left < launch.shape.cluster) return;
  if (launch.shape.cluster > 1)
    for (const auto& b : cluster.blocks)
      require(*b, b->undisturbed() ? "" : "a peer wrote to its shared memory after it had left");
  std::erase_if(in_flight_, [&](const auto& c) { return c.get() == &cluster; });
}

// Half the time nobody is held.
inline void Machine::hold_someone() {
  held_block_ = nullptr;
  if (in_flight_.empty() || random() % 2) return;
  const auto& cluster = in_flight_[below(in_flight_.size())];
  held_block_ = cluster->blocks[below(cluster->blocks.size())].get();
  const auto threads = static_cast<unsigned>(launch.shape.threads), any = static_cast<unsigned>(below(threads));
  switch (below(3)) {
    case 0: held_first_ = any, held_count_ = 1; break;
    case 1: held_first_ = any / 32 * 32, held_count_ = 32; break;
    default: held_first_ = 0, held_count_ = threads;
  }
}

inline void Machine::poll_flags() {
  std::erase_if(flagged_, [this](Fiber* fiber) {
    const bool there = static_cast<int>(*fiber->counter - fiber->value) >= 0;
    if (there) wake(fiber);
    return there;
  });
}

inline void Machine::land(Cluster& cluster, size_t transfer) {
  std::swap(cluster.transfers[transfer], cluster.transfers.back());
  const Transfer t = cluster.transfers.back();
  cluster.transfers.pop_back();
  std::memcpy(t.to, t.bytes, sizeof t.bytes);
  TransferBarrier& barrier = t.block->barriers.at(t.barrier);
  barrier.missing -= sizeof t.bytes;
  end_phase(*t.block, barrier);
}

inline void Machine::end_phase(Block& block, TransferBarrier& barrier) {
  if (!barrier.expected || barrier.missing) return;
  barrier.expected = false;
  ++barrier.phase;
  ++launch.transfers;
  for (Fiber& fiber : block.fibers)
    if (fiber.state == State::transfer && fiber.barrier == &barrier) wake(&fiber);
}

// One of the transfers that are on their way; false: there is none.
inline bool Machine::land_any() {
  for (size_t i = 0, first = in_flight_.empty() ? 0 : below(in_flight_.size()); i < in_flight_.size(); ++i) {
    Cluster& cluster = *in_flight_[(first + i) % in_flight_.size()];
    if (cluster.transfers.empty()) continue;
    land(cluster, below(cluster.transfers.size()));
    return true;
  }
  return false;
}

// Nothing can run, or all that can spin: whoever was held, or whose flag a plain store has set, goes on.
inline void Machine::unblock() {
  const size_t before = ready_.size();
  while (ready_.size() == before && land_any()) continue;
  if (ready_.size() > before) return;
  poll_flags();
  ready_.insert(ready_.end(), kept_.begin(), kept_.end());
  kept_.clear();
  held_block_ = nullptr;
  if (ready_.size() == before) fault("dead-lock" + deadlock());
  if (before) progress();
}

inline void Machine::fault(const std::string& what) {
  if (!current) throw std::runtime_error(who() + what);
  failure_ = who() + "block " + std::to_string(current->block->index) + ", thread " + std::to_string(current->thread) +
             ": " + what;
  Context::change(current->context, home_, true);
  std::abort();
}

inline std::string Machine::who() const {
  const Shape& s = launch.shape;
  return "kernel " + launch.kernel + " (" + counted(s.blocks, "block") + " of " + counted(s.threads, "thread") +
         (s.cluster > 1 ? ", clusters of " + std::to_string(s.cluster) : "") + (s.cooperative ? ", cooperative" : "") +
         "): ";
}

inline std::string Machine::deadlock() const {
  std::string text;
  int64_t blocks = 0;
  for (const auto& cluster : in_flight_)
    for (const auto& block : cluster->blocks)
      if (++blocks <= 4) text += "\n  " + whereabouts(*block);
  if (blocks > 4) text += "\n  " + counted(blocks - 4, "more block") + " in flight";
  if (!to_start_.empty())
    text += "\n  " + counted(to_start_.size() * launch.shape.cluster, "block") +
            " not started: only blocks of a cooperative grid or of a cluster may wait for each other";
  return text;
}

}  // namespace simt
