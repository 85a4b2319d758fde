// y_i = d_i + m_i y_{i+1} within 16 lanes, by doubling: after the steps of 1, 2, 4 and 8 a lane
// holds the terms of all the lanes behind it, and what follows the block is added last. Only that
// last step waits for the block behind.
#pragma once

#include <limits>

#include "cpu/isa.h"

namespace alignzoo::cpu {
inline namespace ALIGNZOO_ISA {

// d + m * later; where m is 0 nothing of `later` arrives, not even NaN.
template <class T>
ALIGNZOO_INLINE Wide<T> add_later(const Wide<T>& d, const Wide<T>& m, const Wide<T>& later) {
  return select(m == Wide<T>(T(0)), d, fma(m, later, d));
}

// The factors of the doubling steps, and of what follows the block.
template <class T>
struct Multipliers {
  Wide<T> step[4], after;
};

// 0 stays 0, whatever lies behind it; finite, so that a large product times a sum of 0 is 0 too.
template <class T>
ALIGNZOO_INLINE Wide<T> product(const Wide<T>& m, const Wide<T>& later) {
  const Wide<T> largest(std::numeric_limits<T>::max());
  return select(m == Wide<T>(T(0)), m, min(largest, m * later));
}

template <class T>
ALIGNZOO_INLINE Multipliers<T> multipliers_of(const Wide<T>& m) {
  const Wide<T> one(T(1));
  Multipliers<T> out;
  out.step[0] = m;
  out.step[1] = product(out.step[0], shift_lanes<1>(out.step[0], one));
  out.step[2] = product(out.step[1], shift_lanes<2>(out.step[1], one));
  out.step[3] = product(out.step[2], shift_lanes<4>(out.step[2], one));
  out.after = product(out.step[3], shift_lanes<8>(out.step[3], one));
  return out;
}

template <class T>
ALIGNZOO_INLINE Wide<T> scan_lanes(const Multipliers<T>& m, Wide<T> d, const Wide<T>& later) {
  const Wide<T> zero(T(0));
  d = add_later(d, m.step[0], shift_lanes<1>(d, zero));
  d = add_later(d, m.step[1], shift_lanes<2>(d, zero));
  d = add_later(d, m.step[2], shift_lanes<4>(d, zero));
  d = add_later(d, m.step[3], shift_lanes<8>(d, zero));
  return add_later(d, m.after, later);
}

}  // namespace ALIGNZOO_ISA
}  // namespace alignzoo::cpu
