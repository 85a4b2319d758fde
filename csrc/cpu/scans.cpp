// Backward recursions over the tokens of each row.
#include "cpu/isa.h"
#include "math/advantages.h"

namespace alignzoo::cpu {
inline namespace ALIGNZOO_ISA {
namespace {

// The lowest row wins, whichever thread finds its own first.
void report(int64_t& slot, int64_t row) {
  int64_t seen = __atomic_load_n(&slot, __ATOMIC_RELAXED);
  while (
      (seen < 0 || row < seen) &&
      !__atomic_compare_exchange_n(&slot, &seen, row, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
}

// The common case: no flags, and masked tokens deleted from the sequence. Without branches, because
// a mask with holes would be mispredicted at every one.
template <class T, bool kMasked>
void plain_gae_row(const GaeArgs<T>& args, int64_t row) {
  const int64_t begin = args.rows.begin(row);
  const T carry = args.gamma * args.gae_lambda;
  T next_value = args.bootstrap ? args.bootstrap[row] : T(0);
  T next_advantage = T(0);
  for (int64_t t = args.rows.end(row) - 1; t >= begin; --t) {
    const bool keep = !kMasked || args.mask[t] != 0;
    const T value = args.values[t];
    const T advantage =
        math::advantage_step(args.rewards[t], value, next_value, next_advantage, args.gamma, carry);
    args.advantages[t] = math::select(keep, advantage, T(0));
    args.returns[t] = math::select(keep, advantage + value, T(0));
    next_value = math::select(keep, value, next_value);
    next_advantage = math::select(keep, advantage, next_advantage);
  }
}

template <class T>
void gae_row(const GaeArgs<T>& args, int64_t row, GaeFaults& faults) {
  const int64_t begin = args.rows.begin(row), end = args.rows.end(row);
  const T carry = args.gamma * args.gae_lambda;
  int64_t last = end - 1;
  while (last >= begin && args.mask && !args.mask[last]) --last;

  auto write = [&](int64_t t, T advantage, T result) {
    if (args.advantages) args.advantages[t] = advantage;
    args.returns[t] = result;
  };
  for (int64_t t = end - 1; t > last; --t) write(t, T(0), T(0));

  T next_value = args.bootstrap && last >= begin ? args.bootstrap[row] : T(0);
  T next_advantage = T(0);
  for (int64_t t = last; t >= begin; --t) {
    if (args.mask && !args.mask[t]) {
      write(t, T(0), T(0));
      if (args.mask_mode == MaskMode::kPrefix) report(faults.hole_row, row);
      if (args.mask_mode == MaskMode::kZero) {
        next_advantage =
            math::advantage_step(T(0), T(0), next_value, next_advantage, args.gamma, carry);
        next_value = T(0);
      }
      continue;
    }
    const bool terminated =
        args.terminated &&
        (args.terminated_per_row ? t == last && args.terminated[row] : args.terminated[t] != 0);
    const bool truncated =
        args.truncated && !terminated &&
        (args.truncated_per_row ? t == last && args.truncated[row] : args.truncated[t] != 0);
    if (truncated && args.next_values) {
      next_value = args.next_values[t];
    } else if (truncated && !(t == last && args.bootstrap)) {
      report(faults.cut_row, row);
    }
    const T value = args.values ? args.values[t] : T(0);
    const T advantage =
        math::advantage_step(args.rewards[t], value, terminated ? T(0) : next_value, next_advantage,
                             args.gamma, terminated || truncated ? T(0) : carry);
    write(t, advantage, args.values ? advantage + value : advantage);
    next_value = value;
    next_advantage = advantage;
  }
}

}  // namespace

template <class T>
GaeFaults gae(const GaeArgs<T>& args, int threads) {
  GaeFaults faults;
  const int64_t per_block = larger(1, kTile / larger(1, args.rows.width));
  const bool plain = args.values && !args.terminated && !args.truncated &&
                     (!args.mask || args.mask_mode == MaskMode::kCarry);
  auto body = [&](int64_t block) {
    const int64_t stop = smaller(args.rows.count, (block + 1) * per_block);
    for (int64_t row = block * per_block; row < stop; ++row) {
      if (!plain) {
        gae_row(args, row, faults);
      } else if (args.mask) {
        plain_gae_row<T, true>(args, row);
      } else {
        plain_gae_row<T, false>(args, row);
      }
    }
  };
  parallel_for(ceil_div(args.rows.count, per_block), threads, body);
  return faults;
}

template GaeFaults gae<float>(const GaeArgs<float>&, int);
template GaeFaults gae<double>(const GaeArgs<double>&, int);

}  // namespace ALIGNZOO_ISA
}  // namespace alignzoo::cpu
