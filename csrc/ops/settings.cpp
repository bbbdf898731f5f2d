#include "settings.h"

#include <atomic>
#include <stdexcept>

namespace fusedrnn::ops {
namespace {

constexpr const char* kNames[] = {"auto", "stepwise", "persistent"};
std::atomic<const char*> requested{kNames[0]};
std::atomic<bool> invariant{false};
std::atomic<int64_t> recomputed{int64_t(1) << 24};

}  // namespace

const char* requested_strategy() { return requested; }

void request_strategy(const std::string& name) {
  for (const char* known : kNames) {
    if (name == known) {
      requested = known;
      return;
    }
  }
  throw std::invalid_argument("strategy must be auto, stepwise or persistent; got '" + name + "'");
}

bool batch_invariant() { return invariant; }

void set_batch_invariant(bool enabled) { invariant = enabled; }

int64_t recomputed_values() { return recomputed; }

int64_t set_recomputed_values(int64_t values) { return recomputed.exchange(values); }

}  // namespace fusedrnn::ops
