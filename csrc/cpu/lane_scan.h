// y_i = d_i + m_i y_{i+1} within 16 lanes, by doubling: after the steps of 1, 2, 4 and 8 a lane
// holds the terms of all the lanes behind it, and what follows the block is added last. Only that
// last step waits for the block behind.
#pragma once

#include "cpu/isa.h"
#include "math/advantages.h"

namespace alignzoo::cpu {
inline namespace ALIGNZOO_ISA {

// The factors of the doubling steps, and of what follows the block.
template <class T>
struct Multipliers {
  Wide<T> step[4], after;
};

template <class T>
ALIGNZOO_INLINE Multipliers<T> multipliers_of(const Wide<T>& m) {
  const Wide<T> one(T(1));
  Multipliers<T> out;
  out.step[0] = m;
  out.step[1] = math::product(out.step[0], shift_lanes<1>(out.step[0], one));
  out.step[2] = math::product(out.step[1], shift_lanes<2>(out.step[1], one));
  out.step[3] = math::product(out.step[2], shift_lanes<4>(out.step[2], one));
  out.after = math::product(out.step[3], shift_lanes<8>(out.step[3], one));
  return out;
}

template <class T>
ALIGNZOO_INLINE Wide<T> scan_lanes(const Multipliers<T>& m, Wide<T> d, const Wide<T>& later) {
  const Wide<T> zero(T(0));
  d = math::add_later(d, m.step[0], shift_lanes<1>(d, zero));
  d = math::add_later(d, m.step[1], shift_lanes<2>(d, zero));
  d = math::add_later(d, m.step[2], shift_lanes<4>(d, zero));
  d = math::add_later(d, m.step[3], shift_lanes<8>(d, zero));
  return math::add_later(d, m.after, later);
}

}  // namespace ALIGNZOO_ISA
}  // namespace alignzoo::cpu
