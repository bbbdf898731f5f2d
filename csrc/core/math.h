// exp, tanh and the logistic function without a branch, a table or a library call, of a number or of whatever behaves
// like one: the CPU kernels give them vectors (cpu/lanes.inc), for which they overload the four functions that look into a
// number: two_to, clamp, positive_part and unless_zero.
//
// Both rest on expm1: a·x = n·ln2 + r with |r| <= ln2/2, expm1(a·x) = 2^n·expm1(r) + (2^n - 1), where a is -1 for the logistic
// function and 2 for tanh. expm1(r)/r is the polynomial of the smallest relative error whose first coefficients are 1 and, for
// float, 1/2: 1.4e-8 (float, 6 terms) and 2.1e-17 (double, 11). Because expm1 keeps its relative accuracy at 0, so does
// tanh(x) = expm1(2x) / (expm1(2x) + 2). Beside Taylor's polynomial of as little error, ln2 in two parts and a and 2^n made by
// instructions of their own: AVX-512 and AVX2 on Zen 5, a vector's logistic function 2.4 -> 1.8 ns, tanh 2.6 -> 2.0, with the same
// errors but in relation to the logistic function's tail: down to -20 3 (float) and 8 (double) times half of epsilon instead of 3 and
// 2.4, and 19 and 15 where products are rounded before they are added.
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
  using Bits = uint32_t;
  static constexpr int mantissa = 23, terms = 6;
  static constexpr float round = 12582912.0f + 127;  // 1.5·2^23: adding it rounds to an integer; and the exponents' bias
  static constexpr double expm1[terms] = {1.0, 0.5, 0.166665485222033, 0.0416668545074216, 0.00836606674248423, 0.00138982316577488};
  static constexpr float logistic_min = -89.0f, logistic_max = 88.0f;  // where 2^n is infinite, and 0
  static constexpr float tanh_max = 10.0f;  // tanh(10) rounds to 1
};

template <>
struct FloatTraits<double> {
  using Bits = uint64_t;
  static constexpr int mantissa = 52, terms = 11;
  static constexpr double round = 6755399441055744.0 + 1023;  // 1.5·2^52
  static constexpr double expm1[terms] = {1.0,
                                          0.500000000000000646,
                                          0.166666666666666965,
                                          0.0416666666665620748,
                                          0.00833333333329308671,
                                          0.00138888889362951431,
                                          0.000198412699872870775,
                                          0.0000248014996098439721,
                                          2.7557116560936373e-6,
                                          2.76282883810958534e-7,
                                          2.51614554810408272e-8};
  static constexpr double logistic_min = -710.0, logistic_max = 709.0;
  static constexpr double tanh_max = 20.0;
};

// a^n; no function, which nvcc would want to be one of the device's.
template <int a, int n>
constexpr double power = a * power<a, n - 1>;
template <int a>
constexpr double power<a, 0> = 1.0;

// Terms [k, k + n) of expm1(a·r)/r, divided by r^k: pairs of them, then pairs of pairs, so that the chain of dependent ones, which
// is what an epilogue waits for, is shorter than by Horner's rule.
template <int a, int k, int n, class T>
FUSEDRNN_INLINE T expm1_terms(T r, T r2, T r4) {
  if constexpr (n == 1) {
    constexpr double term = FloatTraits<T>::expm1[k] * power<a, k + 1>;
    return T(term);
  } else if constexpr (n == 2) {
    return expm1_terms<a, k, 1>(r, r2, r4) + r * expm1_terms<a, k + 1, 1>(r, r2, r4);
  } else {
    constexpr int low = n > 6 ? 4 : 2;
    return expm1_terms<a, k, low>(r, r2, r4) + (low == 4 ? r4 : r2) * expm1_terms<a, k + low, n - low>(r, r2, r4);
  }
}

// 2^n, of n + F::round, whose last bits are then those of its exponent.
template <class T>
FUSEDRNN_INLINE T two_to(T shifted) {
  typename FloatTraits<T>::Bits bits;
  std::memcpy(&bits, &shifted, sizeof(T));
  bits <<= FloatTraits<T>::mantissa;
  T scale;
  std::memcpy(&scale, &bits, sizeof(T));
  return scale;
}

template <class T>
FUSEDRNN_INLINE T clamp(T x, T low, T high) {
  x = x > high ? high : x;
  return x < low ? low : x;
}

// x, or 0 where x is negative; NaN stays NaN.
template <class T>
FUSEDRNN_INLINE T positive_part(T x) {
  return x < T(0) ? T(0) : x;
}

// `value`, or 0 where x, which is not negative, is 0; where x is NaN, `value`.
template <class T>
FUSEDRNN_INLINE T unless_zero(T x, T value) {
  return x == T(0) ? T(0) : value;
}

// 2^n and expm1(r) of a·x = n·ln2 + r, for n from where 2^n is 0 to where it is infinite.
template <int a, class T>
FUSEDRNN_INLINE void split_exp(T x, T& scale, T& tail) {
  using F = FloatTraits<T>;
  const T shifted = x * T(a * 1.4426950408889634) + T(F::round);
  const T n = shifted - T(F::round);
  const T r = x - n * T(0.693147180559945309 / a), r2 = r * r;  // r/a
  scale = two_to(shifted);
  tail = r * expm1_terms<a, 0, F::terms>(r, r2, r2 * r2);
}

// A gate that is shut is 0, not the least number that there is: times infinity it is NaN, and nothing passes it.
template <class T>
FUSEDRNN_INLINE T sigmoid(T x) {
  T scale, tail;
  split_exp<-1>(clamp(x, T(FloatTraits<T>::logistic_min), T(FloatTraits<T>::logistic_max)), scale, tail);
  return T(1) / (T(1) + scale * (T(1) + tail));
}

template <class T>
FUSEDRNN_INLINE T tanh(T x) {
  T scale, tail;
  split_exp<2>(clamp(x, T(-FloatTraits<T>::tanh_max), T(FloatTraits<T>::tanh_max)), scale, tail);
  const T e = scale * tail + (scale - T(1));
  return e / (e + T(2));
}

}  // namespace fusedrnn
