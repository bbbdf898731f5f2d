// Every rule a layer's arguments must keep, each message built from the values that broke it.
#include "layer.h"

namespace fusedrnn::ops {
namespace {

std::string names_of_cells() {
  std::string names;
  for_each_cell([&](CellKind, auto cell) {
    names += (names.empty() ? "" : ", ") + std::string(decltype(cell)::name);
    return false;
  });
  return names;
}

// name must be meaning = sizes, on x's device and of its dtype.
void check_tensor(const char* name, const char* meaning, const Tensor& t, at::IntArrayRef sizes, const Tensor& x) {
  TORCH_CHECK(t.sizes() == sizes, name, " must be ", meaning, " = ", sizes, "; got ", t.sizes());
  TORCH_CHECK(t.device() == x.device(), name, " is on ", t.device(), " but x is on ", x.device());
  TORCH_CHECK_VALUE(t.scalar_type() == x.scalar_type(), name, " has dtype ", t.scalar_type(), " but x has ",
                    x.scalar_type(), "; they must be equal");
}

void check_list(const char* name, const char* meaning, const std::vector<Tensor>& list, at::IntArrayRef sizes,
                const Sizes& s, const Tensor& x) {
  TORCH_CHECK(static_cast<int64_t>(list.size()) == s.D, name, " must hold one tensor for each of ", s.D,
              " direction(s); got ", list.size());
  for (const Tensor& t : list) check_tensor(name, meaning, t, sizes, x);
}

int64_t packed_batch(const Tensor& batch_sizes, int64_t rows) {
  TORCH_CHECK(batch_sizes.dim() == 1 && batch_sizes.scalar_type() == at::kLong && batch_sizes.device().is_cpu(),
              "batch_sizes must be a 1-D int64 tensor on the CPU; got ", batch_sizes.dim(), "-D ",
              batch_sizes.scalar_type(), " on ", batch_sizes.device());
  const Tensor sizes = batch_sizes.contiguous();
  const int64_t* n = sizes.const_data_ptr<int64_t>();
  int64_t sum = 0;
  for (int64_t t = 0; t < sizes.numel(); ++t) {
    TORCH_CHECK_VALUE(n[t] > 0 && (t == 0 || n[t] <= n[t - 1]),
                      "batch_sizes must be positive and not rise; got ", n[t], " at step ", t);
    sum += n[t];
  }
  TORCH_CHECK(sum == rows, "packed x must have sum(batch_sizes) = ", sum, " rows; got ", rows);
  return sizes.numel() ? n[0] : 0;
}

}  // namespace

Sizes check(const Layer& l) {
  Sizes s{};
  const bool known = for_each_cell([&](CellKind kind, auto cell) {
    s.kind = kind;
    return l.cell == decltype(cell)::name;
  });
  TORCH_CHECK_VALUE(known, "cell must be one of ", names_of_cells(), "; got '", l.cell, "'");
  s.cell = cell_info(s.kind);
  s.D = static_cast<int64_t>(l.reverse.size());
  TORCH_CHECK_VALUE(s.D >= 1 && s.D <= kMaxDirections, "reverse must name 1 to ", kMaxDirections,
                    " directions; got ", s.D);

  s.packed = l.batch_sizes.has_value();
  TORCH_CHECK_VALUE(!(s.packed && l.lengths), "lengths and batch_sizes exclude each other: a packed sequence "
                                              "already knows its lengths");
  const int64_t rank = s.packed || l.is_cell ? 2 : 3;
  TORCH_CHECK_VALUE(l.x.dim() == rank, "x must be ", l.is_cell ? "(B, I)" : s.packed ? "(N, I)" : "(T, B, I)", "; got ",
                    l.x.dim(), "-D of size ", l.x.sizes());
  switch (l.x.scalar_type()) {
    case at::kDouble: s.dtype = Dtype::float64; break;
    case at::kFloat: s.dtype = Dtype::float32; break;
    case at::kHalf: s.dtype = Dtype::float16; break;
    case at::kBFloat16: s.dtype = Dtype::bfloat16; break;
    default:
      TORCH_CHECK_VALUE(false, "x must be float32, float64, bfloat16 or float16; got ", l.x.scalar_type());
  }
  s.I = l.x.size(-1);
  if (s.packed) {
    s.N = l.x.size(0);
    s.B = packed_batch(*l.batch_sizes, s.N);
    s.T = l.batch_sizes->numel();
  } else {
    s.T = l.is_cell ? 1 : l.x.size(0);
    s.B = l.x.size(-2);
    s.N = s.T * s.B;
  }

  TORCH_CHECK(!l.w_hh.empty() && l.w_hh[0].dim() == 2, "w_hh must be a matrix for each of ", s.D, " direction(s)");
  const int64_t G = s.cell.gates;
  s.projected = !l.w_hr.empty();
  TORCH_CHECK(l.w_hh[0].size(0) % G == 0 && l.w_hh[0].size(0) > 0, "w_hh must have ", G, "*H rows for cell '",
              l.cell, "'; got ", l.w_hh[0].sizes());
  s.H = l.w_hh[0].size(0) / G;
  TORCH_CHECK_VALUE(!s.projected || s.kind == CellKind::lstm, "a projection (w_hr) is for cell 'lstm' alone; got '",
                    l.cell, "'");
  s.P = s.projected ? l.w_hr[0].size(0) : s.H;
  TORCH_CHECK_VALUE(s.P > 0, "w_hr must be (P, H) with P > 0; got ", l.w_hr[0].sizes());
  s.bias = !l.b_ih.empty() || !l.b_hh.empty();

  check_list("w_ih", "(G*H, I)", l.w_ih, {G * s.H, s.I}, s, l.x);
  check_list("w_hh", s.projected ? "(G*H, P)" : "(G*H, H)", l.w_hh, {G * s.H, s.P}, s, l.x);
  if (s.projected) check_list("w_hr", "(P, H)", l.w_hr, {s.P, s.H}, s, l.x);
  if (s.bias) {
    check_list("b_ih", "(G*H)", l.b_ih, {G * s.H}, s, l.x);
    check_list("b_hh", "(G*H)", l.b_hh, {G * s.H}, s, l.x);
  }
  const auto check_state = [&](const char* name, const Tensor& state, int64_t width) {
    const char* meaning = l.is_cell ? "(B, H)" : width < s.H ? "(D, B, P)" : "(D, B, H)";
    const int64_t sizes[] = {s.D, s.B, width};
    check_tensor(name, meaning, state, {sizes + l.is_cell, 3 - size_t(l.is_cell)}, l.x);
  };
  if (l.h_0) check_state("h_0", *l.h_0, s.P);
  if (l.c_0) {
    TORCH_CHECK_VALUE(s.cell.states > 1, "cell '", l.cell, "' has no cell state, yet c_0 is given");
    check_state("c_0", *l.c_0, s.H);
  }
  if (l.lengths) {
    TORCH_CHECK_VALUE(l.lengths->dim() == 1 && l.lengths->size(0) == s.B, "lengths must be (B) = (", s.B, "); got ",
                      l.lengths->sizes());
    TORCH_CHECK_VALUE(at::isIntegralType(l.lengths->scalar_type(), /*includeBool=*/false),
                      "lengths must be integers; got ", l.lengths->scalar_type());
  }
  if (l.reset) {
    TORCH_CHECK_VALUE(l.reset->scalar_type() == at::kBool, "reset must be bool; got ", l.reset->scalar_type());
    const auto expected = s.packed ? std::vector<int64_t>{s.N} : std::vector<int64_t>{s.T, s.B};
    TORCH_CHECK_VALUE(l.reset->sizes() == at::IntArrayRef(expected), "reset must be ", s.packed ? "(N)" : "(T, B)",
                      " = ", at::IntArrayRef(expected), "; got ", l.reset->sizes());
    TORCH_CHECK(l.reset->device() == l.x.device(), "reset is on ", l.reset->device(), " but x is on ",
                l.x.device());
  }
  return s;
}

}  // namespace fusedrnn::ops
