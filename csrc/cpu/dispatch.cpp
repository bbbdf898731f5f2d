#include <cstdlib>
#include <stdexcept>
#include <string>

#include "kernels.h"

namespace fusedrnn::cpu {
namespace {

const Kernels& choose() {
  const char* named = std::getenv("FUSEDRNN_ISA");
  const std::string wanted = named ? named : "";
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw");
  if (avx512 && (wanted.empty() || wanted == "avx512")) return kAvx512;
  if (avx2 && (wanted.empty() || wanted == "avx2")) return kAvx2;
#endif
  if (wanted.empty() || wanted == "portable") return kPortable;
  throw std::runtime_error("FUSEDRNN_ISA=" + wanted +
                           ": expected portable, avx2 or avx512, and one that this processor has");
}

}  // namespace

const Kernels& kernels() {
  static const Kernels& chosen = choose();
  return chosen;
}

}  // namespace fusedrnn::cpu
