// Interprets the PTX of a kernel where the executor would run what the host compiler made of its source:
// every thread a fiber as before, barriers, flags and a warp's meetings those of the executor.
//
// So what nvcc made of a kernel is tried, inline PTX included, on a machine without a GPU. Memory is
// weaker than the host's, as PTX allows it to be, where blocks of a grid wait for each other or a block
// writes to its peers': see Memory in ptx_thread.h. Where hardware and PTX are silent the stricter reading is taken:
// vectors must be aligned, and all lanes of a warp's product come to the same instruction.
#include "ptx.h"
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <unordered_map>

#include "ptx_thread.h"

namespace simt::ptx {
namespace {

std::map<std::string, std::unique_ptr<Entry>> entries;
std::unordered_map<const void*, const Entry*> in_place_of;

void interpret(const void* grid) {
  Thread thread(*static_cast<Grid*>(const_cast<void*>(grid)));
  thread.run();
  thread.release_to_peers();
}

void run_ptx(const char* name, const Shape& shape, const void* kernel, void* const* arguments) {
  const auto found = in_place_of.find(kernel);
  if (found == in_place_of.end()) throw std::runtime_error(std::string("no PTX of this kernel was loaded: ") + name);
  Grid grid{found->second, arguments, {}};
  run(name, shape, interpret, &grid);
  for (auto& [block, memory] : grid.memories) memory.release();
}

}  // namespace
}  // namespace simt::ptx

// For ctypes. Texts that are returned say what went wrong, or nothing.
extern "C" {
__attribute__((visibility("default"))) const char* simt_ptx_load(const char* text) {
  static std::string error;
  try {
    for (auto& [name, entry] : simt::ptx::parse(text)) simt::ptx::entries[name] = std::move(entry);
    error.clear();
  } catch (const std::exception& e) {
    error = e.what();
  }
  return error.c_str();
}

// From here on, while PTX is in use, the host's kernel at that address runs as this entry.
__attribute__((visibility("default"))) const char* simt_ptx_bind(const void* kernel, const char* entry) {
  const auto found = simt::ptx::entries.find(entry);
  if (found == simt::ptx::entries.end()) return "no such entry";
  simt::ptx::in_place_of[kernel] = found->second.get();
  return "";
}

__attribute__((visibility("default"))) void simt_ptx_use(bool on) { simt::instead = on ? simt::ptx::run_ptx : nullptr; }
}
