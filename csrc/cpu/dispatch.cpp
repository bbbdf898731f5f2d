// Which instruction set's kernels run.
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <stdexcept>

#include "kernels.h"

namespace fusedrnn::cpu {
namespace {

const Kernels& find(const std::string& name) {
  std::string names;
  for (const Kernels* k : available()) {
    if (name == k->unit.name) return *k;
    names += (names.empty() ? "" : ", ") + std::string(k->unit.name);
  }
  throw std::invalid_argument("FUSEDRNN_ISA must be one of what this processor has: " + names + "; got '" + name + "'");
}

std::atomic<const Kernels*> chosen{nullptr};

}  // namespace

#if defined(_SC_LEVEL1_DCACHE_SIZE)
std::atomic<int64_t> first_cache{sysconf(_SC_LEVEL1_DCACHE_SIZE)};
#else
std::atomic<int64_t> first_cache{0};
#endif

std::vector<const Kernels*> available() {
  std::vector<const Kernels*> sets;
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("f16c");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw");
  if (avx512 && __builtin_cpu_supports("avx512bf16")) sets.push_back(&kAvx512Bf16);
  if (avx512) sets.push_back(&kAvx512);
  if (avx2) sets.push_back(&kAvx2);
#elif defined(__aarch64__)
  sets.push_back(&kNeon);
#endif
  sets.push_back(&kPortable);
  sets.push_back(&kPortableBf16);
  return sets;
}

const Kernels& kernels() {
  const Kernels* k = chosen.load(std::memory_order_acquire);
  if (!k) {
    const char* named = std::getenv("FUSEDRNN_ISA");
    k = named && *named ? &find(named) : available().front();
    chosen.store(k, std::memory_order_release);
  }
  return *k;
}

VectorUnit vector_unit() {
  VectorUnit unit = kernels().unit;
  unit.first_cache = first_cache.load(std::memory_order_relaxed);
  return unit;
}

void use(const std::string& name) { chosen.store(&find(name), std::memory_order_release); }

}  // namespace fusedrnn::cpu
