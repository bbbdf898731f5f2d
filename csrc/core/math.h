// exp, tanh and the logistic function without a branch, a table or a library call, of a number or of whatever behaves
// like one: the CPU kernels give them vectors (cpu/lanes.inc), for which they overload the four functions that look into a
// number: two_to, clamp, positive_part and where_positive.
//
// Both rest on expm1: x = n·ln2 + r with |r| <= ln2/2, expm1(x) = 2^n·expm1(r) + (2^n - 1).
// expm1(r) is its Taylor polynomial, r·(1 + r/2 + r²/6 + ...), cut where the next term is below half
// a unit in the last place: r^8/8! = 5e-9 (float), r^14/14! = 4e-18 (double). Because expm1 keeps its
// relative accuracy at 0, so does tanh(x) = expm1(2x) / (expm1(2x) + 2).
// NaN passes through: every clamp is a comparison that NaN fails.
#pragma once

#include <cstdint>
#include <cstring>

#include "config.h"

namespace fusedrnn {

// Of what holds several numbers, as of one of them.
template <class T>
struct FloatTraits : FloatTraits<typename T::Element> {};

template <>
struct FloatTraits<float> {
  using Bits = int32_t;
  static constexpr int mantissa = 23, bias = 127, degree = 7;
  static constexpr float round = 12582912.0f;  // 1.5·2^23: adding it rounds to an integer
  static constexpr float ln2_hi = 0.693145751953125f, ln2_lo = 1.42860677e-6f;
  static constexpr float exp_max = 88.0f, tanh_max = 10.0f;  // tanh(10) rounds to 1
};

template <>
struct FloatTraits<double> {
  using Bits = int64_t;
  static constexpr int mantissa = 52, bias = 1023, degree = 13;
  static constexpr double round = 6755399441055744.0;  // 1.5·2^52
  static constexpr double ln2_hi = 0.693147180369123816490, ln2_lo = 1.90821492927058770002e-10;
  static constexpr double exp_max = 708.0, tanh_max = 20.0;
};

// 1/k! for the Taylor polynomial.
template <int k>
constexpr double inverse_factorial = inverse_factorial<k - 1> / k;
template <>
inline constexpr double inverse_factorial<1> = 1.0;

template <int n, class T>
FUSEDRNN_INLINE T power_of_two(T r) {  // r^n
  if constexpr (n == 1) {
    return r;
  } else {
    const T root = power_of_two<n / 2>(r);
    return root * root;
  }
}

// The n terms 1/k! + r/(k+1)! + ... by Estrin's scheme: a few multiplications more than by Horner's rule, but the
// chain of dependent ones, which is what an epilogue waits for, is half as long.
template <int k, int n, class T>
FUSEDRNN_INLINE T expm1_terms(T r) {
  if constexpr (n == 1) {
    return T(inverse_factorial<k>);
  } else {
    constexpr int low = n > 8 ? 8 : n > 4 ? 4 : n > 2 ? 2 : 1;
    return expm1_terms<k, low>(r) + power_of_two<low>(r) * expm1_terms<k + low, n - low>(r);
  }
}

// 2^n, of n + F::round.
template <class T>
FUSEDRNN_INLINE T two_to(T shifted) {
  using F = FloatTraits<T>;
  typename F::Bits bits, zero;
  const T origin = F::round;
  std::memcpy(&bits, &shifted, sizeof(T));
  std::memcpy(&zero, &origin, sizeof(T));
  bits = (bits - zero + F::bias) << F::mantissa;
  T scale;
  std::memcpy(&scale, &bits, sizeof(T));
  return scale;
}

template <class T>
FUSEDRNN_INLINE T clamp(T x, T limit) {
  x = x > limit ? limit : x;
  return x < -limit ? -limit : x;
}

// x, or 0 where x is negative; NaN stays NaN.
template <class T>
FUSEDRNN_INLINE T positive_part(T x) {
  return x < T(0) ? T(0) : x;
}

// `value` where x is positive, and 0 elsewhere.
template <class T>
FUSEDRNN_INLINE T where_positive(T x, T value) {
  return x > T(0) ? value : T(0);
}

// 2^n and expm1(r) of x = n·ln2 + r, for |x| <= exp_max.
template <class T>
FUSEDRNN_INLINE void split_exp(T x, T& scale, T& tail) {
  using F = FloatTraits<T>;
  const T shifted = x * T(1.4426950408889634) + T(F::round);
  const T n = shifted - T(F::round);
  const T r = (x - n * T(F::ln2_hi)) - n * T(F::ln2_lo);
  scale = two_to(shifted);
  tail = r * expm1_terms<1, F::degree>(r);
}

template <class T>
FUSEDRNN_INLINE T sigmoid(T x) {
  T scale, tail;
  split_exp(clamp(-x, T(FloatTraits<T>::exp_max)), scale, tail);
  return T(1) / (T(1) + scale + scale * tail);
}

template <class T>
FUSEDRNN_INLINE T tanh(T x) {
  T scale, tail;
  split_exp(T(2) * clamp(x, T(FloatTraits<T>::tanh_max)), scale, tail);
  const T e = scale * tail + (scale - T(1));
  return e / (e + T(2));
}

}  // namespace fusedrnn
