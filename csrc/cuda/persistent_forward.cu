// The forward of a whole sequence in one launch. A step: multiply the h of all units, finish the block's own
// units, send their h. gx of a step is fetched before its h is waited for, and what nobody waits for is written
// behind the sending.
#include "dispatch.cuh"
#include "persistent.cuh"

namespace fusedrnn::cuda {
namespace {

// Units a thread whose gates are in registers for long: as many as spill none.
template <class S>
constexpr int kForwardAhead = sizeof(S) == 4 ? 1 : 2;

template <class Cell, class S>
__global__ void __launch_bounds__(kBlockThreads, 1)
    persistent_forward_kernel(const __grid_constant__ Forward<S, float> f, const __grid_constant__ PersistentPass p,
                              const __grid_constant__ Exchange exchange, bool exact) {
  constexpr int G = Cell::gates;
  const Place at(p);
  const auto& d = f.direction[at.direction];
  const int64_t T = f.rows.steps, H = f.shape.hidden;
  unsigned char* const shared = shared_memory();
  float* const partial = reinterpret_cast<float*>(shared + p.partial_at);
  float* const carried = reinterpret_cast<float*>(shared + p.state_at);
  const int carried_stride = p.unit_tiles * kTileUnits * p.batch;

  const int64_t tile_unit = at.first_unit + at.unit_tile * kTileUnits;
  const Stationary<S, G> weights(p, at, shared + p.weights_at, [&](int gate, int row, int64_t k) {
    const int64_t j = tile_unit + row;
    return j < H && k < H ? static_cast<const S*>(d.w_hh)[(gate * H + j) * H + k] : convert<S>(0.0f);
  });
  Travelling<S, 1> h(p, at, f.shape, shared, exchange);
  __syncthreads();
  for (int64_t i = threadIdx.x; i < p.batch * H; i += kBlockThreads) {
    const int64_t b = at.first_sequence + i / H, k = i % H;
    if (b < f.shape.batch) {
      h.vectors(0)[i / H * p.ld + k] = operand_after(f, d, -1, b, k, value_or_zero<float>(d.h_0, b * H + k));
    }
  }
  float* const biases = reinterpret_cast<float*>(shared + p.biases_at);  // (kBiases, units)
  const int units = p.unit_tiles * kTileUnits;
  for (int i = static_cast<int>(threadIdx.x); i < units; i += kBlockThreads) {
    for (int k = 0; k < kBiases<Cell> && at.first_unit + i < H; ++k) biases[k * units + i] = bias<Cell>(d, H, at.first_unit + i, k);
  }
  const int per_thread = units_per_thread(p), chunks = chunks_of(p);
  for (int chunk = 0; chunk < chunks; ++chunk) {
    for (int i = 0; i < per_thread; ++i) {
      const Unit unit(p, at, f.shape, chunk, i * kBlockThreads + threadIdx.x);
      if (!unit.there) continue;
      float state[Cell::states];
      first_state<Cell, false>(f, d, unit.b(at), unit.j(at), state);
      for (int k = 0; k < Cell::states; ++k) carried[k * carried_stride + unit.state(p)] = state[k];
    }
  }
  h.meet();

  Unit unit[kForwardAhead<S>];  // of the chunk at hand, the first ones of the thread
  const auto take_units = [&](int chunk) {
#pragma unroll
    for (int i = 0; i < kForwardAhead<S>; ++i) unit[i] = Unit(p, at, f.shape, chunk, i * kBlockThreads + threadIdx.x);
  };
  take_units(0);

  for (int64_t s = 0; s < T; ++s) {
    const int64_t t = step_at(f.rows, d.reverse, s), first_row = f.rows.row(t, 0);
    const auto fetch = [&](const Unit& unit, UnitGates<Cell, S>& gates) {
      const bool alive = unit.there && f.rows.alive(t, unit.b(at));
      if (alive) load_gx(f, d, first_row + unit.b(at), unit.j(at), gates);
      return alive;
    };
    const auto finish = [&](const Unit& unit, bool alive, UnitGates<Cell, S>& gates) {
      if (!unit.there) return;
      float state[Cell::states];
#pragma unroll
      for (int k = 0; k < Cell::states; ++k) state[k] = carried[k * carried_stride + unit.state(p)];
      if (alive) {
        if (cut_before(f.rows, d.reverse, t, unit.b(at))) restart<Cell, false>(f, d, unit.b(at), unit.j(at), state);
        float u[G];
        Stationary<S, G>::sums(p, partial, unit, u);
        forward_unit([&](int k) { return biases[k * units + unit.unit]; }, u, state, gates);
      }
      if (s + 1 < T) h.send(s + 1, unit.sequence, unit.j(at), operand_after(f, d, s, unit.b(at), unit.j(at), state[0]));
#pragma unroll
      for (int k = 0; k < Cell::states; ++k) carried[k * carried_stride + unit.state(p)] = state[k];
    };
    const auto save = [&](const Unit& unit, bool alive, const UnitGates<Cell, S>& gates) {
      if (alive) write_saved(f, d, first_row + unit.b(at), unit.j(at), gates);
    };
    const auto write = [&](const Unit& unit, bool alive) {
      if (!unit.there) return;
      float state[Cell::states];
#pragma unroll
      for (int k = 0; k < Cell::states; ++k) state[k] = carried[k * carried_stride + unit.state(p)];
      write_h(f, d, s, first_row + unit.b(at), unit.b(at), unit.j(at), alive, state[0]);
      write_c<Cell>(f, d, s, first_row + unit.b(at), unit.b(at), unit.j(at), alive, state);
    };
    // Of the next step, if it comes too late to be fetched before that step waits.
    const auto prefetch = [&](const Unit& unit) {
      const int64_t next = step_at(f.rows, d.reverse, s + 1);
      if (s + 1 == T || !unit.there || !f.rows.alive(next, unit.b(at))) return;
      const S* gates = d.gates + f.rows.row(next, unit.b(at)) * f.ld_gates + unit.j(at);
      for (int g = 0; g < G; ++g) prefetch_l2(gates + g * H);
    };

    UnitGates<Cell, S> held[kForwardAhead<S>];
    bool alive[kForwardAhead<S>];
    if (chunks > 1) take_units(0);
#pragma unroll
    for (int i = 0; i < kForwardAhead<S>; ++i) alive[i] = fetch(unit[i], held[i]);
    if (s > 0) h.receive(s);
    for (int chunk = 0; chunk < chunks; ++chunk) {
      if (chunk > 0) {
        take_units(chunk);
#pragma unroll
        for (int i = 0; i < kForwardAhead<S>; ++i) alive[i] = fetch(unit[i], held[i]);
      }
      weights.multiply(p, at, h.vectors(s) + chunk * kChunkTiles * kTileBatch * static_cast<int>(p.ld), tiles_of(p, chunk), exact,
                       partial);
      __syncthreads();
#pragma unroll
      for (int i = 0; i < kForwardAhead<S>; ++i) {
        finish(unit[i], alive[i], held[i]);
        if (chunk + 1 < chunks) save(unit[i], alive[i], held[i]);
      }
      for (int i = kForwardAhead<S>; i < per_thread; ++i) {
        const Unit other(p, at, f.shape, chunk, i * kBlockThreads + threadIdx.x);
        UnitGates<Cell, S> gates;
        const bool lives = fetch(other, gates);
        finish(other, lives, gates);
        save(other, lives, gates);
      }
      if (chunk + 1 < chunks) __syncthreads();  // the partial sums are read
    }
    if (s + 1 < T) h.publish(s + 1);
    // What others wait for is on its way; the next step alone waits for the rest.
#pragma unroll
    for (int i = 0; i < kForwardAhead<S>; ++i) {
      save(unit[i], alive[i], held[i]);
      write(unit[i], alive[i]);
      if (chunks > 1) prefetch(unit[i]);
    }
    for (int chunk = 0; chunk < chunks; ++chunk) {
      for (int i = chunk + 1 < chunks ? 0 : kForwardAhead<S>; i < per_thread; ++i) {
        const Unit other(p, at, f.shape, chunk, i * kBlockThreads + threadIdx.x);
        write(other, other.there && f.rows.alive(t, other.b(at)));
        if (chunk > 0 || i >= kForwardAhead<S>) prefetch(other);
      }
    }
  }
}

}  // namespace

int clusters_at_once(int size, int64_t shared_bytes) {
  return active_clusters({size, kBlockThreads, shared_bytes, size}, persistent_forward_kernel<Lstm, Half>);
}

void persistent_forward(Dtype dtype, const AnyForward& f, const PersistentPass& p, const Exchange& exchange,
                        bool exact, Stream stream) {
  for_tile_types(dtype, f.shape.cell, [&]<class S, class A>(Types<S, A>, auto cell) {
    launch("persistent_forward", launch_shape(p), stream, persistent_forward_kernel<decltype(cell), S>,
           typed<Forward<S, A>>(f), p, exchange, exact);
  });
}

}  // namespace fusedrnn::cuda
