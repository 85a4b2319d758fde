// One-step and n-step targets of temporal-difference learning.
#include "cpu/formats.h"
#include "cpu/isa.h"

namespace alignzoo::cpu {
inline namespace ALIGNZOO_ISA {
namespace {

// Horner's scheme from the last of a step's n rewards to its own, 16 steps at once; where fewer
// than n steps are left in the row, from the target of the next step.
template <class T>
void td_targets_row(const TdTargetsArgs<T>& args, int64_t begin, int64_t end) {
  const Wide<T> zero(T(0)), gamma(args.gamma);
  const auto target = [&](int64_t t, int n, Wide<T> y) __attribute__((always_inline)) {
    if (args.terminated) y = select(load_mask<T>(args.terminated + t, n), zero, y);
    return fma(gamma, y, load_up_to(args.rewards + t, n));
  };
  const int64_t last_full = larger(begin, end - args.n_step + 1);  // exclusive
  for_each_vector(begin, last_full, [&](int64_t t, int n) __attribute__((always_inline)) {
    Wide<T> y = load_up_to(args.next_values + t + args.n_step - 1, n);
    for (int64_t k = args.n_step - 1; k >= 0; --k) y = target(t + k, n, y);
    store_up_to(args.targets + t, n, y);
  });
  for (int64_t t = end - 1; t >= last_full; --t) {
    T later = t == end - 1 ? args.next_values[t] : args.targets[t + 1];
    if (args.terminated && args.terminated[t]) later = T(0);
    args.targets[t] = math::fma(args.gamma, later, args.rewards[t]);
  }
}

}  // namespace

template <class T>
void td_targets(const TdTargetsArgs<T>& args, int threads) {
  if (args.n_step == 1) {
    Tiles(args.rows).for_each(threads, [&](int64_t, int64_t, int64_t begin, int64_t end) {
      td_targets_row(args, begin, end);
    });
    return;
  }
  auto body = [&](int64_t row) { td_targets_row(args, args.rows.begin(row), args.rows.end(row)); };
  parallel_for(args.rows.count, threads, body);
}

template void td_targets<float>(const TdTargetsArgs<float>&, int);
template void td_targets<double>(const TdTargetsArgs<double>&, int);

}  // namespace ALIGNZOO_ISA
}  // namespace alignzoo::cpu
