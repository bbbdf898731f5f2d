#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <map>
#include <mutex>

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
  // Clusters of 8 are what every device from 9.0 on can hold that has so many multiprocessors left to this process; more depends
  // on how they are grouped. Code compiled for less, and brought up to the device by the driver, has none.
  const c10::cuda::CUDAGuard guard(static_cast<c10::DeviceIndex>(index));
  const bool clusters = std::min(capability, cuda::compiled_capability()) >= 90;
  const int multiprocessors = attribute(cudaDevAttrMultiProcessorCount);
  return {properties.name, capability, multiprocessors, attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin),
          clusters ? std::min(8, multiprocessors) : 0};
}

}  // namespace

const CudaDevice& cuda_device(int64_t index) {
  static std::map<int64_t, CudaDevice> devices;  // only those that are used: another may be one that nothing was built for
  static std::mutex mutex;
  const std::lock_guard<std::mutex> lock(mutex);
  auto found = devices.find(index);
  if (found == devices.end()) found = devices.emplace(index, ask(static_cast<int>(index))).first;
  return found->second;
}

cuda::Stream current_stream(const at::Tensor& x) { return c10::cuda::getCurrentCUDAStream(x.get_device()).stream(); }

}  // namespace fusedrnn::ops
