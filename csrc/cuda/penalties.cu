// The elementwise penalties: one read, value and gradient.
#include "cuda/launches.h"
#include "cuda/plan.h"
#include "cuda/runtime.h"
#include "math/losses.h"

namespace alignzoo::cuda {
namespace {

template <class T, math::KlEstimator kEstimator>
struct KlTerm {
  ALIGNZOO_DEVICE void operator()(T q, T& value, T& slope) const {
    math::kl_term<kEstimator>(q, value, slope);
  }
};
template <class T>
struct HuberTerm {
  T delta;
  ALIGNZOO_DEVICE void operator()(T x, T& value, T& slope) const {
    math::huber_term(x, delta, value, slope);
  }
};

// kVector elements from `at` on, all of which exist.
template <int kVector, class T, class Term>
ALIGNZOO_DEVICE void elements(const ElementwiseArgs<T>& args, int64_t at, const Term& term) {
  Pack<T, kVector> x = load_pack<kVector>(args.x + at), value, slope;
  if (args.y) {
    const Pack<T, kVector> y = load_pack<kVector>(args.y + at);
    for (int i = 0; i < kVector; ++i) x.at[i] = y.at[i] - x.at[i];
  }
  for (int i = 0; i < kVector; ++i) term(x.at[i], value.at[i], slope.at[i]);
  store_pack(args.value + at, value);
  if (args.gradient) store_pack(args.gradient + at, slope);
}

template <int kVector, class T, class Term>
__global__ void __launch_bounds__(kElementThreads, 4)
    elementwise_kernel(ElementwiseArgs<T> args, Term term) {
  constexpr int64_t kBlock = int64_t{kElementThreads} * kVector * kElementLoads;
  for (int64_t begin = blockIdx.x * kBlock; begin < args.size; begin += gridDim.x * kBlock) {
    for (int load = 0; load < kElementLoads; ++load) {
      const int64_t at = begin + (load * kElementThreads + static_cast<int>(threadIdx.x)) * kVector;
      if (at + kVector <= args.size) {
        elements<kVector>(args, at, term);
      } else {
        for (int64_t i = at; i < args.size; ++i) elements<1>(args, i, term);
      }
    }
  }
}

template <class T, class Term>
Status elementwise(const Queue& queue, const ElementwiseArgs<T>& args, Term term) {
  constexpr int kVector = kPerLoad<T>;
  const bool whole_loads =
      fits_pack(args.x) && fits_pack(args.y) && fits_pack(args.value) && fits_pack(args.gradient);
  const int vector = whole_loads ? kVector : 1;
  const int64_t blocks = blocks_for(args.size, int64_t{kElementThreads} * vector * kElementLoads);
  return launch(queue,
                whole_loads ? elementwise_kernel<kVector, T, Term> : elementwise_kernel<1, T, Term>,
                blocks, kElementThreads, args, term);
}

}  // namespace

template <class T>
Status kl_penalty(const Queue& queue, const ElementwiseArgs<T>& args) {
  using math::KlEstimator;
  switch (static_cast<KlEstimator>(args.estimator)) {
    case KlEstimator::kK1:
      return elementwise(queue, args, KlTerm<T, KlEstimator::kK1>{});
    case KlEstimator::kK2:
      return elementwise(queue, args, KlTerm<T, KlEstimator::kK2>{});
    case KlEstimator::kK3:
      return elementwise(queue, args, KlTerm<T, KlEstimator::kK3>{});
    case KlEstimator::kAbs:
      return elementwise(queue, args, KlTerm<T, KlEstimator::kAbs>{});
    default:
      return elementwise(queue, args, KlTerm<T, KlEstimator::kK3Plus>{});
  }
}

template <class T>
Status huber(const Queue& queue, const ElementwiseArgs<T>& args) {
  return elementwise(queue, args, HuberTerm<T>{args.delta});
}

#define ALIGNZOO_INSTANTIATE(T)                                           \
  template Status kl_penalty<T>(const Queue&, const ElementwiseArgs<T>&); \
  template Status huber<T>(const Queue&, const ElementwiseArgs<T>&);
ALIGNZOO_INSTANTIATE(float)
ALIGNZOO_INSTANTIATE(double)
#undef ALIGNZOO_INSTANTIATE

}  // namespace alignzoo::cuda
