// What the CUDA kernels offer to csrc/ops: launches, on a stream, of problems whose tensors are typed by a
// Dtype. The void-typed structs are those of core/problem.h with their pointers' types left open. Every
// launch returns at once, synchronises nothing, may be captured into a graph, and throws std::runtime_error
// if the driver refuses it.
#pragma once

#include "../core/plan_cuda.h"

namespace fusedrnn::cuda {

using AnyForward = Forward<void, void>;
using AnyBackward = Backward<void, void>;
using Stream = void*;  // a cudaStream_t

// For what capability, as 10·major + minor, the code was compiled that the present device runs.
int compiled_capability();

// How many clusters of so many blocks, each with so much shared memory and a multiprocessor to itself, the present device holds.
int clusters_at_once(int size, int64_t shared_bytes);

// --- stepwise: around the caller's products, step after step in processing order ---

// Buffers of a call, of the tensors' type but where another is named.
struct StepwiseForward {
  const void* u;  // (D, B, G·H) h·w_hhᵀ of this step; null: zero
  void* operand;  // (D, B, P) h as the next step's product takes it
  void* m;        // (D, B, H) o·tanh(c), to be projected; null without projection
  const void* projected;  // (D, B, P) m·w_hrᵀ; for project alone
  void* state;    // (D, 2, B, max(H, P)) the carried h and c, of the arithmetic's type
};
void forward_begin(Dtype, const AnyForward&, const StepwiseForward&, Stream);  // the first operand, from h_0
void forward_step(Dtype, const AnyForward&, const StepwiseForward&, int64_t s, Stream);
void forward_project(Dtype, const AnyForward&, const StepwiseForward&, int64_t s, Stream);

struct StepwiseBackward {
  const void* d_operand;  // (D, B, P) d_u·w_hh of step s + 1; null when that is none
  const void* d_m;        // (D, B, H) d_h·w_hr of step s; null without projection
  void* d_state;          // (D, 2, B, max(H, P)) the carried gradients, of the arithmetic's type
};
void backward_project(Dtype, const AnyBackward&, const StepwiseBackward&, int64_t s, Stream);  // d_h of step s
void backward_step(Dtype, const AnyBackward&, const StepwiseBackward&, int64_t s, Stream);
void backward_end(Dtype, const AnyBackward&, const StepwiseBackward&, Stream);  // d_h_0, d_c_0

// --- persistent: the whole sequence ---

struct Exchange {
  void* vectors;      // (D·groups, 2, batch, ld) of the tensors' type, zero; null unless Scope::grid
  uint32_t* counters; // (D·groups), zero; null unless Scope::grid
};
// exact: float32 products as three TF32 ones, within a few roundings of float32; otherwise as one.
void persistent_forward(Dtype, const AnyForward&, const PersistentPass&, const Exchange&, bool exact, Stream);
void persistent_backward(Dtype, const AnyBackward&, const PersistentPass&, const Exchange&, bool exact, Stream);

// --- rows ---

// Copies host values to the device as kernel arguments: no staging memory to keep alive, and safe in a graph.
void upload(int64_t* device, const int64_t* host, int64_t count, Stream);

// The state before each step of one direction.
struct BeforeEachStep {
  Rows rows;
  bool reverse, reset_to_hx;
  int64_t width, ld_states;
  const void* states;  // (N, width) after each step
  const void* first;   // (B, width), null: zeros
  void* out;           // (N, width), ld = width; zeros where there is no step
};
void before_each_step(Dtype, const BeforeEachStep&, Stream);

}  // namespace fusedrnn::cuda
