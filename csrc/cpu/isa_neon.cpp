// NEON, which every 64-bit Arm processor has.
#if defined(__aarch64__)
#include <arm_neon.h>

#include "standard.h"

#include "../core/config.h"

namespace fusedrnn::cpu::neon {
FUSEDRNN_INLINE float32x4_t least(float32x4_t a, float32x4_t b) { return vminq_f32(a, b); }
FUSEDRNN_INLINE float64x2_t least(float64x2_t a, float64x2_t b) { return vminq_f64(a, b); }
FUSEDRNN_INLINE float32x4_t greatest(float32x4_t a, float32x4_t b) { return vmaxq_f32(a, b); }
FUSEDRNN_INLINE float64x2_t greatest(float64x2_t a, float64x2_t b) { return vmaxq_f64(a, b); }
}  // namespace fusedrnn::cpu::neon

#define FUSEDRNN_ISA neon
#define FUSEDRNN_VECTOR_BYTES 16
// 20 accumulators of 32 registers; 16 hide a latency of four cycles at four instructions each. With 12 rows g++ 12 loads
// the rows' values first and keeps five of 24 accumulators in memory.
#define FUSEDRNN_BLOCK_ROWS 10
#define FUSEDRNN_PART_ROWS 12
#define FUSEDRNN_DEPTH_SLICE 256
#define FUSEDRNN_HAS_EXTREMA
#define FUSEDRNN_LOAD_BFLOAT16(w) vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(reinterpret_cast<const uint16_t*>(w)), 16))
#define FUSEDRNN_LOAD_FLOAT16(w) \
  vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(reinterpret_cast<const uint16_t*>(w))))
#include "isa.inc"

namespace fusedrnn::cpu {
const Kernels kNeon = FUSEDRNN_KERNELS("neon");
}
#endif
