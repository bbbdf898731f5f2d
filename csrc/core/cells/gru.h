// GRU cell with the reset gate after the product, gates in the order r, z, n.   (torch.nn.GRU)
//   h = (1 - z)·n + z·h_prev;  r, z = sigmoid(x + u),  n = tanh(x_n + r·u_n)
// u_n carries b_hn, which is why the input side and the hidden side reach the cell separately.
#pragma once

#include "../math.h"

namespace fusedrnn {

struct Gru {
  static constexpr const char* name = "gru";
  static constexpr int gates = 3;
  static constexpr int states = 1;  // h
  static constexpr int saved = 4;   // r, z, n after their activation, and u_n
  static constexpr int split = 1;   // n: d_x = d_n, d_u = r·d_n

  template <class T>
  static FUSEDRNN_INLINE void forward(const T* x, const T* u, const T* prev, T* next, T* saved) {
    const T r = sigmoid(x[0] + u[0]);
    const T z = sigmoid(x[1] + u[1]);
    const T n = tanh(x[2] + r * u[2]);
    next[0] = n + z * (prev[0] - n);
    saved[0] = r, saved[1] = z, saved[2] = n, saved[3] = u[2];
  }

  template <class T>
  static FUSEDRNN_INLINE void backward(const T* saved, const T* prev, const T*, const T* d_next, T* dx,
                                       T* du, T* d_prev) {
    const T r = saved[0], z = saved[1], n = saved[2], u_n = saved[3];
    const T dn = d_next[0] * (T(1) - z) * (T(1) - n * n);
    dx[0] = dn;
    du[0] = dn * u_n * r * (T(1) - r);
    du[1] = d_next[0] * (prev[0] - n) * z * (T(1) - z);
    du[2] = dn * r;
    d_prev[0] = d_next[0] * z;
  }
};

}  // namespace fusedrnn
