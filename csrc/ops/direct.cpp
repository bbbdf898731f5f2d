// The operators' short way in from Python. torch's own serves any operator: a Python frame, a tuple, a search for overrides,
// and a boxed value an argument, a third of what one step of a cell takes. Here the arguments of two are known.
//
// It ends at the dispatcher like the other, so autograd, modes below Python, transforms and the profiler see no difference.
// What Python itself may override, it leaves to the general way: arguments of other types than Tensor and Parameter,
// and function modes such as torch.set_default_device's.
#include "direct.h"

#include <ATen/PythonTorchFunctionTLS.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/autograd/python_variable.h>

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
  // Of an absent list, none.
  std::optional<std::vector<Tensor>> list() {
    PyObject* object = take();
    if (object == Py_None) return std::nullopt;
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
  const auto w_ih = take.list(), w_hh = take.list(), b_ih = take.list(), b_hh = take.list(), w_hr = take.list();
  const OptionalTensor batch_sizes = take.optional(), lengths = take.optional(), reset = take.optional();
  const std::string cell = take.string();
  const Bools reverse = take.booleans();
  const bool reset_to_hx = take.boolean(), cell_states = take.boolean(), recompute = take.boolean();
  if (!take.plain() || !w_ih || !w_hh || at::impl::torch_function_mode_enabled())
    return PyObject_Vectorcall(general, given, count, nullptr);
  const auto view = [](const std::optional<std::vector<Tensor>>& list) {
    return list ? OptionalTensorList(*list) : std::nullopt;
  };
  static const auto call = op<decltype(Cpu::layer)>("fusedrnn::layer");
  return wrap(without_gil([&] {
    return call.call(x, h_0, c_0, *w_ih, *w_hh, view(b_ih), view(b_hh), view(w_hr), batch_sizes, lengths, reset, cell,
                     reverse, reset_to_hx, cell_states, recompute);
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

template <PyObject* (*kFunction)(PyObject*, PyObject* const*, Py_ssize_t)>
PyMethodDef method(const char* name) {
  return {name, reinterpret_cast<PyCFunction>(reinterpret_cast<void*>(kFunction)), METH_FASTCALL, nullptr};
}

}  // namespace

py::object direct(const std::string& name, const py::object& general) {
  static PyMethodDef methods[] = {method<layer>("layer"), method<cell>("cell")};  // as long-lived as their functions
  for (PyMethodDef& m : methods)
    if (name == m.ml_name) return py::reinterpret_steal<py::object>(PyCFunction_New(&m, general.ptr()));
  throw std::invalid_argument("direct knows layer and cell; got '" + name + "'");
}

}  // namespace fusedrnn::ops
