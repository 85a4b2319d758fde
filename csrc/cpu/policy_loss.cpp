// The policy loss: one read of its tokens, value and gradient; two where rows are averaged.
#include <cstdlib>

#include "cpu/compact.h"
#include "cpu/lane_sums.h"
#include "math/losses.h"

namespace alignzoo::cpu {
inline namespace ALIGNZOO_ISA {
namespace {

// Sums of a tile, combined in order into those of the whole.
struct TileSums {
  LossSums sums;
  double slope;  // sequence level: of the loss by the row's ratio
};

template <class T>
void row_infos(const PolicyLossArgs<T>& args, const Tiles& tiles, int threads, TileSums* partial,
               math::PolicyRow* infos) {
  tiles.for_each(threads, [&](int64_t tile, int64_t, int64_t begin, int64_t end) {
    const Wide<T> zero(T(0));
    LaneSums<T, 1> sums;
    if (args.level == Level::kSequence) {
      sums.over(begin, end, [&](int64_t t, int n) __attribute__((always_inline)) {
        const Mask<T> keep = load_mask<T>(args.mask ? args.mask + t : nullptr, n);
        const Wide<T> d = load_up_to(args.log_probs + t, n) - load_up_to(args.old_log_probs + t, n);
        sums.add(0, select(keep, d, zero));
      });
    }
    partial[tile].sums.ratio = sums.total(0);
    partial[tile].sums.clipped = static_cast<double>(
        args.mask ? count_nonzero(args.mask + begin, end - begin) : end - begin);
  });
  for (int64_t row = 0; row < tiles.rows.count; ++row) {
    double total = 0, count = 0;
    for (int64_t i = row * tiles.per_row; i < (row + 1) * tiles.per_row; ++i) {
      total += partial[i].sums.ratio;
      count += partial[i].sums.clipped;
    }
    infos[row] = math::policy_row(total, count, args.row_means);
  }
}

template <class T, math::PolicyKind kKind, Level kLevel>
void policy_tile(const PolicyLossArgs<T>& args, const math::PolicyRow* info, int64_t begin,
                 int64_t end, TileSums& out) {
  const Wide<T> zero(T(0)), low(args.low), high(args.high), dual(args.dual),
      row_ratio(info ? static_cast<T>(info->ratio) : T(0));
  const double weight = info ? info->weight : 1.0;
  const Wide<T> gradient_scale(static_cast<T>(args.gradient_scale * weight));
  constexpr bool kSlopeByRow = kLevel == Level::kSequence && kKind != math::PolicyKind::kCispo;
  LaneSums<T, 6> sums;
  Wide<T> largest = zero;
  sums.over(begin, end, [&](int64_t t, int n) __attribute__((always_inline)) {
    fetch(args.log_probs + t);
    fetch(args.old_log_probs + t);
    fetch(args.advantages + t);
    if (args.mask) fetch(args.mask + t);
    const Mask<T> keep = load_mask<T>(args.mask ? args.mask + t : nullptr, n);
    const Wide<T> log_prob = select(keep, load_up_to(args.log_probs + t, n), zero);
    const Wide<T> old_log_prob = select(keep, load_up_to(args.old_log_probs + t, n), zero);
    const Wide<T> advantage = select(keep, load_up_to(args.advantages + t, n), zero);
    math::PolicyToken<Wide<T>> term = math::policy_token<kKind, kLevel == Level::kSequence>(
        log_prob, old_log_prob, advantage, row_ratio, low, high, dual);
    if (args.behaviour_weights) {
      const Wide<T> w = select(keep, load_up_to(args.behaviour_weights + t, n), zero);
      term.loss = term.loss * w;
      term.slope = term.slope * w;
    }
    const Wide<T> seen = select(keep, term.ratio, zero);
    sums.add(0, term.loss);
    sums.add(1, term.clipped);
    sums.add(2, term.kl);
    sums.add(3, seen);
    sums.near[4] = fma(seen, seen, sums.near[4]);
    if constexpr (kSlopeByRow) sums.add(5, term.slope);
    largest = max(largest, seen);
    if (!kSlopeByRow && args.gradient) {
      store_up_to(args.gradient + t, n, select(keep, term.slope * gradient_scale, zero));
    }
  });
  out.sums = {sums.total(0), sums.total(1), sums.total(2),
              sums.total(3), sums.total(4), static_cast<double>(max_lanes(largest))};
  out.slope = sums.total(5);
}

// At sequence level every unmasked token of a row has the same gradient.
template <class T>
void spread_gradient(const PolicyLossArgs<T>& args, const Tiles& tiles, int threads,
                     const double* row_gradients) {
  tiles.for_each(threads, [&](int64_t, int64_t row, int64_t begin, int64_t end) {
    const T gradient = static_cast<T>(row_gradients[row]);
    for (int64_t t = begin; t < end; ++t) {
      args.gradient[t] = !args.mask || args.mask[t] ? gradient : T(0);
    }
  });
}

template <class T, math::PolicyKind kKind, Level kLevel>
LossSums policy_loss_of(const PolicyLossArgs<T>& args, int threads) {
  const Tiles tiles(args.rows);
  const size_t rows = static_cast<size_t>(args.rows.count);
  const bool need_infos = kLevel == Level::kSequence || args.row_means;
  TileSums* partial =
      static_cast<TileSums*>(malloc(sizeof(TileSums) * static_cast<size_t>(tiles.count)));
  math::PolicyRow* infos =
      static_cast<math::PolicyRow*>(need_infos ? malloc(sizeof(math::PolicyRow) * rows) : nullptr);
  if (need_infos) row_infos(args, tiles, threads, partial, infos);
  tiles.for_each(threads, [&](int64_t tile, int64_t row, int64_t begin, int64_t end) {
    policy_tile<T, kKind, kLevel>(args, infos ? infos + row : nullptr, begin, end, partial[tile]);
  });

  constexpr bool kSlopeByRow = kLevel == Level::kSequence && kKind != math::PolicyKind::kCispo;
  double* row_gradients =
      static_cast<double*>(kSlopeByRow && args.gradient ? malloc(sizeof(double) * rows) : nullptr);
  LossSums total;
  for (int64_t row = 0; row < args.rows.count; ++row) {
    LossSums sums;
    double slope = 0;
    for (int64_t i = row * tiles.per_row; i < (row + 1) * tiles.per_row; ++i) {
      const LossSums& tile = partial[i].sums;
      sums.loss += tile.loss;
      sums.clipped += tile.clipped;
      sums.kl += tile.kl;
      sums.ratio += tile.ratio;
      sums.ratio_squared += tile.ratio_squared;
      sums.ratio_max = tile.ratio_max > sums.ratio_max ? tile.ratio_max : sums.ratio_max;
      slope += partial[i].slope;
    }
    const double weight = infos ? infos[row].weight : 1.0;
    total.loss += sums.loss * weight;
    total.clipped += sums.clipped;
    total.kl += sums.kl;
    total.ratio += sums.ratio;
    total.ratio_squared += sums.ratio_squared;
    total.ratio_max = sums.ratio_max > total.ratio_max ? sums.ratio_max : total.ratio_max;
    if (row_gradients) {
      row_gradients[row] = slope * infos[row].ratio_slope * weight * args.gradient_scale;
    }
  }
  if (row_gradients) spread_gradient(args, tiles, threads, row_gradients);
  free(row_gradients);
  free(infos);
  free(partial);
  return total;
}

template <class T, math::PolicyKind kKind>
LossSums policy_loss_at_level(const PolicyLossArgs<T>& args, int threads) {
  return args.level == Level::kToken ? policy_loss_of<T, kKind, Level::kToken>(args, threads)
                                     : policy_loss_of<T, kKind, Level::kSequence>(args, threads);
}

}  // namespace

template <class T>
LossSums policy_loss(const PolicyLossArgs<T>& args, int threads) {
  switch (static_cast<math::PolicyKind>(args.kind)) {
    case math::PolicyKind::kPlain:
      return policy_loss_at_level<T, math::PolicyKind::kPlain>(args, threads);
    case math::PolicyKind::kCispo:
      return policy_loss_at_level<T, math::PolicyKind::kCispo>(args, threads);
    default:
      return policy_loss_at_level<T, math::PolicyKind::kClip>(args, threads);
  }
}

template LossSums policy_loss<float>(const PolicyLossArgs<float>&, int);
template LossSums policy_loss<double>(const PolicyLossArgs<double>&, int);

}  // namespace ALIGNZOO_ISA
}  // namespace alignzoo::cpu
