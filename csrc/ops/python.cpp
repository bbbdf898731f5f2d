// fusedrnn._C: what is not an operator. Build information and the plan of a problem.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <map>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "../core/plan.h"
#include "../core/plan_cuda.h"
#include "../cpu/kernels.h"
#include "../cpu/team.h"
#include "direct.h"
#include "memory_cpu.h"
#include "settings.h"
#if defined(FUSEDRNN_WITH_CUDA)
#include "device.h"
#endif

#define FUSEDRNN_STRING_OF(...) #__VA_ARGS__
#define FUSEDRNN_STRING(...) FUSEDRNN_STRING_OF(__VA_ARGS__)

namespace py = pybind11;
using namespace fusedrnn;

namespace {

std::map<std::string, std::string> build_info() {
  return {
      {"torch", FUSEDRNN_STRING(FUSEDRNN_TORCH_VERSION)},
      {"cuda", FUSEDRNN_STRING(FUSEDRNN_CUDA_VERSION)},
#if defined(__clang__)
      {"compiler", "clang " __clang_version__},
#elif defined(__GNUC__)
      {"compiler", "gcc " __VERSION__},
#endif
#if defined(FUSEDRNN_WITH_CUDA)
      {"cuda architectures", FUSEDRNN_STRING(FUSEDRNN_CUDA_ARCHITECTURES)},
#endif
      {"cpu kernels", cpu::kernels().unit.name},
      {"cpu threads", cpu::kThreadsFrom},
  };
}

Shape shape_of(const std::string& cell, int64_t T, int64_t B, int64_t I, int64_t H, int64_t P, int64_t D,
               const std::string& dtype) {
  Shape shape{};
  const bool known = for_each_cell([&](CellKind kind, auto c) {
    shape.cell = kind;
    return cell == decltype(c)::name;
  });
  if (!known) throw std::invalid_argument("unknown cell '" + cell + "'");
  shape.steps = T, shape.batch = B, shape.rows = T * B, shape.inputs = I, shape.hidden = H;
  shape.projection = P > 0 ? P : H, shape.projected = P > 0;
  shape.directions = static_cast<int>(D);
  const std::map<std::string, Dtype> dtypes = {{"float64", Dtype::float64},
                                               {"float32", Dtype::float32},
                                               {"float16", Dtype::float16},
                                               {"bfloat16", Dtype::bfloat16}};
  const auto found = dtypes.find(dtype);
  if (found == dtypes.end()) throw std::invalid_argument("unknown dtype '" + dtype + "'");
  shape.weights = found->second, shape.element_bytes = shape.weights == Dtype::float64 ? 8 : 4;
  return shape;
}

py::dict plan(const std::string& cell, int64_t T, int64_t B, int64_t I, int64_t H, int64_t P, int64_t D,
              const std::string& dtype, int threads, bool batch_invariant) {
  const Shape shape = shape_of(cell, T, B, I, H, P, D, dtype);
  const CpuPlan p = plan_cpu(shape, threads, cpu::vector_unit(), batch_invariant);
  py::dict d;
  d["strategy"] = p.strategy;
  d["isa"] = p.isa;
  d["threads"] = p.threads;
  d["direction_parts"] = p.direction_parts;
  d["batch_parts"] = p.batch_parts;
  d["unit_parts"] = p.unit_parts;
  d["helpers"] = p.helpers;
  d["gradient_threads"] = p.gradient_threads;
  d["stretch_rows"] = p.stretch_rows;
  d["chunk"] = p.chunk;
  d["workspace_bytes"] = p.workspace_bytes;
  d["saved_bytes"] = p.saved_bytes;
  d["reason"] = explain(shape, p);
  return d;
}

py::dict describe(const CudaPass& pass) {
  py::dict d;
  d["strategy"] = name_of(pass.strategy);
  d["reason"] = pass.reason;
  if (pass.strategy == CudaStrategy::persistent) {
    const PersistentPass& p = pass.persistent;
    d["scope"] = name_of(p.scope);
    d["blocks"] = p.blocks;
    d["threads"] = kBlockThreads;
    d["groups"] = p.groups;
    d["slices"] = p.slices;
    d["batch"] = p.batch;
    d["units"] = p.unit_tiles * kTileUnits;
    d["tiles"] = p.tiles;
    d["tiles_in_registers"] = p.held;
    d["shared_bytes"] = p.shared_bytes;
  }
  return d;
}

py::dict cuda_plan(const std::string& cell, int64_t T, int64_t B, int64_t I, int64_t H, int64_t P, int64_t D,
                   const std::string& dtype, const std::string& strategy, const std::string& name, int capability,
                   int multiprocessors, int64_t shared_bytes, int max_cluster, const std::vector<int>& clusters) {
  const Shape shape = shape_of(cell, T, B, I, H, P, D, dtype);
  const CudaPlan p = plan_cuda(shape, {shape.weights, strategy.c_str()},
                               {name, capability, multiprocessors, shared_bytes, max_cluster, clusters}, Pass::both);
  py::dict d;
  d["forward"] = describe(p.forward);
  d["backward"] = describe(p.backward);
  d["workspace_bytes"] = p.workspace_bytes;
  d["saved_bytes"] = p.saved_bytes;
  return d;
}

using Figures = std::tuple<int, int, int64_t, int, std::vector<int>>;  // capability, multiprocessors, shared_bytes, max_cluster, clusters
Figures figures_of(const CudaDevice& d) {
  return {d.capability, d.multiprocessors, d.shared_bytes, d.max_cluster, d.clusters};
}

std::map<std::string, Figures> cuda_devices() {
  std::map<std::string, Figures> devices;
  for (const CudaDevice& d : known_cuda_devices()) devices[d.name] = figures_of(d);
  return devices;
}

py::list cells() {
  py::list list;
  for_each_cell([&](CellKind, auto c) {
    using C = decltype(c);
    py::dict d;
    d["name"] = C::name, d["gates"] = int(C::gates), d["states"] = int(C::states), d["saved"] = int(C::saved);
    list.append(d);
    return false;
  });
  return list;
}

std::vector<std::string> available_isas() {
  std::vector<std::string> names;
  for (const cpu::Kernels* k : cpu::available()) names.push_back(k->unit.name);
  return names;
}

}  // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  m.doc() = "Build information and plans of fusedrnn; the operators live in torch.ops.fusedrnn.";
  m.def("build_info", &build_info);
  m.def("plan", &plan, py::arg("cell"), py::arg("T"), py::arg("B"), py::arg("I"), py::arg("H"),
        py::arg("P") = 0, py::arg("D") = 1, py::arg("dtype") = "float32", py::arg("threads") = 1,
        py::arg("batch_invariant") = false);
  m.def("cuda_plan", &cuda_plan, py::arg("cell"), py::arg("T"), py::arg("B"), py::arg("I"), py::arg("H"),
        py::arg("P"), py::arg("D"), py::arg("dtype"), py::arg("strategy"), py::arg("name"), py::arg("capability"), py::arg("multiprocessors"),
        py::arg("shared_bytes"), py::arg("max_cluster"), py::arg("clusters") = std::vector<int>{});
  m.def("cuda_devices", &cuda_devices);
#if defined(FUSEDRNN_WITH_CUDA)
  m.def("cuda_device", [](int64_t index) {  // one that is here, as layers find it
    const CudaDevice& device = ops::cuda_device(index);
    return std::make_pair(device.name, figures_of(device));
  });
#endif
  m.def("requested_strategy", &ops::requested_strategy);
  m.def("request_strategy", &ops::request_strategy, py::arg("name"));
  m.def("batch_invariant", &ops::batch_invariant);
  m.def("set_batch_invariant", &ops::set_batch_invariant, py::arg("enabled"));
  m.def("cells", &cells);
  m.def("direct", &ops::direct, py::arg("name"), py::arg("general"));
  m.def("available_isas", &available_isas);
  m.def("use_isa", &cpu::use, py::arg("name"));
  m.def("multiplies_bfloat16", [] { return cpu::kernels().unit.bfloat16_pairs; });
  m.def("usable_threads", &cpu::usable_threads, py::arg("threads"));
  m.def("release_scratch", &ops::release_scratch);
  m.def("pretend_first_cache", [](int64_t bytes) { return cpu::first_cache.exchange(bytes); }, py::arg("bytes"));
  m.def("pretend_processors", &cpu::pretend_processors, py::arg("count"));
}
