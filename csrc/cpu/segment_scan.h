// The recursions y_t = d_t + m_t y_{t+1} of each algorithm over unmasked tokens, 16 at a time.
#pragma once

#include "cpu/formats.h"
#include "cpu/lane_scan.h"
#include "math/advantages.h"

namespace alignzoo::cpu {
inline namespace ALIGNZOO_ISA {

// Tokens of a row one after the other, none masked. What an algorithm does not have is null.
template <class T>
struct Segment {
  int64_t size = 0;
  const T *rewards = nullptr, *values = nullptr, *next_values = nullptr;
  const T *log_probs = nullptr, *old_log_probs = nullptr;
  const uint8_t *terminated = nullptr, *truncated = nullptr;  // per token
  bool ends_row = false, end_terminated = false, end_truncated = false;
  T *advantages = nullptr, *returns = nullptr;
};

// 16 steps of a segment, as math/advantages.h wants them, of which the first n exist.
template <class T>
struct Steps {
  int64_t at;
  int n;
  Mask<T> ended;
  Wide<T> reward, value, next_value;
  Wide<T> ratio;  // of rules with ratios
};

template <class Rule, class T>
ALIGNZOO_INLINE void load_ratio(const Segment<T>& from, Steps<T>& s) {
  if constexpr (Rule::kRatios) {
    s.ratio = math::importance_ratio(load_up_to(from.log_probs + s.at, s.n),
                                     load_up_to(from.old_log_probs + s.at, s.n));
  }
}

// What the steps before need to know of those behind: the next value, and y.
template <class T>
struct Later {
  Wide<T> value, y;
};

template <class T>
ALIGNZOO_INLINE bool any_of(const Mask<T>& mask) {
  typename Mask<T>::R::Bits lane[kLanes], any = 0;
  memcpy(lane, &mask, sizeof lane);
  for (int i = 0; i < kLanes; ++i) any |= lane[i];
  return any != 0;
}

// The recursion over one segment after the other, from a row's last to its first.
template <class T, class Rule>
class SegmentScan {
 public:
  SegmentScan(const Rule& rule, bool has_bootstrap, T bootstrap)
      : rule_(rule), has_bootstrap_(has_bootstrap), later_{Wide<T>(bootstrap), Wide<T>(T(0))} {}

  // False if a truncated step has no value to follow it.
  bool run(const Segment<T>& segment) {
    // Copies of their own stay in registers: the stores might change what lies in memory.
    const Rule rule = rule_;
    Later<T> later = later_;
    const Multipliers<T> going_on =
        multipliers_of(Rule::kConstantMultiplier ? rule.multiplier(Steps<T>{}) : Wide<T>(T(0)));
    bool good = true;
    const int64_t last_block = (segment.size - 1) / kLanes * kLanes;
    const bool last_is_plain = segment.size == last_block + kLanes && !segment.ends_row;
    for (int64_t at = last_block; at >= 0; at -= kLanes) {
      if ((at < last_block || last_is_plain) &&
          (!segment.terminated || all_zeros(segment.terminated + at)) &&
          (!segment.truncated || all_zeros(segment.truncated + at))) {
        later = plain_block(rule, segment, at, going_on, later);
      } else {
        later = block(rule, segment, at, later, good);
      }
    }
    later_ = later;
    return good;
  }

 private:
  static ALIGNZOO_INLINE Later<T> finish(const Rule& rule, const Segment<T>& segment,
                                         const Steps<T>& steps, const Multipliers<T>& multipliers,
                                         const Wide<T>& terms, const Later<T>& later) {
    const Wide<T> y = scan_lanes(multipliers, terms, later.y);
    const math::StepResult<Wide<T>> result = rule.result(steps, y, shift_lanes<1>(y, later.y));
    if constexpr (Rule::kAdvantages) {
      store_up_to(segment.advantages + steps.at, steps.n, result.advantage);
    }
    store_up_to(segment.returns + steps.at, steps.n, result.returned);
    return {broadcast_first(steps.value), broadcast_first(y)};
  }

  // 16 steps after none of which an episode ends.
  static ALIGNZOO_INLINE Later<T> plain_block(const Rule& rule, const Segment<T>& segment,
                                              int64_t at, const Multipliers<T>& going_on,
                                              const Later<T>& later) {
    fetch(segment.rewards + at, -kAhead);
    if (segment.values) fetch(segment.values + at, -kAhead);
    if (segment.log_probs) fetch(segment.log_probs + at, -kAhead);
    if (segment.old_log_probs) fetch(segment.old_log_probs + at, -kAhead);
    Steps<T> steps;
    steps.at = at;
    steps.n = kLanes;
    steps.ended = Mask<T>{};
    steps.reward = load(segment.rewards + at);
    steps.value = segment.values ? load(segment.values + at) : Wide<T>(T(0));
    steps.next_value = shift_lanes<1>(steps.value, later.value);
    load_ratio<Rule>(segment, steps);
    const Wide<T> terms = rule.term(steps);
    if constexpr (Rule::kConstantMultiplier) {
      return finish(rule, segment, steps, going_on, terms, later);
    } else {
      const Multipliers<T> multipliers = multipliers_of(rule.multiplier(steps));
      return finish(rule, segment, steps, multipliers, terms, later);
    }
  }

  static ALIGNZOO_INLINE Mask<T> flagged(const uint8_t* flags, bool at_end,
                                         const Segment<T>& segment, const Steps<T>& steps) {
    if (flags) return load_mask<T>(flags + steps.at, steps.n);
    const int64_t last = segment.size - 1 - steps.at;
    return at_end ? lanes_below<T>(last + 1) & ~lanes_below<T>(last) : Mask<T>{};
  }

  // Any steps: fewer than 16, with flags, or with the row's last, which ends its episode.
  __attribute__((noinline)) Later<T> block(const Rule& rule, const Segment<T>& segment, int64_t at,
                                           Later<T> later, bool& good) const {
    const Wide<T> zero(T(0)), one(T(1));
    Steps<T> steps;
    steps.at = at;
    steps.n = static_cast<int>(smaller(kLanes, segment.size - at));
    const Mask<T> exists = lanes_below<T>(steps.n), is_last = ~lanes_below<T>(steps.n - 1) & exists;
    steps.reward = load_up_to(segment.rewards + at, steps.n);
    steps.value = segment.values ? load_up_to(segment.values + at, steps.n) : zero;
    steps.next_value = select(is_last, later.value, shift_lanes<1>(steps.value, later.value));
    load_ratio<Rule>(segment, steps);

    const Mask<T> terminated = flagged(segment.terminated, segment.end_terminated, segment, steps);
    const Mask<T> truncated =
        flagged(segment.truncated, segment.end_truncated, segment, steps) & ~terminated;
    const Mask<T> row_ends = segment.ends_row && at + steps.n == segment.size ? is_last : Mask<T>{};
    if (segment.next_values) {
      const Wide<T> given = load_up_to(segment.next_values + at, steps.n);
      steps.next_value = select(truncated, given, steps.next_value);
    } else {
      good &= !any_of(has_bootstrap_ ? truncated & ~row_ends : truncated);
    }
    steps.next_value = select(terminated, zero, steps.next_value);
    steps.ended = terminated | truncated | row_ends;

    const Wide<T> going_on = select(steps.ended, zero, rule.multiplier(steps));
    return finish(rule, segment, steps, multipliers_of(select(exists, going_on, one)),
                  select(exists, rule.term(steps), zero), later);
  }

  const Rule& rule_;
  const bool has_bootstrap_;
  Later<T> later_;
};

}  // namespace ALIGNZOO_ISA
}  // namespace alignzoo::cpu
