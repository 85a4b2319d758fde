// The elementwise losses, each with its gradient. All branch-free, so they serve vectors too.
// Bounds come first in min and max, so that a NaN passes through.
#pragma once

#include "math/exponential.h"

namespace alignzoo::math {
inline namespace ALIGNZOO_ISA {

// Log-ratios beyond this are clamped before the exponential, with gradient 0.
constexpr double kMaxLogRatio = 20.0;

enum class PolicyKind { kClip, kPlain, kCispo };

// The loss of one token as a function of the ratio r, and its derivative. For kCispo, `loss` is the
// factor of log_prob and `slope` the derivative by log_prob. `clipped` is 1 where the clip
// (or the dual clip) made the derivative 0, else 0.
template <class F>
struct PolicyTerm {
  F loss, slope, clipped;
};

// kClip: -min(r A, clip(r, low, high) A), and where A < 0 min(that, -dual A); dual = +inf for none.
template <PolicyKind kKind, class F>
ALIGNZOO_HD PolicyTerm<F> policy_term(F ratio, F advantage, F low, F high, F dual) {
  using T = Element<F>;
  const F zero = F(T(0)), one = F(T(1));
  if constexpr (kKind == PolicyKind::kPlain) {
    return {zero - ratio * advantage, zero - advantage, zero};
  } else if constexpr (kKind == PolicyKind::kCispo) {
    F factor = zero - min(high, max(low, ratio)) * advantage;
    return {factor, factor, zero};
  } else {
    // Bounds of the ratio where a larger one would lower the loss, and where it would raise it.
    const F lowest = select(advantage < zero, low, zero);
    const F highest = select(advantage > zero, high, dual);
    const F used = min(highest, max(lowest, ratio));
    // Not `used != ratio`: a NaN is no clip, and its gradient is NaN.
    const F clipped = select(used < ratio, one, select(used > ratio, one, zero));
    return {zero - used * advantage, select(clipped > zero, zero, zero - advantage),
            select(advantage == zero, zero, clipped)};
  }
}

// One token of the policy loss: its loss, the slope of that, and what the statistics count.
template <class F>
struct PolicyToken {
  F loss, slope, clipped, kl, ratio;
};

// A masked token comes with zeros. With kByRow the ratio is row_ratio, which all tokens of the row
// share, and the slope is by it; else the slope is by log_prob, as it always is for kCispo.
template <PolicyKind kKind, bool kByRow, class F>
ALIGNZOO_HD PolicyToken<F> policy_token(F log_prob, F old_log_prob, F advantage, F row_ratio, F low,
                                        F high, F dual) {
  using T = Element<F>;
  const F zero = F(T(0)), limit = F(T(kMaxLogRatio));
  const F d = log_prob - old_log_prob;
  F ratio, kl;
  exp_with_remainder(max(zero - limit, min(limit, d)), ratio, kl);
  if constexpr (kByRow) ratio = row_ratio;
  PolicyTerm<F> term = policy_term<kKind>(ratio, advantage, low, high, dual);
  if constexpr (kKind == PolicyKind::kCispo) {
    term.loss = term.loss * log_prob;
  } else if constexpr (!kByRow) {
    term.slope = select(abs(d) > limit, zero, term.slope * ratio);
  }
  return {term.loss, term.slope, term.clipped, kl, ratio};
}

// What the unmasked tokens of a row share: what its sum is multiplied by, 1 or 1 / count, and e to
// the mean of their log-ratios with its derivative by any one of them.
struct PolicyRow {
  double weight, ratio, ratio_slope;
};
ALIGNZOO_HD PolicyRow policy_row(double log_ratios, double count, bool row_means) {
  const double mean = count > 0 ? log_ratios / count : 0.0, limit = kMaxLogRatio;
  PolicyRow row;
  row.weight = row_means && count > 0 ? 1.0 / count : 1.0;
  row.ratio = exp_in_range(min(limit, max(-limit, mean)));
  row.ratio_slope = abs(mean) > limit || count == 0 ? 0.0 : row.ratio / count;
  return row;
}

// 0.5 * max((v - R)^2, (clip(v, old - range, old + range) - R)^2) and its derivative by v.
template <class F>
ALIGNZOO_HD PolicyTerm<F> value_term(F value, F old_value, F target, F range) {
  using T = Element<F>;
  const F zero = F(T(0)), one = F(T(1));
  F error = value - target;
  F moved = value - old_value;
  F clipped_value = old_value + min(range, max(zero - range, moved));
  F clipped_error = clipped_value - target;
  F square = error * error, clipped_square = clipped_error * clipped_error;
  // abs(moved) > range: the clip moved the value, so rounding in clipped_value alone cannot count.
  F acts = select(abs(moved) > range, one, zero);
  F wins = select(clipped_square > square, acts, zero);
  F loss = F(T(0.5)) * select(wins > zero, clipped_square, square);
  return {loss, select(wins > zero, zero, error), wins};
}

template <class F>
ALIGNZOO_HD PolicyTerm<F> plain_value_term(F value, F target) {
  using T = Element<F>;
  F error = value - target;
  return {F(T(0.5)) * error * error, error, F(T(0))};
}

enum class KlEstimator { kK1, kK2, kK3, kAbs, kK3Plus };

// Value of an estimator of the divergence at q = ref_log_prob - log_prob, and its derivative by
// log_prob. k3: q is clamped to +-kMaxLogRatio, derivative 0 beyond.
template <KlEstimator kEstimator, class F>
ALIGNZOO_HD void kl_term(F q, F& value, F& slope) {
  using T = Element<F>;
  const F zero = F(T(0)), one = F(T(1));
  if constexpr (kEstimator == KlEstimator::kK1) {
    value = zero - q;
    slope = one;
  } else if constexpr (kEstimator == KlEstimator::kK2) {
    value = F(T(0.5)) * q * q;
    slope = zero - q;
  } else if constexpr (kEstimator == KlEstimator::kAbs) {
    value = abs(q);
    slope = select(q > zero, zero - one, select(q < zero, one, zero * q));
  } else {
    const F limit = F(T(kMaxLogRatio));
    F inside = max(zero - limit, min(limit, q));
    F minus_one;
    exp_remainders(inside, value, minus_one);
    if constexpr (kEstimator == KlEstimator::kK3) {
      slope = select(abs(q) > limit, zero, zero - minus_one);
    } else {
      slope = zero - q;
    }
  }
}

// x^2 / 2 within +-delta, delta (|x| - delta / 2) beyond.
template <class F>
ALIGNZOO_HD void huber_term(F x, F delta, F& value, F& slope) {
  using T = Element<F>;
  const F zero = F(T(0));
  F size = abs(x);
  value = select(size > delta, delta * (size - F(T(0.5)) * delta), F(T(0.5)) * x * x);
  slope = max(zero - delta, min(delta, x));
}

}  // namespace ALIGNZOO_ISA
}  // namespace alignzoo::math
