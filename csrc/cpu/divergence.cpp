// The divergence of two rows of logits: one read of both forward; backward one read of both and one
// write of each gradient.
#include "math/divergence.h"

#include "cpu/rows.h"

namespace alignzoo::cpu {
inline namespace ALIGNZOO_ISA {
namespace {

// The sums of n <= kChunk logits relative to the two maxima.
template <class S>
ALIGNZOO_INLINE void add_chunk(const S* a, const S* b, int64_t n, double inverse_temperature,
                               math::DivergenceSums& row) {
  using T = Compute<S>;
  const T none = -static_cast<T>(__builtin_inf());
  const Wide<T> zero(T(0));
  const Powers<T> a_powers(row.a_max, inverse_temperature),
      b_powers(row.b_max, inverse_temperature);
  Wide<T> a_sum = zero, b_sum = zero, weighted = zero, largest(none);
  auto take = [&](const Wide<T>& a_logits, const Wide<T>& b_logits) __attribute__((always_inline)) {
    const Wide<T> x = a_logits - a_powers.shift, y = b_logits - b_powers.shift;
    const Wide<T> power = a_powers.of_distance(max(a_powers.lowest, x));
    a_sum = a_sum + power;
    b_sum = b_sum + b_powers.of_distance(max(b_powers.lowest, y));
    const Wide<T> ratio = math::log_ratio(x, y);
    weighted = fma(power, ratio, weighted);
    largest = max(ratio, largest);
  };
  int64_t j = 0;
  for (; j + kLanes <= n; j += kLanes) {
    prefetch(a + j + n);  // the next chunk, or row
    prefetch(b + j + n);
    take(load_as_compute(a + j), load_as_compute(b + j));
  }
  if (j < n) {
    const int left = static_cast<int>(n - j);
    take(load_first(a + j, left, none), load_first(b + j, left, none));
  }
  row.a_sum += static_cast<double>(sum_lanes(a_sum));
  row.b_sum += static_cast<double>(sum_lanes(b_sum));
  row.weighted += inverse_temperature * static_cast<double>(sum_lanes(weighted));
  row.largest = math::max(static_cast<double>(max_lanes(largest)), row.largest);
}

template <class S>
ALIGNZOO_INLINE math::DivergenceSums divergence_sums(const S* a, const S* b, int64_t vocabulary,
                                                     double inverse_temperature) {
  const double none = -__builtin_inf();
  math::DivergenceSums row{none, 0.0, none, 0.0, 0.0, none};
  for (int64_t begin = 0; begin < vocabulary; begin += kChunk) {
    const int64_t n = smaller(kChunk, vocabulary - begin);
    const double a_max = static_cast<double>(chunk_max(a + begin, n));
    const double b_max = static_cast<double>(chunk_max(b + begin, n));
    if (a_max > row.a_max) {
      math::shift_sums((row.a_max - a_max) * inverse_temperature, row.a_sum, row.weighted);
      row.a_max = a_max;
    }
    if (b_max > row.b_max) {
      math::shift_divergence((row.b_max - b_max) * inverse_temperature, row);
      row.b_max = b_max;
    }
    add_chunk(a + begin, b + begin, n, inverse_temperature, row);
  }
  return row;
}

}  // namespace

template <class S, class T>
void kl_divergence(const DivergenceArgs<S, T>& args, int threads) {
  for_each_row(args.a_rows, threads, [&](int64_t row) {
    const math::DivergenceSums sums =
        divergence_sums(args.a + args.a_rows.offset(row), args.b + args.b_rows.offset(row),
                        args.a_rows.vocabulary, args.inverse_temperature);
    const double mean_ratio = math::mean_log_ratio(sums);
    args.value[row] = static_cast<T>(math::divergence_of(sums, mean_ratio));
    if (args.saved) {
      const double saved[5] = {sums.a_max, sums.a_sum, sums.b_max, sums.b_sum, mean_ratio};
      memcpy(args.saved + 5 * row, saved, sizeof saved);
    }
  });
}

template <class S, class T>
void kl_divergence_backward(const DivergenceBackwardArgs<S, T>& args, int threads) {
  const int64_t vocabulary = args.a_rows.vocabulary;
  for_each_row(args.a_rows, threads, [&](int64_t row) {
    S* a_gradient = args.a_gradient ? args.a_gradient + row * vocabulary : nullptr;
    S* b_gradient = args.b_gradient ? args.b_gradient + row * vocabulary : nullptr;
    if (args.upstream[row] == T(0)) {
      const size_t bytes = sizeof(S) * static_cast<size_t>(vocabulary);
      if (a_gradient) memset(a_gradient, 0, bytes);
      if (b_gradient) memset(b_gradient, 0, bytes);
      return;
    }
    const S *a = args.a + args.a_rows.offset(row), *b = args.b + args.b_rows.offset(row);
    const double* saved = args.saved + 5 * row;
    const T inverse_temperature = static_cast<T>(args.inverse_temperature);
    const Wide<T> a_max(static_cast<T>(saved[0])), a_scale(static_cast<T>(1.0 / saved[1])),
        b_max(static_cast<T>(saved[2])), b_scale(static_cast<T>(1.0 / saved[3])),
        mean_ratio(static_cast<T>(saved[4])), scale(inverse_temperature),
        up(inverse_temperature * args.upstream[row]);
    for (int64_t j = 0; j < vocabulary; j += kLanes) {
      const int n = static_cast<int>(smaller(kLanes, vocabulary - j));
      const Wide<T> x = (load_up_to(a + j, n) - a_max) * scale;
      const Wide<T> y = (load_up_to(b + j, n) - b_max) * scale;
      if (a_gradient) {
        store_up_to(a_gradient + j, n, up * math::divergence_gradient_a(x, y, a_scale, mean_ratio));
      }
      if (b_gradient) {
        store_up_to(b_gradient + j, n, up * math::divergence_gradient_b(x, y, a_scale, b_scale));
      }
    }
  });
}

#define ALIGNZOO_INSTANTIATE(S, T)                                     \
  template void kl_divergence<S, T>(const DivergenceArgs<S, T>&, int); \
  template void kl_divergence_backward<S, T>(const DivergenceBackwardArgs<S, T>&, int);
ALIGNZOO_INSTANTIATE(float, float)
ALIGNZOO_INSTANTIATE(double, double)
ALIGNZOO_INSTANTIATE(Bfloat16, float)
ALIGNZOO_INSTANTIATE(Float16, float)
#undef ALIGNZOO_INSTANTIATE

}  // namespace ALIGNZOO_ISA
}  // namespace alignzoo::cpu
