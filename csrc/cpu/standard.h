// What the kernels' sources use of the standard library. An instruction set's file includes it before its target begins:
// a function of the library that was compiled under it and merged by the linker would run on other processors too.
#pragma once

#include <atomic>
#include <cstdint>
#include <cstring>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>
