// What the running fiber may ask for, upon the scheduler; and the executor's own interface.
//
// What hardware leaves open within a primitive is open here: an asynchronous copy lands at once or when
// it is waited for, by a coin, and whoever has told others something now and then lets them go first.
#include "executor.h"

#include <mutex>

#include "machine.h"

namespace simt {

Index thread_index, block_index, block_extent, grid_extent;

namespace {

std::mutex one_at_a_time;
bool seeded = false;
thread_local bool on_a_fiber = false;

void sometimes_yield() {
  if (machine.random() % 4 == 0) machine.yield("about to go on");
}

}  // namespace

void seed(uint64_t value) {
  seeded = true;
  machine.seed(value);
}

void set_limits(int64_t max_shared_bytes, int64_t max_coresident_blocks, int max_cluster) {
  machine.limits = {max_shared_bytes, max_coresident_blocks, max_cluster};
}

const Launch& last_launch() { return machine.launch; }

void run(const char* kernel, const Shape& shape, void (*thread)(const void*), const void* arguments) {
  if (on_a_fiber) fault("a kernel launches a kernel");
  const std::lock_guard lock(one_at_a_time);
  const char* given = std::getenv("FUSEDRNN_SIMT_SEED");
  if (!seeded) seed(given ? std::strtoull(given, nullptr, 10) : 0);
  struct Flag {
    Flag() { on_a_fiber = true; }
    ~Flag() { on_a_fiber = false; }
  } flag;
  machine.run(kernel, shape, thread, arguments);
}

void fault(const std::string& what) { machine.fault(what); }

void block_barrier() {
  Block& block = *machine.current->block;
  machine.progress();
  if (++block.arrived < static_cast<int>(block.fibers.size())) return machine.suspend(State::block, "__syncthreads");
  block.arrived = 0;
  ++machine.launch.barriers;
  for (Fiber& fiber : block.fibers)
    if (fiber.state == State::block) machine.wake(&fiber);
}

void warp_collective(const char* primitive, uint32_t mask, void* operands, Perform perform) {
  Fiber& own = *machine.current;
  machine.progress();
  const unsigned warp = own.thread / 32, lane = own.thread % 32;
  Fiber* lanes = &own.block->fibers[warp * 32];
  const size_t there = std::min<size_t>(32, own.block->fibers.size() - warp * 32);
  if (!(mask >> lane & 1)) fault(std::string(primitive) + ": mask " + hexadecimal(mask) + " does not name the caller");
  if (there < 32 && mask >> there)
    fault(std::string(primitive) + ": mask " + hexadecimal(mask) + " names lanes that the block does not have");
  uint32_t& waiting = own.block->at_collective[warp];
  own.operands = operands;
  if (((waiting | 1u << lane) & mask) != mask) {
    waiting |= 1u << lane;
    own.mask = mask;
    return machine.suspend(State::warp, primitive);
  }
  void* all[32] = {};
  for (unsigned l = 0; l < 32; ++l) {
    if (!(mask >> l & 1)) continue;
    all[l] = lanes[l].operands;
    if (l != lane && (lanes[l].mask != mask || std::strcmp(lanes[l].primitive, primitive)))
      fault(std::string(primitive) + " with mask " + hexadecimal(mask) + " meets lane " + std::to_string(l) + " at " +
            lanes[l].primitive + " with mask " + hexadecimal(lanes[l].mask));
  }
  perform(mask, all);
  ++machine.launch.collectives;
  waiting &= ~mask;
  for (unsigned l = 0; l < 32; ++l)
    if (mask >> l & 1 && l != lane) machine.wake(&lanes[l]);
}

unsigned char* shared_memory() { return machine.current->block->shared; }

void check_shared(const char* primitive, const void* place, int64_t bytes) {
  const Block& block = *machine.current->block;
  const auto at = reinterpret_cast<intptr_t>(place) - reinterpret_cast<intptr_t>(block.shared);
  if (at < 0 || at + bytes > static_cast<int64_t>(block.shared_bytes))
    fault(std::string(primitive) + ": byte " + std::to_string(at) + " of " + std::to_string(block.shared_bytes) +
          " of shared memory");
  if (at % bytes) fault(std::string(primitive) + ": byte " + std::to_string(at) + " of shared memory is not aligned");
}

void copy_async(void* shared, const void* global, int bytes) {
  check_shared("copy_async", shared, bytes);
  if (reinterpret_cast<uintptr_t>(global) % bytes) fault("copy_async: global address not aligned");
  if (machine.random() % 2) std::memcpy(shared, global, bytes);
  else machine.current->copies.push_back({shared, global, bytes, machine.current->group});
}

void copy_async_commit() { ++machine.current->group; }

void copy_async_wait(int pending) {
  Fiber& own = *machine.current;
  std::erase_if(own.copies, [&](const Copy& copy) {
    const bool due = copy.group < own.group - pending;
    if (due) std::memcpy(copy.to, copy.from, copy.bytes);
    return due;
  });
}

unsigned cluster_rank() { return machine.current->block->rank; }
unsigned cluster_size() { return static_cast<unsigned>(machine.launch.shape.cluster); }

void* cluster_peer(void* shared, unsigned rank) {
  check_shared("cluster_peer", shared, 1);
  const Block& block = *machine.current->block;
  if (rank >= cluster_size()) fault("cluster_peer: no block " + std::to_string(rank) + " in the cluster");
  return block.cluster->blocks[rank]->shared + (static_cast<unsigned char*>(shared) - block.shared);
}

void cluster_arrive() {
  Fiber& own = *machine.current;
  Cluster& cluster = *own.block->cluster;
  machine.progress();
  if (own.arrived) fault("cluster_arrive twice without cluster_wait");
  own.arrived = true;
  own.phase = cluster.phase;
  if (++cluster.arrived == machine.launch.shape.cluster * machine.launch.shape.threads) {
    cluster.arrived = 0;
    ++cluster.phase;
    ++machine.launch.cluster_barriers;
    for (auto& block : cluster.blocks)
      for (Fiber& fiber : block->fibers)
        if (fiber.state == State::cluster) machine.wake(&fiber);
  }
  sometimes_yield();
}

void cluster_wait() {
  Fiber& own = *machine.current;
  machine.progress();
  if (!own.arrived) fault("cluster_wait without cluster_arrive");
  own.arrived = false;
  if (own.block->cluster->phase == own.phase) machine.suspend(State::cluster, "cluster_wait");
}

namespace {

TransferBarrier& transfer_barrier(const char* primitive, Block& block, const void* barrier) {
  const auto found = block.barriers.find(barrier);
  if (found == block.barriers.end()) fault(std::string(primitive) + ": no transfer_init of this barrier came before");
  return found->second;
}

}  // namespace

void transfer_init(void* barrier) {
  check_shared("transfer_init", barrier, 8);
  machine.progress();
  if (!machine.current->block->barriers.try_emplace(barrier).second) fault("transfer_init: of a barrier that is in use");
}

void transfer_expect(void* barrier, unsigned bytes) {
  machine.progress();
  if (bytes >= 1u << 20) fault("transfer_expect: " + std::to_string(bytes) + " bytes, a barrier counts to 1048575");
  TransferBarrier& b = transfer_barrier("transfer_expect", *machine.current->block, barrier);
  if (b.expected) fault("transfer_expect twice in a phase");
  b.expected = true;
  b.missing += bytes;
  machine.end_phase(*machine.current->block, b);
}

void transfer_wait(void* barrier, unsigned parity) {
  machine.progress();
  const TransferBarrier& b = transfer_barrier("transfer_wait", *machine.current->block, barrier);
  if (b.phase % 2 != parity) return;
  machine.current->barrier = &b;
  machine.suspend(State::transfer, "transfer_wait");
}

void store_async(void* shared, const void* bytes, void* barrier, unsigned rank) {
  check_shared("store_async", shared, 16);
  const auto* own = machine.current->block->shared;
  unsigned char* const to = static_cast<unsigned char*>(cluster_peer(shared, rank));
  Cluster& cluster = *machine.current->block->cluster;
  Block& peer = *cluster.blocks[rank];
  Transfer transfer{&peer, to, {}, peer.shared + (static_cast<unsigned char*>(barrier) - own)};
  transfer_barrier("store_async", peer, transfer.barrier);
  std::memcpy(transfer.bytes, bytes, 16);
  cluster.transfers.push_back(transfer);
  machine.progress();
  if (machine.random() % 4 == 0) machine.land(cluster, cluster.transfers.size() - 1);
}

void add_release(unsigned* counter, unsigned n) {
  machine.progress();
  *counter += n;
  ++machine.launch.releases;
  machine.poll_flags();
  sometimes_yield();
}

unsigned load_acquire(const unsigned* counter) {
  Fiber& own = *machine.current;
  if (own.counter == counter && own.value == *counter) machine.spin();
  own.counter = counter;
  return own.value = *counter;
}

void wait_at_least(const unsigned* counter, unsigned value) {
  machine.progress();
  if (static_cast<int>(*counter - value) >= 0) return;
  machine.wait_for_flag(counter, value);
}

}  // namespace simt

extern "C" {
void simt_seed(uint64_t value) { simt::seed(value); }
void simt_set_limits(int64_t max_shared_bytes, int64_t max_coresident_blocks, int max_cluster) {
  simt::set_limits(max_shared_bytes, max_coresident_blocks, max_cluster);
}
int64_t simt_last_launch(const char* what) {
  const simt::Launch& l = simt::last_launch();
  const std::pair<const char*, int64_t> all[] = {
      {"blocks", l.shape.blocks},     {"threads", l.shape.threads},   {"shared_bytes", l.shape.shared_bytes},
      {"cluster", l.shape.cluster},   {"cooperative", l.shape.cooperative},
      {"barriers", l.barriers},       {"cluster_barriers", l.cluster_barriers},
      {"transfers", l.transfers},     {"collectives", l.collectives}, {"releases", l.releases},
      {"switches", l.switches},       {"instructions", l.instructions}};
  for (const auto& [name, value] : all)
    if (!std::strcmp(name, what)) return value;
  return -1;
}
}
