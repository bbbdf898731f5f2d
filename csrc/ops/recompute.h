// What a forward did not save, from the states that it left.
#pragma once

#include <functional>

#include "layer.h"

namespace fusedrnn::ops {

// The saved values (rows, D, width) of every row of layer.x (rows, I), which comes without states and lengths. With
// the state before each step known, all steps are one step of so many sequences: h (rows, P), and c (rows, H) or
// none, one tensor a direction. Runs `forward` on a piece of the rows at a time, because its products need room of
// their own.
Tensor recompute(const Layer& layer, const std::vector<Tensor>& h, const std::vector<Tensor>& c, int64_t width,
                 int64_t rows_at_once, const std::function<ForwardResult(const Layer&)>& forward);

}  // namespace fusedrnn::ops
