// What was asked for, beside a call's arguments: settings of the process, because the backward runs on autograd's threads.
#pragma once

#include <cstdint>
#include <string>

namespace fusedrnn::ops {

const char* requested_strategy();              // "auto", "stepwise" or "persistent"
void request_strategy(const std::string& name);  // of CUDA; raises std::invalid_argument for any other

// Whether, on the CPU, a row's bits may not depend on how many others there are.
bool batch_invariant();
void set_batch_invariant(bool enabled);

// How many gates a backward on CUDA recomputes at once, if no fewer than a row's. Tests set it, and get what it was.
int64_t recomputed_values();
int64_t set_recomputed_values(int64_t values);

}  // namespace fusedrnn::ops
