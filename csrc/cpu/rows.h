// One pass over a row of logits: its maximum and the sums of math/softmax.h.
#pragma once

#include "cpu/formats.h"
#include "cpu/isa.h"
#include "math/softmax.h"

namespace alignzoo::cpu {
inline namespace ALIGNZOO_ISA {

// Logits are taken in chunks of this many, counted from the row's start: the largest is found
// first, and the exponentials are then summed from the first-level cache.
constexpr int64_t kChunk = 1024;

// Asks for the cache line at an address, which may lie beyond an array's end.
ALIGNZOO_INLINE void prefetch(const void* address) { __builtin_prefetch(address); }

template <class Body>
ALIGNZOO_INLINE void for_each_row(const LogitRows& rows, int threads, Body body) {
  const int64_t per_block = larger(1, 4 * kTile / larger(1, rows.vocabulary));
  auto block_body = [&](int64_t block) {
    const int64_t stop = smaller(rows.count, (block + 1) * per_block);
    for (int64_t row = block * per_block; row < stop; ++row) body(row);
  };
  parallel_for(ceil_div(rows.count, per_block), threads, block_body);
}

// The largest of n logits. NaN may be lost: it comes back through the sums.
template <class S>
ALIGNZOO_INLINE Compute<S> chunk_max(const S* logits, int64_t n) {
  using T = Compute<S>;
  const Wide<T> lowest(-static_cast<T>(__builtin_inf()));
  Wide<T> m0 = lowest, m1 = lowest, m2 = lowest, m3 = lowest;
  int64_t j = 0;
  for (; j + 4 * kLanes <= n; j += 4 * kLanes) {
    m0 = max(load_as_compute(logits + j), m0);
    m1 = max(load_as_compute(logits + j + kLanes), m1);
    m2 = max(load_as_compute(logits + j + 2 * kLanes), m2);
    m3 = max(load_as_compute(logits + j + 3 * kLanes), m3);
  }
  for (; j < n; j += kLanes) {
    const int left = static_cast<int>(smaller(kLanes, n - j));
    m0 = max(left == kLanes ? load_as_compute(logits + j)
                            : load_first(logits + j, left, -static_cast<T>(__builtin_inf())),
             m0);
  }
  return max_lanes(max(max(m0, m1), max(m2, m3)));
}

// S and W of n <= kChunk logits relative to `largest`; exponentials, if not null, receives the
// terms of S (16 at a time: room for the next multiple).
template <bool kWeighted, class S>
ALIGNZOO_INLINE void chunk_sums(const S* logits, int64_t n, Compute<S> largest, Compute<S> scale,
                                Compute<S>* exponentials, double& sum, double& weighted) {
  using T = Compute<S>;
  const Wide<T> zero(T(0)), shift(largest), factor(scale), lowest(math::ExpConstants<T>::kLowest);
  Wide<T> s[2] = {zero, zero}, w[2] = {zero, zero};
  auto take = [&](const Wide<T>& z, int64_t j, int i) __attribute__((always_inline)) {
    // Clamped from below, so that the product with an exponential of 0 is 0 even for -inf.
    Wide<T> x = max(lowest, (z - shift) * factor);
    Wide<T> e = math::exp_in_range(x);
    s[i] = s[i] + e;
    if (kWeighted) w[i] = fma(e, x, w[i]);
    if (exponentials) store(exponentials + j, e);
  };
  int64_t j = 0;
  for (; j + 2 * kLanes <= n; j += 2 * kLanes) {
    take(load_as_compute(logits + j), j, 0);
    take(load_as_compute(logits + j + kLanes), j + kLanes, 1);
  }
  for (; j < n; j += kLanes) {
    const int left = static_cast<int>(smaller(kLanes, n - j));
    take(left == kLanes ? load_as_compute(logits + j)
                        : load_first(logits + j, left, -static_cast<T>(__builtin_inf())),
         j, 0);
  }
  sum = static_cast<double>(sum_lanes(s[0] + s[1]));
  weighted = kWeighted ? static_cast<double>(sum_lanes(w[0] + w[1])) : 0.0;
}

// What a chunk's logits are measured from: the largest so far, or 0 while all were -inf, whose
// difference with itself is NaN.
template <class T>
ALIGNZOO_INLINE T finite_shift(double largest) {
  return largest == -__builtin_inf() ? T(0) : static_cast<T>(largest);
}

// The row's statistics. after_chunk(chunk, statistics so far, the chunk's own S) sees each chunk;
// exponentials, if not null, is left with the terms of the last one.
template <bool kWeighted, class S, class AfterChunk>
ALIGNZOO_INLINE math::RowStatistics row_statistics(const S* logits, int64_t vocabulary,
                                                   Compute<S> scale, Compute<S>* exponentials,
                                                   AfterChunk after_chunk) {
  math::RowStatistics row{-__builtin_inf(), 0.0, 0.0};
  for (int64_t begin = 0; begin < vocabulary; begin += kChunk) {
    const int64_t n = smaller(kChunk, vocabulary - begin);
    const Compute<S> found = chunk_max(logits + begin, n);
    if (begin == 0) {
      row.max = found;
    } else if (found > row.max) {
      math::shift_sums((row.max - static_cast<double>(found)) * static_cast<double>(scale), row.sum,
                       row.weighted);
      row.max = found;
    }
    double sum, weighted;
    chunk_sums<kWeighted>(logits + begin, n, finite_shift<Compute<S>>(row.max), scale, exponentials,
                          sum, weighted);
    row.sum += sum;
    row.weighted += weighted;
    after_chunk(begin / kChunk, row, sum);
  }
  return row;
}
template <bool kWeighted, class S>
ALIGNZOO_INLINE math::RowStatistics row_statistics(const S* logits, int64_t vocabulary,
                                                   Compute<S> scale) {
  return row_statistics<kWeighted>(logits, vocabulary, scale, static_cast<Compute<S>*>(nullptr),
                                   [](int64_t, const math::RowStatistics&, double) {});
}

}  // namespace ALIGNZOO_ISA
}  // namespace alignzoo::cpu
