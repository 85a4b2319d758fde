// Count, mean and sum of squared distances from it: how two are merged, and whitening with them.
#pragma once

#include "arguments.h"
#include "math/scalar.h"

namespace alignzoo::math {
inline namespace ALIGNZOO_ISA {

// Chan et al. 1979, "Updating formulae and a pairwise algorithm for computing sample variances".
ALIGNZOO_HD void merge(Moments& into, const Moments& other) {
  if (other.count == 0) return;
  const double count = into.count + other.count, distance = other.mean - into.mean;
  into.m2 += other.m2 + distance * distance * (into.count * other.count / count);
  into.mean += distance * (other.count / count);
  into.count = count;
}

// out = (x - shift) * scale + offset.
struct Whitening {
  double shift, scale, offset;
};
// All 0 where no more than ddof elements were counted.
ALIGNZOO_HD Whitening whitening(const Moments& moments, int64_t ddof, double eps, bool shift_mean) {
  const double freedom = moments.count - static_cast<double>(ddof);
  if (freedom <= 0) return {moments.mean, 0.0, 0.0};
  return {moments.mean, 1.0 / sqrt(moments.m2 / freedom + eps), shift_mean ? 0.0 : moments.mean};
}

// Of scores: their standard deviation, or -1 where no more than ddof of them were counted.
ALIGNZOO_HD double deviation(double count, double m2, int64_t ddof) {
  const double freedom = count - static_cast<double>(ddof);
  return freedom > 0 ? sqrt(m2 / freedom) : -1.0;
}

// The advantage of a score, `centred` by the mean of its group of `count` scores that are not all
// equal; `spread` is the deviation that its mode divides by.
ALIGNZOO_HD double group_advantage(GroupMode mode, double centred, double count, double spread,
                                   double eps) {
  if (mode == GroupMode::kDrGrpo) return centred;
  // s - (sum - s) / (n - 1) = (s - mean) n / (n - 1)
  if (mode == GroupMode::kRloo) return centred * (count / (count - 1));
  return spread < 0 ? 0.0 : centred / (spread + eps);
}

}  // namespace ALIGNZOO_ISA
}  // namespace alignzoo::math
