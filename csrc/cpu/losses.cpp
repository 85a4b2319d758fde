// The value loss and the elementwise penalties: one read, value and gradient.
#include "math/losses.h"

#include <cstdlib>

#include "cpu/compact.h"
#include "cpu/lane_sums.h"

namespace alignzoo::cpu {
inline namespace ALIGNZOO_ISA {
namespace {

template <class T, class Term>
ALIGNZOO_INLINE void elementwise(const ElementwiseArgs<T>& args, int threads, Term term) {
  auto body = [&](int64_t block) {
    const int64_t stop = smaller(args.size, (block + 1) * kTile);
    for_each_vector(block * kTile, stop, [&](int64_t i, int n) __attribute__((always_inline)) {
      fetch(args.x + i);
      if (args.y) fetch(args.y + i);
      const Wide<T> x = load_up_to(args.x + i, n);
      Wide<T> value, slope;
      term(args.y ? load_up_to(args.y + i, n) - x : x, value, slope);
      store_up_to(args.value + i, n, value);
      if (args.gradient) store_up_to(args.gradient + i, n, slope);
    });
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
LossSums value_loss(const ValueLossArgs<T>& args, int threads) {
  const Tiles tiles(args.rows);
  LossSums* partial =
      static_cast<LossSums*>(malloc(sizeof(LossSums) * static_cast<size_t>(tiles.count)));
  const Wide<T> zero(T(0)), range(args.range), gradient_scale(static_cast<T>(args.gradient_scale));
  tiles.for_each(threads, [&](int64_t tile, int64_t, int64_t begin, int64_t end) {
    LaneSums<T, 2> sums;
    sums.over(begin, end, [&](int64_t t, int n) __attribute__((always_inline)) {
      fetch(args.values + t);
      fetch(args.returns + t);
      if (args.clip) fetch(args.old_values + t);
      if (args.mask) fetch(args.mask + t);
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
      sums.add(0, term.loss);
      sums.add(1, term.clipped);
      if (args.gradient) {
        store_up_to(args.gradient + t, n, select(keep, term.slope * gradient_scale, zero));
      }
    });
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

#define ALIGNZOO_INSTANTIATE(T)                                  \
  template LossSums value_loss<T>(const ValueLossArgs<T>&, int); \
  template void kl_penalty<T>(const ElementwiseArgs<T>&, int);   \
  template void huber<T>(const ElementwiseArgs<T>&, int);
ALIGNZOO_INSTANTIATE(float)
ALIGNZOO_INSTANTIATE(double)
#undef ALIGNZOO_INSTANTIATE

}  // namespace ALIGNZOO_ISA
}  // namespace alignzoo::cpu
