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
  static constexpr bool direct = true;  // by z·h_prev

  template <class T>
  static FUSEDRNN_INLINE void activate(const T* x, const T* u, T* a) {
    a[0] = sigmoid(x[0] + u[0]);
    a[1] = sigmoid(x[1] + u[1]);
    a[2] = x[2] + a[0] * u[2];  // n's tanh is for `update`, being the second of a chain
    a[3] = u[2];
  }

  template <class T>
  static FUSEDRNN_INLINE void update(T* a, const T* prev, T* next) {
    const T z = a[1], n = tanh(a[2]);
    next[0] = n + z * (prev[0] - n);
    a[2] = n;
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
