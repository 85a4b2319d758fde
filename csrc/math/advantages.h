// The terms of the backward recursions y_t = d_t + m_t y_{t+1}. N is the value of the state after
// the step: 0 where the episode terminated there.
#pragma once

#include <limits>

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

// d + m * later; where m is 0 nothing of `later` arrives, not even NaN.
template <class F>
ALIGNZOO_HD F add_later(F d, F m, F later) {
  return select(m == F(Element<F>(0)), d, fma(m, later, d));
}

// Beyond these a number is infinite, or no longer normal.
template <class T>
struct Limits {
  static constexpr T kLargest = std::numeric_limits<T>::max();
  static constexpr T kLeast = std::numeric_limits<T>::min();
};

// The multiplier of two steps after one another: 0 where one of them is, else neither infinite (a
// large one times a sum of 0 is 0) nor 0 (a NaN behind many steps still arrives).
template <class F>
ALIGNZOO_HD F product(F m, F later) {
  using T = Element<F>;
  const F zero = F(T(0));
  const F inside = min(F(Limits<T>::kLargest), max(F(Limits<T>::kLeast), m * later));
  return select(m == zero, m, select(later == zero, later, inside));
}

// What an algorithm makes of a step and of y.
template <class F>
struct StepResult {
  F advantage, returned;
};

// The rules of the recursions. `Step` has reward, value, next_value and `ended`: whether an episode
// or the row ends there. A step that ended has m = 0.
template <class F>
class GaeRule {
 public:
  static constexpr bool kConstantMultiplier = true, kRatios = false, kAdvantages = true;
  template <class Args>
  explicit GaeRule(const Args& args) : gamma_(args.gamma), carry_(args.gamma * args.lambda) {}

  template <class Step>
  ALIGNZOO_HD F multiplier(const Step&) const {
    return carry_;
  }
  template <class Step>
  ALIGNZOO_HD F term(const Step& s) const {
    return td_error(s.reward, s.value, s.next_value, gamma_);
  }
  template <class Step>
  ALIGNZOO_HD StepResult<F> result(const Step& s, const F& y, const F&) const {
    return {y, y + s.value};
  }

 private:
  F gamma_, carry_;
};

// Lambda-returns; with lambda 1 and no values, discounted returns.
template <class F>
class ReturnRule {
 public:
  static constexpr bool kConstantMultiplier = true, kRatios = false, kAdvantages = false;
  template <class Args>
  explicit ReturnRule(const Args& args)
      : gamma_(args.gamma),
        gamma_of_value_(args.gamma * (1 - args.lambda)),
        carry_(args.gamma * args.lambda) {}

  template <class Step>
  ALIGNZOO_HD F multiplier(const Step&) const {
    return carry_;
  }
  template <class Step>
  ALIGNZOO_HD F term(const Step& s) const {
    return fma(select(s.ended, gamma_, gamma_of_value_), s.next_value, s.reward);
  }
  template <class Step>
  ALIGNZOO_HD StepResult<F> result(const Step&, const F& y, const F&) const {
    return {y, y};
  }

 private:
  F gamma_, gamma_of_value_, carry_;
};

// A step also has `ratio`, its importance ratio; next_y is y of the step after it.
template <class F>
class VtraceRule {
 public:
  static constexpr bool kConstantMultiplier = false, kRatios = true, kAdvantages = true;
  template <class Args>
  explicit VtraceRule(const Args& args)
      : gamma_(args.gamma),
        carry_(args.gamma * args.lambda),
        clip_rho_(args.clip_rho),
        clip_c_(args.clip_c),
        clip_pg_rho_(args.clip_pg_rho) {}

  template <class Step>
  ALIGNZOO_HD F multiplier(const Step& s) const {
    return carry_ * min(clip_c_, s.ratio);
  }
  template <class Step>
  ALIGNZOO_HD F term(const Step& s) const {
    return min(clip_rho_, s.ratio) * td_error(s.reward, s.value, s.next_value, gamma_);
  }
  template <class Step>
  ALIGNZOO_HD StepResult<F> result(const Step& s, const F& y, const F& next_y) const {
    const F next_target = s.next_value + select(s.ended, F(Element<F>(0)), next_y);
    const F error = td_error(s.reward, s.value, next_target, gamma_);
    return {min(clip_pg_rho_, s.ratio) * error, y + s.value};
  }

 private:
  F gamma_, carry_, clip_rho_, clip_c_, clip_pg_rho_;
};

}  // namespace ALIGNZOO_ISA
}  // namespace alignzoo::math
