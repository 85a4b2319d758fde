// Draws one token per row by inverting the cumulative distribution in index order: the smallest
// index j with sum_{i <= j} e^{x_i} > u S, u a counter-based uniform number.
//
// Floor: one read of the logits. Without a cut, that read is the first launch's, a block for each
// segment of a row, so that few rows fill the device too; of a row's segments the second launch
// reads again the one in which the token lies. Rows of one segment take the second launch alone.
//
// With a cut a block has a row, and passes over it: from the second on, out of the second-level
// cache. The first finds the range, the next two or three close in on the cut, and two more list
// the few thousand tokens around it in shared memory (cuda/cut.h); top-p does so again; the draw is
// one more pass. That is 8 to 14 passes; at 512 threads and 32000 logits a pass reads 62 of them a
// thread, and takes some 20 instructions each: 5000 clocks, 3 us.
#include "cuda/cut.h"
#include "cuda/launches.h"
#include "cuda/sampling_plan.h"
#include "math/philox.h"
#include "math/sampling.h"

namespace alignzoo::cuda {
namespace {

constexpr int kCutThreads = 512;
// Threads of a multiprocessor that draw without a cut, at least: leaves each 128 registers.
constexpr int kDrawThreads = 512;

// Weights for locate: the power of each logit, or 1 for each that is the largest.
template <class T>
struct PowerWeight {
  math::Powers<T> powers;
  ALIGNZOO_DEVICE T operator()(int64_t, T z) const { return powers.of(z); }
};
template <class T>
struct EqualWeight {
  T value;
  ALIGNZOO_DEVICE T operator()(int64_t, T z) const { return T(z == value); }
};

// What a row draws, written by one thread; an id below 0 stands for a fault.
template <class S, class T>
ALIGNZOO_DEVICE void write_drawn(const SampleArgs<S, T>& args, uint32_t* faults, int64_t row,
                                 int64_t id, double log_prob, Fault fault) {
  if (threadIdx.x != 0) return;
  if (id < 0) note_fault(faults, fault);
  args.ids[row] = id < 0 ? 0 : id;
  args.log_probs[row] = id < 0 ? static_cast<T>(__builtin_nan("")) : static_cast<T>(log_prob);
}

template <class S, class T>
ALIGNZOO_DEVICE int64_t row_id(const SampleArgs<S, T>& args, int64_t row) {
  return args.row_ids ? args.row_ids[row] : row;
}

template <class S, class T>
ALIGNZOO_DEVICE double uniform_of(const SampleArgs<S, T>& args, int64_t id) {
  return math::philox_uniform(args.seed, static_cast<uint64_t>(id), args.offset);
}

// The statistics of what a block holds; every thread has the maximum, thread 0 the sum. For
// temperature 0 the sum is 1, and NaN if the block holds one.
template <bool kGreedy, class S, int kThreads, int kCount>
ALIGNZOO_DEVICE math::RowStatistics held_mass(const Held<S, kThreads, kCount>& held, int count,
                                              double inverse_temperature,
                                              GroupRoom<Compute<S>, kThreads>& room) {
  using T = Compute<S>;
  const int thread = static_cast<int>(threadIdx.x);
  if constexpr (kGreedy) {
    bool has_nan = false;
    for_each_load(held, count, thread, [&](int, const Elements<S>& logits) {
      for (int i = 0; i < kPerLoad<S>; ++i) {
        const T z = math::to_compute(logits.at[i]);
        has_nan |= z != z;
      }
    });
    const double largest =
        static_cast<double>(group_max<kThreads>(largest_held(held), thread, room));
    const double sum = largest > -__builtin_inf() ? 1.0 : 0.0;
    return {largest, __syncthreads_or(has_nan) ? __builtin_nan("") : sum, 0.0};
  } else {
    const math::PowerScale<T> scale(inverse_temperature);
    return held_statistics<false>(held, count, scale, inverse_temperature, thread, room);
  }
}

template <bool kGreedy, class S, class T>
__global__ void __launch_bounds__(kRowThreads)
    segment_mass_kernel(SampleArgs<S, T> args, int64_t segments, math::RowStatistics* statistics) {
  using Room = GroupRoom<T, kRowThreads>;
  ALIGNZOO_SHARED(Room, room);
  for (int64_t i = blockIdx.x; i < args.rows.count * segments; i += gridDim.x) {
    const S* logits = args.logits + args.rows.offset(i / segments);
    Held<S, kRowThreads, kHeld> held;
    const Extent extent = hold(logits, args.rows.vocabulary, i % segments * kSegment,
                               static_cast<int>(threadIdx.x), held);
    const math::RowStatistics mass =
        held_mass<kGreedy>(held, extent.count, args.inverse_temperature, room);
    if (threadIdx.x == 0) statistics[i] = mass;
    __syncthreads();
  }
}

template <class T, int kThreads>
struct DrawRoom {
  GroupRoom<T, kThreads> group;
  LocateRoom<kThreads> locate;
  math::RowStatistics row;
};

// `statistics` of each segment, or null for rows that a block holds whole.
template <bool kGreedy, int kThreads, class S, class T>
__global__ void __launch_bounds__(kThreads, kDrawThreads / kThreads)
    draw_kernel(SampleArgs<S, T> args, int64_t segments, const math::RowStatistics* statistics,
                uint32_t* faults) {
  using Room = DrawRoom<T, kThreads>;
  ALIGNZOO_SHARED(Room, room);
  const int64_t vocabulary = args.rows.vocabulary;
  const double inverse_temperature = args.inverse_temperature;
  const int lane = lane_of_thread();
  for (int64_t r = blockIdx.x; r < args.rows.count; r += gridDim.x) {
    const int64_t number = row_id(args, r);
    if (number < 0) {
      write_drawn(args, faults, r, -1, 0.0, kRowIdOutOfRange);
      continue;
    }
    const StoredRow<S> row(args.logits + args.rows.offset(r), vocabulary);
    const math::RowStatistics* of_segment = statistics + r * segments;
    math::RowStatistics whole{0, 0, 0};
    if (statistics == nullptr) {
      constexpr int kAll = static_cast<int>(kThreads == kRowThreads ? kSegment : kWarpRow);
      Held<S, kThreads, kAll / kThreads> held;
      const Extent extent = hold(row.logits, vocabulary, 0, static_cast<int>(threadIdx.x), held);
      whole = held_mass<kGreedy>(held, extent.count, inverse_temperature, room.group);
      if (threadIdx.x == 0) room.row = whole;
      __syncthreads();
      whole = room.row;
      __syncthreads();
    } else if (kGreedy) {
      whole.max = -__builtin_inf();
      for (int64_t i = lane; i < segments; i += kWarp) {
        whole.max = Larger{}(of_segment[i].max, whole.max);
        whole.sum += of_segment[i].sum;
      }
      whole.max = warp_reduce(whole.max, Larger{});
      whole.sum = warp_reduce(whole.sum, Add{});
    } else {
      whole = merge_statistics(of_segment, segments, inverse_temperature, lane);
    }
    if (!math::is_distribution(whole.max, whole.sum)) {
      write_drawn(args, faults, r, -1, 0.0, kNoDistribution);
      continue;
    }
    const double threshold = kGreedy ? 0.0 : uniform_of(args, number) * whole.sum;
    Place place{0, 0.0};
    if (statistics != nullptr) {
      place = find_part(segments, 0.0, threshold, lane, [&](int64_t i) {
        if (kGreedy) return of_segment[i].max == whole.max ? 1.0 : 0.0;
        return math::mass_in_row(of_segment[i].sum, of_segment[i].max, whole.max,
                                 inverse_temperature);
      });
    }
    const int64_t begin = place.part * kSegment, end = smaller(vocabulary, begin + kSegment);
    const EqualWeight<T> largest{static_cast<T>(whole.max)};
    int64_t id = -1;
    if constexpr (!kGreedy) {
      const math::Powers<T> powers(largest.value, math::PowerScale<T>(inverse_temperature));
      id = locate(row, begin, end, place.before, threshold, PowerWeight<T>{powers}, room.locate);
    }
    // A segment's sum may be above 0 where none of its powers is, relative to the row's largest.
    if (id < 0) {
      id = kGreedy ? locate(row, begin, end, 0.0, 0.0, largest, room.locate)
                   : locate(row, 0, vocabulary, 0.0, 0.0, largest, room.locate);
    }
    double log_prob = 0;
    if (!kGreedy) {
      log_prob = math::log_prob(static_cast<double>(math::to_compute(row.logits[id])), whole.max,
                                whole.sum, inverse_temperature);
    }
    write_drawn(args, faults, r, id, log_prob, kNoDistribution);
  }
}

// The largest logit of a row and the smallest that is not -inf; both are NaN where the row holds
// one.
template <class T>
struct Range {
  T smallest, largest;
};
struct Smaller {
  template <class T>
  ALIGNZOO_DEVICE T operator()(T a, T b) const {
    return a < b ? a : b;
  }
};
template <int kThreads, class S>
ALIGNZOO_DEVICE Range<Compute<S>> range_of(const StoredRow<S>& row,
                                           CutRoom<Compute<S>, kThreads>& room) {
  using T = Compute<S>;
  const T infinity = static_cast<T>(__builtin_inf());
  Range<T> range{infinity, -infinity};
  bool has_nan = false;
  visit_part<kThreads>(row, 0, row.size, [&](int64_t, const T(&z)[StoredRow<S>::kPer]) {
    for (int i = 0; i < StoredRow<S>::kPer; ++i) {
      has_nan |= z[i] != z[i];
      range.largest = Larger{}(z[i], range.largest);
      range.smallest = z[i] > -infinity ? Smaller{}(z[i], range.smallest) : range.smallest;
    }
  });
  range.smallest = block_reduce<kThreads>(range.smallest, Smaller{}, room.reduce);
  range.largest = block_reduce<kThreads>(range.largest, Larger{}, room.reduce);
  if (__syncthreads_or(has_nan)) range.largest = range.smallest = static_cast<T>(__builtin_nan(""));
  return range;
}

// A draw from what is kept of a row.
template <class T>
struct DrawnFrom {
  int64_t position;
  double sum;
};
template <int kThreads, class Row>
ALIGNZOO_DEVICE DrawnFrom<typename Row::Number> draw_kept(
    const Row& row, const Kept<typename Row::Number>& kept,
    const math::Powers<typename Row::Number>& powers, double uniform, LocateRoom<kThreads>& room) {
  using T = typename Row::Number;
  constexpr int kWarps = kThreads / kWarp;
  auto weigh = [&](int64_t at, T z) { return kept.has(row, at, z) ? powers.of(z) : T(0); };
  weigh_parts(row, 0, row.size, weigh, room);
  double sum = room.mass[0];
  for (int w = 1; w < kWarps; ++w) sum += room.mass[w];
  const double threshold = uniform * sum;
  const Place place = find_part(kWarps, 0.0, threshold, lane_of_thread(),
                                [&](int64_t part) { return room.mass[part]; });
  const int64_t part = part_size<Row, kThreads>(row.size), begin = place.part * part,
                end = smaller(row.size, begin + part);
  return {locate(row, begin, end, place.before, threshold, weigh, room), sum};
}

template <int kThreads, class S, class T>
__global__ void __launch_bounds__(kThreads) cut_kernel(SampleArgs<S, T> args, uint32_t* faults) {
  using Room = CutRoom<T, kThreads>;
  ALIGNZOO_SHARED(Room, room);
  const math::PowerScale<T> scale(args.inverse_temperature);
  for (int64_t r = blockIdx.x; r < args.rows.count; r += gridDim.x) {
    const int64_t number = row_id(args, r);
    if (number < 0) {
      write_drawn(args, faults, r, -1, 0.0, kRowIdOutOfRange);
      continue;
    }
    const StoredRow<S> row(args.logits + args.rows.offset(r), args.rows.vocabulary);
    const Range<T> range = range_of<kThreads>(row, room);
    const T infinity = static_cast<T>(__builtin_inf());
    if (!(range.largest > -infinity && range.largest < infinity)) {
      write_drawn(args, faults, r, -1, 0.0, kNoDistribution);
      continue;
    }
    const math::Powers<T> powers(range.largest, scale);
    const T below = number_stored_at<S>(stored_order<S>(range.smallest) - 1);
    const double uniform = uniform_of(args, number);
    Kept<T> kept{below, below, kAllIndices};
    Above total{0, 0};
    // Top-k, then top-p, each over the whole row or what is listed of it.
    Measure measure = Measure::kCount;
    bool listing = false;
    for (int stage = 0; stage < 2 && !listing; ++stage) {
      const bool cuts = stage == 0 ? args.top_k > 0 && args.top_k < row.size : args.top_p < 1.0;
      if (cuts) {
        const double goal = stage == 0 ? static_cast<double>(args.top_k) : args.top_p;
        kept = cut_row(row, kept, range.largest, powers, measure, goal, room, total);
        if (stage == 0) {
          listing =
              args.top_p < 1.0 && row.size > kListed && math::min(goal, total.count) <= kListed;
        }
      }
      measure = Measure::kMass;
    }
    DrawnFrom<T> drawn;
    if (listing) {
      const ListedRow<S> list =
          list_of(row, [&](int64_t at, T z) { return kept.has(row, at, z); }, room);
      const Kept<T> listed{kept.low, kept.low, kAllIndices};
      kept = cut_row(list, listed, range.largest, powers, measure, args.top_p, room);
      drawn = draw_kept(list, kept, powers, uniform, room.locate);
      drawn.position = list.index(drawn.position);
    } else {
      drawn = draw_kept(row, kept, powers, uniform, room.locate);
    }
    const double log_prob =
        math::log_prob(static_cast<double>(math::to_compute(row.logits[drawn.position])),
                       static_cast<double>(range.largest), drawn.sum, args.inverse_temperature);
    write_drawn(args, faults, r, drawn.position, log_prob, kNoDistribution);
    __syncthreads();  // what the room holds has been read
  }
}

template <bool kGreedy, class S, class T>
Status draw(const Queue& queue, const SampleArgs<S, T>& args, math::RowStatistics* statistics,
            uint32_t* faults) {
  const int64_t blocks = smaller(args.rows.count, kMostBlocks);
  const int64_t segments = segments_of(args.rows.vocabulary, kSegment);
  if (args.rows.vocabulary <= kWarpRow) {
    return launch(queue, draw_kernel<kGreedy, kShortRowThreads, S, T>, blocks, kShortRowThreads,
                  args, segments, nullptr, faults);
  }
  if (segments == 1) {
    return launch(queue, draw_kernel<kGreedy, kRowThreads, S, T>, blocks, kRowThreads, args,
                  segments, nullptr, faults);
  }
  const Status status = launch(queue, segment_mass_kernel<kGreedy, S, T>,
                               smaller(args.rows.count * segments, kMostBlocks), kRowThreads, args,
                               segments, statistics);
  if (status != cudaSuccess) return status;
  return launch(queue, draw_kernel<kGreedy, kRowThreads, S, T>, blocks, kRowThreads, args, segments,
                statistics, faults);
}

}  // namespace

template <class S, class T>
Status sample_tokens(const Queue& queue, const SampleArgs<S, T>& args, void* workspace) {
  uint32_t* faults = nullptr;
  const Status status = fault_word(queue, &faults);
  if (status != cudaSuccess) return status;
  auto* statistics = static_cast<math::RowStatistics*>(workspace);
  if (args.inverse_temperature == 0) return draw<true>(queue, args, statistics, faults);
  const int64_t vocabulary = args.rows.vocabulary;
  if (!(args.top_k > 0 && args.top_k < vocabulary) && !(args.top_p < 1.0)) {
    return draw<false>(queue, args, statistics, faults);
  }
  const int64_t blocks = smaller(args.rows.count, kMostBlocks);
  return launch(queue, cut_kernel<kCutThreads, S, T>, blocks, kCutThreads, args, faults);
}

#define ALIGNZOO_INSTANTIATE(S, T) \
  template Status sample_tokens<S, T>(const Queue&, const SampleArgs<S, T>&, void*);
ALIGNZOO_INSTANTIATE(float, float)
ALIGNZOO_INSTANTIATE(double, double)
ALIGNZOO_INSTANTIATE(Bfloat16, float)
ALIGNZOO_INSTANTIATE(Float16, float)
#undef ALIGNZOO_INSTANTIATE

}  // namespace alignzoo::cuda
