#include "memory_cpu.h"

#include <ATen/EmptyTensor.h>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <cstdlib>
#include <utility>

namespace fusedrnn::ops {
namespace {

// The most that a thread keeps, in bytes: enough for an LSTM of H = 512.
constexpr int64_t kMostKept = 16 << 20;

// A buffer larger than this, and so many times as large as what is asked for, is not for tight moments.
constexpr int64_t kSpare = 1 << 20, kTooLarge = 2;

constexpr int64_t kCacheLine = 64;

thread_local at::Tensor kept;

// Asks the system for huge pages. An allocation this large is new to the process in every call, and touching its
// memory for the first time costs more than filling it: an LSTM of T=10, B=1, H=1024, whose packed weights are 33 MB,
// takes 19 ms with pages of 4 KB and 8 ms with huge ones.
void advise(const at::Tensor& t) {
#if defined(MADV_HUGEPAGE)
  constexpr int64_t kHugePage = 2 << 20;
  const uintptr_t begin = reinterpret_cast<uintptr_t>(t.data_ptr()), end = begin + t.nbytes();
  const uintptr_t first = (begin + kHugePage - 1) / kHugePage * kHugePage, last = end / kHugePage * kHugePage;
  if (last > first) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);  // a hint: it may be refused
#endif
}

// Once a process, before the first tensor that glibc would map by itself: has glibc keep the memory of freed tensors for the
// next ones. It hands memory back to the system where more of it is free at the heap's end than twice the largest block that
// was ever mapped and freed, and a training step whose tensors make up that much finds all of its pages new, at every step:
// RNN, two threads, B=64 T=128 H=128, 1000 to 1600 page faults and 12.6 to 13.2 ms a step, so none and 10.3 to 11.0; B=32 H=256
// 20.7 and 18.5. To free one block of the largest size that counts, without ever touching it, is what any program does that
// frees a tensor of 32 MB; who has set the thresholds (MALLOC_TRIM_THRESHOLD_, mallopt) has them as they were.
void keep_freed_memory() {
#if defined(__GLIBC__)
  static const bool once = [] {
    constexpr size_t kMostThatCounts = (4 << 20) * sizeof(long);  // DEFAULT_MMAP_THRESHOLD_MAX of malloc.c
    constexpr size_t kPages = 1 << 16;  // to which a block is rounded up, with its header
    void* volatile block = std::malloc(kMostThatCounts - kPages);  // volatile: or compilers leave both out
    std::free(block);
    return true;
  }();
  (void)once;
#endif
}

}  // namespace

at::Tensor empty_cpu(at::IntArrayRef sizes, at::ScalarType type) {
  constexpr size_t kLarge = 8 << 20, kMapped = 128 << 10;
  if (c10::multiply_integers(sizes) * c10::elementSize(type) >= kMapped) keep_freed_memory();
  at::Tensor t = at::detail::empty_cpu(sizes, type);
  if (t.nbytes() >= kLarge) advise(t);
  return t;
}

Scratch::Scratch(int64_t bytes, bool tight) : buffer_(std::exchange(kept, at::Tensor())) {
  bytes += kCacheLine;
  const int64_t there = buffer_.defined() ? buffer_.numel() : 0;
  if (there >= bytes && (!tight || there <= kSpare || there <= kTooLarge * bytes)) return;
  buffer_ = at::Tensor();  // before the other is there
  buffer_ = empty_cpu({bytes}, at::kByte);
}

Scratch::~Scratch() {
  if (buffer_.numel() <= kMostKept + kCacheLine) kept = std::move(buffer_);
}

void* Scratch::begin() const {
  return reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(buffer_.mutable_data_ptr()) + kCacheLine - 1) &
                                 ~uintptr_t(kCacheLine - 1));
}

int64_t release_scratch() { return kept.defined() ? std::exchange(kept, at::Tensor()).numel() : 0; }

}  // namespace fusedrnn::ops
