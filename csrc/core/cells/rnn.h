// Elman cell: h = act(x + u), act = tanh or relu.   (torch.nn.RNN)
#pragma once

#include "../math.h"

namespace fusedrnn {

template <bool kRelu>
struct Rnn {
  static constexpr const char* name = kRelu ? "rnn_relu" : "rnn_tanh";
  static constexpr int gates = 1;   // blocks of H rows in w_ih and w_hh
  static constexpr int states = 1;  // h
  static constexpr int saved = 0;   // the derivative is a function of h itself
  static constexpr int split = 0;   // gates whose input- and hidden-side gradients differ
  static constexpr bool direct = false;  // h_prev reaches h past w_hh, too

  template <class T>
  static FUSEDRNN_INLINE void activate(const T* x, const T* u, T* a) {
    a[0] = x[0] + u[0];
  }

  template <class T>
  static FUSEDRNN_INLINE void update(T* a, const T*, T* next) {
    if constexpr (kRelu) {
      next[0] = positive_part(a[0]);
    } else {
      next[0] = tanh(a[0]);
    }
  }

  template <class T>
  static FUSEDRNN_INLINE void backward(const T*, const T*, const T* next, const T* d_next, T*, T* du,
                                       T* d_prev) {
    const T h = next[0];
    if constexpr (kRelu) {
      du[0] = unless_zero(h, d_next[0]);
    } else {
      du[0] = d_next[0] * (T(1) - h * h);
    }
    d_prev[0] = T(0);
  }
};

}  // namespace fusedrnn
