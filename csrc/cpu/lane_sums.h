// Sums over many vectors: in lanes of their own type for a while, then in lanes of double.
#pragma once

#include "cpu/isa.h"

namespace alignzoo::cpu {
inline namespace ALIGNZOO_ISA {

template <class T, int kSums>
struct LaneSums {
  static constexpr int64_t kVectors = 16;  // between two flushes
  Wide<T> near[kSums];
  F64 far[kSums];

  ALIGNZOO_INLINE LaneSums() {
    for (int i = 0; i < kSums; ++i) {
      near[i] = Wide<T>(T(0));
      far[i] = F64(0.0);
    }
  }
  ALIGNZOO_INLINE void add(int i, const Wide<T>& x) { near[i] = near[i] + x; }
  ALIGNZOO_INLINE void flush() {
    for (int i = 0; i < kSums; ++i) {
      far[i] = far[i] + widen(near[i]);
      near[i] = Wide<T>(T(0));
    }
  }
  ALIGNZOO_INLINE double total(int i) const { return sum_lanes(far[i]); }

  // for_each_vector with a flush every kVectors.
  template <class Body>
  ALIGNZOO_INLINE void over(int64_t begin, int64_t end, Body body) {
    for (int64_t t = begin; t < end; t += kVectors * kLanes) {
      for_each_vector(t, smaller(end, t + kVectors * kLanes), body);
      flush();
    }
  }
};

}  // namespace ALIGNZOO_ISA
}  // namespace alignzoo::cpu
