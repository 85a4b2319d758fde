// The largest of a row and where it is, in one read that also finds NaN.
#pragma once

#include "cpu/rows.h"

namespace alignzoo::cpu {
inline namespace ALIGNZOO_ISA {

// Lanes of the magnitudes of numbers as integers, which order NaN above all others.
template <class T>
struct Magnitudes {
  using R = Registers<T>;
  static constexpr typename BitsOf<T>::type kInfinity =
      sizeof(T) == 4 ? 0x7f800000 : static_cast<typename BitsOf<T>::type>(0x7ff0000000000000);
  typename R::Ints reg[R::kCount] = {};

  ALIGNZOO_INLINE void add(const Wide<T>& x) {
    const Wide<T> size = abs(x);
    for (int i = 0; i < R::kCount; ++i) {
      const auto bits = reinterpret_cast<typename R::Ints>(size.reg[i]);
      reg[i] = bits > reg[i] ? bits : reg[i];
    }
  }
  ALIGNZOO_INLINE bool has_nan() const {
    bool found = false;
    for (int i = 0; i < R::kCount; ++i) {
      for (int lane = 0; lane < R::kPer; ++lane) found |= reg[i][lane] > kInfinity;
    }
    return found;
  }
};

// The largest of n numbers, and whether one is NaN.
template <class T>
struct ChunkLargest {
  T value;
  bool has_nan;
};
template <class S>
ALIGNZOO_INLINE ChunkLargest<Compute<S>> chunk_largest(const S* x, int64_t n) {
  using T = Compute<S>;
  const Wide<T> lowest(-static_cast<T>(__builtin_inf()));
  Wide<T> largest[2] = {lowest, lowest};
  Magnitudes<T> magnitudes[2];
  int64_t j = 0;
  for (; j + 2 * kLanes <= n; j += 2 * kLanes) {
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) {
      const Wide<T> v = load_as_compute(x + j + i * kLanes);
      largest[i] = max(v, largest[i]);
      magnitudes[i].add(v);
    }
  }
  for (; j < n; j += kLanes) {
    const int left = static_cast<int>(smaller(kLanes, n - j));
    const Wide<T> v = load_first(x + j, left, -static_cast<T>(__builtin_inf()));
    largest[0] = max(v, largest[0]);
    magnitudes[0].add(v);
  }
  return {max_lanes(max(largest[0], largest[1])),
          magnitudes[0].has_nan() || magnitudes[1].has_nan()};
}

// The largest of a row and the first index it has; NaN and the first NaN's where there is one.
template <class T>
struct Largest {
  T value;
  int64_t index;
};
template <class S>
ALIGNZOO_INLINE Largest<Compute<S>> row_largest(const S* x, int64_t size) {
  using T = Compute<S>;
  ChunkLargest<T> largest{-static_cast<T>(__builtin_inf()), false};
  int64_t begin_of_largest = 0;
  for (int64_t begin = 0; begin < size && !largest.has_nan; begin += kChunk) {
    const ChunkLargest<T> found = chunk_largest(x + begin, smaller(kChunk, size - begin));
    if (found.value > largest.value || found.has_nan) {
      largest = found;
      begin_of_largest = begin;
    }
  }
  const int64_t end = smaller(size, begin_of_largest + kChunk);
  for (int64_t j = begin_of_largest; j < end; ++j) {
    const T v = to_compute(x[j]);
    if (largest.has_nan ? v != v : v == largest.value) return {v, j};
  }
  return {largest.value, begin_of_largest};
}

}  // namespace ALIGNZOO_ISA
}  // namespace alignzoo::cpu
