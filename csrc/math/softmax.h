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

// What merging needs to move sums from one maximum to another: e^shift, by a double exp.
ALIGNZOO_HD void shift_sums(double shift, double& sum, double& weighted) {
  double factor = exp_nonpositive(shift);
  // A factor of 0 drops the terms altogether; shift may be -inf then.
  weighted = factor > 0 ? factor * (weighted + shift * sum) : 0.0;
  sum = factor * sum;
}

// Gradient by x_j of upstream_log_prob * log p_y + upstream_entropy * entropy, the target's own
// term (upstream_log_prob at j = y) left out: -p_j (g + h (log p_j + entropy)).
template <class F>
ALIGNZOO_HD F softmax_gradient(F x, F log_sum, F entropy, F up_log_prob, F up_entropy) {
  using T = Element<F>;
  const F zero = F(T(0));
  F log_p = max(F(ExpConstants<T>::kLowest), x - log_sum);
  F p = exp_in_range(log_p);
  return zero - p * fma(up_entropy, log_p + entropy, up_log_prob);
}

}  // namespace ALIGNZOO_ISA
}  // namespace alignzoo::math
