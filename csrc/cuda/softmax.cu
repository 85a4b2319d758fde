// Log-probs of chosen tokens: one read of the logits forward; one read and one write backward.
//
// Floor in bytes: forward V sizeof(S) a row, backward twice that; all else is some tens of bytes a
// row. A block holds a whole segment of a row in registers, so that the exponentials can be taken
// against the segment's own maximum, once each, with no second read; the cut into segments gives a
// few long rows as many blocks as many short ones.
#include "cuda/launches.h"
#include "cuda/rows.h"

namespace alignzoo::cuda {
namespace {

enum class Target { kCounted, kIgnored, kOutOfRange };
ALIGNZOO_DEVICE Target target_kind(int64_t target, int64_t ignore_index, int64_t vocabulary) {
  if (target == ignore_index) return Target::kIgnored;
  return target >= 0 && target < vocabulary ? Target::kCounted : Target::kOutOfRange;
}

// By one thread of the row. `statistics` are read where the target counts.
template <class S, class T>
ALIGNZOO_DEVICE void write_row(const TokenLogProbsArgs<S, T>& args, const S* logits, int64_t row,
                               const math::RowStatistics& statistics, uint32_t* faults) {
  const int64_t target = args.targets[row];
  const Target kind = target_kind(target, args.ignore_index, args.rows.vocabulary);
  double log_prob = 0, entropy = 0, log_sum = 0, max = 0;
  if (kind == Target::kCounted) {
    max = statistics.max;
    log_sum = math::log(statistics.sum);
    if (args.entropy) entropy = math::entropy_of(statistics, log_sum);
    log_prob = math::log_prob_of(static_cast<double>(math::to_compute(logits[target])), max,
                                 log_sum, args.inverse_temperature);
  } else if (kind == Target::kOutOfRange) {
    log_prob = entropy = log_sum = max = __builtin_nan("");
    note_fault(faults, kTargetOutOfRange);
  }
  args.log_probs[row] = static_cast<T>(log_prob);
  if (args.entropy) args.entropy[row] = static_cast<T>(entropy);
  if (args.saved) {
    double* saved = args.saved + 3 * row;
    saved[0] = max;
    saved[1] = log_sum;
    saved[2] = entropy;
  }
}

// Threads of a segment, and logits that each holds: many of the 2-byte formats, whose instructions
// beside the logits would otherwise cost more than reading them. `kBlocks` fit into the registers
// of a multiprocessor, so that some load while others compute.
template <class S>
struct SegmentShape {
  static constexpr int kCount = sizeof(S) == 2 ? 2 * kHeld : kHeld;
  static constexpr int kThreads = static_cast<int>(kSegment) / kCount;
  static constexpr int kBlocks = sizeof(S) == 2 ? 6 : sizeof(S) == 4 ? 3 : 2;
};
template <class S>
struct WarpShape {
  static constexpr int kCount = kHeld, kThreads = kWarp, kBlocks = sizeof(S) == 8 ? 2 : 3;
};
template <class Shape>
constexpr int kBlockThreads = Shape::kThreads == kWarp ? kRowThreads : Shape::kThreads;

// One segment of a row for each group of threads. A row of one segment is finished here; of others
// the segments' statistics are left in `partial`.
template <class S, class T, class Shape, bool kWeighted>
__global__ void __launch_bounds__(kBlockThreads<Shape>, Shape::kBlocks)
    segments_kernel(TokenLogProbsArgs<S, T> args, RowPlaces places, Pieces segments,
                    math::PowerScale<T> scale, math::RowStatistics* partial, uint32_t* faults) {
  constexpr int kThreads = Shape::kThreads;
  using H = Held<S, kThreads, Shape::kCount>;
  using Room = GroupRoom<T, kThreads>;
  ALIGNZOO_SHARED(Room, room);
  for_each_unit<kThreads, kBlockThreads<Shape>>(segments.count, [&](int64_t unit, int thread) {
    const Piece segment = segments.at(unit);
    const S* logits = args.logits + places.offset(segment.row);
    const bool counted = target_kind(args.targets[segment.row], args.ignore_index,
                                     args.rows.vocabulary) == Target::kCounted;
    math::RowStatistics statistics{};
    if (counted) {
      H held;
      const Extent extent =
          hold(logits, args.rows.vocabulary, segment.piece * H::kAll, thread, held);
      statistics = held_statistics<kWeighted>(held, extent.count, scale, args.inverse_temperature,
                                              thread, room);
    }
    if (thread != 0) return;
    if (segments.each == 1) {
      write_row(args, logits, segment.row, statistics, faults);
    } else if (counted) {
      partial[unit] = statistics;
    }
  });
}

// Finishes rows of several segments, a warp each.
template <class S, class T>
__global__ void __launch_bounds__(kRowThreads)
    rows_kernel(TokenLogProbsArgs<S, T> args, RowPlaces places, int64_t segments,
                const math::RowStatistics* partial, uint32_t* faults) {
  for_each_unit<kWarp>(args.rows.count, [&](int64_t row, int lane) {
    math::RowStatistics statistics{};
    if (target_kind(args.targets[row], args.ignore_index, args.rows.vocabulary) ==
        Target::kCounted) {
      statistics =
          merge_statistics(partial + row * segments, segments, args.inverse_temperature, lane);
    }
    if (lane == 0) write_row(args, args.logits + places.offset(row), row, statistics, faults);
  });
}

template <class Shape, class S, class T>
Status launch_segments(const Queue& queue, const TokenLogProbsArgs<S, T>& args, int64_t segments,
                       math::RowStatistics* partial, uint32_t* faults) {
  const Pieces pieces(args.rows.count, segments);
  return launch(
      queue,
      args.entropy ? segments_kernel<S, T, Shape, true> : segments_kernel<S, T, Shape, false>,
      blocks_of_units<Shape::kThreads, kBlockThreads<Shape>>(pieces.count), kBlockThreads<Shape>,
      args, RowPlaces(args.rows), pieces, math::PowerScale<T>(args.inverse_temperature), partial,
      faults);
}

// Each group of threads takes one piece of a row, cut so that whole loads and stores of the
// gradient fit: its first number is the gradient's last address before the row that is one of 16
// bytes.
template <class S>
constexpr int kBackwardHeld = 4 * kPerLoad<S>;

template <class S, class T, int kThreads>
__global__ void __launch_bounds__(kRowThreads)
    backward_kernel(TokenLogProbsBackwardArgs<S, T> args, RowPlaces places, Pieces pieces,
                    uint32_t* faults) {
  using H = Held<S, kThreads, kBackwardHeld<S>>;
  constexpr int kPer = H::kPer;
  const int64_t vocabulary = args.rows.vocabulary;
  for_each_unit<kThreads>(pieces.count, [&](int64_t unit, int thread) {
    const Piece piece = pieces.at(unit);
    const int64_t row = piece.row, target = args.targets[row];
    S* gradient = args.gradient + row * vocabulary;
    const int64_t begin = piece.piece * H::kAll - elements_before<S>(gradient);
    const T up_log_prob = args.up_log_probs ? args.up_log_probs[row] : T(0);
    const T up_entropy = args.up_entropy ? args.up_entropy[row] : T(0);
    const Target kind = target_kind(target, args.ignore_index, vocabulary);
    if (kind != Target::kCounted || (up_log_prob == T(0) && up_entropy == T(0))) {
      const bool fault =
          kind == Target::kOutOfRange && !(up_log_prob == T(0) && up_entropy == T(0));
      if (fault && thread == 0) note_fault(faults, kTargetOutOfRange);
      fill<S, kThreads, H::kLoads>(gradient, vocabulary, begin, thread,
                                   fault ? static_cast<T>(__builtin_nan("")) : T(0));
      return;
    }
    H held;
    const Extent extent = hold(args.logits + places.offset(row), vocabulary, begin, thread, held);
    const double* saved = args.saved + 3 * row;
    const T max = static_cast<T>(saved[0]), log_sum = static_cast<T>(saved[1]),
            entropy = static_cast<T>(saved[2]), scale = static_cast<T>(args.inverse_temperature);
    for_each_load(held, extent.count, thread, [&](int number, const Elements<S>& logits) {
      T slopes[kPer];
      ALIGNZOO_UNROLL
      for (int i = 0; i < kPer; ++i) {
        const T x = (math::to_compute(logits.at[i]) - max) * scale;
        slopes[i] = scale * math::softmax_gradient(x, log_sum, entropy, up_log_prob, up_entropy);
      }
      const int64_t chosen = target - begin - number;
      if (chosen >= 0 && chosen < kPer) {
        ALIGNZOO_UNROLL
        for (int i = 0; i < kPer; ++i) slopes[i] += i == chosen ? scale * up_log_prob : T(0);
      }
      put(gradient + begin, number, extent, slopes);
    });
  });
}

template <int kThreads, class S, class T>
Status launch_backward(const Queue& queue, const TokenLogProbsBackwardArgs<S, T>& args,
                       uint32_t* faults) {
  using H = Held<S, kThreads, kBackwardHeld<S>>;
  const Pieces pieces(args.rows.count,
                      aligned_pieces<S>(args.rows.vocabulary, H::kAll, args.gradient));
  return launch(queue, backward_kernel<S, T, kThreads>, blocks_of_units<kThreads>(pieces.count),
                kRowThreads, args, RowPlaces(args.rows), pieces, faults);
}

}  // namespace

template <class S, class T>
Status token_log_probs(const Queue& queue, const TokenLogProbsArgs<S, T>& args, void* workspace) {
  if (args.rows.count == 0) return cudaSuccess;
  uint32_t* faults = nullptr;
  Status status = fault_word(queue, &faults);
  if (status != cudaSuccess) return status;
  const int64_t segments = larger(1, segments_of(args.rows.vocabulary, kSegment));
  auto* partial = static_cast<math::RowStatistics*>(workspace);
  status = args.rows.vocabulary <= kWarpRow
               ? launch_segments<WarpShape<S>>(queue, args, 1, partial, faults)
               : launch_segments<SegmentShape<S>>(queue, args, segments, partial, faults);
  if (status != cudaSuccess || segments == 1) return status;
  return launch(queue, rows_kernel<S, T>, blocks_of_units<kWarp>(args.rows.count), kRowThreads,
                args, RowPlaces(args.rows), segments, partial, faults);
}

template <class S, class T>
Status token_log_probs_backward(const Queue& queue, const TokenLogProbsBackwardArgs<S, T>& args) {
  if (args.rows.count == 0 || args.rows.vocabulary == 0) return cudaSuccess;
  uint32_t* faults = nullptr;
  const Status status = fault_word(queue, &faults);
  if (status != cudaSuccess) return status;
  return args.rows.vocabulary <= kWarp * kBackwardHeld<S>
             ? launch_backward<kWarp>(queue, args, faults)
             : launch_backward<kRowThreads>(queue, args, faults);
}

#define ALIGNZOO_INSTANTIATE(S, T)                                                            \
  template Status token_log_probs<S, T>(const Queue&, const TokenLogProbsArgs<S, T>&, void*); \
  template Status token_log_probs_backward<S, T>(const Queue&,                                \
                                                 const TokenLogProbsBackwardArgs<S, T>&);
ALIGNZOO_INSTANTIATE(float, float)
ALIGNZOO_INSTANTIATE(double, double)
ALIGNZOO_INSTANTIATE(Bfloat16, float)
ALIGNZOO_INSTANTIATE(Float16, float)
#undef ALIGNZOO_INSTANTIATE

}  // namespace alignzoo::cuda
