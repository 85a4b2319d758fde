// One step of the backward recursions: Schulman et al. 2016, arXiv:1506.02438, eq. 16.
#pragma once

#include "math/scalar.h"

namespace alignzoo::math {
inline namespace ALIGNZOO_ISA {

// A_t = d_t + carry * A_{t+1}, d_t = r_t + gamma * N_t - V_t, where `carry` is gamma * lambda, or 0
// where the step ended an episode.
template <class F>
ALIGNZOO_HD F advantage_step(F reward, F value, F next_value, F next_advantage, F gamma, F carry) {
  F delta = fma(gamma, next_value, reward) - value;
  return fma(carry, next_advantage, delta);
}

}  // namespace ALIGNZOO_ISA
}  // namespace alignzoo::math
