// The divergence of two rows of logits: one read of both forward; backward one read of both and one
// write of each gradient wanted.
//
// Floor in bytes: 2 V sizeof(S) a row forward, up to twice that backward. The shape of the launches
// is that of softmax.cu; a block holds half a segment of each row.
#include "cuda/launches.h"
#include "cuda/rows.h"
#include "math/divergence.h"

namespace alignzoo::cuda {
namespace {

// By one thread of the row.
template <class S, class T>
ALIGNZOO_DEVICE void write_row(const DivergenceArgs<S, T>& args, int64_t row,
                               const math::DivergenceSums& sums) {
  const double mean_ratio = math::mean_log_ratio(sums);
  args.value[row] = static_cast<T>(math::divergence_of(sums, mean_ratio));
  if (args.saved) {
    double* saved = args.saved + 5 * row;
    saved[0] = sums.a_max;
    saved[1] = sums.a_sum;
    saved[2] = sums.b_max;
    saved[3] = sums.b_sum;
    saved[4] = mean_ratio;
  }
}

template <class T, int kThreads>
struct PairRoom {
  GroupRoom<T, kThreads> a, b;
};

// Of what the group holds of both rows; thread 0 has the sums.
template <class S, int kThreads>
ALIGNZOO_DEVICE math::DivergenceSums held_divergence(const Held<S, kThreads, kHeldOfPair>& a,
                                                     const Held<S, kThreads, kHeldOfPair>& b,
                                                     int count,
                                                     const math::PowerScale<Compute<S>>& scale,
                                                     double inverse_temperature, int thread,
                                                     PairRoom<Compute<S>, kThreads>& room) {
  using T = Compute<S>;
  using H = Held<S, kThreads, kHeldOfPair>;
  const T a_max = group_max<kThreads>(largest_held(a), thread, room.a);
  const T b_max = group_max<kThreads>(largest_held(b), thread, room.b);
  const math::Powers<T> a_powers(a_max, scale), b_powers(b_max, scale);
  T own[3] = {};  // a_sum, b_sum, weighted
  ALIGNZOO_UNROLL
  for (int l = 0; l < H::kLoads; ++l) {
    if (l * H::kRound >= count) continue;
    const Elements<S> a_logits = elements_of<S>(a.load[l]), b_logits = elements_of<S>(b.load[l]);
    ALIGNZOO_UNROLL
    for (int i = 0; i < H::kPer; ++i) {
      const T x = math::to_compute(a_logits.at[i]) - a_powers.shift;
      const T y = math::to_compute(b_logits.at[i]) - b_powers.shift;
      const T power = a_powers.of_distance(math::max_or_nan(a_powers.lowest, x));
      own[0] += power;
      own[1] += b_powers.of_distance(math::max_or_nan(b_powers.lowest, y));
      own[2] = math::fma(power, math::log_ratio(x, y), own[2]);
    }
  }
  double sums[3];
  group_sums(own, thread, room.a, sums);
  // Some x - y was +inf where the weighted sum is no number, unless a sum is NaN too, which counts
  // for more: no weight is above 1, and a finite x - y below the clamp has weight 0.
  const bool finite = sums[2] < __builtin_inf();
  return {static_cast<double>(a_max),    sums[0],
          static_cast<double>(b_max),    sums[1],
          inverse_temperature * sums[2], finite ? 0.0 : __builtin_inf()};
}

// One segment of a pair of rows for each group of threads. A pair of one segment is finished here;
// of others the segments' sums are left in `partial`.
template <class S, class T, int kThreads>
__global__ void __launch_bounds__(kRowThreads)
    segments_kernel(DivergenceArgs<S, T> args, RowPlaces a_places, RowPlaces b_places,
                    Pieces segments, math::PowerScale<T> scale, math::DivergenceSums* partial) {
  using H = Held<S, kThreads, kHeldOfPair>;
  using Room = PairRoom<T, kThreads>;
  ALIGNZOO_SHARED(Room, room);
  for_each_unit<kThreads>(segments.count, [&](int64_t unit, int thread) {
    const Piece segment = segments.at(unit);
    const int64_t vocabulary = args.a_rows.vocabulary, begin = segment.piece * H::kAll;
    H a, b;
    const Extent extent = hold(args.a + a_places.offset(segment.row), vocabulary, begin, thread, a);
    hold(args.b + b_places.offset(segment.row), vocabulary, begin, thread, b);
    const math::DivergenceSums sums =
        held_divergence(a, b, extent.count, scale, args.inverse_temperature, thread, room);
    if (thread != 0) return;
    if (segments.each == 1) {
      write_row(args, segment.row, sums);
    } else {
      partial[unit] = sums;
    }
  });
}

// Finishes pairs of several segments, a warp each.
template <class S, class T>
__global__ void __launch_bounds__(kRowThreads)
    rows_kernel(DivergenceArgs<S, T> args, int64_t segments, const math::DivergenceSums* partial) {
  for_each_unit<kWarp>(args.a_rows.count, [&](int64_t row, int lane) {
    const math::DivergenceSums* parts = partial + row * segments;
    const double none = -__builtin_inf();
    math::DivergenceSums sums{none, 0.0, none, 0.0, 0.0, none};
    for (int64_t i = lane; i < segments; i += kWarp) {
      sums.a_max = larger_number(sums.a_max, parts[i].a_max);
      sums.b_max = larger_number(sums.b_max, parts[i].b_max);
    }
    sums.a_max = warp_reduce(sums.a_max, Larger{});
    sums.b_max = warp_reduce(sums.b_max, Larger{});
    for (int64_t i = lane; i < segments; i += kWarp) {
      math::DivergenceSums part = parts[i];
      math::move_divergence(sums.a_max, sums.b_max, args.inverse_temperature, part);
      math::add_divergence(part, sums);
    }
    sums.a_sum = warp_reduce(sums.a_sum, Add{});
    sums.b_sum = warp_reduce(sums.b_sum, Add{});
    sums.weighted = warp_reduce(sums.weighted, Add{});
    sums.largest = warp_reduce(sums.largest, Larger{});
    if (lane == 0) write_row(args, row, sums);
  });
}

template <int kThreads, class S, class T>
Status launch_segments(const Queue& queue, const DivergenceArgs<S, T>& args, int64_t segments,
                       math::DivergenceSums* partial) {
  const Pieces pieces(args.a_rows.count, segments);
  return launch(queue, segments_kernel<S, T, kThreads>, blocks_of_units<kThreads>(pieces.count),
                kRowThreads, args, RowPlaces(args.a_rows), RowPlaces(args.b_rows), pieces,
                math::PowerScale<T>(args.inverse_temperature), partial);
}

// Pieces as in softmax.cu's backward pass: whole loads and stores of a gradient fit.
template <class S>
constexpr int kBackwardHeld = 2 * kPerLoad<S>;

// The second bound leaves doubles enough registers.
template <class S, class T, int kThreads>
__global__ void __launch_bounds__(kRowThreads, sizeof(S) == 8 ? 2 : 3)
    backward_kernel(DivergenceBackwardArgs<S, T> args, RowPlaces a_places, RowPlaces b_places,
                    Pieces pieces) {
  using H = Held<S, kThreads, kBackwardHeld<S>>;
  constexpr int kPer = H::kPer;
  const int64_t vocabulary = args.a_rows.vocabulary;
  for_each_unit<kThreads>(pieces.count, [&](int64_t unit, int thread) {
    const Piece piece = pieces.at(unit);
    const int64_t row = piece.row;
    S* a_gradient = args.a_gradient ? args.a_gradient + row * vocabulary : nullptr;
    S* b_gradient = args.b_gradient ? args.b_gradient + row * vocabulary : nullptr;
    const int64_t begin =
        piece.piece * H::kAll - elements_before<S>(a_gradient ? a_gradient : b_gradient);
    if (args.upstream[row] == T(0)) {
      if (a_gradient) fill<S, kThreads, H::kLoads>(a_gradient, vocabulary, begin, thread, T(0));
      if (b_gradient) fill<S, kThreads, H::kLoads>(b_gradient, vocabulary, begin, thread, T(0));
      return;
    }
    H a, b;
    const Extent extent = hold(args.a + a_places.offset(row), vocabulary, begin, thread, a);
    hold(args.b + b_places.offset(row), vocabulary, begin, thread, b);
    const double* saved = args.saved + 5 * row;
    const T scale = static_cast<T>(args.inverse_temperature), up = scale * args.upstream[row];
    const T a_max = static_cast<T>(saved[0]), a_scale = static_cast<T>(1.0 / saved[1]),
            b_max = static_cast<T>(saved[2]), b_scale = static_cast<T>(1.0 / saved[3]),
            mean_ratio = static_cast<T>(saved[4]);
    ALIGNZOO_UNROLL
    for (int l = 0; l < H::kLoads; ++l) {
      if (l * H::kRound >= extent.count) continue;
      const Elements<S> a_logits = elements_of<S>(a.load[l]), b_logits = elements_of<S>(b.load[l]);
      T by_a[kPer], by_b[kPer];
      ALIGNZOO_UNROLL
      for (int i = 0; i < kPer; ++i) {
        const T x = (math::to_compute(a_logits.at[i]) - a_max) * scale;
        const T y = (math::to_compute(b_logits.at[i]) - b_max) * scale;
        by_a[i] = up * math::divergence_gradient_a(x, y, a_scale, mean_ratio);
        by_b[i] = up * math::divergence_gradient_b(x, y, a_scale, b_scale);
      }
      const int number = H::number(l, thread);
      if (a_gradient) put(a_gradient + begin, number, extent, by_a);
      if (b_gradient) put(b_gradient + begin, number, extent, by_b);
    }
  });
}

template <int kThreads, class S, class T>
Status launch_backward(const Queue& queue, const DivergenceBackwardArgs<S, T>& args) {
  using H = Held<S, kThreads, kBackwardHeld<S>>;
  const S* first = args.a_gradient ? args.a_gradient : args.b_gradient;
  const Pieces pieces(args.a_rows.count, aligned_pieces(args.a_rows.vocabulary, H::kAll, first));
  return launch(queue, backward_kernel<S, T, kThreads>, blocks_of_units<kThreads>(pieces.count),
                kRowThreads, args, RowPlaces(args.a_rows), RowPlaces(args.b_rows), pieces);
}

}  // namespace

template <class S, class T>
Status kl_divergence(const Queue& queue, const DivergenceArgs<S, T>& args, void* workspace) {
  if (args.a_rows.count == 0) return cudaSuccess;
  const int64_t vocabulary = args.a_rows.vocabulary;
  const int64_t segments = larger(1, segments_of(vocabulary, kPairSegment));
  auto* partial = static_cast<math::DivergenceSums*>(workspace);
  const Status status = vocabulary <= kWarpPair
                            ? launch_segments<kWarp>(queue, args, 1, partial)
                            : launch_segments<kRowThreads>(queue, args, segments, partial);
  if (status != cudaSuccess || segments == 1) return status;
  return launch(queue, rows_kernel<S, T>, blocks_of_units<kWarp>(args.a_rows.count), kRowThreads,
                args, segments, partial);
}

template <class S, class T>
Status kl_divergence_backward(const Queue& queue, const DivergenceBackwardArgs<S, T>& args) {
  const int64_t vocabulary = args.a_rows.vocabulary;
  const bool wanted = args.a_gradient || args.b_gradient;
  if (args.a_rows.count == 0 || vocabulary == 0 || !wanted) return cudaSuccess;
  return vocabulary <= kWarp * kBackwardHeld<S> ? launch_backward<kWarp>(queue, args)
                                                : launch_backward<kRowThreads>(queue, args);
}

#define ALIGNZOO_INSTANTIATE(S, T)                                                       \
  template Status kl_divergence<S, T>(const Queue&, const DivergenceArgs<S, T>&, void*); \
  template Status kl_divergence_backward<S, T>(const Queue&, const DivergenceBackwardArgs<S, T>&);
ALIGNZOO_INSTANTIATE(float, float)
ALIGNZOO_INSTANTIATE(double, double)
ALIGNZOO_INSTANTIATE(Bfloat16, float)
ALIGNZOO_INSTANTIATE(Float16, float)
#undef ALIGNZOO_INSTANTIATE

}  // namespace alignzoo::cuda
