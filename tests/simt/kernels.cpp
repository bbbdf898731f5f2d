// The CUDA kernels, compiled for the host executor.
#include "../../csrc/cuda/persistent_backward.cu"
#include "../../csrc/cuda/persistent_forward.cu"
#include "../../csrc/cuda/rows.cu"
#include "../../csrc/cuda/stepwise.cu"
