// The terms of the backward recursions y_t = d_t + m_t y_{t+1}. N is the value of the state after
// the step: 0 where the episode terminated there.
#pragma once

#include "math/exponential.h"
#include "math/losses.h"

namespace alignzoo::math {
inline namespace ALIGNZOO_ISA {

// Schulman et al. 2016, arXiv:1506.02438: d_t of advantages, with m_t = gamma lambda.
template <class F>
ALIGNZOO_HD F td_error(F reward, F value, F next_value, F gamma) {
  return fma(gamma, next_value, reward) - value;
}

// The importance ratio of V-trace, Espeholt et al. 2018, arXiv:1802.01561.
template <class F>
ALIGNZOO_HD F importance_ratio(F log_prob, F old_log_prob) {
  using T = Element<F>;
  const F limit = F(T(kMaxLogRatio));
  return exp_in_range(max(F(T(0)) - limit, min(limit, log_prob - old_log_prob)));
}

}  // namespace ALIGNZOO_ISA
}  // namespace alignzoo::math
