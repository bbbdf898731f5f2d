#include "plan_cuda.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <tuple>

namespace fusedrnn {
namespace {

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t round_up(int64_t a, int64_t to) { return ceil_div(a, to) * to; }

// Above so many sequences in a group, a step is a product large enough for the library's GEMM to do as well.
// Modelled, not yet measured.
constexpr int kMostBatch = 64;

struct Matrices {
  int planes;              // multiplied side by side
  int64_t depth, gate_ld;  // of the product
};

Matrices matrices_of(const Shape& s, Pass pass, int element) {
  const int G = cell_info(s.cell).gates;
  const int64_t gate_ld = round_up(s.hidden, 16 / element);
  return pass == Pass::forward ? Matrices{G, gate_ld, gate_ld} : Matrices{1, G * gate_ld, gate_ld};
}

// Shared memory of a block, laid out; true if the device has that much.
bool lay_out(PersistentPass& p, const Shape& s, Pass pass, int element, const CudaDevice& device) {
  const Matrices m = matrices_of(s, pass, element);
  const int64_t units = p.unit_tiles * kTileUnits, columns = std::min<int64_t>(p.batch, kChunkTiles * kTileBatch);
  const int64_t padded_depth = int64_t(p.tiles) * p.depth_parts * (32 / element);
  // Eight sequences' rows begin 4 banks apart (4 more than a multiple of 8 words), so a warp reads without conflict.
  p.ld = (round_up(padded_depth * element / 4, 8) + 4) * 4 / element;
  p.buffers = p.scope == Scope::grid ? 1 : 2;
  p.partial_ld = units + 4;
  int64_t at = 0;
  const auto take = [&at](int64_t bytes) {
    const int64_t here = at;
    at += round_up(bytes, 128);
    return here;
  };
  p.vector_at = take(p.buffers * p.batch * p.ld * element);
  p.partial_at = take(p.depth_parts * m.planes * columns * p.partial_ld * 4);
  p.state_at = take(2 * units * p.batch * 4);
  p.weights_at = take(int64_t(p.tiles - p.held) * m.planes * 512 * kWarps);
  p.biases_at = take(pass == Pass::forward ? (m.planes + cell_info(s.cell).split) * units * 4 : 0);
  p.barriers_at = take(p.scope == Scope::cluster ? 2 * int64_t(sizeof(uint64_t)) : 0);
  p.shared_bytes = at;
  return at <= device.shared_bytes;
}

bool holds_cluster(const CudaDevice& device, int slices) {
  const bool known = slices < static_cast<int>(device.clusters.size());
  return slices <= device.max_cluster && (!known || device.clusters[slices] > 0);
}

// Groups of so many blocks that are on the device at once, if each block has a multiprocessor to itself. A cluster's lie in one
// partition of the device, of 16 multiprocessors or a few more.
int64_t groups_at_once(const CudaDevice& device, Scope scope, int slices) {
  constexpr int kPartition = 16;
  if (scope != Scope::cluster || device.multiprocessors < kPartition) return device.multiprocessors / slices;
  if (slices < static_cast<int>(device.clusters.size())) return device.clusters[slices];
  return device.multiprocessors / kPartition * (kPartition / slices);
}

// About how many cycles of a multiprocessor all groups' n-th step takes: of two warps a scheduler, each of so many
// instructions of PTX as tests/simt/instructions.py counts for LSTM (a thread 300, and 430 for each of its units; 4 for each
// of a warp's products, of float32 20, and 44 where the weights are split anew), with weights that come from shared memory at
// 128 bytes a cycle; and the way between blocks, of some 200 cycles within a cluster and 280 through L2, with the meetings
// before and behind it: the more so in clusters that a device holds few of. Modelled, not yet measured.
int64_t step_cycles(const PersistentPass& p, const Shape& s, int planes, int element, int64_t groups_at_once) {
  const int64_t sequences = std::max<int64_t>(1, std::min<int64_t>(p.batch, s.batch)), columns = ceil_div(sequences, kTileBatch);
  // In 256ths; half of the threads at least have one, or else wait for those that have.
  const int64_t units = std::max<int64_t>(kBlockThreads / 2, p.unit_tiles * kTileUnits * sequences);
  const int64_t product = element == 2 ? 4 : p.tiles <= held_tiles(planes) / 2 ? 20 : 44;
  const int64_t instructions = 300 + 430 * units / kBlockThreads + product * p.tiles * planes * columns;
  const int64_t weights = int64_t(p.tiles - p.held) * planes * 512 * kWarps / 128 * ceil_div(columns, kChunkTiles);
  const int64_t way = p.scope == Scope::block ? 50 : p.scope == Scope::grid ? 2500 : p.slices <= kPortableCluster ? 700 : 1000;
  return (2 * instructions + weights + way) * ceil_div(int64_t(p.groups) * s.directions, groups_at_once);
}

struct Search {
  std::optional<PersistentPass> best;
  std::string rejected;  // why not, when there is none
};

// The cut whose steps take least; of those that take as much, the one with the fewest blocks.
Search search(const Shape& s, const CudaRequest& request, const CudaDevice& device, Pass pass) {
  Search result;
  std::ostringstream why;
  const auto refuse = [&](const std::string& reason) {
    result.rejected = reason;
    return result;
  };
  const int element = bytes_of(request.dtype);
  if (request.dtype == Dtype::float64) return refuse("float64 has no tensor-core product here");
  if (s.projected) return refuse("a projection makes two products of a step");
  if (s.steps < 2) return refuse("T = " + std::to_string(s.steps) + " has nothing sequential");
  if (device.capability < 80) {
    return refuse(device.name + " has capability " + std::to_string(device.capability) + ", 80 is needed");
  }
  const char* const slash = std::strchr(request.strategy, '/');
  const int units = slash ? std::atoi(slash + 1) : 0;  // of a block; 0: as many as make steps shortest
  const Matrices m = matrices_of(s, pass, element);
  int64_t least_shared = 0;
  std::tuple<int64_t, int64_t> least;
  for (int unit_tiles = kWarps; unit_tiles >= 1; unit_tiles /= 2) {
    if (units && units != unit_tiles * kTileUnits) continue;
    PersistentPass p{};
    p.unit_tiles = unit_tiles;
    p.depth_parts = kWarps / unit_tiles;
    p.gate_ld = m.gate_ld;
    p.slices = static_cast<int>(ceil_div(s.hidden, unit_tiles * kTileUnits));
    if (s.hidden <= unit_tiles / 2 * kTileUnits) continue;  // half the tiles would do
    p.scope = p.slices == 1 ? Scope::block : holds_cluster(device, p.slices) ? Scope::cluster : Scope::grid;
    p.tiles = static_cast<int>(round_up(ceil_div(ceil_div(m.depth, 32 / element), p.depth_parts), kTileGroup));
    p.held = std::min(p.tiles, held_tiles(m.planes));

    const int64_t at_once = std::max<int64_t>(1, groups_at_once(device, p.scope, p.slices));
    const int64_t room = std::max<int64_t>(1, at_once / s.directions);
    const int64_t most = std::max<int64_t>(1, ceil_div(s.batch, kTileBatch));
    p.groups = static_cast<int>(std::min(room, most));
    p.batch = static_cast<int>(round_up(ceil_div(std::max<int64_t>(1, s.batch), p.groups), kTileBatch));
    if (p.scope == Scope::grid) {
      // Blocks that wait for each other must all be on the device at once, one on a multiprocessor.
      if (int64_t(s.directions) * p.slices > device.multiprocessors) {
        why << "; " << s.directions * p.slices << " blocks that wait for each other exceed the "
            << device.multiprocessors << " multiprocessors";
        continue;
      }
    } else if (p.batch > kMostBatch) {
      p.batch = kMostBatch;  // groups do not meet: as many as it takes, one after the other
    }
    if (p.batch > kMostBatch) {
      why << "; " << p.batch << " sequences a group exceed " << kMostBatch;
      continue;
    }
    bool fits = lay_out(p, s, pass, element, device);
    while (!fits && p.scope != Scope::grid && p.batch > kTileBatch) {
      p.batch = static_cast<int>(round_up(p.batch / 2, kTileBatch));
      fits = lay_out(p, s, pass, element, device);
    }
    if (!fits) {
      least_shared = least_shared ? std::min(least_shared, p.shared_bytes) : p.shared_bytes;
      continue;
    }
    p.groups = static_cast<int>(std::max<int64_t>(1, ceil_div(s.batch, p.batch)));
    p.blocks = int64_t(s.directions) * p.groups * p.slices;
    const auto cost = std::make_tuple(step_cycles(p, s, m.planes, element, at_once), p.blocks);
    if (!result.best || cost < least) result.best = p, least = cost;
  }
  if (!result.best) {
    std::ostringstream text;
    if (least_shared) {
      text << "w_hh and the exchanged vectors need " << least_shared << " bytes of shared memory a block, "
           << device.name << " has " << device.shared_bytes << why.str();
    } else {
      text << (why.str().empty() ? "blocks of " + std::to_string(units) + " units are more than it takes" : why.str().substr(2));
    }
    result.rejected = text.str();
  }
  return result;
}

std::string describe(const PersistentPass& p) {
  std::ostringstream text;
  text << p.groups << " group(s) of " << p.slices << " block(s) a direction, " << p.batch << " sequences each; h meets in "
       << (p.scope == Scope::block ? "one block" : p.scope == Scope::cluster ? "a cluster" : "memory (L2)") << "; "
       << p.held << " of " << p.tiles << " weight tiles a warp in registers, the others in shared memory";
  return text.str();
}

CudaPass plan_pass(const Shape& s, const CudaRequest& request, const CudaDevice& device, Pass pass, bool wanted) {
  const std::string asked = request.strategy;
  CudaPass result{};
  if (asked == "stepwise") {
    result.strategy = CudaStrategy::stepwise;
    result.reason = "asked for";
    return result;
  }
  const Search found = search(s, request, device, pass);
  if (found.best) {
    result.strategy = CudaStrategy::persistent;
    result.persistent = *found.best;
    result.reason = describe(*found.best);
    return result;
  }
  if (asked != "auto" && wanted) {
    throw std::invalid_argument("strategy '" + asked + "' cannot run the " +
                                (pass == Pass::forward ? "forward" : "backward") + " of " + cell_info(s.cell).name +
                                " with B = " + std::to_string(s.batch) + ", H = " + std::to_string(s.hidden) + " on " +
                                device.name + ": " + found.rejected + ". The nearest that can is 'stepwise'");
  }
  result.strategy = CudaStrategy::stepwise;
  result.reason = "not persistent: " + found.rejected;
  return result;
}

// A step's products and their operands, of the tensors' type, and the carried state, of the arithmetic's.
int64_t stepwise_bytes(const Shape& s, int element, int wide) {
  const int64_t values = cell_info(s.cell).gates * s.hidden + s.projection + (s.projected ? s.hidden + s.projection : 0);
  return s.directions * s.batch * (values * element + 2 * std::max(s.hidden, s.projection) * wide);
}

int64_t exchange_bytes(const Shape& s, const CudaPass& pass, int element) {
  if (pass.strategy != CudaStrategy::persistent || pass.persistent.scope != Scope::grid) return 0;
  const PersistentPass& p = pass.persistent;
  return s.directions * p.groups * (2 * p.batch * p.ld * element + int64_t(sizeof(uint32_t)));
}

}  // namespace

const char* known_strategy(const std::string& name) {
  static const char* const names[] = {"auto",          "stepwise",      "persistent",    "persistent/16",
                                      "persistent/32", "persistent/64", "persistent/128"};
  for (const char* known : names)
    if (name == known) return known;
  throw std::invalid_argument("strategy must be auto, stepwise or persistent; got '" + name + "'");
}

CudaPlan plan_cuda(const Shape& s, const CudaRequest& request, const CudaDevice& device, Pass wanted) {
  known_strategy(request.strategy);
  const int element = bytes_of(request.dtype), wide = element == 8 ? 8 : 4;
  CudaPlan plan{};
  plan.forward = plan_pass(s, request, device, Pass::forward, static_cast<int>(wanted) & 1);
  plan.backward = plan_pass(s, request, device, Pass::backward, static_cast<int>(wanted) & 2);

  const auto workspace = [&](const CudaPass& pass) {
    return pass.strategy == CudaStrategy::stepwise ? stepwise_bytes(s, element, wide) : exchange_bytes(s, pass, element);
  };
  plan.workspace_bytes = std::max(workspace(plan.forward), workspace(plan.backward));
  const CellInfo cell = cell_info(s.cell);
  plan.saved_bytes = s.rows * s.directions * s.hidden *
                     (((cell.saved ? cell.slots() : 0) + (s.projected ? 1 : 0)) * element + (cell.states - 1) * wide);
  return plan;
}

const std::vector<CudaDevice>& known_cuda_devices() {
  // Multiprocessors from the vendor's data sheets, shared memory a block from the CUDA programming guide's
  // table of technical specifications (99 KiB for 8.6, 8.9 and 12.0; 163 KiB for 8.0; 227 KiB for 9.0 and 10.0).
  static const std::vector<CudaDevice> devices = {
      {"A100", 80, 108, 163 * 1024, 0},     {"RTX 3090", 86, 82, 99 * 1024, 0}, {"L4", 89, 58, 99 * 1024, 0},
      {"RTX 4090", 89, 128, 99 * 1024, 0},  {"H100", 90, 132, 227 * 1024, 16},  {"H200", 90, 132, 227 * 1024, 16},
      {"B200", 100, 148, 227 * 1024, 16},   {"RTX 5090", 120, 170, 99 * 1024, 8},
  };
  return devices;
}

const char* name_of(CudaStrategy s) { return s == CudaStrategy::stepwise ? "stepwise" : "persistent"; }
const char* name_of(Scope s) { return s == Scope::block ? "block" : s == Scope::cluster ? "cluster" : "grid"; }

}  // namespace fusedrnn
