// Where in a row the cumulative sum of weights passes a threshold, found by a block: the row is cut
// into a part for each warp, the part that holds the place into parts again, until one is as small
// as a warp can look at. Sums follow the order of indices at every step.
//
// A weight is a function weigh(position, logit), 0 for -inf.
#pragma once

#include "cuda/rows.h"

namespace alignzoo::cuda {

ALIGNZOO_DEVICE int lane_of_thread() { return static_cast<int>(threadIdx.x) % kWarp; }
ALIGNZOO_DEVICE int warp_of_thread() { return static_cast<int>(threadIdx.x) / kWarp; }

// A row of logits where it lies. A warp visits kPiece of them at once: by 16-byte loads if `whole`,
// where the row starts on 16 bytes, else one by one, which is short code and meets the first-level
// cache.
template <class S>
struct StoredRow {
  using Storage = S;
  using Number = Compute<S>;
  static constexpr int kPer = kPerLoad<S>, kLoads = 2;
  static constexpr int kPiece = kWarp * kPer * kLoads;
  const S* logits;
  int64_t size;
  bool whole;

  ALIGNZOO_DEVICE StoredRow(const S* start, int64_t count)
      : logits(start), size(count), whole(fits_pack(start)) {}
  ALIGNZOO_DEVICE int64_t index(int64_t position) const { return position; }
  // Calls body(position, kPer logits from there on) for each of the lane's loads; -inf behind the
  // end.
  template <class Body>
  ALIGNZOO_DEVICE void visit(int64_t begin, int lane, Body body) const {
    const int64_t own = begin + lane * kPer;
    Number z[kLoads][kPer];
    if (whole && begin + kPiece <= size) {
      Words words[kLoads];
      ALIGNZOO_UNROLL
      for (int l = 0; l < kLoads; ++l) words[l] = load_words(logits + own + l * kWarp * kPer);
      ALIGNZOO_UNROLL
      for (int l = 0; l < kLoads; ++l) {
        const Elements<S> stored = elements_of<S>(words[l]);
        ALIGNZOO_UNROLL
        for (int i = 0; i < kPer; ++i) z[l][i] = math::to_compute(stored.at[i]);
      }
    } else {
      ALIGNZOO_UNROLL
      for (int l = 0; l < kLoads; ++l) {
        ALIGNZOO_UNROLL
        for (int i = 0; i < kPer; ++i) {
          const int64_t at = own + l * kWarp * kPer + i;
          z[l][i] =
              at < size ? math::to_compute(logits[at]) : -static_cast<Number>(__builtin_inf());
        }
      }
    }
    ALIGNZOO_UNROLL
    for (int l = 0; l < kLoads; ++l) body(own + l * kWarp * kPer, z[l]);
  }
};

// Some logits of a row, by rising index, in shared memory.
template <class S>
struct ListedRow {
  using Storage = S;
  using Number = Compute<S>;
  static constexpr int kPer = 1, kLoads = 2;
  static constexpr int kPiece = kWarp * kLoads;
  const Number* logits;
  const int64_t* indices;
  int64_t size;

  ALIGNZOO_DEVICE int64_t index(int64_t position) const { return indices[position]; }
  template <class Body>
  ALIGNZOO_DEVICE void visit(int64_t begin, int lane, Body body) const {
    ALIGNZOO_UNROLL
    for (int l = 0; l < kLoads; ++l) {
      const int64_t at = begin + l * kWarp + lane;
      const Number z[1] = {at < size ? logits[at] : -static_cast<Number>(__builtin_inf())};
      body(at, z);
    }
  }
};

// Logits of [0, n) that each warp of a block takes, in whole pieces.
template <class Row, int kThreads>
ALIGNZOO_DEVICE int64_t part_size(int64_t n) {
  return ceil_div(n, int64_t{Row::kPiece} * (kThreads / kWarp)) * Row::kPiece;
}

// body as in visit, for this warp's part of [begin, end).
template <int kThreads, class Row, class Body>
ALIGNZOO_DEVICE void visit_part(const Row& row, int64_t begin, int64_t end, Body body) {
  const int64_t part = part_size<Row, kThreads>(end - begin);
  const int64_t first = begin + warp_of_thread() * part, last = smaller(end, first + part);
  for (int64_t at = first; at < last; at += Row::kPiece) row.visit(at, lane_of_thread(), body);
}

// The sum of the lanes' numbers up to and with this lane's.
template <class T>
ALIGNZOO_DEVICE T sum_up_to_lane(T value, int lane) {
  for (int distance = 1; distance < kWarp; distance *= 2) {
    const T below = __shfl_up_sync(kAllLanes, value, static_cast<unsigned>(distance));
    if (lane >= distance) value += below;
  }
  return value;
}
// The same without this lane's.
template <class T>
ALIGNZOO_DEVICE T sum_below_lane(T up_to_lane, int lane) {
  const T below = __shfl_up_sync(kAllLanes, up_to_lane, 1u);
  return lane == 0 ? T(0) : below;
}

// The part in which the cumulative sum of masses passes the threshold, or the last that has any; -1
// where none has. Every lane of the warp has the result.
struct Place {
  int64_t part;
  double before;  // the sum up to the part
};
template <class MassOf>
ALIGNZOO_DEVICE Place find_part(int64_t count, double before, double threshold, int lane,
                                MassOf mass_of) {
  Place place{-1, before};
  for (int64_t first = 0; first < count; first += kWarp) {
    const double mass = first + lane < count ? mass_of(first + lane) : 0.0;
    const double up_to = sum_up_to_lane(mass, lane), below = sum_below_lane(up_to, lane);
    const uint32_t has = __ballot_sync(kAllLanes, mass > 0);
    const uint32_t passes = __ballot_sync(kAllLanes, mass > 0 && before + up_to > threshold);
    if (has != 0) {
      const int found = passes != 0 ? __ffs(static_cast<int>(passes)) - 1
                                    : kWarp - 1 - __clz(static_cast<int>(has));
      place = {first + found, before + __shfl_sync(kAllLanes, below, found)};
      if (passes != 0) break;
    }
    before += __shfl_sync(kAllLanes, up_to, kWarp - 1);
  }
  return place;
}

template <int kThreads>
struct LocateRoom {
  double mass[kThreads / kWarp];
  int64_t found;
};

// The mass of each warp's part of [begin, end), into room.mass.
template <int kThreads, class Row, class Weigh>
ALIGNZOO_DEVICE void weigh_parts(const Row& row, int64_t begin, int64_t end, Weigh weigh,
                                 LocateRoom<kThreads>& room) {
  using T = typename Row::Number;
  double own = 0;
  visit_part<kThreads>(row, begin, end, [&](int64_t at, const T(&z)[Row::kPer]) {
    T mass = 0;
    for (int i = 0; i < Row::kPer; ++i) mass += weigh(at + i, z[i]);
    own += static_cast<double>(mass);
  });
  own = warp_reduce(own, Add{});
  __syncthreads();  // the masses before have been read
  if (lane_of_thread() == 0) room.mass[warp_of_thread()] = own;
  __syncthreads();
}

// Within a piece: the first position whose weight carries the sum past the threshold, or the last
// that has any; -1 where none has. For one warp, all of whose lanes have the result.
template <class Row, class Weigh>
ALIGNZOO_DEVICE int64_t pick(const Row& row, int64_t begin, double before, double threshold,
                             Weigh weigh, int lane) {
  using T = typename Row::Number;
  int64_t passed = -1, last = -1;
  row.visit(begin, lane, [&](int64_t at, const T(&z)[Row::kPer]) {
    T mass[Row::kPer];
    double own = 0;
    for (int i = 0; i < Row::kPer; ++i) {
      mass[i] = weigh(at + i, z[i]);
      own += static_cast<double>(mass[i]);
    }
    const double up_to = sum_up_to_lane(own, lane);
    double cumulative = before + sum_below_lane(up_to, lane);
    int passing = -1, weighing = -1;
    for (int i = 0; i < Row::kPer; ++i) {
      cumulative += static_cast<double>(mass[i]);
      if (!(mass[i] > 0)) continue;
      weighing = i;
      if (passing < 0 && cumulative > threshold) passing = i;
    }
    const uint32_t passes = __ballot_sync(kAllLanes, passing >= 0),
                   has = __ballot_sync(kAllLanes, weighing >= 0);
    if (passes != 0 && passed < 0) {
      passed = __shfl_sync(kAllLanes, at + passing, __ffs(static_cast<int>(passes)) - 1);
    }
    if (has != 0) {
      last = __shfl_sync(kAllLanes, at + weighing, kWarp - 1 - __clz(static_cast<int>(has)));
    }
    before += __shfl_sync(kAllLanes, up_to, kWarp - 1);
  });
  return passed >= 0 ? passed : last;
}

// The first position in [begin, end) whose weight carries the sum, `before` at `begin`, past the
// threshold; where rounding lets none do so, the last that has any; -1 where none has. Every thread
// of the block has the result.
template <int kThreads, class Row, class Weigh>
ALIGNZOO_DEVICE int64_t locate(const Row& row, int64_t begin, int64_t end, double before,
                               double threshold, Weigh weigh, LocateRoom<kThreads>& room) {
  static_assert(kThreads > kWarp, "a part of a part must be smaller");
  const int lane = lane_of_thread();
  while (end - begin > Row::kPiece) {
    weigh_parts(row, begin, end, weigh, room);
    const Place place = find_part(kThreads / kWarp, before, threshold, lane,
                                  [&](int64_t part) { return room.mass[part]; });
    if (place.part < 0) return -1;
    const int64_t part = part_size<Row, kThreads>(end - begin);
    begin += place.part * part;
    end = smaller(end, begin + part);
    before = place.before;
  }
  __syncthreads();  // what was found before has been read
  if (warp_of_thread() == 0) {
    const int64_t found = pick(row, begin, before, threshold, weigh, lane);
    if (lane == 0) room.found = found;
  }
  __syncthreads();
  return room.found;
}

}  // namespace alignzoo::cuda
