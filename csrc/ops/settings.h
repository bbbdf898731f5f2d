// What was asked for, beside a call's arguments: settings of the process, because the backward runs on autograd's threads.
#pragma once

#include <string>

namespace fusedrnn::ops {

const char* requested_strategy();              // "auto", "stepwise" or "persistent"
void request_strategy(const std::string& name);  // of CUDA; raises std::invalid_argument for any other

// Whether, on the CPU, a row's bits may not depend on how many others there are.
bool batch_invariant();
void set_batch_invariant(bool enabled);

}  // namespace fusedrnn::ops
