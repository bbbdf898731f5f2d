#pragma once

#include <pybind11/pybind11.h>

#include <string>

namespace fusedrnn::ops {

// A Python function that calls the operator fusedrnn::`name`, "layer" or "cell", with the arguments of its schema by
// position. `general` is what Python has for the operator, and is called where the short way does not serve.
pybind11::object direct(const std::string& name, const pybind11::object& general);

}  // namespace fusedrnn::ops
