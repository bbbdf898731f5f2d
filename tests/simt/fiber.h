// Stacks to switch between within a thread, without a system call where the processor is known.
//
// On x86-64 a switch saves the six registers that a called function must keep and swaps the stack
// pointer; elsewhere it is swapcontext. AddressSanitizer is told of every switch.
#pragma once

#include <cstddef>
#include <cstdint>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace simt {

#if defined(__SANITIZE_ADDRESS__)
constexpr bool kAddressSanitizer = true;
#else
constexpr bool kAddressSanitizer = false;
#endif

#if defined(__x86_64__)
extern "C" void simt_switch(void** save, void* load);
asm(R"(
.text
.type simt_switch, @function
simt_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size simt_switch, .-simt_switch
)");
#endif

// A place to go on from: the thread's own stack, or a fiber's.
class Context {
 public:
  // The next switch to it calls entry on the stack [bottom, bottom + bytes); entry never returns.
  void start(unsigned char* bottom, size_t bytes, void (*entry)()) {
    bottom_ = bottom;
    bytes_ = bytes;
    fake_ = nullptr;
#if defined(__SANITIZE_ADDRESS__)
    __asan_unpoison_memory_region(bottom, bytes);  // frames that were left for good
#endif
#if defined(__x86_64__)
    // As simt_switch finds it: six registers, where to return to, and a return address of entry itself
    // that nothing uses; the stack pointer stands at that one then, 8 past a multiple of 16.
    auto top = reinterpret_cast<uintptr_t*>((reinterpret_cast<uintptr_t>(bottom) + bytes) / 16 * 16);
    for (int i = 1; i <= 8; ++i) top[-i] = 0;
    top[-2] = reinterpret_cast<uintptr_t>(entry);
    stack_pointer_ = top - 8;
#else
    getcontext(&registers_);
    registers_.uc_stack.ss_sp = bottom;
    registers_.uc_stack.ss_size = bytes;
    makecontext(&registers_, entry, 0);
#endif
  }

  // Comes back when something switches to `from`, unless it left for good.
  static void change(Context& from, Context& to, bool for_good = false) {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(for_good ? nullptr : &from.fake_, to.bottom_, to.bytes_);
#else
    (void)for_good;
#endif
#if defined(__x86_64__)
    simt_switch(&from.stack_pointer_, to.stack_pointer_);
#else
    swapcontext(&from.registers_, &to.registers_);
#endif
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(from.fake_, nullptr, nullptr);
#endif
  }

  // The first thing that entry does; `home` is where it was switched to from.
  static void entered([[maybe_unused]] Context& home) {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(nullptr, const_cast<const void**>(&home.bottom_), &home.bytes_);
#endif
  }

  // Bytes of the stack that were free at the last switch away.
  ptrdiff_t room() const {
#if defined(__x86_64__)
    return static_cast<unsigned char*>(stack_pointer_) - static_cast<unsigned char*>(bottom_);
#else
    return static_cast<ptrdiff_t>(bytes_);
#endif
  }

 private:
  void* bottom_ = nullptr;
  size_t bytes_ = 0;
  void* fake_ = nullptr;
#if defined(__x86_64__)
  void* stack_pointer_ = nullptr;
#else
  ucontext_t registers_;
#endif
};

}  // namespace simt
