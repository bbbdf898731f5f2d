// What the CUDA path asks of the machine it runs on. (device_cuda.cpp; the tests' host executor has another.)
#pragma once

#include <ATen/ATen.h>

#include "../core/plan_cuda.h"
#include "../cuda/kernels.h"

namespace fusedrnn::ops {

const CudaDevice& cuda_device(int64_t index);  // as torch counts them
cuda::Stream current_stream(const at::Tensor& x);

}  // namespace fusedrnn::ops
