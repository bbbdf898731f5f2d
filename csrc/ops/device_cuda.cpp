#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>

#include <mutex>
#include <vector>

#include "device.h"

namespace fusedrnn::ops {
namespace {

CudaDevice ask(int index) {
  const auto attribute = [index](cudaDeviceAttr which) {
    int value = 0;
    C10_CUDA_CHECK(cudaDeviceGetAttribute(&value, which, index));
    return value;
  };
  cudaDeviceProp properties{};
  C10_CUDA_CHECK(cudaGetDeviceProperties(&properties, index));
  const int capability = 10 * attribute(cudaDevAttrComputeCapabilityMajor) + attribute(cudaDevAttrComputeCapabilityMinor);
  // Clusters of 8 are what every device from 9.0 on can hold; more depends on how its processors are grouped.
  return {properties.name, capability, attribute(cudaDevAttrMultiProcessorCount),
          attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin), capability >= 90 ? 8 : 0};
}

}  // namespace

const CudaDevice& cuda_device_of(const at::Tensor& x) {
  static std::vector<CudaDevice> devices;
  static std::once_flag once;
  std::call_once(once, [] {
    for (int i = 0; i < c10::cuda::device_count(); ++i) devices.push_back(ask(i));
  });
  return devices.at(x.get_device());
}

cuda::Stream current_stream(const at::Tensor& x) { return c10::cuda::getCurrentCUDAStream(x.get_device()).stream(); }

}  // namespace fusedrnn::ops
