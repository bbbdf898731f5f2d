// PTX as nvcc writes it: its kernels, and their instructions ready to be interpreted by ptx.cpp.
//
// What is understood: kernels without calls, whose shared memory is dynamic. Anything else is refused by
// name, so that nothing is left out in silence.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace simt::ptx {

// A register, a number, what a name stands for, or a value that the thread asks for.
struct Operand {
  enum class Kind : uint8_t { reg, number, parameter, shared, local, tid, ctaid, ntid, nctaid, laneid, rank, ranks };
  Kind kind = Kind::number;
  uint32_t index = 0;   // of the register or the parameter
  int64_t number = 0;   // also what is added to an address, and where a label stands
};

class Thread;
struct Instruction;
using Run = void (*)(Thread&, const Instruction&);

struct Instruction {
  Run run = nullptr;
  int guard = -1;  // a predicate's register
  bool negated = false;
  uint8_t width = 1;  // values of a vector access
  std::vector<Operand> operands;  // in order, those in braces one by one
  std::string text;

  const Operand& operator[](size_t i) const { return operands[i]; }
};

struct Entry {
  std::string name;
  std::vector<std::string> parameters;
  std::vector<Instruction> code;
  uint32_t registers = 0;
  size_t local_bytes = 0;  // of each thread
};

// All kernels of a PTX file by their names. Throws std::runtime_error where it is not understood.
std::map<std::string, std::unique_ptr<Entry>> parse(std::string_view text);

// The function of an opcode, such as add.s64; throws for one that is not known. Sets width.
Run implementation(std::string_view opcode, Instruction& instruction);

}  // namespace simt::ptx
