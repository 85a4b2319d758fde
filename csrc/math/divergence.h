// KL(a || b) of the distributions of two rows of logits, in one pass over both.
//
// With x_j = (a_j - max a) / t, y_j = (b_j - max b) / t, S_a = sum e^{x_j}, S_b = sum e^{y_j} and
// D = sum e^{x_j} (x_j - y_j):
//
//   KL = sum p_j (log p_j - log q_j) = D / S_a - log S_a + log S_b.
//
// A logit of -inf in `a` contributes 0; one in `b` alone makes the divergence infinite.
#pragma once

#include "math/softmax.h"

namespace alignzoo::math {
inline namespace ALIGNZOO_ISA {

template <class T>
struct LargestOf;
template <>
struct LargestOf<float> {
  static constexpr float kValue = 3.40282347e38f;
};
template <>
struct LargestOf<double> {
  static constexpr double kValue = 1.7976931348623157e308;
};

// Of the rows so far. `largest` is the greatest x_j - y_j, +inf where the divergence is infinite.
struct DivergenceSums {
  double a_max, a_sum, b_max, b_sum, weighted, largest;
};

// Moves the sums of `b` by the change of its maximum, over the temperature.
ALIGNZOO_HD void shift_divergence(double shift, DivergenceSums& sums) {
  // From -inf there is nothing to move: so far `a` had no mass, or the divergence is infinite.
  if (shift > -__builtin_inf()) sums.weighted = sums.weighted - shift * sums.a_sum;
  sums.b_sum = exp_nonpositive(shift) * sums.b_sum;
}

// What merging two parts of a pair of rows needs: moves the sums of one part to maxima of a and b
// that are at least its own. With x' = x + s and y' = y + u for the shifts s, u <= 0 of the two
// maxima over the temperature,
//
//   sum e^{x'} = e^s sum e^x,   sum e^{y'} = e^u sum e^y,
//   sum e^{x'} (x' - y') = e^s (sum e^x (x - y) + s sum e^x) - u sum e^{x'}:
//
// shift_sums for `a`, then shift_divergence for `b`. Sums of parts at the same maxima add up, and
// the largest x' - y' matters by being infinite or not alone, which no finite shift changes.
ALIGNZOO_HD void move_divergence(double a_max, double b_max, double inverse_temperature,
                                 DivergenceSums& sums) {
  // A part that has the maximum is left as it is: -inf minus itself is NaN.
  if (sums.a_max < a_max) {
    shift_sums((sums.a_max - a_max) * inverse_temperature, sums.a_sum, sums.weighted);
    sums.a_max = a_max;
  }
  if (sums.b_max < b_max) {
    shift_divergence((sums.b_max - b_max) * inverse_temperature, sums);
    sums.b_max = b_max;
  }
}
ALIGNZOO_HD void add_divergence(const DivergenceSums& part, DivergenceSums& sums) {
  sums.a_sum = sums.a_sum + part.a_sum;
  sums.b_sum = sums.b_sum + part.b_sum;
  sums.weighted = sums.weighted + part.weighted;
  sums.largest = max(part.largest, sums.largest);
}

// D / S_a: the mean of x - y under p. NaN where one of the rows is no distribution.
ALIGNZOO_HD double mean_log_ratio(const DivergenceSums& sums) {
  const bool defined = sums.a_sum > 0 && sums.b_sum > 0;  // false for NaN too
  if (!defined) return __builtin_nan("");
  return sums.largest == __builtin_inf() ? sums.largest : sums.weighted / sums.a_sum;
}

// KL(a || b), with `mean_ratio` the mean log-ratio: never below 0, NaN stays NaN.
ALIGNZOO_HD double divergence_of(const DivergenceSums& sums, double mean_ratio) {
  const double divergence = mean_ratio - log(sums.a_sum) + log(sums.b_sum);
  return divergence < 0 ? 0.0 : divergence;
}

// x - y where it is a number above -inf, else something finite: its weight is 0 there.
template <class F>
ALIGNZOO_HD F log_ratio(F x, F y) {
  return max_or_bound(x - y, F(-LargestOf<Element<F>>::kValue));
}

// Gradients by x_j and y_j. That by x_j is p_j (log p_j - log q_j - KL), which is p_j (x_j - y_j -
// D / S_a): the log-sums cancel. p_j is e^{x_j} / S_a, which loses less than e^{x_j - log S_a}.
template <class F>
ALIGNZOO_HD F divergence_gradient_a(F x, F y, F a_scale, F mean_ratio) {
  return exp_nonpositive(x) * a_scale * (log_ratio(x, y) - mean_ratio);
}
template <class F>
ALIGNZOO_HD F divergence_gradient_b(F x, F y, F a_scale, F b_scale) {
  return exp_nonpositive(y) * b_scale - exp_nonpositive(x) * a_scale;
}

}  // namespace ALIGNZOO_ISA
}  // namespace alignzoo::math
