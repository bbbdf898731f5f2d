// The backward of a whole sequence in one launch. A step: multiply the d_u of all units and gates, which gives
// the part of d_h that passes w_hh, finish the block's own units, send their d_u. One product more than steps:
// the last one gives d_h_0. What a step reads is fetched before its d_u are waited for, and what nobody waits for is
// written behind the sending.
#include "dispatch.cuh"
#include "persistent.cuh"

namespace fusedrnn::cuda {
namespace {

// Units a thread whose values are in registers for long: as many as spill none (an RNN's second one does on sm_80).
template <class Cell, class S>
constexpr int kBackwardAhead = sizeof(S) == 4 || Cell::saved == 0 ? 1 : 2;

template <class Cell, class S>
__global__ void __launch_bounds__(kBlockThreads, 1)
    persistent_backward_kernel(const __grid_constant__ Backward<S, float> f, const __grid_constant__ PersistentPass p,
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
  const Stationary<S, 1> weights(p, at, shared + p.weights_at, [&](int, int row, int64_t k) {
    const int64_t j = tile_unit + row;
    int gate = 0;
#pragma unroll
    for (int g = 1; g < G; ++g) {
      if (k >= p.gate_ld) k -= p.gate_ld, ++gate;
    }
    return j < H && k < H ? static_cast<const S*>(d.w_hh)[(gate * H + k) * H + j] : convert<S>(0.0f);
  });
  Travelling<S, G> d_u(p, at, f.shape, shared, exchange);
  d_u.meet();

  constexpr int kAhead = kBackwardAhead<Cell, S>;
  const int per_thread = units_per_thread(p), chunks = chunks_of(p);
  Unit unit[kAhead];  // of the chunk at hand, the first ones of the thread
  const auto take_units = [&](int chunk) {
#pragma unroll
    for (int i = 0; i < kAhead; ++i) unit[i] = Unit(p, at, f.shape, chunk, i * kBlockThreads + threadIdx.x);
  };
  take_units(0);

  for (int64_t n = 0; n <= T; ++n) {  // the n-th step from the end
    const int64_t s = T - 1 - n, t = step_at(f.rows, d.reverse, s), first_row = n < T ? f.rows.row(t, 0) : 0;
    const auto fetch = [&](const Unit& unit, UnitGradients<Cell, S, float>& own) {
      const bool alive = n < T && unit.there && f.rows.alive(t, unit.b(at));
      if (alive) load_unit<Cell, false>(f, d, t, first_row + unit.b(at), unit.b(at), unit.j(at), own);
      return alive;
    };
    const auto finish = [&](const Unit& unit, bool alive, UnitGradients<Cell, S, float>& own) {
      if (!unit.there) return;
      const int64_t b = unit.b(at), j = unit.j(at);
      float* const d_h_0 = d.d_h_0 + b * H + j;
      float* const d_c_0 = Cell::states > 1 ? d.d_c_0 + b * H + j : nullptr;
      float d_state[Cell::states];
      if (n == 0) {
        last_gradient<Cell, false>(f, d, b, j, d_state);
        *d_h_0 = 0.0f;
        if constexpr (Cell::states > 1) *d_c_0 = 0.0f;
      } else {
        d_state[0] = carried[unit.state(p)];
        if (f.rows.alive(step_at(f.rows, d.reverse, s + 1), b)) {
          float sum[1];
          Stationary<S, 1>::sums(p, partial, unit, sum);
          d_state[0] += sum[0];
        }
        d_state[0] = cross_to(f, d, s, b, d_state[0], d_h_0);
        if constexpr (Cell::states > 1) d_state[1] = cross_to(f, d, s, b, carried[carried_stride + unit.state(p)], d_c_0);
      }
      if (n == T) {
        *d_h_0 += d_state[0];
        if constexpr (Cell::states > 1) *d_c_0 += d_state[1];
        return;
      }
      float du[G] = {};
      if (alive) backward_unit(d_state, du, own);
#pragma unroll
      for (int g = 0; g < G; ++g) d_u.send(n + 1, unit.sequence, g * static_cast<int>(p.gate_ld) + unit.j(at), convert<S>(du[g]));
#pragma unroll
      for (int k = 0; k < Cell::states; ++k) carried[k * carried_stride + unit.state(p)] = d_state[k];
    };

    const auto write = [&](const Unit& unit, bool alive, const UnitGradients<Cell, S, float>& own) {
      if (n == T || !unit.there) return;
      if (alive) write_d_gates(f, d, first_row + unit.b(at), unit.j(at), own);
      else clear_padding<Cell>(f, d, first_row + unit.b(at), unit.j(at));
    };
    // Of the next step, if it comes too late to be fetched before that step waits.
    const auto prefetch = [&](const Unit& unit) {
      const int64_t next = step_at(f.rows, d.reverse, s - 1);
      if (n + 1 < T && unit.there && f.rows.alive(next, unit.b(at))) prefetch_unit<Cell>(f, d, f.rows.row(next, unit.b(at)), unit.j(at));
    };

    UnitGradients<Cell, S, float> held[kAhead];
    bool alive[kAhead];
    if (chunks > 1) take_units(0);
#pragma unroll
    for (int i = 0; i < kAhead; ++i) alive[i] = fetch(unit[i], held[i]);
    if (n > 0) d_u.receive(n);
    for (int chunk = 0; chunk < chunks; ++chunk) {
      if (chunk > 0) {
        take_units(chunk);
#pragma unroll
        for (int i = 0; i < kAhead; ++i) alive[i] = fetch(unit[i], held[i]);
      }
      if (n > 0) {
        weights.multiply(p, at, d_u.vectors(n) + chunk * kChunkTiles * kTileBatch * static_cast<int>(p.ld), tiles_of(p, chunk), exact,
                         partial);
        __syncthreads();
      }
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        finish(unit[i], alive[i], held[i]);
        if (chunk + 1 < chunks) write(unit[i], alive[i], held[i]);
      }
      for (int i = kAhead; i < per_thread; ++i) {
        const Unit other(p, at, f.shape, chunk, i * kBlockThreads + threadIdx.x);
        UnitGradients<Cell, S, float> own;
        const bool lives = fetch(other, own);
        finish(other, lives, own);
        write(other, lives, own);
      }
      if (chunk + 1 < chunks) __syncthreads();  // the partial sums are read
    }
    if (n == T) break;
    d_u.publish(n + 1);
#pragma unroll
    for (int i = 0; i < kAhead; ++i) write(unit[i], alive[i], held[i]);
    for (int chunk = 0; chunk < chunks; ++chunk) {
      for (int i = chunk > 0 ? 0 : kAhead; i < per_thread; ++i) {
        prefetch(Unit(p, at, f.shape, chunk, i * kBlockThreads + threadIdx.x));
      }
    }
  }
}

}  // namespace

void persistent_backward(Dtype dtype, const AnyBackward& f, const PersistentPass& p, const Exchange& exchange,
                        bool exact, Stream stream) {
  for_tile_types(dtype, f.shape.cell, [&]<class S, class A>(Types<S, A>, auto cell) {
    launch("persistent_backward", launch_shape(p), stream, persistent_backward_kernel<decltype(cell), S>,
           typed<Backward<S, A>>(f), p, exchange, exact);
  });
}

}  // namespace fusedrnn::cuda
