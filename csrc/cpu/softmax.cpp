// Log-probs of chosen tokens: one read of the logits forward; one read and one write backward.
#include "cpu/rows.h"

namespace alignzoo::cpu {
inline namespace ALIGNZOO_ISA {

template <class S, class T>
void token_log_probs(const TokenLogProbsArgs<S, T>& args, int threads) {
  const int64_t vocabulary = args.rows.vocabulary;
  for_each_row(args.rows, threads, [&](int64_t row) {
    double log_prob = 0, entropy = 0, log_sum = 0, max = 0;
    const int64_t target = args.targets[row];
    if (target >= 0) {
      const S* logits = args.logits + args.rows.offset(row);
      const math::RowStatistics s =
          args.entropy ? row_statistics<true>(logits, vocabulary, args.inverse_temperature)
                       : row_statistics<false>(logits, vocabulary, args.inverse_temperature);
      max = s.max;
      log_sum = __builtin_log(s.sum);
      if (args.entropy) entropy = math::entropy_of(s, log_sum);
      const double chosen = static_cast<double>(to_compute(logits[target]));
      log_prob = math::log_prob_of(chosen, max, log_sum, args.inverse_temperature);
    }
    args.log_probs[row] = static_cast<T>(log_prob);
    if (args.entropy) args.entropy[row] = static_cast<T>(entropy);
    if (args.saved) {
      double* saved = args.saved + 3 * row;
      saved[0] = max;
      saved[1] = log_sum;
      saved[2] = entropy;
    }
  });
}

template <class S, class T>
void token_log_probs_backward(const TokenLogProbsBackwardArgs<S, T>& args, int threads) {
  const int64_t vocabulary = args.rows.vocabulary;
  for_each_row(args.rows, threads, [&](int64_t row) {
    S* gradient = args.gradient + row * vocabulary;
    const int64_t target = args.targets[row];
    const T up_log_prob = args.up_log_probs ? args.up_log_probs[row] : T(0);
    const T up_entropy = args.up_entropy ? args.up_entropy[row] : T(0);
    if (target < 0 || (up_log_prob == T(0) && up_entropy == T(0))) {
      memset(gradient, 0, sizeof(S) * static_cast<size_t>(vocabulary));
      return;
    }
    const S* logits = args.logits + args.rows.offset(row);
    const double* saved = args.saved + 3 * row;
    const Wide<T> max(static_cast<T>(saved[0])), log_sum(static_cast<T>(saved[1])),
        entropy(static_cast<T>(saved[2])), scale(static_cast<T>(args.inverse_temperature)),
        g(up_log_prob), h(up_entropy);
    auto at = [&](const Wide<T>& z) __attribute__((always_inline)) {
      Wide<T> x = (z - max) * scale;
      return scale * math::softmax_gradient(x, log_sum, entropy, g, h);
    };
    // The target's gradient, before a store over the logits can change what it is made of.
    T lane[kLanes];
    store(lane, at(Wide<T>(to_compute(logits[target]))));
    const T target_gradient = lane[0] + static_cast<T>(args.inverse_temperature) * up_log_prob;
    int64_t j = 0;
    for (; j + kLanes <= vocabulary; j += kLanes) {
      store_from_compute(gradient + j, at(load_as_compute(logits + j)));
    }
    if (j < vocabulary) {
      const int n = static_cast<int>(vocabulary - j);
      store_first(gradient + j, n, at(load_first(logits + j, n, T(0))));
    }
    from_compute(target_gradient, gradient[target]);
  });
}

#define ALIGNZOO_INSTANTIATE(S, T)                                          \
  template void token_log_probs<S, T>(const TokenLogProbsArgs<S, T>&, int); \
  template void token_log_probs_backward<S, T>(const TokenLogProbsBackwardArgs<S, T>&, int);
ALIGNZOO_INSTANTIATE(float, float)
ALIGNZOO_INSTANTIATE(double, double)
ALIGNZOO_INSTANTIATE(Bfloat16, float)
ALIGNZOO_INSTANTIATE(Float16, float)
#undef ALIGNZOO_INSTANTIATE

}  // namespace ALIGNZOO_ISA
}  // namespace alignzoo::cpu
