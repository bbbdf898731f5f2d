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
  TORCH_CHECK_VALUE(capability >= 80, properties.name, " has compute capability ", capability / 10, ".", capability % 10,
                    "; the CUDA kernels need 8.0 (Ampere) or more");
  const int64_t shared_bytes = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin);
  // Code compiled for less than 9.0, and brought up to the device by the driver, has no clusters.
  const c10::cuda::CUDAGuard guard(static_cast<c10::DeviceIndex>(index));
  const bool clusters = std::min(capability, cuda::compiled_capability()) >= 90 && attribute(cudaDevAttrClusterLaunch);
  CudaDevice device{properties.name, capability, attribute(cudaDevAttrMultiProcessorCount), shared_bytes, clusters ? kMostCluster : 0};
  for (int size = 0; size <= device.max_cluster; ++size)
    device.clusters.push_back(size > 1 ? cuda::clusters_at_once(size, shared_bytes) : 0);
  // Small devices, parts of one and other processes may leave less room than the largest clusters want.
  while (device.max_cluster > 1 && device.clusters[device.max_cluster] == 0) --device.max_cluster;
  return device;
}

}  // namespace

const CudaDevice& cuda_device(int64_t index) {
  TORCH_CHECK_VALUE(index >= 0, "x is on no CUDA device, though something that came with it is");
  static std::map<int64_t, CudaDevice> devices;  // only those that are used: another may be one that nothing was built for
  static std::mutex mutex;
  const std::lock_guard<std::mutex> lock(mutex);
  auto found = devices.find(index);
  if (found == devices.end()) found = devices.emplace(index, ask(static_cast<int>(index))).first;
  return found->second;
}

cuda::Stream current_stream(const at::Tensor& x) { return c10::cuda::getCurrentCUDAStream(x.get_device()).stream(); }

}  // namespace fusedrnn::ops
