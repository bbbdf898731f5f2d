// What the CUDA path asks of the machine it runs on. (device_cuda.cpp; the tests' host executor has another.)
#pragma once

#include <ATen/ATen.h>

#include "../core/plan_cuda.h"
#include "../cuda/kernels.h"

namespace fusedrnn::ops {

const CudaDevice& cuda_device_of(const at::Tensor& x);
cuda::Stream current_stream(const at::Tensor& x);

}  // namespace fusedrnn::ops
