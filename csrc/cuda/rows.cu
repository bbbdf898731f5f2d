// Where rows lie, and what lies in them before each step.
#include "dispatch.cuh"
#include "stepwise.cuh"

namespace fusedrnn::cuda {
namespace {

constexpr int kUploadCount = 256;  // values that travel as the arguments of one launch

struct UploadValues {
  int64_t value[kUploadCount];
};

__global__ void upload_kernel(int64_t* to, UploadValues from, int64_t count) {
  const int64_t i = first_index();
  if (i < count) to[i] = from.value[i];
}

template <class S>
__global__ void before_each_step_kernel(BeforeEachStep p, int64_t count) {
  const int64_t B = p.rows.batch, W = p.width;
  for (int64_t i = first_index(); i < count; i += index_stride()) {
    const Cursor at(i, B, W);  // its direction is the step
    const int64_t t = at.direction;
    if (!has_row(p.rows, p.rows.alive(t, at.b))) continue;
    S state = convert<S>(0.0f);
    if (p.rows.alive(t, at.b)) {
      const Previous previous = previous_of(p.rows, p.reverse, t, at.b);
      if (previous.source == Source::previous) {
        state = static_cast<const S*>(p.states)[previous.row * p.ld_states + at.j];
      } else if (p.first && (previous.source == Source::first || p.reset_to_hx)) {
        state = static_cast<const S*>(p.first)[at.b * W + at.j];
      }
    }
    static_cast<S*>(p.out)[p.rows.row(t, at.b) * W + at.j] = state;
  }
}

}  // namespace

int compiled_capability() { return compiled_for(upload_kernel); }

void upload(int64_t* device, const int64_t* host, int64_t count, Stream stream) {
  for (int64_t at = 0; at < count; at += kUploadCount) {
    UploadValues values{};
    const int64_t n = count - at < kUploadCount ? count - at : kUploadCount;
    for (int64_t i = 0; i < n; ++i) values.value[i] = host[at + i];
    launch("upload", one_thread_each(n), stream, upload_kernel, device + at, values, n);
  }
}

void before_each_step(Dtype dtype, const BeforeEachStep& p, Stream stream) {
  const int64_t count = p.rows.steps * p.rows.batch * p.width;
  for_dtype(dtype, [&]<class S, class A>(Types<S, A>) {
    launch("before_each_step", one_thread_each(count), stream, before_each_step_kernel<S>, p, count);
  });
}

}  // namespace fusedrnn::cuda
