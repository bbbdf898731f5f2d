// What a function of core/ is compiled as: inlined into whichever translation unit uses it, on the
// host and on the device alike. Forced inlining is not only for speed: the CPU kernels are compiled
// once per instruction set, and a function that stayed out of line would be merged by the linker
// across those sets, so that an old processor could be handed AVX-512 code.
#pragma once

#if defined(__CUDACC__)
#define FUSEDRNN_INLINE __host__ __device__ __forceinline__
#else
#define FUSEDRNN_INLINE inline __attribute__((always_inline))
#define FUSEDRNN_INLINE_LAMBDA __attribute__((always_inline))  // behind a lambda's parameters
#endif
