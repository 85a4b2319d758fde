// Top-k and top-p on one row by a block: which tokens, by falling logit and rising index, come
// before their measure (their number, or their mass) has reached a target. The twin of cpu/cut.h.
//
// No sort: each pass over the row takes the measure above kLimits logits at once. When few tokens
// lie between the two limits that enclose the last one kept, they are listed in shared memory and
// the passes go on over the list.
#pragma once

#include "cuda/locate.h"
#include "math/order.h"

namespace alignzoo::cuda {

constexpr int kLimits = 3;  // quarters: two bits a pass

constexpr int64_t kAllIndices = INT64_MAX;

// Which tokens stay: those above `high`, and those above `low` at an index up to `last`.
template <class T>
struct Kept {
  T low, high;
  int64_t last;

  template <class Row>
  ALIGNZOO_DEVICE bool has(const Row& row, int64_t position, T z) const {
    return z > high || (z > low && row.index(position) <= last);
  }
};

// Number and mass of the tokens above a limit.
struct Above {
  double count, mass;
};
enum class Measure { kCount, kMass };
ALIGNZOO_DEVICE double measure_of(Measure measure, const Above& above) {
  return measure == Measure::kMass ? above.mass : above.count;
}

constexpr int kListed = 2048;  // tokens a list has room for

template <class T, int kThreads>
struct CutRoom {
  static constexpr int kWarps = kThreads / kWarp;
  LocateRoom<kThreads> locate;
  ReduceRoom<T, kThreads> reduce;
  double of_warp[2 * kLimits][kWarps], total[2 * kLimits];
  int32_t count[kWarps];
  T listed[kListed];
  int64_t listed_index[kListed];
};

// What lies above each limit, of the tokens kept so far; no limit is above the next. Each sum has
// one tree whatever the limit, and therefore never grows with it.
template <int kThreads, class Row>
ALIGNZOO_DEVICE void measure_above(const Row& row, const Kept<typename Row::Number>& kept,
                                   const math::Powers<typename Row::Number>& powers,
                                   const typename Row::Number (&limits)[kLimits],
                                   CutRoom<typename Row::Number, kThreads>& room,
                                   Above (&above)[kLimits]) {
  using T = typename Row::Number;
  uint32_t count[kLimits] = {};
  double mass[kLimits] = {};
  visit_part<kThreads>(row, 0, row.size, [&](int64_t at, const T(&z)[Row::kPer]) {
    T part[kLimits] = {};
    ALIGNZOO_UNROLL
    for (int i = 0; i < Row::kPer; ++i) {
      if (!(z[i] > limits[0] && kept.has(row, at + i, z[i]))) continue;
      const T own = powers.of(z[i]);
      ALIGNZOO_UNROLL
      for (int j = 0; j < kLimits; ++j) {
        count[j] += z[i] > limits[j];
        part[j] += z[i] > limits[j] ? own : T(0);
      }
    }
    ALIGNZOO_UNROLL
    for (int j = 0; j < kLimits; ++j) mass[j] += static_cast<double>(part[j]);
  });
  const int lane = lane_of_thread(), warp = warp_of_thread();
  ALIGNZOO_UNROLL
  for (int j = 0; j < kLimits; ++j) {
    const uint32_t warp_count = warp_reduce(count[j], Add{});
    const double warp_mass = warp_reduce(mass[j], Add{});
    if (lane != 0) continue;
    room.of_warp[j][warp] = static_cast<double>(warp_count);
    room.of_warp[kLimits + j][warp] = warp_mass;
  }
  __syncthreads();
  const int sum = static_cast<int>(threadIdx.x);
  if (sum < 2 * kLimits) {
    double total = room.of_warp[sum][0];
    for (int w = 1; w < kThreads / kWarp; ++w) total += room.of_warp[sum][w];
    room.total[sum] = total;
  }
  __syncthreads();
  ALIGNZOO_UNROLL
  for (int j = 0; j < kLimits; ++j) above[j] = {room.total[j], room.total[kLimits + j]};
}

// Orders count in steps of what S can store, so that every limit is a number that S has.
template <class S>
constexpr int kUnstoredBits = 0;
template <>
constexpr int kUnstoredBits<Bfloat16> = 16;
template <>
constexpr int kUnstoredBits<Float16> = 13;

template <class S>
ALIGNZOO_DEVICE math::Order<Compute<S>> stored_order(Compute<S> x) {
  return math::order_of(x) >> kUnstoredBits<S>;  // rounds down
}
template <class S>
ALIGNZOO_DEVICE Compute<S> number_stored_at(math::Order<Compute<S>> order) {
  using O = math::Order<Compute<S>>;
  return math::number_at<Compute<S>>(order * (O{1} << kUnstoredBits<S>));
}

// The tokens with low < logit <= high, of which the last one kept is to be found.
template <class T>
struct Bracket {
  T low, high;
  Above above_low, above_high;  // measure above_low reaches the target, above_high does not
  ALIGNZOO_DEVICE double count() const { return above_low.count - above_high.count; }
};

// Whether one token is left, or equal ones.
template <class S>
ALIGNZOO_DEVICE bool closed(const Bracket<Compute<S>>& bracket) {
  using O = math::Order<Compute<S>>;
  const O low = stored_order<S>(bracket.low), high = stored_order<S>(bracket.high);
  return bracket.count() <= 1 || low + O{1} >= high;
}

// Quarters of the bracket: by value, which suits most rows, and by order, which ends for any.
template <class S>
ALIGNZOO_DEVICE void set_limits(const Bracket<Compute<S>>& bracket, bool by_value,
                                Compute<S> (&limits)[kLimits]) {
  using T = Compute<S>;
  using O = math::Order<T>;
  const O low = stored_order<S>(bracket.low), high = stored_order<S>(bracket.high);
  ALIGNZOO_UNROLL
  for (int j = 0; j < kLimits; ++j) {
    if (by_value) {
      const T share = T(j + 1) / T(kLimits + 1);
      const T value = (T(1) - share) * bracket.low + share * bracket.high;
      limits[j] = number_stored_at<S>(stored_order<S>(value));
    } else {
      // Distances of orders may be beyond the largest signed integer, quarters of them are not.
      const O quarter = (high >> 2) - (low >> 2), rest = (high & 3) - (low & 3);
      limits[j] = number_stored_at<S>(low + (j + 1) * quarter + ((j + 1) * rest >> 2));
    }
  }
}

// A cut being searched for among the tokens kept so far: what `goal`, a number of tokens or a share
// of the mass, comes to is known after the first pass.
template <class T>
struct Search {
  Measure measure;
  double goal, target;
  Above total;
  Bracket<T> bracket;
};

// Closes in on the cut until it is found, or (`listing`) until the tokens in question can be
// listed. The row may leave out the tokens above bracket.high: those are `base`.
template <int kThreads, class Row>
ALIGNZOO_DEVICE void narrow(const Row& row, const Kept<typename Row::Number>& kept,
                            const math::Powers<typename Row::Number>& powers, bool first,
                            bool listing, CutRoom<typename Row::Number, kThreads>& room,
                            Search<typename Row::Number>& search) {
  using S = typename Row::Storage;
  using T = typename Row::Number;
  Bracket<T>& bracket = search.bracket;
  const Above base = bracket.above_high;
  for (bool by_value = true; first || !closed<S>(bracket); by_value = !by_value) {
    if (listing && !first && bracket.count() <= kListed) return;
    T limits[kLimits];
    set_limits<S>(bracket, by_value, limits);
    if (first) limits[0] = bracket.low;
    Above above[kLimits];
    measure_above(row, kept, powers, limits, room, above);
    if (first) {
      search.total = bracket.above_low = above[0];
      search.target = search.measure == Measure::kMass ? search.goal * above[0].mass : search.goal;
      if (measure_of(search.measure, above[0]) <= search.target) {  // all stay
        bracket.high = bracket.low;
        bracket.above_high = bracket.above_low;
      }
      first = false;
    }
    ALIGNZOO_UNROLL
    for (int j = 0; j < kLimits; ++j) {
      if (!(limits[j] > bracket.low && limits[j] < bracket.high)) continue;
      const Above found{base.count + above[j].count, base.mass + above[j].mass};
      if (measure_of(search.measure, found) >= search.target) {
        bracket.low = limits[j];
        bracket.above_low = found;
      } else {
        bracket.high = limits[j];
        bracket.above_high = found;
      }
    }
  }
}

// Lists the tokens for which wanted(position, logit), at most kListed of them. Every
// thread must call it, and finds the list complete.
template <int kThreads, class S, class Wanted>
ALIGNZOO_DEVICE ListedRow<S> list_of(const StoredRow<S>& row, Wanted wanted,
                                     CutRoom<Compute<S>, kThreads>& room) {
  using T = Compute<S>;
  using Row = StoredRow<S>;
  const int lane = lane_of_thread(), warp = warp_of_thread();
  const int64_t part = part_size<Row, kThreads>(row.size), first = warp * part,
                last = smaller(row.size, first + part);
  int32_t own = 0;
  visit_part<kThreads>(row, 0, row.size, [&](int64_t at, const T(&z)[Row::kPer]) {
    for (int i = 0; i < Row::kPer; ++i) own += wanted(at + i, z[i]);
  });
  own = warp_reduce(own, Add{});
  __syncthreads();  // the counts before have been read
  if (lane == 0) room.count[warp] = own;
  __syncthreads();
  int32_t size = 0, place = 0;
  for (int w = 0; w < kThreads / kWarp; ++w) {
    if (w == warp) place = size;
    size += room.count[w];
  }
  for (int64_t begin = first; begin < last; begin += Row::kPiece) {
    row.visit(begin, lane, [&](int64_t at, const T(&z)[Row::kPer]) {
      int32_t some = 0;
      for (int i = 0; i < Row::kPer; ++i) some += wanted(at + i, z[i]);
      const int32_t up_to = sum_up_to_lane(some, lane);
      int32_t to = place + sum_below_lane(up_to, lane);
      for (int i = 0; i < Row::kPer; ++i) {
        if (to >= kListed || !wanted(at + i, z[i])) continue;
        room.listed[to] = z[i];
        room.listed_index[to] = at + i;
        ++to;
      }
      place += __shfl_sync(kAllLanes, up_to, kWarp - 1);
    });
  }
  __syncthreads();
  return {room.listed, room.listed_index, smaller(size, kListed)};
}

// What stays of the kept tokens once the bracket is closed: of its own tokens as many as the target
// asks for.
template <int kThreads, class Row>
ALIGNZOO_DEVICE Kept<typename Row::Number> keep_first(
    const Row& row, const Kept<typename Row::Number>& kept,
    const math::Powers<typename Row::Number>& powers, const Search<typename Row::Number>& search,
    LocateRoom<kThreads>& room) {
  using T = typename Row::Number;
  const Bracket<T>& bracket = search.bracket;
  Kept<T> out{bracket.low, bracket.high, kAllIndices};
  if (bracket.count() > 1) {
    const bool of_mass = search.measure == Measure::kMass;
    const double each = of_mass ? static_cast<double>(powers.of(bracket.high)) : 1.0;
    const double wanted = (search.target - measure_of(search.measure, bracket.above_high)) / each;
    if (wanted <= bracket.count() - 1) {
      // The first at which their number reaches `wanted`: passes the integer below it.
      double below = static_cast<double>(static_cast<int64_t>(wanted));
      if (below == wanted) below -= 1;
      const int64_t last = locate(
          row, 0, row.size, 0.0, below,
          [&](int64_t at, T z) {
            return T(z > bracket.low && !(z > bracket.high) && kept.has(row, at, z));
          },
          room);
      if (last >= 0) out.last = row.index(last);
    }
  }
  // Tokens equal to the last one kept before are limited as they were.
  if (out.low < kept.high) {
    out.high = Larger{}(out.high, kept.high);
    out.last = smaller(out.last, kept.last);
  }
  return out;
}

template <class T>
ALIGNZOO_DEVICE Search<T> search_for(Measure measure, double goal, const Kept<T>& kept, T largest) {
  return {measure, goal, 0.0, {0, 0}, {kept.low, largest, {0, 0}, {0, 0}}};
}

// Of the tokens kept so far, none of which is above `largest`: those before which the measure is
// below the goal. `total` receives all that were kept.
template <int kThreads, class S>
ALIGNZOO_DEVICE Kept<Compute<S>> cut_row(const StoredRow<S>& row, const Kept<Compute<S>>& kept,
                                         Compute<S> largest, const math::Powers<Compute<S>>& powers,
                                         Measure measure, double goal,
                                         CutRoom<Compute<S>, kThreads>& room, Above& total) {
  using T = Compute<S>;
  Search<T> search = search_for(measure, goal, kept, largest);
  narrow(row, kept, powers, true, row.size > kListed, room, search);
  total = search.total;
  if (closed<S>(search.bracket)) return keep_first(row, kept, powers, search, room.locate);
  const T low = search.bracket.low, high = search.bracket.high;
  const ListedRow<S> list = list_of(
      row, [&](int64_t at, T z) { return z > low && !(z > high) && kept.has(row, at, z); }, room);
  narrow(list, kept, powers, false, false, room, search);
  return keep_first(list, kept, powers, search, room.locate);
}
template <int kThreads, class S>
ALIGNZOO_DEVICE Kept<Compute<S>> cut_row(const ListedRow<S>& list, const Kept<Compute<S>>& kept,
                                         Compute<S> largest, const math::Powers<Compute<S>>& powers,
                                         Measure measure, double goal,
                                         CutRoom<Compute<S>, kThreads>& room) {
  Search<Compute<S>> search = search_for(measure, goal, kept, largest);
  narrow(list, kept, powers, true, false, room, search);
  return keep_first(list, kept, powers, search, room.locate);
}

}  // namespace alignzoo::cuda
