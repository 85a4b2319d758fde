// The largest of each row, where it is, and one chosen element, in one read of the rows.
//
// Floor in bytes: V sizeof(S) a row. The shape of the launches is that of softmax.cu.
#include "cuda/launches.h"
#include "cuda/rows.h"

namespace alignzoo::cuda {
namespace {

// The largest so far and the first index that has it; NaN counts as larger than any number.
struct Largest {
  double value;
  int64_t index;
};
constexpr int64_t kNowhere = INT64_MAX;

struct LargerOrFirst {
  ALIGNZOO_DEVICE Largest operator()(const Largest& a, const Largest& b) const {
    const bool a_nan = a.value != a.value, b_nan = b.value != b.value;
    const bool tie = a_nan || b_nan ? a_nan && b_nan : a.value == b.value;
    if (tie) return a.index < b.index ? a : b;
    return a_nan || a.value > b.value ? a : b;
  }
};

// By one thread of the row.
template <class S, class T>
ALIGNZOO_DEVICE void write_row(const GatherArgs<S, T>& args, const S* q, int64_t row, int64_t index,
                               uint32_t* faults) {
  args.max[row] = math::to_compute(q[index]);
  args.argmax[row] = index;
  const int64_t action = args.actions[row];
  const bool exists = action >= 0 && action < args.rows.vocabulary;
  if (!exists) note_fault(faults, kTargetOutOfRange);
  args.chosen[row] = exists ? math::to_compute(q[action]) : static_cast<T>(__builtin_nan(""));
}

template <class T, int kThreads>
struct LargestRoom {
  GroupRoom<T, kThreads> values;
  GroupRoom<int, kThreads> numbers;
};

// The largest of what the group holds, and the first number that has it: for every thread.
template <class S, int kThreads>
ALIGNZOO_DEVICE Largest held_largest(const Held<S, kThreads, kHeld>& held, int count, int thread,
                                     LargestRoom<Compute<S>, kThreads>& room) {
  using T = Compute<S>;
  const T own = largest_held<true>(held);
  const T largest = group_max<kThreads>(own, thread, room.values, LargerOrNan{});
  const bool is_nan = largest != largest;
  // Only the threads that hold it look for its number.
  int first = INT32_MAX;
  if (is_nan ? own != own : own == largest) {
    for_each_load(held, count, thread, [&](int number, const Elements<S>& logits) {
      ALIGNZOO_UNROLL
      for (int i = kPerLoad<S> - 1; i >= 0; --i) {
        const T z = math::to_compute(logits.at[i]);
        if ((is_nan ? z != z : z == largest) && number + i < first) first = number + i;
      }
    });
  }
  return {static_cast<double>(largest), -group_max<kThreads>(-first, thread, room.numbers)};
}

template <class S, class T, int kThreads>
__global__ void __launch_bounds__(kRowThreads)
    segments_kernel(GatherArgs<S, T> args, RowPlaces places, Pieces segments, Largest* partial,
                    uint32_t* faults) {
  using H = Held<S, kThreads, kHeld>;
  using Room = LargestRoom<T, kThreads>;
  ALIGNZOO_SHARED(Room, room);
  for_each_unit<kThreads>(segments.count, [&](int64_t unit, int thread) {
    const Piece segment = segments.at(unit);
    const S* q = args.q + places.offset(segment.row);
    const int64_t begin = segment.piece * H::kAll;
    H held;
    const Extent extent = hold(q, args.rows.vocabulary, begin, thread, held);
    Largest largest = held_largest(held, extent.count, thread, room);
    largest.index += begin;
    if (thread != 0) return;
    if (segments.each == 1) {
      write_row(args, q, segment.row, largest.index, faults);
    } else {
      partial[unit] = largest;
    }
  });
}

// Finishes rows of several segments, a warp each.
template <class S, class T>
__global__ void __launch_bounds__(kRowThreads)
    rows_kernel(GatherArgs<S, T> args, RowPlaces places, int64_t segments, const Largest* partial,
                uint32_t* faults) {
  for_each_unit<kWarp>(args.rows.count, [&](int64_t row, int lane) {
    const LargerOrFirst combine;
    Largest largest{-__builtin_inf(), kNowhere};
    for (int64_t i = lane; i < segments; i += kWarp) {
      largest = combine(largest, partial[row * segments + i]);
    }
    for (int distance = kWarp / 2; distance > 0; distance /= 2) {
      const Largest other{__shfl_xor_sync(kAllLanes, largest.value, distance),
                          __shfl_xor_sync(kAllLanes, largest.index, distance)};
      largest = combine(largest, other);
    }
    if (lane == 0) write_row(args, args.q + places.offset(row), row, largest.index, faults);
  });
}

template <int kThreads, class S, class T>
Status launch_segments(const Queue& queue, const GatherArgs<S, T>& args, int64_t segments,
                       Largest* partial, uint32_t* faults) {
  const Pieces pieces(args.rows.count, segments);
  return launch(queue, segments_kernel<S, T, kThreads>, blocks_of_units<kThreads>(pieces.count),
                kRowThreads, args, RowPlaces(args.rows), pieces, partial, faults);
}

}  // namespace

template <class S, class T>
Status max_and_gather(const Queue& queue, const GatherArgs<S, T>& args, void* workspace) {
  if (args.rows.count == 0) return cudaSuccess;
  uint32_t* faults = nullptr;
  Status status = fault_word(queue, &faults);
  if (status != cudaSuccess) return status;
  const int64_t vocabulary = args.rows.vocabulary;
  const int64_t segments = larger(1, segments_of(vocabulary, kSegment));
  auto* partial = static_cast<Largest*>(workspace);
  status = vocabulary <= kWarpRow
               ? launch_segments<kWarp>(queue, args, 1, partial, faults)
               : launch_segments<kRowThreads>(queue, args, segments, partial, faults);
  if (status != cudaSuccess || segments == 1) return status;
  return launch(queue, rows_kernel<S, T>, blocks_of_units<kWarp>(args.rows.count), kRowThreads,
                args, RowPlaces(args.rows), segments, partial, faults);
}

#define ALIGNZOO_INSTANTIATE(S, T) \
  template Status max_and_gather<S, T>(const Queue&, const GatherArgs<S, T>&, void*);
ALIGNZOO_INSTANTIATE(float, float)
ALIGNZOO_INSTANTIATE(double, double)
ALIGNZOO_INSTANTIATE(Bfloat16, float)
ALIGNZOO_INSTANTIATE(Float16, float)
#undef ALIGNZOO_INSTANTIATE

}  // namespace alignzoo::cuda
