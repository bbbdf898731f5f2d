// The CUDA path on the host executor, as implementation of fusedrnn's operators for CPU tensors: the same
// csrc/ops, the same plan, the same kernels. While it is enabled, everything above the operators runs on it.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>

#include "../../csrc/ops/device.h"
#include "../../csrc/ops/signature.h"
#include "../../csrc/ops/settings.h"
#include "executor.h"

namespace py = pybind11;
using namespace fusedrnn;

namespace {

CudaDevice imagined = known_cuda_devices().front();
std::unique_ptr<torch::Library> implementation;

void use_device(const std::string& name, int capability, int multiprocessors, int64_t shared_bytes, int max_cluster,
                const std::vector<int>& clusters) {
  imagined = {name, capability, multiprocessors, shared_bytes, max_cluster, clusters};
  simt::set_limits(shared_bytes, multiprocessors, std::max(1, max_cluster));
}

void enable(bool on) {
  implementation.reset();
  if (!on) return;
  implementation = std::make_unique<torch::Library>(torch::Library::IMPL, "fusedrnn",
                                                    std::make_optional(c10::DispatchKey::CPU), __FILE__, __LINE__);
  ops::Cuda::implement(*implementation);
}

bool enabled() { return implementation != nullptr; }

py::dict last_launch() {
  const simt::Launch& launch = simt::last_launch();
  py::dict d;
  d["kernel"] = launch.kernel;
  d["blocks"] = launch.shape.blocks;
  d["threads"] = launch.shape.threads;
  d["shared_bytes"] = launch.shape.shared_bytes;
  d["cluster"] = launch.shape.cluster;
  d["cooperative"] = launch.shape.cooperative;
  d["barriers"] = launch.barriers;
  d["cluster_barriers"] = launch.cluster_barriers;
  d["transfers"] = launch.transfers;
  d["collectives"] = launch.collectives;
  d["releases"] = launch.releases;
  d["instructions"] = launch.instructions;
  return d;
}

}  // namespace

namespace fusedrnn::ops {

const CudaDevice& cuda_device(int64_t) { return imagined; }
cuda::Stream current_stream(const at::Tensor&) { return nullptr; }

}  // namespace fusedrnn::ops

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  m.doc() = "fusedrnn's CUDA path on the host executor.";
  m.def("enable", &enable, py::arg("on"));
  m.def("enabled", &enabled);
  m.def("use_device", &use_device, py::arg("name"), py::arg("capability"), py::arg("multiprocessors"),
        py::arg("shared_bytes"), py::arg("max_cluster"), py::arg("clusters") = std::vector<int>{});
  m.def("use_strategy", &ops::request_strategy, py::arg("name"));
  m.def("set_recomputed_values", &ops::set_recomputed_values, py::arg("values"));
  m.def("seed", &simt::seed, py::arg("value"));
  m.def("last_launch", &last_launch);
}
