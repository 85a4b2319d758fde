// Running statistics of a row of logits, and what follows from them.
//
// x_j = (z_j - max z) / temperature. S = sum e^{x_j}, W = sum e^{x_j} x_j, both over the terms
// whose exponential is not 0, so that -inf logits are legal. log p_j = x_j - log S, entropy = log S
// - W/S.
#pragma once

#include "math/exponential.h"

namespace alignzoo::math {
inline namespace ALIGNZOO_ISA {

// Of the row so far: largest logit (before the temperature), S and W relative to it.
struct RowStatistics {
  double max, sum, weighted;
};

// What a row's logits are measured from: the largest so far, or 0 while all were -inf, whose
// difference with itself is NaN.
template <class T>
ALIGNZOO_HD T finite_shift(T largest) {
  return largest == -static_cast<T>(__builtin_inf()) ? T(0) : largest;
}

// The constants of powers e^{d / temperature}: the distance d at which they become 0, and the
// factor that makes 2^{d factor} of them.
template <class T>
struct PowerScale {
  T lowest, factor;

  ALIGNZOO_HD explicit PowerScale(double inverse_temperature)
      : lowest(static_cast<T>(static_cast<double>(Exp2Constants<T>::kLowest) /
                              (inverse_temperature * kLog2e))),
        factor(static_cast<T>(inverse_temperature * kLog2e)) {}
};

// Powers e^{(z - largest) / temperature} of logits.
template <class F>
struct Powers {
  F shift, lowest, factor;

  ALIGNZOO_HD Powers(Element<F> largest, const PowerScale<Element<F>>& scale)
      : shift(finite_shift(largest)), lowest(scale.lowest), factor(scale.factor) {}
  // z - largest. Clamped from below, so that the product with a power of 0 is 0 even for -inf.
  ALIGNZOO_HD F distance(const F& z) const { return max_or_nan(lowest, z - shift); }
  ALIGNZOO_HD F of_distance(const F& d) const { return exp2_of_product(d, factor); }
  ALIGNZOO_HD F of(const F& z) const { return of_distance(distance(z)); }
};

// What merging needs to move sums from one maximum to another: e^shift, by a double exp.
ALIGNZOO_HD void shift_sums(double shift, double& sum, double& weighted) {
  double factor = exp_nonpositive(shift);
  // A factor of 0 drops the terms altogether; shift may be -inf then.
  weighted = factor > 0 ? factor * (weighted + shift * sum) : 0.0;
  sum = factor * sum;
}

// log p_y of the logit `chosen`, and the entropy. Both NaN where the row is no distribution.
ALIGNZOO_HD double log_prob_of(double chosen, double max, double log_sum,
                               double inverse_temperature) {
  return (chosen - max) * inverse_temperature - log_sum;
}
ALIGNZOO_HD double entropy_of(const RowStatistics& row, double log_sum) {
  return log_sum - row.weighted / row.sum;
}

// Gradient by x_j of upstream_log_prob * log p_y + upstream_entropy * entropy, the target's own
// term (upstream_log_prob at j = y) left out: -p_j (g + h (log p_j + entropy)).
template <class F>
ALIGNZOO_HD F softmax_gradient(F x, F log_sum, F entropy, F up_log_prob, F up_entropy) {
  using T = Element<F>;
  const F zero = F(T(0));
  F log_p = max_or_nan(F(ExpConstants<T>::kLowest), x - log_sum);
  F p = exp_in_range(log_p);
  return zero - p * fma(up_entropy, log_p + entropy, up_log_prob);
}

}  // namespace ALIGNZOO_ISA
}  // namespace alignzoo::math
