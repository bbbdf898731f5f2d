// fusedrnn._C: what is not an operator. Build information and the plan of a problem.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include "../core/plan.h"
#include "../cpu/kernels.h"

#define FUSEDRNN_STRING_OF(x) #x
#define FUSEDRNN_STRING(x) FUSEDRNN_STRING_OF(x)

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
      {"cpu kernels", cpu::kernels().unit.name},
  };
}

py::dict plan(const std::string& cell, int64_t T, int64_t B, int64_t H, int64_t P, int64_t D, int element_bytes,
              int threads) {
  Shape shape{};
  const bool known = for_each_cell([&](CellKind kind, auto c) {
    shape.cell = kind;
    return cell == decltype(c)::name;
  });
  if (!known) throw std::invalid_argument("unknown cell '" + cell + "'");
  shape.steps = T, shape.batch = B, shape.rows = T * B, shape.hidden = H;
  shape.projection = P > 0 ? P : H, shape.projected = P > 0;
  shape.directions = static_cast<int>(D), shape.element_bytes = element_bytes;
  const CpuPlan p = plan_cpu(shape, threads, cpu::kernels().unit);
  py::dict d;
  d["strategy"] = p.strategy;
  d["isa"] = p.isa;
  d["threads"] = p.threads;
  d["direction_parts"] = p.direction_parts;
  d["batch_parts"] = p.batch_parts;
  d["unit_parts"] = p.unit_parts;
  d["chunk"] = p.chunk;
  d["workspace_bytes"] = p.workspace_bytes;
  d["saved_bytes"] = p.saved_bytes;
  d["reason"] = explain(shape, p);
  return d;
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
  m.def("plan", &plan, py::arg("cell"), py::arg("T"), py::arg("B"), py::arg("H"), py::arg("P") = 0, py::arg("D") = 1,
        py::arg("element_bytes") = 4, py::arg("threads") = 1);
  m.def("cells", &cells);
  m.def("available_isas", &available_isas);
  m.def("use_isa", &cpu::use, py::arg("name"));
}
