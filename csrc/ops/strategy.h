// Which CUDA strategy was asked for: one setting of the process, because the backward runs on autograd's threads.
#pragma once

#include <string>

namespace fusedrnn::ops {

const char* requested_strategy();              // "auto", "stepwise" or "persistent"
void request_strategy(const std::string& name);  // raises std::invalid_argument for any other

}  // namespace fusedrnn::ops
