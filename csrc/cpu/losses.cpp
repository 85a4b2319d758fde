// The losses: each reads its tokens once and writes value and gradient.
#include "math/losses.h"

#include <cstdlib>

#include "cpu/formats.h"
#include "cpu/isa.h"

namespace alignzoo::cpu {
inline namespace ALIGNZOO_ISA {
namespace {

// Sums of one tile in float lanes, carried over to double lanes every few vectors.
template <class T, int kSums>
struct LaneSums {
  static constexpr int kFlush = 8;
  Wide<T> near[kSums];
  F64 far[kSums];
  int pending = 0;

  ALIGNZOO_INLINE LaneSums() {
    for (int i = 0; i < kSums; ++i) {
      near[i] = Wide<T>(T(0));
      far[i] = F64(0.0);
    }
  }
  ALIGNZOO_INLINE void flush() {
    for (int i = 0; i < kSums; ++i) {
      far[i] = far[i] + widen(near[i]);
      near[i] = Wide<T>(T(0));
    }
    pending = 0;
  }
  ALIGNZOO_INLINE void step() {
    if (++pending == kFlush) flush();
  }
  ALIGNZOO_INLINE double total(int i) { return sum_lanes(far[i]); }
};

// Of a row: unmasked tokens, and at sequence level the ratio all of them share.
struct RowInfo {
  double weight;  // what its sum is multiplied by: 1 or 1 / count
  double ratio, ratio_slope;
};

// Sums of a tile, combined in order into those of the whole.
struct TileSums {
  LossSums sums;
  double slope;  // sequence level: of the loss by the row's ratio
};

template <class T>
void row_infos(const PolicyLossArgs<T>& args, const Tiles& tiles, int threads, TileSums* partial,
               RowInfo* infos) {
  tiles.for_each(threads, [&](int64_t tile, int64_t, int64_t begin, int64_t end) {
    LaneSums<T, 1> sums;
    double count = 0;
    for (int64_t t = begin; t < end; t += kLanes) {
      const int n = static_cast<int>(smaller(kLanes, end - t));
      const Mask<T> keep = load_mask<T>(args.mask ? args.mask + t : nullptr, n);
      const Wide<T> zero(T(0));
      if (args.level == Level::kSequence) {
        Wide<T> d = load_up_to(args.log_probs + t, n) - load_up_to(args.old_log_probs + t, n);
        sums.near[0] = sums.near[0] + select(keep, d, zero);
      }
      sums.step();
      for (int i = 0; i < n; ++i) count += !args.mask || args.mask[t + i] ? 1.0 : 0.0;
    }
    sums.flush();
    partial[tile].sums.ratio = sums.total(0);
    partial[tile].sums.clipped = count;
  });
  for (int64_t row = 0; row < tiles.rows.count; ++row) {
    double total = 0, count = 0;
    for (int64_t i = row * tiles.per_row; i < (row + 1) * tiles.per_row; ++i) {
      total += partial[i].sums.ratio;
      count += partial[i].sums.clipped;
    }
    RowInfo& info = infos[row];
    info.weight = args.row_means && count > 0 ? 1.0 / count : 1.0;
    const double mean = count > 0 ? total / count : 0.0;
    const double limit = math::kMaxLogRatio;
    info.ratio = math::exp_in_range(math::min(limit, math::max(-limit, mean)));
    info.ratio_slope = math::abs(mean) > limit || count == 0 ? 0.0 : info.ratio / count;
  }
}

template <class T, math::PolicyKind kKind, Level kLevel>
ALIGNZOO_INLINE void policy_tile(const PolicyLossArgs<T>& args, const RowInfo* info, int64_t begin,
                                 int64_t end, TileSums& out) {
  const Wide<T> zero(T(0)), limit(T(math::kMaxLogRatio)), low(args.low), high(args.high),
      dual(args.dual);
  const double weight = info ? info->weight : 1.0;
  const Wide<T> gradient_scale(static_cast<T>(args.gradient_scale * weight));
  constexpr bool kSlopeByRow = kLevel == Level::kSequence && kKind != math::PolicyKind::kCispo;
  LaneSums<T, 6> sums;
  Wide<T> largest = zero;
  for (int64_t t = begin; t < end; t += kLanes) {
    const int n = static_cast<int>(smaller(kLanes, end - t));
    const Mask<T> keep = load_mask<T>(args.mask ? args.mask + t : nullptr, n);
    const Wide<T> log_prob = select(keep, load_up_to(args.log_probs + t, n), zero);
    const Wide<T> old_log_prob = select(keep, load_up_to(args.old_log_probs + t, n), zero);
    const Wide<T> advantage = select(keep, load_up_to(args.advantages + t, n), zero);
    const Wide<T> d = log_prob - old_log_prob;
    const Wide<T> inside = max(zero - limit, min(limit, d));
    Wide<T> kl, minus_one, ratio;
    math::exp_remainders(inside, kl, minus_one);
    if constexpr (kLevel == Level::kSequence) {
      ratio = Wide<T>(static_cast<T>(info->ratio));
    } else {
      ratio = math::exp_in_range(inside);
    }
    math::PolicyTerm<Wide<T>> term = math::policy_term<kKind>(ratio, advantage, low, high, dual);
    if constexpr (kKind == math::PolicyKind::kCispo) {
      term.loss = term.loss * log_prob;
    } else if constexpr (kLevel == Level::kToken) {
      term.slope = select(abs(d) > limit, zero, term.slope * ratio);
    }
    if (args.behaviour_weights) {
      const Wide<T> w = select(keep, load_up_to(args.behaviour_weights + t, n), zero);
      term.loss = term.loss * w;
      term.slope = term.slope * w;
    }
    const Wide<T> seen = select(keep, ratio, zero);
    sums.near[0] = sums.near[0] + select(keep, term.loss, zero);
    sums.near[1] = sums.near[1] + term.clipped;
    sums.near[2] = sums.near[2] + kl;
    sums.near[3] = sums.near[3] + seen;
    sums.near[4] = sums.near[4] + seen * seen;
    if constexpr (kSlopeByRow) sums.near[5] = sums.near[5] + select(keep, term.slope, zero);
    largest = max(largest, seen);
    sums.step();
    if (!kSlopeByRow && args.gradient) {
      store_up_to(args.gradient + t, n, select(keep, term.slope * gradient_scale, zero));
    }
  }
  sums.flush();
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
  RowInfo* infos = static_cast<RowInfo*>(need_infos ? malloc(sizeof(RowInfo) * rows) : nullptr);
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

template <class T, class Term>
ALIGNZOO_INLINE void elementwise(const ElementwiseArgs<T>& args, int threads, Term term) {
  auto body = [&](int64_t block) {
    const int64_t stop = smaller(args.size, (block + 1) * kTile);
    for (int64_t i = block * kTile; i < stop; i += kLanes) {
      const int n = static_cast<int>(smaller(kLanes, stop - i));
      const Wide<T> x = load_up_to(args.x + i, n);
      Wide<T> value, slope;
      term(args.y ? load_up_to(args.y + i, n) - x : x, value, slope);
      store_up_to(args.value + i, n, value);
      if (args.gradient) store_up_to(args.gradient + i, n, slope);
    }
  };
  parallel_for(ceil_div(args.size, kTile), threads, body);
}

template <class T, math::KlEstimator kEstimator>
void kl_penalty_of(const ElementwiseArgs<T>& args, int threads) {
  elementwise(args, threads,
              [](const Wide<T>& q, Wide<T>& value, Wide<T>& slope)
                  __attribute__((always_inline)) { math::kl_term<kEstimator>(q, value, slope); });
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

template <class T>
LossSums value_loss(const ValueLossArgs<T>& args, int threads) {
  const Tiles tiles(args.rows);
  LossSums* partial =
      static_cast<LossSums*>(malloc(sizeof(LossSums) * static_cast<size_t>(tiles.count)));
  const Wide<T> zero(T(0)), range(args.range), gradient_scale(static_cast<T>(args.gradient_scale));
  tiles.for_each(threads, [&](int64_t tile, int64_t, int64_t begin, int64_t end) {
    LaneSums<T, 2> sums;
    for (int64_t t = begin; t < end; t += kLanes) {
      const int n = static_cast<int>(smaller(kLanes, end - t));
      const Mask<T> keep = load_mask<T>(args.mask ? args.mask + t : nullptr, n);
      const Wide<T> value = select(keep, load_up_to(args.values + t, n), zero);
      const Wide<T> target = select(keep, load_up_to(args.returns + t, n), zero);
      math::PolicyTerm<Wide<T>> term;
      if (args.clip) {
        const Wide<T> old_value = select(keep, load_up_to(args.old_values + t, n), zero);
        term = math::value_term(value, old_value, target, range);
      } else {
        term = math::plain_value_term(value, target);
      }
      sums.near[0] = sums.near[0] + term.loss;
      sums.near[1] = sums.near[1] + term.clipped;
      sums.step();
      if (args.gradient) {
        store_up_to(args.gradient + t, n, select(keep, term.slope * gradient_scale, zero));
      }
    }
    sums.flush();
    partial[tile] = LossSums();
    partial[tile].loss = sums.total(0);
    partial[tile].clipped = sums.total(1);
  });
  LossSums total;
  for (int64_t row = 0; row < args.rows.count; ++row) {
    LossSums sums;
    for (int64_t i = row * tiles.per_row; i < (row + 1) * tiles.per_row; ++i) {
      sums.loss += partial[i].loss;
      sums.clipped += partial[i].clipped;
    }
    total.loss += sums.loss;
    total.clipped += sums.clipped;
  }
  free(partial);
  return total;
}

template <class T>
void kl_penalty(const ElementwiseArgs<T>& args, int threads) {
  using math::KlEstimator;
  switch (static_cast<KlEstimator>(args.estimator)) {
    case KlEstimator::kK1:
      return kl_penalty_of<T, KlEstimator::kK1>(args, threads);
    case KlEstimator::kK2:
      return kl_penalty_of<T, KlEstimator::kK2>(args, threads);
    case KlEstimator::kK3:
      return kl_penalty_of<T, KlEstimator::kK3>(args, threads);
    case KlEstimator::kAbs:
      return kl_penalty_of<T, KlEstimator::kAbs>(args, threads);
    case KlEstimator::kK3Plus:
      return kl_penalty_of<T, KlEstimator::kK3Plus>(args, threads);
  }
}

template <class T>
void huber(const ElementwiseArgs<T>& args, int threads) {
  const Wide<T> delta(args.delta);
  elementwise(args, threads,
              [&](const Wide<T>& x, Wide<T>& value, Wide<T>& slope)
                  __attribute__((always_inline)) { math::huber_term(x, delta, value, slope); });
}

#define ALIGNZOO_INSTANTIATE(T)                                    \
  template LossSums policy_loss<T>(const PolicyLossArgs<T>&, int); \
  template LossSums value_loss<T>(const ValueLossArgs<T>&, int);   \
  template void kl_penalty<T>(const ElementwiseArgs<T>&, int);     \
  template void huber<T>(const ElementwiseArgs<T>&, int);
ALIGNZOO_INSTANTIATE(float)
ALIGNZOO_INSTANTIATE(double)
#undef ALIGNZOO_INSTANTIATE

}  // namespace ALIGNZOO_ISA
}  // namespace alignzoo::cpu
