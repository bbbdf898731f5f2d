// The operators' short way in from Python. torch's own serves any operator: a Python frame, a tuple, a search for overrides,
// and a boxed value an argument, a third of what one step of a cell takes. Here the arguments of two are known. And modules
// have one for the calls that most are: of one step, a dozen Python frames took as long as the step.
//
// It ends at the dispatcher like the other, so autograd, modes below Python, transforms and the profiler see no difference.
// What Python itself may override, it leaves to the general way: arguments of other types than Tensor and Parameter,
// and function modes such as torch.set_default_device's.
#include "direct.h"

#include <ATen/PythonTorchFunctionTLS.h>
#include <ATen/TracerMode.h>
#include <ATen/autocast_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/dropout.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/autograd/python_variable.h>

#include <cctype>
#include <string>
#include <tuple>
#include <vector>

#include "signature.h"

namespace fusedrnn::ops {
namespace {

// Reads one argument after the other. What is not as expected makes all of it not plain.
class Arguments {
 public:
  Arguments(PyObject* const* next, Py_ssize_t count) : next_(next), end_(next + count) {}

  bool plain() const { return plain_ && next_ == end_; }

  OptionalTensor optional() {
    PyObject* object = take();
    if (object == Py_None) return std::nullopt;
    return unpack(object);
  }
  Tensor tensor() { return unpack(take()); }
  std::vector<Tensor> list() {
    PyObject* object = take();
    std::vector<Tensor> tensors;
    if (!(plain_ = plain_ && PyList_CheckExact(object))) return tensors;
    tensors.reserve(PyList_GET_SIZE(object));
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(object); ++i) tensors.push_back(unpack(PyList_GET_ITEM(object, i)));
    return tensors;
  }
  bool boolean() {
    PyObject* object = take();
    plain_ = plain_ && PyBool_Check(object);
    return object == Py_True;
  }
  Bools booleans() {
    PyObject* object = take();
    Bools values;
    if (!(plain_ = plain_ && PyList_CheckExact(object))) return values;
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(object); ++i) {
      PyObject* item = PyList_GET_ITEM(object, i);
      plain_ = plain_ && PyBool_Check(item);
      values.push_back(item == Py_True);
    }
    return values;
  }
  std::string string() {
    PyObject* object = take();
    Py_ssize_t size = 0;
    const char* text = PyUnicode_Check(object) ? PyUnicode_AsUTF8AndSize(object, &size) : nullptr;
    if (!text) PyErr_Clear(), plain_ = false;
    return text ? std::string(text, size) : std::string();
  }

 private:
  PyObject* take() {
    if (next_ < end_) return *next_++;
    plain_ = false;
    return Py_None;
  }
  Tensor unpack(PyObject* object) {
    if (!(plain_ = plain_ && THPVariable_CheckExact(object))) return Tensor();
    return THPVariable_Unpack(object);
  }

  PyObject *const *next_, *const *end_;
  bool plain_ = true;
};

template <class... Results>
PyObject* wrap(std::tuple<Results...>&& results) {
  return std::apply(
      [](auto&&... tensor) { return py::make_tuple(py::reinterpret_steal<py::object>(THPVariable_Wrap(tensor))...); },
      std::move(results))
      .release()
      .ptr();
}

// What is thrown by code that knows no torch: pybind11 makes it a ValueError on the general way, torch's translation would not.
template <class Call>
auto without_gil(const Call& call) {
  const py::gil_scoped_release release;
  try {
    return call();
  } catch (const std::invalid_argument& error) {
    C10_THROW_ERROR(ValueError, error.what());
  }
}

PyObject* layer(PyObject* general, PyObject* const* given, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  Arguments take(given, count);
  const Tensor x = take.tensor();
  const OptionalTensor h_0 = take.optional(), c_0 = take.optional();
  const std::vector<Tensor> weights = take.list();
  const OptionalTensor batch_sizes = take.optional(), lengths = take.optional(), reset = take.optional();
  const std::string cell = take.string();
  const Bools reverse = take.booleans();
  const bool reset_to_hx = take.boolean(), cell_states = take.boolean(), recompute = take.boolean();
  if (!take.plain() || at::impl::torch_function_mode_enabled())
    return PyObject_Vectorcall(general, given, count, nullptr);
  static const auto call = op<decltype(Cpu::layer)>("fusedrnn::layer");
  return wrap(without_gil([&] {
    return call.call(x, h_0, c_0, weights, batch_sizes, lengths, reset, cell, reverse, reset_to_hx, cell_states, recompute);
  }));
  END_HANDLE_TH_ERRORS
}

PyObject* cell(PyObject* general, PyObject* const* given, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  Arguments take(given, count);
  const Tensor x = take.tensor();
  const OptionalTensor h_0 = take.optional(), c_0 = take.optional();
  const Tensor w_ih = take.tensor(), w_hh = take.tensor();
  const OptionalTensor b_ih = take.optional(), b_hh = take.optional();
  const std::string kind = take.string();
  if (!take.plain() || at::impl::torch_function_mode_enabled())
    return PyObject_Vectorcall(general, given, count, nullptr);
  static const auto call = op<decltype(Cpu::cell_forward)>("fusedrnn::cell");
  return wrap(without_gil([&] { return call.call(x, h_0, c_0, w_ih, w_hh, b_ih, b_hh, kind); }));
  END_HANDLE_TH_ERRORS
}

// --- modules ---

// What a module holds, by name: its attributes, or its parameters. What is missing, or not as expected, makes all of it not plain.
class Attributes {
 public:
  explicit Attributes(PyObject* dict) : dict_(dict) {}

  bool plain() const { return plain_; }

  PyObject* object(PyObject* name) {
    PyObject* value = plain_ ? PyDict_GetItemWithError(dict_, name) : nullptr;
    if (!value) PyErr_Clear(), plain_ = false;
    return value;
  }
  bool boolean(PyObject* name) {
    PyObject* value = object(name);
    plain_ = plain_ && PyBool_Check(value);
    return value == Py_True;
  }
  int64_t integer(PyObject* name) {
    PyObject* value = object(name);
    plain_ = plain_ && PyLong_CheckExact(value);
    return plain_ ? PyLong_AsLongLong(value) : 0;
  }
  double number(PyObject* name) {
    PyObject* value = object(name);
    plain_ = plain_ && (PyFloat_Check(value) || PyLong_Check(value));
    return plain_ ? PyFloat_AsDouble(value) : 0;
  }
  Tensor tensor(PyObject* name) {
    PyObject* value = object(name);
    plain_ = plain_ && THPVariable_CheckExact(value);
    return plain_ ? THPVariable_Unpack(value) : Tensor();
  }
  OptionalTensor optional(PyObject* name) {
    if (object(name) == Py_None) return std::nullopt;
    return tensor(name);
  }

 private:
  PyObject* dict_;
  bool plain_ = true;
};

// The names of what a torch.nn.RNNBase or RNNCellBase holds.
struct Names {
  PyObject *parameters = of("_parameters"), *all_weights = of("_all_weights"), *mode = of("mode"), *input_size = of("input_size"),
           *hidden_size = of("hidden_size"), *proj_size = of("proj_size"), *batch_first = of("batch_first"),
           *bidirectional = of("bidirectional"), *training = of("training"), *dropout = of("dropout"),
           *weight_ih = of("weight_ih"), *weight_hh = of("weight_hh"), *bias_ih = of("bias_ih"), *bias_hh = of("bias_hh");
  static PyObject* of(const char* name) { return PyUnicode_InternFromString(name); }
};
const Names& names() {
  static const Names names;
  return names;
}

// Whether calls go to the operators as they are: nobody overrides them, traces them or has them cast.
bool as_they_are(PyObject* input) {
  if (!THPVariable_CheckExact(input) || at::impl::torch_function_mode_enabled() || at::tracer::impl::is_dispatch_enabled())
    return false;
  const at::Device device = THPVariable_Unpack(input).device();
  return (device.is_cpu() || device.is_cuda()) && !at::autocast::is_autocast_enabled(device.type());
}

// A tensor of those sizes into `to`, if there is one. Returns whether it is as it should be.
bool take(PyObject* tensor, at::IntArrayRef sizes, OptionalTensor& to) {
  if (tensor == Py_None) return true;
  if (!THPVariable_CheckExact(tensor)) return false;
  to = THPVariable_Unpack(tensor);
  return to->sizes() == sizes;
}

bool is(PyObject* text, const char* expected) {
  return PyUnicode_Check(text) && PyUnicode_CompareWithASCIIString(text, expected) == 0;
}

// Each layer's weights, role by role one a direction. `names`: of each direction of each layer, those of its weights.
std::vector<std::vector<Tensor>> weights_of(Attributes& parameters, PyObject* names, int64_t directions, bool projected) {
  const Py_ssize_t count = PyList_GET_SIZE(names);
  std::vector<std::vector<Tensor>> layers(count / directions);
  Py_ssize_t roles = 0;
  for (Py_ssize_t i = 0; i < count && parameters.plain(); ++i) {
    PyObject* own = PyList_GET_ITEM(names, i);
    const Py_ssize_t n = PyList_CheckExact(own) ? PyList_GET_SIZE(own) : 0;
    if (i == 0) roles = n;
    if (n != roles || (n - projected != 2 && n - projected != 4)) return {};
    std::vector<Tensor>& layer = layers[i / directions];
    layer.resize(n * directions);
    for (Py_ssize_t j = 0; j < n; ++j) layer[j * directions + i % directions] = parameters.tensor(PyList_GET_ITEM(own, j));
  }
  return parameters.plain() ? layers : std::vector<std::vector<Tensor>>();
}

// Outputs as the caller wants them. Where no gradient is recorded they are no views either: one of those may not be changed in
// place later by what needs a gradient.
Tensor batch_first_again(const Tensor& t) {
  std::optional<at::AutoDispatchBelowADInplaceOrView> no_view;
  if (!at::GradMode::is_enabled()) no_view.emplace();
  return t.transpose(0, 1);
}

// (attributes, input, states, lengths, reset, reset_to, cell_states, recompute) -> (y, h_n, c_n, c), or None where anything is
// out of the ordinary: for Python to say what it is, or to do.
PyObject* module(PyObject*, PyObject* const* given, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  TORCH_CHECK(count == 8 && PyDict_CheckExact(given[0]),
              "module takes a dict, an input, states, lengths, reset, reset_to, cell_states and recompute");
  if (!as_they_are(given[1])) Py_RETURN_NONE;
  Tensor x = THPVariable_Unpack(given[1]);
  PyObject* const states = given[2];
  const auto truth = [](PyObject* of) {
    const int value = PyObject_IsTrue(of);
    if (value < 0) throw python_error();
    return value == 1;
  };
  const bool to_hx = is(given[5], "hx"), cell_states = truth(given[6]), recompute = truth(given[7]);
  if (!to_hx && !is(given[5], "zeros")) Py_RETURN_NONE;

  const Names& name = names();
  Attributes own(given[0]);
  PyObject *parameters = own.object(name.parameters), *all_weights = own.object(name.all_weights), *mode = own.object(name.mode);
  const int64_t I = own.integer(name.input_size), H = own.integer(name.hidden_size), P = own.integer(name.proj_size);
  const bool batch_first = own.boolean(name.batch_first), both = own.boolean(name.bidirectional);
  const bool training = own.boolean(name.training);
  const double dropout = own.number(name.dropout);
  if (!own.plain() || !PyDict_CheckExact(parameters) || !PyList_CheckExact(all_weights) || !PyUnicode_Check(mode)) Py_RETURN_NONE;

  const int64_t D = both ? 2 : 1, L = PyList_GET_SIZE(all_weights) / D;
  if (x.dim() != 3 || x.size(2) != I || L == 0 || PyList_GET_SIZE(all_weights) != L * D) Py_RETURN_NONE;
  Attributes by_name(parameters);
  const std::vector<std::vector<Tensor>> layers = weights_of(by_name, all_weights, D, P > 0);
  if (layers.empty() || layers[0][0].scalar_type() != x.scalar_type()) Py_RETURN_NONE;

  const char* const spelled = PyUnicode_AsUTF8(mode);
  if (!spelled) throw python_error();
  std::string cell = spelled;
  for (char& letter : cell) letter = static_cast<char>(std::tolower(letter));
  OptionalTensor h_0, c_0, lengths, reset;
  const int64_t B = x.size(batch_first ? 0 : 1);
  if (!take(given[3], {B}, lengths) || (lengths && !at::isIntegralType(lengths->scalar_type(), /*includeBool=*/false)) ||
      (lengths && x.is_cpu() && !lengths->is_cpu()) ||
      !take(given[4], x.sizes().slice(0, 2), reset) || (reset && reset->scalar_type() != at::kBool))
    Py_RETURN_NONE;
  if (states != Py_None) {
    const bool lstm = cell == "lstm";
    if (!PyTuple_CheckExact(states) || PyTuple_GET_SIZE(states) != 1 + lstm ||
        !take(PyTuple_GET_ITEM(states, 0), {L * D, B, P > 0 ? P : H}, h_0) ||
        (lstm && !take(PyTuple_GET_ITEM(states, 1), {L * D, B, H}, c_0)) || !h_0 || (lstm && !c_0))
      Py_RETURN_NONE;
  }

  const Bools reverse = both ? Bools({false, true}) : Bools({false});
  static const auto call = op<decltype(Cpu::layer)>("fusedrnn::layer");
  auto results = without_gil([&] {
    std::vector<Tensor> h_ns(L), c_ns(L);
    if (batch_first) x = x.transpose(0, 1), reset = reset ? OptionalTensor(reset->transpose(0, 1)) : reset;
    Tensor c;
    for (int64_t i = 0; i < L; ++i) {
      const auto state = [&](const OptionalTensor& t) { return t && L > 1 ? t->narrow(0, i * D, D) : t; };
      std::tie(x, h_ns[i], c_ns[i], c) =
          call.call(x, state(h_0), state(c_0), layers[i], std::nullopt, lengths, reset, cell, reverse, to_hx,
                    cell_states && i + 1 == L, recompute);
      if (dropout != 0 && training && i + 1 < L) x = at::dropout(x, dropout, true);
    }
    if (cell_states) c = c.to(x.scalar_type());
    if (batch_first) x = batch_first_again(x), c = cell_states ? batch_first_again(c) : c;
    return std::make_tuple(x, L == 1 ? h_ns[0] : at::cat(h_ns), L == 1 ? c_ns[0] : at::cat(c_ns), c);
  });
  return wrap(std::move(results));
  END_HANDLE_TH_ERRORS
}

// (attributes, kind of cell, input, h_0, c_0) -> (h, c), or None as above.
PyObject* cell_module(PyObject*, PyObject* const* given, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  TORCH_CHECK(count == 5 && PyDict_CheckExact(given[0]), "cell_module takes a dict, a name, an input, h_0 and c_0");
  if (!as_they_are(given[2])) Py_RETURN_NONE;
  const Tensor x = THPVariable_Unpack(given[2]);
  const Names& name = names();
  Attributes own(given[0]);
  PyObject* const parameters = own.object(name.parameters);
  const int64_t I = own.integer(name.input_size), H = own.integer(name.hidden_size);
  OptionalTensor h_0, c_0;
  if (!own.plain() || !PyDict_CheckExact(parameters) || x.dim() != 2 || x.size(1) != I || H == 0 ||
      !take(given[3], {x.size(0), H}, h_0) || !take(given[4], {x.size(0), H}, c_0))
    Py_RETURN_NONE;
  Attributes by_name(parameters);
  const Tensor w_ih = by_name.tensor(name.weight_ih), w_hh = by_name.tensor(name.weight_hh);
  const OptionalTensor b_ih = by_name.optional(name.bias_ih), b_hh = by_name.optional(name.bias_hh);
  const char* const kind = PyUnicode_AsUTF8(given[1]);
  if (!kind) throw python_error();
  if (!by_name.plain() || b_ih.has_value() != b_hh.has_value()) Py_RETURN_NONE;
  static const auto call = op<decltype(Cpu::cell_forward)>("fusedrnn::cell");
  return wrap(without_gil([&] { return call.call(x, h_0, c_0, w_ih, w_hh, b_ih, b_hh, kind); }));
  END_HANDLE_TH_ERRORS
}

// (weight) -> in autocast's dtype, as its device's operations get it: cast once in a region where autocast keeps what it casts.
PyObject* autocast(PyObject*, PyObject* const* given, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  TORCH_CHECK(count == 1 && THPVariable_Check(given[0]), "autocast takes a tensor");
  const Tensor weight = THPVariable_Unpack(given[0]);
  const at::DeviceType device = weight.device().type();
  const at::ScalarType type = at::autocast::get_autocast_dtype(device);
  return THPVariable_Wrap(at::autocast::cached_cast(type, weight, device).to(type));
  END_HANDLE_TH_ERRORS
}

template <PyObject* (*kFunction)(PyObject*, PyObject* const*, Py_ssize_t)>
PyMethodDef method(const char* name) {
  return {name, reinterpret_cast<PyCFunction>(reinterpret_cast<void*>(kFunction)), METH_FASTCALL, nullptr};
}

}  // namespace

py::object direct(const std::string& name, const py::object& general) {
  // As long-lived as their functions.
  static PyMethodDef methods[] = {method<layer>("layer"), method<cell>("cell"), method<module>("module"),
                                  method<cell_module>("cell_module"), method<autocast>("autocast")};
  for (PyMethodDef& m : methods)
    if (name == m.ml_name) return py::reinterpret_steal<py::object>(PyCFunction_New(&m, general.ptr()));
  throw std::invalid_argument("direct knows layer, cell, module, cell_module and autocast; got '" + name + "'");
}

}  // namespace fusedrnn::ops
