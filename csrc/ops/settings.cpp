#include "settings.h"

#include <atomic>

#include "../core/plan_cuda.h"

namespace fusedrnn::ops {
namespace {

std::atomic<const char*> requested{known_strategy("auto")};
std::atomic<bool> invariant{false};
std::atomic<int64_t> recomputed{int64_t(1) << 24};

}  // namespace

const char* requested_strategy() { return requested; }

void request_strategy(const std::string& name) { requested = known_strategy(name); }

bool batch_invariant() { return invariant; }

void set_batch_invariant(bool enabled) { invariant = enabled; }

int64_t recomputed_values() { return recomputed; }

int64_t set_recomputed_values(int64_t values) { return recomputed.exchange(values); }

}  // namespace fusedrnn::ops
