#include "recompute.h"

#include <algorithm>

namespace fusedrnn::ops {

Tensor recompute(const Layer& layer, const std::vector<Tensor>& h, const std::vector<Tensor>& c, int64_t width,
                 int64_t rows_at_once, const std::function<ForwardResult(const Layer&)>& forward) {
  const int64_t rows = layer.x.size(0), D = static_cast<int64_t>(layer.reverse.size());
  const Tensor saved = at::empty({rows, D, width}, layer.x.options());
  const int64_t piece = std::max<int64_t>(1, rows_at_once);
  Layer step = layer;
  step.reverse.assign(D, false);
  for (int64_t row = 0; row < rows; row += piece) {
    const int64_t n = std::min(piece, rows - row);
    const auto of_piece = [&](const std::vector<Tensor>& states) {
      std::vector<Tensor> own;
      for (const Tensor& t : states) own.push_back(t.narrow(0, row, n));
      return own.empty() ? OptionalTensor() : OptionalTensor(at::stack(own));
    };
    step.x = layer.x.narrow(0, row, n).unsqueeze(0);
    step.h_0 = of_piece(h), step.c_0 = of_piece(c);
    saved.narrow(0, row, n).copy_(std::get<4>(forward(step)));
  }
  return saved;
}

}  // namespace fusedrnn::ops
