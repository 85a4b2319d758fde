// Top-k and top-p on one row: which tokens, by falling logit and rising index, come before their
// measure (their number, or their mass) has reached a target.
//
// No sort and no list of the row: thresholds are tried, one vector pass each, until few tokens lie
// between the two that enclose the last one kept.
#pragma once

#include "cpu/rows.h"
#include "math/order.h"

namespace alignzoo::cpu {
inline namespace ALIGNZOO_ISA {

// x where a > b, else 0.
template <class T>
ALIGNZOO_INLINE Wide<T> where_greater(const Wide<T>& a, const Wide<T>& b, const Wide<T>& x) {
  const Wide<T> zero(T(0));
  return map_registers<T>([&](int i) __attribute__((always_inline)) {
    return a.reg[i] > b.reg[i] ? x.reg[i] : zero.reg[i];
  });
}

// Bit i says whether lane i of a is above that of b.
template <class T>
ALIGNZOO_INLINE unsigned bits_greater(const Wide<T>& a, const Wide<T>& b) {
  using R = Registers<T>;
  unsigned bits = 0;
  for (int i = 0; i < R::kCount; ++i) {
#if defined(__AVX512F__)
    unsigned some;
    if constexpr (sizeof(T) == 4) {
      some = _mm512_cmp_ps_mask(a.reg[i], b.reg[i], _CMP_GT_OQ);
    } else {
      some = _mm512_cmp_pd_mask(a.reg[i], b.reg[i], _CMP_GT_OQ);
    }
#else
    const auto above = a.reg[i] > b.reg[i];
#if defined(__AVX2__)
    const unsigned some = static_cast<unsigned>(
        sizeof(T) == 4 ? _mm256_movemask_ps(reinterpret_cast<__m256>(above))
                       : _mm256_movemask_pd(reinterpret_cast<__m256d>(above)));
#else
    unsigned some = 0;
    for (int lane = 0; lane < R::kPer; ++lane) {
      if (above[lane] != 0) some |= 1u << lane;
    }
#endif
#endif
    bits |= some << (i * R::kPer);
  }
  return bits;
}

// A row of logits and what each weighs, to be zeroed where it is cut off. Both have kLanes times
// num_vectors elements, the last of them -inf and 0. `smallest` and `largest` are finite.
template <class T>
struct WeighedRow {
  const T* logits;
  T* masses;
  int64_t num_vectors;
  T smallest, largest;
};

enum class Measure { kCount, kMass };

// Of the logits above a threshold.
struct Above {
  double count, mass;
  ALIGNZOO_INLINE double of(Measure measure) const {
    return measure == Measure::kCount ? count : mass;
  }
};

template <class T>
ALIGNZOO_INLINE Above measure_above(const WeighedRow<T>& row, T threshold) {
  constexpr int64_t kChunkVectors = kChunk / kLanes;
  const Wide<T> zero(T(0)), one(T(1)), limit(threshold);
  Above above{0, 0};
  for (int64_t begin = 0; begin < row.num_vectors; begin += kChunkVectors) {
    const int64_t end = smaller(begin + kChunkVectors, row.num_vectors);
    Wide<T> count[2] = {zero, zero}, mass[2] = {zero, zero};
    auto take = [&](int64_t v, int strand) __attribute__((always_inline)) {
      const Wide<T> z = load(row.logits + v * kLanes);
      count[strand] = count[strand] + where_greater(z, limit, one);
      mass[strand] = mass[strand] + where_greater(z, limit, load(row.masses + v * kLanes));
    };
    int64_t v = begin;
    for (; v + 2 <= end; v += 2) {
      take(v, 0);
      take(v + 1, 1);
    }
    if (v < end) take(v, 0);
    above.count += static_cast<double>(sum_lanes(count[0] + count[1]));
    above.mass += static_cast<double>(sum_lanes(mass[0] + mass[1]));
  }
  return above;
}

// Halfway between two numbers: by value at first, then by order, which ends for any numbers.
template <class T>
ALIGNZOO_INLINE T between(T low, T high, int trial) {
  if (trial < 16) return T(0.5) * low + T(0.5) * high;
  const auto a = math::order_of(low), b = math::order_of(high);
  return math::number_at<T>((a >> 1) + (b >> 1) + (a & b & 1));
}

// The tokens of a row with low < logit <= high, of which `last` is to be found.
template <class T>
struct Bracket {
  T low, high;
  Above above_low, above_high;  // measure above_low reaches the target, above_high does not
  ALIGNZOO_INLINE double count() const { return above_low.count - above_high.count; }
};

constexpr int kFew = 8;

// Closed in on until few tokens are left, or only equal ones.
template <class T>
ALIGNZOO_INLINE Bracket<T> narrow(const WeighedRow<T>& row, Measure measure, double target,
                                  const Above& all) {
  Bracket<T> bracket{-static_cast<T>(__builtin_inf()), row.largest, all, {0, 0}};
  for (int trial = 0; bracket.count() > kFew; ++trial) {
    const T middle = between(math::max(row.smallest, bracket.low), bracket.high, trial);
    if (!(middle > bracket.low && middle < bracket.high)) break;
    const Above above = measure_above(row, middle);
    if (above.of(measure) >= target) {
      bracket.low = middle;
      bracket.above_low = above;
    } else {
      bracket.high = middle;
      bracket.above_high = above;
    }
  }
  return bracket;
}

// A token stays if its logit is above `lowest`, or equal to it at an index up to `last_index`.
template <class T>
struct Cut {
  T lowest;
  int64_t last_index;
};

// Calls take(index) for the bracket's tokens by rising index, until it returns false.
template <class T, class Take>
ALIGNZOO_INLINE void for_each_in(const WeighedRow<T>& row, const Bracket<T>& bracket, Take take) {
  const Wide<T> low(bracket.low), high(bracket.high);
  for (int64_t v = 0; v < row.num_vectors; ++v) {
    const Wide<T> z = load(row.logits + v * kLanes);
    unsigned inside = bits_greater(z, low) & ~bits_greater(z, high);
    for (; inside != 0; inside &= inside - 1) {
      if (!take(v * kLanes + __builtin_ctz(inside))) return;
    }
  }
}

// The cut behind the last token before which the measure is below the target.
template <class T>
ALIGNZOO_INLINE Cut<T> find_cut(const WeighedRow<T>& row, Measure measure, double target,
                                const Above& all) {
  const Bracket<T> bracket = narrow(row, measure, target, all);
  double before = bracket.above_high.of(measure);
  Cut<T> cut{bracket.high, -1};
  auto keep = [&](int64_t index) {
    if (before >= target) return false;
    before += measure == Measure::kCount ? 1.0 : static_cast<double>(row.masses[index]);
    cut = {row.logits[index], index};
    return true;
  };
  if (bracket.count() > kFew) {
    for_each_in(row, bracket, keep);  // equal logits, which lie in order already
    return cut;
  }
  int64_t few[kFew];
  int count = 0;
  for_each_in(row, bracket, [&](int64_t index) {
    int place = count++;
    for (; place > 0 && row.logits[few[place - 1]] < row.logits[index]; --place) {
      few[place] = few[place - 1];
    }
    few[place] = index;
    return true;
  });
  for (int i = 0; i < count && keep(few[i]); ++i) {
  }
  return cut;
}

template <class T>
ALIGNZOO_INLINE void apply_cut(const WeighedRow<T>& row, const Cut<T>& cut) {
  const Wide<T> lowest(cut.lowest);
  const int64_t last_vector = cut.last_index / kLanes;
  for (int64_t v = 0; v < row.num_vectors; ++v) {
    T* masses = row.masses + v * kLanes;
    const Wide<T> z = load(row.logits + v * kLanes), mass = load(masses);
    const Wide<T> above = where_greater(z, lowest, mass);
    if (v > last_vector) {
      store(masses, above);
    } else if (v < last_vector) {
      store(masses, mass - where_greater(lowest, z, mass));
    } else {
      T kept[kLanes];
      store(kept, above);
      for (int i = 0; v * kLanes + i <= cut.last_index; ++i) {
        if (row.logits[v * kLanes + i] == cut.lowest) kept[i] = masses[i];
      }
      store(masses, load(kept));
    }
  }
}

// Cuts off what is beyond top-k, then what is beyond top-p of the rest.
template <class T>
ALIGNZOO_INLINE void cut_row(const WeighedRow<T>& row, int64_t top_k, double top_p) {
  const T none = -static_cast<T>(__builtin_inf());
  Above all = measure_above(row, none);
  if (top_k > 0 && static_cast<double>(top_k) < all.count) {
    apply_cut(row, find_cut(row, Measure::kCount, static_cast<double>(top_k), all));
    all = measure_above(row, none);
  }
  if (top_p < 1.0) apply_cut(row, find_cut(row, Measure::kMass, top_p * all.mass, all));
}

}  // namespace ALIGNZOO_ISA
}  // namespace alignzoo::cpu
