#include "list.h"

namespace fusedrnn {

CellInfo cell_info(CellKind kind) {
  CellInfo info{};
  for_each_cell([&](CellKind k, auto cell) {
    using C = decltype(cell);
    if (k == kind) info = {C::name, C::gates, C::states, C::saved, C::split};
    return k == kind;
  });
  return info;
}

}  // namespace fusedrnn
