// Vectors of 16 bytes (SSE2 and the like): what every processor of the compiler's default target has.
#include "standard.h"

#define FUSEDRNN_ISA portable
#define FUSEDRNN_VECTOR_BYTES 16
#define FUSEDRNN_BLOCK_ROWS 6  // 12 accumulators of 16 registers
#define FUSEDRNN_PART_ROWS 12
#define FUSEDRNN_DEPTH_SLICE 256
#include "isa.inc"

namespace fusedrnn::cpu {
const Kernels kPortable = FUSEDRNN_KERNELS("portable");
const Kernels kPortableBf16 = FUSEDRNN_KERNELS_WITH_PAIRS("portable_bf16");
}
