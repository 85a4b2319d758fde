// Pieces of logit rows in the registers of a group of threads (a warp or a block), and their
// statistics.
//
// Which logit is whose depends on its index in the row alone, so that a row's sums are the same
// wherever it lies in memory: rows that do not start on 16 bytes cost some more instructions, and
// nothing else.
#pragma once

#include <type_traits>

#include "cuda/reduce.h"
#include "cuda/row_plan.h"
#include "math/softmax.h"
#include "math/storage.h"

namespace alignzoo::cuda {

using math::Compute;

// Division of numbers below 2^62 by one known at the launch, as a multiplication: Granlund and
// Montgomery 1994, "Division by invariant integers using multiplication".
class Divider {
 public:
  explicit Divider(int64_t by) {
    while (int64_t{1} << shift_ < by) ++shift_;
    using Wide = unsigned __int128;
    if (by > 0) magic_ = static_cast<uint64_t>((Wide{1} << (62 + shift_)) / Wide(by) + 1) << 1;
  }
  ALIGNZOO_PLAIN int64_t quotient(int64_t n) const {
    const uint64_t twice = static_cast<uint64_t>(n) << 1;
#if defined(__CUDA_ARCH__)
    return static_cast<int64_t>(__umul64hi(twice, magic_) >> shift_);
#else
    return static_cast<int64_t>((static_cast<unsigned __int128>(twice) * magic_) >> 64 >> shift_);
#endif
  }

 private:
  uint64_t magic_ = 0;
  int shift_ = 0;
};

// LogitRows, with the division that finds a row prepared.
struct RowPlaces {
  LogitRows rows;
  Divider inner;

  explicit RowPlaces(const LogitRows& of) : rows(of), inner(of.inner) {}
  ALIGNZOO_PLAIN int64_t offset(int64_t i) const {
    const int64_t outer = inner.quotient(i);
    return outer * rows.outer_stride + (i - outer * rows.inner) * rows.inner_stride;
  }
};

// The work of one group of threads, numbered through: a piece of a row.
struct Piece {
  int64_t row, piece;
};
// How the rows are cut: `pieces` of each, one group of kThreads threads for one of them.
struct Pieces {
  int64_t count;  // of all rows
  Divider of_row;
  int64_t each;

  Pieces(int64_t rows, int64_t pieces) : count(rows * pieces), of_row(pieces), each(pieces) {}
  ALIGNZOO_PLAIN Piece at(int64_t unit) const {
    const int64_t row = of_row.quotient(unit);
    return {row, unit - row * each};
  }
};
// Calls body(unit, thread of the group) for the units of this thread's group, one after the other.
template <int kThreads, int kBlockThreads = kRowThreads, class Body>
ALIGNZOO_DEVICE void for_each_unit(int64_t units, Body body) {
  constexpr int kGroups = kBlockThreads / kThreads;
  const int thread = static_cast<int>(threadIdx.x) % kThreads;
  int64_t unit = static_cast<int64_t>(blockIdx.x) * kGroups + threadIdx.x / kThreads;
  for (; unit < units; unit += static_cast<int64_t>(gridDim.x) * kGroups) body(unit, thread);
}
template <int kThreads, int kBlockThreads = kRowThreads>
int64_t blocks_of_units(int64_t units) {
  return blocks_for(units, kBlockThreads / kThreads);
}

// 16 bytes of a row.
using Words = Pack<uint32_t, 4>;

ALIGNZOO_DEVICE Words load_words(const void* from) {
#if defined(ALIGNZOO_EMULATE_CUDA)
  if (!fits_pack(from)) emulator::fail("a load from an address it cannot take");
  Words words;
  memcpy(&words, from, sizeof words);
  return words;
#else
  return *static_cast<const Words*>(from);
#endif
}
ALIGNZOO_DEVICE void store_words(void* to, const Words& words) {
#if defined(ALIGNZOO_EMULATE_CUDA)
  if (!fits_pack(to)) emulator::fail("a store to an address it cannot take");
  memcpy(to, &words, sizeof words);
#else
  *static_cast<Words*>(to) = words;
#endif
}

template <class S>
struct Elements {
  S at[kPerLoad<S>];
};
template <class S>
ALIGNZOO_DEVICE Elements<S> elements_of(const Words& words) {
  Elements<S> out;
  if constexpr (sizeof(S) == 2) {
    for (int i = 0; i < kPerLoad<S>; ++i) {
      out.at[i].bits = static_cast<uint16_t>(words.at[i / 2] >> (i % 2 * 16));
    }
  } else {
    memcpy(&out, &words, sizeof out);
  }
  return out;
}
template <class S>
ALIGNZOO_DEVICE Words words_of(const Elements<S>& elements) {
  Words out;
  if constexpr (sizeof(S) == 2) {
    for (int i = 0; i < 4; ++i) {
      out.at[i] = elements.at[2 * i].bits | uint32_t{elements.at[2 * i + 1].bits} << 16;
    }
  } else {
    memcpy(&out, &elements, sizeof out);
  }
  return out;
}
template <class S>
ALIGNZOO_DEVICE S minus_infinity() {
  S out;
  math::from_compute(-static_cast<Compute<S>>(__builtin_inf()), out);
  return out;
}
template <>
ALIGNZOO_DEVICE Bfloat16 minus_infinity() {
  return {0xff80u};
}
template <>
ALIGNZOO_DEVICE Float16 minus_infinity() {
  return {0xfc00u};
}

// kCount logits a thread. Load l of thread t holds those with the numbers [number(l, t), + kPer)
// from the piece's beginning.
template <class S, int kThreads, int kCount>
struct Held {
  static constexpr int kPer = kPerLoad<S>, kLoads = kCount / kPer;
  static constexpr int kRound = kThreads * kPer, kAll = kThreads * kCount;
  static_assert(kCount % kPer == 0, "whole loads");
  Words load[kLoads];

  static ALIGNZOO_DEVICE int number(int l, int thread) { return l * kRound + thread * kPer; }
};

// The 16 bytes from `bytes` (2 to 14, even) within two loads that follow one another; kWord is
// bytes / 4.
template <int kWord>
ALIGNZOO_DEVICE Words straddling(const Words& low, const Words& high, int bytes) {
  const int bits = bytes % 4 * 8;
  uint32_t all[8];
  for (int i = 0; i < 4; ++i) all[i] = low.at[i], all[i + 4] = high.at[i];
  Words out;
  ALIGNZOO_UNROLL
  for (int i = 0; i < 4; ++i) {
    const uint64_t both = uint64_t{all[kWord + i + (kWord + i < 7)]} << 32 | all[kWord + i];
    out.at[i] = static_cast<uint32_t>(both >> bits);
  }
  return out;
}

// Which numbers of a piece exist: [first, count). first > 0 only where the piece begins before the
// row does.
struct Extent {
  int first, count;
};
template <int kAll>
ALIGNZOO_DEVICE Extent extent_of(int64_t begin, int64_t vocabulary) {
  return {begin < 0 ? static_cast<int>(-begin) : 0,
          static_cast<int>(smaller(vocabulary - begin, kAll))};
}

// hold, of 2-byte elements whose addresses straddle those of 16-byte loads.
template <int kWord, class S, int kThreads, int kCount>
ALIGNZOO_DEVICE void hold_straddling(const S* from, int bytes, int lowest, int highest, int thread,
                                     Held<S, kThreads, kCount>& held) {
  using H = Held<S, kThreads, kCount>;
  const int before = bytes / static_cast<int>(sizeof(S));
  ALIGNZOO_UNROLL
  for (int l = 0; l < H::kLoads; ++l) {
    const int at = H::number(l, thread) - before;
    if (at >= lowest && at + 2 * H::kPer <= highest) {
      held.load[l] =
          straddling<kWord>(load_words(from + at), load_words(from + at + H::kPer), bytes);
    }
  }
}

// Loads [begin, begin + kAll) of a row by a group of kThreads threads, of which this is `thread`;
// -inf where the row has no such index (`begin` may be below 0). Returns which numbers exist.
template <class S, int kThreads, int kCount>
ALIGNZOO_DEVICE Extent hold(const S* row, int64_t vocabulary, int64_t begin, int thread,
                            Held<S, kThreads, kCount>& held) {
  using H = Held<S, kThreads, kCount>;
  constexpr int kPer = H::kPer;
  const Extent extent = extent_of<H::kAll>(begin, vocabulary);
  const S* from = row + begin;
  const int bytes = static_cast<int>(reinterpret_cast<uintptr_t>(from) % 16);
  const bool whole = extent.first == 0 && extent.count == H::kAll;
  if (bytes == 0 && whole) {
    const S* mine = from + H::number(0, thread);
    ALIGNZOO_UNROLL
    for (int l = 0; l < H::kLoads; ++l) held.load[l] = load_words(mine + l * H::kRound);
    return extent;
  }
  Elements<S> nothing;
  for (int i = 0; i < kPer; ++i) nothing.at[i] = minus_infinity<S>();
  ALIGNZOO_UNROLL
  for (int l = 0; l < H::kLoads; ++l) held.load[l] = words_of(nothing);
  // Loads that touch numbers in [lowest, highest) alone stay within the row.
  int lowest = extent.first, highest = extent.count;
  bool one_by_one = false;  // the loads that those above leave
  if (bytes == 0) {
    ALIGNZOO_UNROLL
    for (int l = 0; l < H::kLoads; ++l) {
      const int at = H::number(l, thread);
      if (at >= lowest && at + kPer <= highest) held.load[l] = load_words(from + at);
    }
    one_by_one = lowest > 0 || highest % kPer != 0;
  } else if constexpr (sizeof(S) == 2) {
    lowest = begin > kPer ? -kPer : -static_cast<int>(begin);
    highest = static_cast<int>(smaller(vocabulary - begin, H::kAll + kPer));
    switch (bytes / 4) {
      case 0:
        hold_straddling<0>(from, bytes, lowest, highest, thread, held);
        break;
      case 1:
        hold_straddling<1>(from, bytes, lowest, highest, thread, held);
        break;
      case 2:
        hold_straddling<2>(from, bytes, lowest, highest, thread, held);
        break;
      default:
        hold_straddling<3>(from, bytes, lowest, highest, thread, held);
        break;
    }
    one_by_one = lowest > -kPer || highest < H::kAll + kPer;
  } else {
    lowest = highest = 0;
    one_by_one = true;
  }
  if (one_by_one) {
    const int before = sizeof(S) == 2 ? bytes / static_cast<int>(sizeof(S)) : 0;
    ALIGNZOO_UNROLL
    for (int l = 0; l < H::kLoads; ++l) {
      const int at = H::number(l, thread), touched = before > 0 ? 2 * kPer : kPer;
      if (at - before >= lowest && at - before + touched <= highest) continue;
      Elements<S> some = nothing;
      ALIGNZOO_UNROLL
      for (int i = 0; i < kPer; ++i) {
        if (at + i >= extent.first && at + i < extent.count) some.at[i] = from[at + i];
      }
      held.load[l] = words_of(some);
    }
  }
  return extent;
}

// Calls body(number, logits of one load) for the loads that are not wholly behind `count`.
template <class S, int kThreads, int kCount, class Body>
ALIGNZOO_DEVICE void for_each_load(const Held<S, kThreads, kCount>& held, int count, int thread,
                                   Body body) {
  using H = Held<S, kThreads, kCount>;
  ALIGNZOO_UNROLL
  for (int l = 0; l < H::kLoads; ++l) {
    if (l * H::kRound < count) body(H::number(l, thread), elements_of<S>(held.load[l]));
  }
}

// For gradients, whose rows are contiguous: pieces begin at the last address of 16 bytes at or
// before the row's start, this many elements before it.
template <class S>
ALIGNZOO_DEVICE int elements_before(const S* row) {
  return static_cast<int>(reinterpret_cast<uintptr_t>(row) % 16 / sizeof(S));
}
// Pieces of `all` numbers that each such row is cut into; the first row is at `gradient`.
template <class S>
int64_t aligned_pieces(int64_t vocabulary, int64_t all, const S* gradient) {
  const bool starts_fit = vocabulary % kPerLoad<S> == 0 && fits_pack(gradient);
  return ceil_div(vocabulary + (starts_fit ? 0 : kPerLoad<S> - 1), all);
}

// Writes the numbers of one load that exist to `to`, where number 0 of the piece lies.
template <class S>
ALIGNZOO_DEVICE void put(S* to, int number, const Extent& extent,
                         const Compute<S> (&values)[kPerLoad<S>]) {
  Elements<S> out;
  ALIGNZOO_UNROLL
  for (int i = 0; i < kPerLoad<S>; ++i) math::from_compute(values[i], out.at[i]);
  if (number >= extent.first && number + kPerLoad<S> <= extent.count && fits_pack(to + number)) {
    store_words(to + number, words_of(out));
    return;
  }
  ALIGNZOO_UNROLL
  for (int i = 0; i < kPerLoad<S>; ++i) {
    if (number + i >= extent.first && number + i < extent.count) to[number + i] = out.at[i];
  }
}

// Writes `value` over a piece of kThreads * kLoads loads.
template <class S, int kThreads, int kLoads>
ALIGNZOO_DEVICE void fill(S* row, int64_t vocabulary, int64_t begin, int thread, Compute<S> value) {
  using H = Held<S, kThreads, kLoads * kPerLoad<S>>;
  const Extent extent = extent_of<H::kAll>(begin, vocabulary);
  Compute<S> values[kPerLoad<S>];
  for (int i = 0; i < kPerLoad<S>; ++i) values[i] = value;
  for (int l = 0; l < kLoads; ++l) {
    if (l * H::kRound < extent.count) put(row + begin, H::number(l, thread), extent, values);
  }
}

// The larger of two numbers, or that which is no NaN.
ALIGNZOO_DEVICE float larger_number(float a, float b) { return fmaxf(a, b); }
ALIGNZOO_DEVICE double larger_number(double a, double b) { return fmax(a, b); }

struct LargerNumber {
  template <class T>
  ALIGNZOO_DEVICE T operator()(T a, T b) const {
    return larger_number(a, b);
  }
};
// NaN where one of the two is, else the larger.
struct LargerOrNan {
  ALIGNZOO_DEVICE float operator()(float a, float b) const {
#if defined(__CUDA_ARCH__)
    return math::max_or_nan(a, b);
#else
    return a > b || a != a ? a : b;
#endif
  }
  ALIGNZOO_DEVICE double operator()(double a, double b) const { return a > b || a != a ? a : b; }
};

// Element by element, in storage format: NaN where kNan and one of the two is, else the larger, or
// that which is no NaN.
template <class S, bool kNan>
ALIGNZOO_DEVICE Words larger_words(const Words& a, const Words& b) {
#if defined(__CUDA_ARCH__)
  if constexpr (sizeof(S) == 2) {
    Words out;
    ALIGNZOO_UNROLL
    for (int i = 0; i < 4; ++i) {
      const uint32_t x = a.at[i], y = b.at[i];
      constexpr bool kBfloat = std::is_same_v<S, Bfloat16>;
      if constexpr (kBfloat && kNan) {
        asm("max.NaN.bf16x2 %0, %1, %2;" : "=r"(out.at[i]) : "r"(x), "r"(y));
      } else if constexpr (kBfloat) {
        asm("max.bf16x2 %0, %1, %2;" : "=r"(out.at[i]) : "r"(x), "r"(y));
      } else if constexpr (kNan) {
        asm("max.NaN.f16x2 %0, %1, %2;" : "=r"(out.at[i]) : "r"(x), "r"(y));
      } else {
        asm("max.f16x2 %0, %1, %2;" : "=r"(out.at[i]) : "r"(x), "r"(y));
      }
    }
    return out;
  }
#endif
  const Elements<S> x = elements_of<S>(a), y = elements_of<S>(b);
  Elements<S> larger;
  for (int i = 0; i < kPerLoad<S>; ++i) {
    const Compute<S> p = math::to_compute(x.at[i]), q = math::to_compute(y.at[i]);
    if constexpr (kNan) {
      math::from_compute(LargerOrNan{}(p, q), larger.at[i]);
    } else {
      math::from_compute(larger_number(p, q), larger.at[i]);
    }
  }
  return words_of(larger);
}

// The largest of a thread's own logits. NaN is the result where kNan, else lost: it comes back
// through the sums.
template <bool kNan = false, class S, int kThreads, int kCount>
ALIGNZOO_DEVICE Compute<S> largest_held(const Held<S, kThreads, kCount>& held) {
  using T = Compute<S>;
  Words largest = held.load[0];
  ALIGNZOO_UNROLL
  for (int l = 1; l < Held<S, kThreads, kCount>::kLoads; ++l) {
    largest = larger_words<S, kNan>(largest, held.load[l]);
  }
  const Elements<S> each = elements_of<S>(largest);
  T out = -static_cast<T>(__builtin_inf());
  for (int i = 0; i < kPerLoad<S>; ++i) {
    const T x = math::to_compute(each.at[i]);
    out = kNan ? LargerOrNan{}(out, x) : larger_number(out, x);
  }
  return out;
}

constexpr int kMostSums = 3;

// Room in the block's shared memory for what follows. Where several warps of a block are each a
// group, none is needed.
template <class T, int kThreads>
struct GroupRoom {
  static constexpr int kWarps = kThreads / kWarp;
  T largest[kWarps];
  double sums[kMostSums][kWarps];
};

// Every thread of the group has the result. Between two calls with one room there must be another
// barrier of the group.
template <int kThreads, class T, class Combine = Larger>
ALIGNZOO_DEVICE T group_max(T value, int thread, GroupRoom<T, kThreads>& room,
                            Combine combine = {}) {
  value = warp_reduce(value, combine);
  if constexpr (kThreads > kWarp) {
    if (thread % kWarp == 0) room.largest[thread / kWarp] = value;
    __syncthreads();
    value = room.largest[0];
    for (int w = 1; w < kThreads / kWarp; ++w) value = combine(value, room.largest[w]);
  }
  return value;
}

// Thread 0 of the group has the result, in double. Between two calls with one room there must be
// another barrier of the group.
template <int kSums, int kThreads, class T>
ALIGNZOO_DEVICE void group_sums(const T (&own)[kSums], int thread, GroupRoom<T, kThreads>& room,
                                double (&out)[kSums]) {
  static_assert(kSums <= kMostSums, "GroupRoom has room for so many");
  ALIGNZOO_UNROLL
  for (int i = 0; i < kSums; ++i) out[i] = static_cast<double>(warp_reduce(own[i], Add{}));
  if constexpr (kThreads > kWarp) {
    if (thread % kWarp == 0) {
      for (int i = 0; i < kSums; ++i) room.sums[i][thread / kWarp] = out[i];
    }
    __syncthreads();
    if (thread == 0) {
      for (int i = 0; i < kSums; ++i) {
        for (int w = 1; w < kThreads / kWarp; ++w) out[i] += room.sums[i][w];
      }
    }
  }
}

// Of what the group holds: every thread has the maximum, thread 0 has the sums (math/softmax.h).
// Logits from `count` on are -inf. Each exponential is taken once.
template <bool kWeighted, class S, int kThreads, int kCount>
ALIGNZOO_DEVICE math::RowStatistics held_statistics(const Held<S, kThreads, kCount>& held,
                                                    int count,
                                                    const math::PowerScale<Compute<S>>& scale,
                                                    double inverse_temperature, int thread,
                                                    GroupRoom<Compute<S>, kThreads>& room) {
  using T = Compute<S>;
  const T largest = group_max<kThreads>(largest_held(held), thread, room, LargerNumber{});
  const math::Powers<T> powers(largest, scale);
  T sum[2] = {}, weighted[2] = {};
  for_each_load(held, count, thread, [&](int, const Elements<S>& logits) {
    ALIGNZOO_UNROLL
    for (int i = 0; i < kPerLoad<S>; ++i) {
      const T distance = powers.distance(math::to_compute(logits.at[i]));
      // What is stored in 2 bytes is known to 2^-9 or 2^-12 of its size: there the powers are those
      // of the rounded exponents, which saves a quarter of the instructions.
      const T power = sizeof(S) == 2 ? math::exp2_of_rounded_product(distance, scale.factor)
                                     : powers.of_distance(distance);
      sum[i % 2] += power;
      if constexpr (kWeighted) weighted[i % 2] = math::fma(power, distance, weighted[i % 2]);
    }
  });
  math::RowStatistics out{static_cast<double>(largest), 0.0, 0.0};
  if constexpr (kWeighted) {
    const T own[2] = {sum[0] + sum[1], weighted[0] + weighted[1]};
    double sums[2];
    group_sums(own, thread, room, sums);
    out.sum = sums[0];
    out.weighted = inverse_temperature * sums[1];
  } else {
    const T own[1] = {sum[0] + sum[1]};
    double sums[1];
    group_sums(own, thread, room, sums);
    out.sum = sums[0];
  }
  return out;
}

// Of a whole row, from those of its segments; every lane of the warp has the result.
ALIGNZOO_DEVICE math::RowStatistics merge_statistics(const math::RowStatistics* segments,
                                                     int64_t count, double inverse_temperature,
                                                     int lane) {
  double largest = -__builtin_inf();
  for (int64_t i = lane; i < count; i += kWarp) largest = larger_number(largest, segments[i].max);
  largest = warp_reduce(largest, Larger{});
  math::RowStatistics out{largest, 0.0, 0.0};
  for (int64_t i = lane; i < count; i += kWarp) {
    math::RowStatistics one = segments[i];
    math::shift_sums((one.max - largest) * inverse_temperature, one.sum, one.weighted);
    out.sum += one.sum;
    out.weighted += one.weighted;
  }
  out.sum = warp_reduce(out.sum, Add{});
  out.weighted = warp_reduce(out.weighted, Add{});
  return out;
}

}  // namespace alignzoo::cuda
