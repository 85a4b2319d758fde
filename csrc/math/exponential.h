// exp and its relatives for every number type. No tables, no branches: the same sequence of
// operations in each lane, on each device.
#pragma once

#include "math/scalar.h"

namespace alignzoo::math {
inline namespace ALIGNZOO_ISA {

// Constants of exp for one element type. `polynomial` is the minimax fit of (e^r - 1 - r) / r^2 on
// |r| <= log(2) / 2, lowest order first.
template <class T>
struct ExpConstants;

template <>
struct ExpConstants<float> {
  static constexpr float kLowest = -88.0f;  // e^x is exactly 0 at and below it
  static constexpr float kHighest = 89.0f;  // and infinite at and above this
  static constexpr float kMagic = 12582912.0f + 127.0f;
  static constexpr float kInverseLn2 = 1.44269504088896341f;
  static constexpr float kLn2High = 0.693359375f;  // few bits, so that n * kLn2High is exact
  static constexpr float kLn2Low = -2.12194440054690583e-4f;
  static constexpr int kTerms = 6;
  static ALIGNZOO_HD float polynomial(int i) {
    constexpr float c[kTerms] = {0.500000006771f,   0.166666658682f,   0.0416662946907f,
                                 0.00833349715569f, 0.00139446849431f, 0.000197903690377f};
    return c[i];
  }
};

template <>
struct ExpConstants<double> {
  static constexpr double kLowest = -709.0;
  static constexpr double kHighest = 710.0;
  static constexpr double kMagic = 6755399441055744.0 + 1023.0;
  static constexpr double kInverseLn2 = 1.44269504088896340736;
  static constexpr double kLn2High = 6.93147180369123816490e-01;
  static constexpr double kLn2Low = 1.90821492927058770002e-10;
  static constexpr int kTerms = 11;
  static ALIGNZOO_HD double polynomial(int i) {
    constexpr double c[kTerms] = {
        0.50000000000000000436,   0.16666666666666683423,   0.041666666666666096174,
        0.0083333333333170205365, 0.0013888888889115188556, 0.00019841269896436688259,
        2.4801586927200091104e-5, 2.755723479528685509e-6,  2.7557581414181094429e-7,
        2.511206379572018887e-8,  2.0826773517029201914e-9};
    return c[i];
  }
};

// e^x = scale * e^r for x within [kLowest, kHighest] or NaN, where scale is a power of two and
// |r| <= log(2) / 2; slope * r = e^r - 1 - r.
template <class F>
ALIGNZOO_HD void reduce_exp(F x, F& scale, F& r, F& slope) {
  using C = ExpConstants<Element<F>>;
  F shifted = fma(x, F(C::kInverseLn2), F(C::kMagic));
  F n = shifted - F(C::kMagic);
  r = fma(n, F(-C::kLn2High), x);
  r = fma(n, F(-C::kLn2Low), r);
  F q = F(C::polynomial(C::kTerms - 1));
  ALIGNZOO_UNROLL
  for (int i = C::kTerms - 2; i >= 0; --i) q = fma(q, r, F(C::polynomial(i)));
  slope = q * r;
  scale = low_bits_as_exponent(shifted);
}

// e^x = scale + scale * rest, rest = e^r - 1.
template <class F>
ALIGNZOO_HD void split_exp(F x, F& scale, F& rest) {
  F r, slope;
  reduce_exp(x, scale, r, slope);
  rest = fma(slope, r, r);
}

// e^x for x within [kLowest, kHighest] or NaN. Error at most 1 ulp; results below the smallest
// normal number may be 0.
template <class F>
ALIGNZOO_HD F exp_in_range(F x) {
  F scale, rest;
  split_exp(x, scale, rest);
  return (rest + F(Element<F>(1))) * scale;
}

#if defined(__CUDA_ARCH__)
// 2^t for any t, by the device's own approximation: error at most 2 ulp (PTX ISA, ex2.approx.ftz),
// results below the smallest normal number are 0.
ALIGNZOO_HD float approximate_exp2(float t) {
  float out;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(out) : "f"(t));
  return out;
}

// On a device, in 7 instructions. With t = x log2(e) rounded and `rest` what the rounding and the
// constant lost, e^x = 2^t (1 + rest ln 2 + ...): |rest| < 2^-17, so that the square's half is
// below 2^-35. Error: 2 ulp of 2^t, half of the last fma's, and what these constants lose, less
// than 3. Results below the smallest normal number are 0: at kLowest, e^x is.
ALIGNZOO_HD float exp_in_range(float x) {
  constexpr float kInverseLn2Low = 1.925963033500e-8f, kLn2 = 0.693147180559945309f;
  const float t = x * ExpConstants<float>::kInverseLn2;
  const float rest = fma(x, kInverseLn2Low, fma(x, ExpConstants<float>::kInverseLn2, -t));
  const float power = approximate_exp2(t);
  const float corrected = fma(power, rest * kLn2, power);
  return t < 128.0f ? corrected : power;  // infinity takes no correction
}
#endif

// e^x for x <= 0, -inf or NaN: exactly 0 at and below kLowest, NaN stays NaN.
template <class F>
ALIGNZOO_HD F exp_nonpositive(F x) {
  return exp_in_range(max_or_nan(F(ExpConstants<Element<F>>::kLowest), x));
}

// Constants of 2^t: minimax fit (float) or Taylor series (double) of 2^f on |f| <= 1/2, from the
// linear term up; the constant term is 1.
template <class T>
struct Exp2Constants;

template <>
struct Exp2Constants<float> {
  static constexpr float kLowest = -127.0f;  // 2^t is exactly 0 at and below it
  static constexpr float kMagic = 12582912.0f + 127.0f;
  static constexpr int kTerms = 6;
  static ALIGNZOO_HD float polynomial(int i) {
    constexpr float c[kTerms] = {0.6931472028550826f,   0.24022647913626446f,
                                 0.055503324711000376f, 0.009618437357831022f,
                                 0.0013398874422285f,   0.000153533618856981f};
    return c[i];
  }
};

template <>
struct Exp2Constants<double> {
  static constexpr double kLowest = -1023.0;
  static constexpr double kMagic = 6755399441055744.0 + 1023.0;
  static constexpr int kTerms = 13;
  static ALIGNZOO_HD double polynomial(int i) {
    constexpr double c[kTerms] = {
        0.6931471805599453,     0.2402265069591007,     0.055504108664821576,
        0.009618129107628477,   0.0013333558146428441,  0.00015403530393381606,
        1.5252733804059838e-05, 1.3215486790144305e-06, 1.0178086009239696e-07,
        7.054911620801121e-09,  4.44553827187081e-10,   2.5678435993488196e-11,
        1.3691488853904124e-12};
    return c[i];
  }
};

constexpr double kLog2e = 1.44269504088896340736;

// e^{d / t} = 2^{d factor}, factor = log2(e) / t, for d factor within [kLowest, 0] or NaN: exactly
// 0 at kLowest. The product is never rounded, so the error is 1 ulp and what `factor` itself lost.
template <class F>
ALIGNZOO_HD F exp2_of_product(F d, F factor) {
  using C = Exp2Constants<Element<F>>;
  F shifted = fma(d, factor, F(C::kMagic));
  F f = fma(d, factor, F(C::kMagic) - shifted);
  F q = F(C::polynomial(C::kTerms - 1));
  ALIGNZOO_UNROLL
  for (int i = C::kTerms - 2; i >= 0; --i) q = fma(q, f, F(C::polynomial(i)));
  q = fma(q, f, F(Element<F>(1)));
  return q * low_bits_as_exponent(shifted);
}

#if defined(__CUDA_ARCH__)
// On a device, in 5 instructions: see exp_in_range. Error at most 3 ulp and what `factor` lost.
ALIGNZOO_HD float exp2_of_product(float d, float factor) {
  constexpr float kLn2 = 0.693147180559945309f;
  const float t = d * factor;
  const float rest = fma(d, factor, -t);
  const float power = approximate_exp2(t);
  return fma(power, rest * kLn2, power);
}
#endif

// The same to |d factor| 2^-24 besides: that of the rounded product.
template <class F>
ALIGNZOO_HD F exp2_of_rounded_product(F d, F factor) {
  return exp2_of_product(d * factor, F(Element<F>(1)));
}
#if defined(__CUDA_ARCH__)
ALIGNZOO_HD float exp2_of_rounded_product(float d, float factor) {
  return approximate_exp2(d * factor);
}
#endif

// e^x for any x. The largest results (within a factor of two of overflow) are already infinite.
template <class F>
ALIGNZOO_HD F exp(F x) {
  using C = ExpConstants<Element<F>>;
  return exp_in_range(min(F(C::kHighest), max(F(C::kLowest), x)));
}

// The minimax fit of (e^x - 1 - x) / x^2 on |x| <= 1, lowest order first; relative error 4.3e-9 for
// float and 1.2e-17 for double.
template <class T>
struct RemainderConstants;
template <>
struct RemainderConstants<float> {
  static constexpr int kTerms = 8;
  static ALIGNZOO_HD float polynomial(int i) {
    constexpr float c[kTerms] = {0.499999997927f,   0.1666666701f,     0.0416667345406f,
                                 0.00833331027728f, 0.00138854519791f, 0.000198440232579f,
                                 2.53548299725e-5f, 2.77228527912e-6f};
    return c[i];
  }
};
template <>
struct RemainderConstants<double> {
  static constexpr int kTerms = 14;
  static ALIGNZOO_HD double polynomial(int i) {
    constexpr double c[kTerms] = {
        0.50000000000000000556,     0.166666666666666646504,   0.0416666666666661130586,
        0.00833333333333387824054,  0.00138888888889785088683, 0.00019841269840858302095,
        2.48015872473362377551e-5,  2.75573193518644699102e-6, 2.75573348293062384839e-7,
        2.50520908488500150249e-8,  2.08744569185488280731e-9, 1.60598339488610982656e-10,
        1.16384815419427798243e-11, 7.67972307153979158289e-13};
    return c[i];
  }
};

// e^x - 1 - x and e^x - 1, without the cancellation of those formulas near 0, for x within
// [kLowest, kHighest] or NaN. Relative error at most 3 ulp.
template <class F>
ALIGNZOO_HD void exp_remainders(F x, F& minus_one_minus_x, F& minus_one) {
  using T = Element<F>;
  using C = RemainderConstants<T>;
  const F one = F(T(1));
  F q = F(C::polynomial(C::kTerms - 1));
  ALIGNZOO_UNROLL
  for (int i = C::kTerms - 2; i >= 0; --i) q = fma(q, x, F(C::polynomial(i)));
  F series = q * (x * x);
  F scale, rest;
  split_exp(x, scale, rest);
  auto near_zero = abs(x) < one;
  minus_one_minus_x = select(near_zero, series, fma(scale, rest, (scale - one) - x));
  minus_one = select(near_zero, series + x, fma(scale, rest, scale - one));
}

// e^x, and e^x - 1 - x out of the same polynomial: to 1 ulp for |x| < log(2) / 2, beyond that to
// 20, which a mean over tokens does not feel. x within [kLowest, kHighest] or NaN.
template <class F>
ALIGNZOO_HD void exp_with_remainder(F x, F& exponential, F& minus_one_minus_x) {
  const F one = F(Element<F>(1));
  F scale, r, slope;
  reduce_exp(x, scale, r, slope);
  const F rest = fma(slope, r, r);
  exponential = (rest + one) * scale;
  minus_one_minus_x = select(scale == one, slope * r, fma(scale, rest, (scale - one) - x));
}

}  // namespace ALIGNZOO_ISA
}  // namespace alignzoo::math
