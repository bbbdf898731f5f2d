#include "stepwise.cuh"

#include "dispatch.cuh"

namespace fusedrnn::cuda {
namespace {

// f(cell, projected), for the pairs that there are.
template <class F>
void for_cell_and_projection(const Shape& s, F&& f) {
  for_cell(s.cell, [&](auto cell) {
    if constexpr (std::is_same_v<decltype(cell), Lstm>) {
      if (s.projected) return f(cell, std::true_type{});
    }
    f(cell, std::false_type{});
  });
}

int64_t units(const Shape& s) { return s.directions * s.batch * s.hidden; }
int64_t outputs(const Shape& s) { return s.directions * s.batch * s.projection; }

}  // namespace

void forward_begin(Dtype dtype, const AnyForward& f, const StepwiseForward& w, Stream stream) {
  for_dtype(dtype, [&]<class S, class A>(Types<S, A>) {
    launch("forward_begin", one_thread_each(outputs(f.shape)), stream, forward_begin_kernel<S, A>,
           typed<Forward<S, A>>(f), w);
  });
}

void forward_step(Dtype dtype, const AnyForward& f, const StepwiseForward& w, int64_t s, Stream stream) {
  for_dtype(dtype, [&]<class S, class A>(Types<S, A>) {
    for_cell_and_projection(f.shape, [&](auto cell, auto projected) {
      launch("forward_step", one_thread_each(units(f.shape)), stream,
             forward_step_kernel<decltype(cell), projected.value, S, A>, typed<Forward<S, A>>(f), w, s);
    });
  });
}

void forward_project(Dtype dtype, const AnyForward& f, const StepwiseForward& w, int64_t s, Stream stream) {
  for_dtype(dtype, [&]<class S, class A>(Types<S, A>) {
    launch("forward_project", one_thread_each(outputs(f.shape)), stream, forward_project_kernel<S, A>,
           typed<Forward<S, A>>(f), w, s);
  });
}

void backward_project(Dtype dtype, const AnyBackward& f, const StepwiseBackward& w, int64_t s, Stream stream) {
  for_dtype(dtype, [&]<class S, class A>(Types<S, A>) {
    launch("backward_project", one_thread_each(outputs(f.shape)), stream, backward_project_kernel<S, A>,
           typed<Backward<S, A>>(f), w, s);
  });
}

void backward_step(Dtype dtype, const AnyBackward& f, const StepwiseBackward& w, int64_t s, Stream stream) {
  for_dtype(dtype, [&]<class S, class A>(Types<S, A>) {
    for_cell_and_projection(f.shape, [&](auto cell, auto projected) {
      launch("backward_step", one_thread_each(units(f.shape)), stream,
             backward_step_kernel<decltype(cell), projected.value, S, A>, typed<Backward<S, A>>(f), w, s);
    });
  });
}

void backward_end(Dtype dtype, const AnyBackward& f, const StepwiseBackward& w, Stream stream) {
  for_dtype(dtype, [&]<class S, class A>(Types<S, A>) {
    for_cell(f.shape.cell, [&](auto cell) {
      const int64_t width = f.shape.hidden > f.shape.projection ? f.shape.hidden : f.shape.projection;
      launch("backward_end", one_thread_each(f.shape.directions * f.shape.batch * width), stream,
             backward_end_kernel<decltype(cell), S, A>, typed<Backward<S, A>>(f), w);
    });
  });
}

}  // namespace fusedrnn::cuda
