#include "settings.h"

#include <atomic>
#include <stdexcept>

namespace fusedrnn::ops {
namespace {

constexpr const char* kNames[] = {"auto", "stepwise", "persistent"};
std::atomic<const char*> requested{kNames[0]};
std::atomic<bool> invariant{false};

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

}  // namespace fusedrnn::ops
