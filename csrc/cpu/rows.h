// One pass over a row of logits: its maximum and the sums of math/softmax.h.
#pragma once

#include "cpu/formats.h"
#include "cpu/isa.h"
#include "math/softmax.h"

namespace alignzoo::cpu {
inline namespace ALIGNZOO_ISA {

// Logits are taken in chunks of this many, counted from the row's start: the largest is found
// first, and the powers are then summed from the first-level cache.
constexpr int64_t kChunk = 1024;

// Asks for the cache line at an address, which may lie beyond an array's end.
ALIGNZOO_INLINE void prefetch(const void* address) { __builtin_prefetch(address); }

// Elements that one block of rows has about, where each is looked at once.
constexpr int64_t kBlock = 4 * kTile;

// Calls body(begin, end) for blocks of rows, of about `elements` elements each.
template <class Body>
ALIGNZOO_INLINE void for_each_block(const LogitRows& rows, int threads, int64_t elements,
                                    Body body) {
  const int64_t per_block = larger(1, elements / larger(1, rows.vocabulary));
  auto block_body = [&](int64_t block) {
    body(block * per_block, smaller(rows.count, (block + 1) * per_block));
  };
  parallel_for(ceil_div(rows.count, per_block), threads, block_body);
}
template <class Body>
ALIGNZOO_INLINE void for_each_row(const LogitRows& rows, int threads, Body body) {
  for_each_block(rows, threads, kBlock, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) body(row);
  });
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

// Powers of 16 logits at a time.
template <class T>
struct Powers : math::Powers<Wide<T>> {
  ALIGNZOO_INLINE Powers(double largest, double inverse_temperature)
      : math::Powers<Wide<T>>(static_cast<T>(largest), math::PowerScale<T>(inverse_temperature)) {}
};

// Sums of one chunk as they grow, in two strands that take turns.
template <bool kWeighted, class T>
struct ChunkSums {
  Wide<T> sum[2] = {Wide<T>(T(0)), Wide<T>(T(0))}, weighted[2] = {Wide<T>(T(0)), Wide<T>(T(0))};

  ALIGNZOO_INLINE Wide<T> add(const Wide<T>& z, const Powers<T>& powers, int strand) {
    const Wide<T> distance = powers.distance(z);
    const Wide<T> power = powers.of_distance(distance);
    sum[strand] = sum[strand] + power;
    if constexpr (kWeighted) weighted[strand] = fma(power, distance, weighted[strand]);
    return power;
  }
  ALIGNZOO_INLINE double total() const { return static_cast<double>(sum_lanes(sum[0] + sum[1])); }
  ALIGNZOO_INLINE void add_to(math::RowStatistics& row, double inverse_temperature) const {
    row.sum += total();
    if constexpr (kWeighted) {
      const double distances = static_cast<double>(sum_lanes(weighted[0] + weighted[1]));
      row.weighted += inverse_temperature * distances;
    }
  }
};

// The sums of n <= kChunk logits; terms, if not null, receives those of S (16 at a time: room for
// the next multiple).
template <bool kWeighted, class S>
ALIGNZOO_INLINE ChunkSums<kWeighted, Compute<S>> chunk_sums(const S* logits, int64_t n,
                                                            const Powers<Compute<S>>& powers,
                                                            Compute<S>* terms) {
  using T = Compute<S>;
  ChunkSums<kWeighted, T> sums;
  auto take = [&](const Wide<T>& z, int64_t j, int strand) __attribute__((always_inline)) {
    const Wide<T> power = sums.add(z, powers, strand);
    if (terms) store(terms + j, power);
  };
  int64_t j = 0;
  for (; j + 2 * kLanes <= n; j += 2 * kLanes) {
    prefetch(logits + n + j);  // the next row, where rows are short
    prefetch(logits + n + j + kLanes);
    take(load_as_compute(logits + j), j, 0);
    take(load_as_compute(logits + j + kLanes), j + kLanes, 1);
  }
  for (; j < n; j += kLanes) {
    const int left = static_cast<int>(smaller(kLanes, n - j));
    take(left == kLanes ? load_as_compute(logits + j)
                        : load_first(logits + j, left, -static_cast<T>(__builtin_inf())),
         j, 0);
  }
  return sums;
}

// The same for a whole chunk that another follows, whose largest logit is found on the way: the
// loads from memory run beside the arithmetic.
template <bool kWeighted, class S>
ALIGNZOO_INLINE ChunkSums<kWeighted, Compute<S>> chunk_sums_and_next_max(
    const S* logits, const Powers<Compute<S>>& powers, Compute<S>& next_max) {
  using T = Compute<S>;
  ChunkSums<kWeighted, T> sums;
  const Wide<T> lowest(-static_cast<T>(__builtin_inf()));
  Wide<T> largest[2] = {lowest, lowest};
  for (int64_t j = 0; j < kChunk; j += 2 * kLanes) {
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) {
      const S* at = logits + j + i * kLanes;
      largest[i] = max(load_as_compute(at + kChunk), largest[i]);
      sums.add(load_as_compute(at), powers, i);
    }
  }
  next_max = max_lanes(max(largest[0], largest[1]));
  return sums;
}

// The row's statistics. after_chunk(chunk, statistics so far, the chunk's own S) sees each chunk.
template <bool kWeighted, class S, class AfterChunk>
ALIGNZOO_INLINE math::RowStatistics row_statistics(const S* logits, int64_t vocabulary,
                                                   double inverse_temperature,
                                                   AfterChunk after_chunk) {
  using T = Compute<S>;
  math::RowStatistics row{-__builtin_inf(), 0.0, 0.0};
  T found = chunk_max(logits, smaller(kChunk, vocabulary));
  for (int64_t begin = 0; begin < vocabulary; begin += kChunk) {
    const int64_t n = smaller(kChunk, vocabulary - begin);
    const int64_t n_next = smaller(kChunk, vocabulary - begin - n);
    if (static_cast<double>(found) > row.max) {
      math::shift_sums((row.max - static_cast<double>(found)) * inverse_temperature, row.sum,
                       row.weighted);
      row.max = static_cast<double>(found);
    }
    const Powers<T> powers(row.max, inverse_temperature);
    ChunkSums<kWeighted, T> sums;
    if (n_next == kChunk) {
      sums = chunk_sums_and_next_max<kWeighted>(logits + begin, powers, found);
    } else {
      sums = chunk_sums<kWeighted>(logits + begin, n, powers, static_cast<T*>(nullptr));
      found = chunk_max(logits + begin + n, n_next);
    }
    sums.add_to(row, inverse_temperature);
    after_chunk(begin / kChunk, row, sums);
  }
  return row;
}
template <bool kWeighted, class S>
ALIGNZOO_INLINE math::RowStatistics row_statistics(const S* logits, int64_t vocabulary,
                                                   double inverse_temperature) {
  return row_statistics<kWeighted>(
      logits, vocabulary, inverse_temperature,
      [](int64_t, const math::RowStatistics&, const ChunkSums<kWeighted, Compute<S>>&) {});
}

}  // namespace ALIGNZOO_ISA
}  // namespace alignzoo::cpu
