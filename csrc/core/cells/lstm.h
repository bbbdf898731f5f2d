// LSTM cell without peepholes, gates in the order i, f, g, o.   (torch.nn.LSTM)
//   c = f·c_prev + i·g,  h = o·tanh(c);  i, f, o = sigmoid(x + u),  g = tanh(x + u)
#pragma once

#include "../math.h"

namespace fusedrnn {

struct Lstm {
  static constexpr const char* name = "lstm";
  static constexpr int gates = 4;
  static constexpr int states = 2;  // h, c
  static constexpr int saved = 4;   // i, f, g, o after their activation
  static constexpr int split = 0;
  static constexpr bool direct = false;

  template <class T>
  static FUSEDRNN_INLINE void activate(const T* x, const T* u, T* a) {
    a[0] = sigmoid(x[0] + u[0]);
    a[1] = sigmoid(x[1] + u[1]);
    a[2] = tanh(x[2] + u[2]);
    a[3] = sigmoid(x[3] + u[3]);
  }

  template <class T>
  static FUSEDRNN_INLINE void update(T* a, const T* prev, T* next) {
    next[1] = a[1] * prev[1] + a[0] * a[2];
    next[0] = a[3] * tanh(next[1]);
  }

  template <class T>
  static FUSEDRNN_INLINE void backward(const T* saved, const T* prev, const T* next, const T* d_next,
                                       T*, T* du, T* d_prev) {
    const T i = saved[0], f = saved[1], g = saved[2], o = saved[3];
    const T s = tanh(next[1]);  // recomputed: cheaper than H more values kept per step
    const T dc = d_next[1] + d_next[0] * o * (T(1) - s * s);
    du[0] = dc * g * i * (T(1) - i);
    du[1] = dc * prev[1] * f * (T(1) - f);
    du[2] = dc * i * (T(1) - g * g);
    du[3] = d_next[0] * s * o * (T(1) - o);
    d_prev[0] = T(0);
    d_prev[1] = dc * f;
  }
};

}  // namespace fusedrnn
