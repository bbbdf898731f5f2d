#pragma once

#include <pybind11/pybind11.h>

#include <string>

namespace fusedrnn::ops {

// A Python function that calls the operator fusedrnn::`name`, "layer" or "cell", with the arguments of its schema by
// position. `general` is what Python has for the operator, and is called where the short way does not serve.
//
// Or "module", which takes the attributes of a torch.nn.RNNBase (its __dict__), an input, None or the tuple of first states,
// and whether to recompute; it runs all layers and returns y, h_n and c_n. Or "cell_module", which takes those of a
// torch.nn.RNNCellBase, the kind of cell, an input, h_0 and c_0, and returns h and c. Where anything is out of the ordinary (an
// input, states or weights that are not what such a module has, autocast, tracing) they return None and have done nothing: all
// that there is to say about that stands in Python (fusedrnn/modules).
pybind11::object direct(const std::string& name, const pybind11::object& general);

}  // namespace fusedrnn::ops
