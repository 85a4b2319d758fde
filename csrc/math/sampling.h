// Drawing from a row of logits by inverting its cumulative distribution.
#pragma once

#include "math/exponential.h"

namespace alignzoo::math {
inline namespace ALIGNZOO_ISA {

// NaN or +inf, or nothing but -inf, make no distribution.
ALIGNZOO_HD bool is_distribution(double max, double sum) {
  return sum > 0 && sum < __builtin_inf() && max < __builtin_inf();
}

// The sum of one part of a row, which is relative to the part's own largest logit, relative to the
// row's.
ALIGNZOO_HD double mass_in_row(double sum, double max, double row_max, double inverse_temperature) {
  const double shift = (max - row_max) * inverse_temperature;
  return sum == 0 || shift == 0 ? sum : sum * exp_nonpositive(shift);
}

// Of a logit, in a row with these statistics.
ALIGNZOO_HD double log_prob(double logit, double max, double sum, double inverse_temperature) {
  return (logit - max) * inverse_temperature - log(sum);
}

}  // namespace ALIGNZOO_ISA
}  // namespace alignzoo::math
