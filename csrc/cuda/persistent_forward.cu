// The forward of a whole sequence in one launch. A step: multiply the h of all units, finish the block's own
// units, send their h. gx of a step is fetched before its h is waited for, and what nobody waits for is written
// behind the sending.
#include "dispatch.cuh"
#include "persistent.cuh"

namespace fusedrnn::cuda {
namespace {

template <class S>
constexpr int kForwardAhead = sizeof(S) == 4 ? 1 : 2;  // units a thread whose gates are in registers for long: as many as spill none

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
  const int per_thread = units_per_thread(p);
  for (int chunk = 0; chunk < chunks_of(p); ++chunk) {
    for (int i = 0; i < per_thread; ++i) {
      const Unit unit(p, at, f.shape, chunk, i * kBlockThreads + threadIdx.x);
      if (!unit.there) continue;
      float state[Cell::states];
      first_state<Cell, false>(f, d, unit.b, unit.j, state);
      for (int k = 0; k < Cell::states; ++k) carried[k * carried_stride + unit.state] = state[k];
    }
  }
  h.meet();

  for (int64_t s = 0; s < T; ++s) {
    const int64_t t = step_at(f.rows, d.reverse, s);
    const auto fetch = [&](const Unit& unit, UnitGates<Cell, S>& gates) {
      if (unit.there && f.rows.alive(t, unit.b)) load_gx(f, d, t, unit.b, unit.j, gates);
    };
    const auto finish = [&](const Unit& unit, UnitGates<Cell, S>& gates) {
      if (!unit.there) return;
      const bool alive = f.rows.alive(t, unit.b);
      float state[Cell::states];
#pragma unroll
      for (int k = 0; k < Cell::states; ++k) state[k] = carried[k * carried_stride + unit.state];
      if (alive) {
        if (cut_before(f.rows, d.reverse, t, unit.b)) restart<Cell, false>(f, d, unit.b, unit.j, state);
        float u[G];
#pragma unroll
        for (int g = 0; g < G; ++g) u[g] = Stationary<S, G>::sum(p, partial, g, unit);
        forward_unit(f, d, unit.j, u, state, gates);
      }
      if (s + 1 < T) {
        h.send(s + 1, unit.sequence, static_cast<int>(unit.j), operand_after(f, d, s, unit.b, unit.j, state[0]));
      }
#pragma unroll
      for (int k = 0; k < Cell::states; ++k) carried[k * carried_stride + unit.state] = state[k];
    };
    const auto save = [&](const Unit& unit, const UnitGates<Cell, S>& gates) {
      if (unit.there && f.rows.alive(t, unit.b)) write_saved(f, d, t, unit.b, unit.j, gates);
    };
    const auto write = [&](const Unit& unit) {
      if (!unit.there) return;
      const bool alive = f.rows.alive(t, unit.b);
      float state[Cell::states];
#pragma unroll
      for (int k = 0; k < Cell::states; ++k) state[k] = carried[k * carried_stride + unit.state];
      write_h(f, d, s, unit.b, unit.j, alive, state[0]);
      write_c<Cell>(f, d, s, unit.b, unit.j, alive, state);
    };

    UnitGates<Cell, S> held[kForwardAhead<S>];
#pragma unroll
    for (int i = 0; i < kForwardAhead<S>; ++i) fetch(Unit(p, at, f.shape, 0, i * kBlockThreads + threadIdx.x), held[i]);
    if (s > 0) h.receive(s);
    for (int chunk = 0; chunk < chunks_of(p); ++chunk) {
      if (chunk > 0) {
#pragma unroll
        for (int i = 0; i < kForwardAhead<S>; ++i) fetch(Unit(p, at, f.shape, chunk, i * kBlockThreads + threadIdx.x), held[i]);
      }
      weights.multiply(p, at, h.vectors(s) + chunk * kChunkTiles * kTileBatch * static_cast<int>(p.ld), tiles_of(p, chunk), exact,
                       partial);
      __syncthreads();
#pragma unroll
      for (int i = 0; i < kForwardAhead<S>; ++i) {
        const Unit unit(p, at, f.shape, chunk, i * kBlockThreads + threadIdx.x);
        finish(unit, held[i]);
        if (chunk + 1 < chunks_of(p)) save(unit, held[i]);
      }
      for (int i = kForwardAhead<S>; i < per_thread; ++i) {
        const Unit unit(p, at, f.shape, chunk, i * kBlockThreads + threadIdx.x);
        UnitGates<Cell, S> gates;
        fetch(unit, gates);
        finish(unit, gates);
        save(unit, gates);
      }
      if (chunk + 1 < chunks_of(p)) __syncthreads();  // the partial sums are read
    }
    if (s + 1 < T) h.publish(s + 1);
    // What others wait for is on its way; the next step alone waits for the rest.
#pragma unroll
    for (int i = 0; i < kForwardAhead<S>; ++i) {
      save(Unit(p, at, f.shape, chunks_of(p) - 1, i * kBlockThreads + threadIdx.x), held[i]);
    }
    for (int chunk = 0; chunk < chunks_of(p); ++chunk) {
      for (int i = 0; i < per_thread; ++i) {
        const Unit unit(p, at, f.shape, chunk, i * kBlockThreads + threadIdx.x);
        write(unit);
        const bool comes_late = chunk > 0 || i >= kForwardAhead<S>;
        const int64_t next = step_at(f.rows, d.reverse, s + 1);
        if (comes_late && s + 1 < T && unit.there && f.rows.alive(next, unit.b)) {
          const S* gates = d.gates + f.rows.row(next, unit.b) * f.ld_gates + unit.j;
          for (int g = 0; g < G; ++g) prefetch_l2(gates + g * H);
        }
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
