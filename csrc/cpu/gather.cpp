// The largest of each row, where it is, and one chosen element, in one read of the rows.
#include "cpu/rows.h"

namespace alignzoo::cpu {
inline namespace ALIGNZOO_ISA {
namespace {

// Whether no number of n is NaN.
template <class S>
ALIGNZOO_INLINE bool is_ordered(const S* x, int64_t n) {
  using T = Compute<S>;
  Wide<T> worst(T(0));
  for (int64_t j = 0; j < n; j += kLanes) {
    const int left = static_cast<int>(smaller(kLanes, n - j));
    const Wide<T> v = load_up_to(x + j, left);
    worst = select(v == v, worst, Wide<T>(T(1)));
  }
  return max_lanes(worst) == T(0);
}

// The first of n numbers that equals `wanted`, or is NaN where `wanted` is.
template <class S>
ALIGNZOO_INLINE int64_t first_equal(const S* x, int64_t n, Compute<S> wanted) {
  for (int64_t j = 0; j < n; ++j) {
    const Compute<S> v = to_compute(x[j]);
    if (v == wanted || (v != v && wanted != wanted)) return j;
  }
  return 0;
}

}  // namespace

template <class S, class T>
void max_and_gather(const GatherArgs<S, T>& args, int threads) {
  const int64_t vocabulary = args.rows.vocabulary;
  for_each_row(args.rows, threads, [&](int64_t row) {
    const S* q = args.q + args.rows.offset(row);
    T largest = -static_cast<T>(__builtin_inf());
    int64_t begin_of_largest = 0;
    for (int64_t begin = 0; begin < vocabulary; begin += kChunk) {
      const int64_t n = smaller(kChunk, vocabulary - begin);
      const T found = chunk_max(q + begin, n);
      if (!is_ordered(q + begin, n)) {
        largest = static_cast<T>(__builtin_nan(""));
        begin_of_largest = begin;
        break;
      }
      if (found > largest) {
        largest = found;
        begin_of_largest = begin;
      }
    }
    const int64_t n = smaller(kChunk, vocabulary - begin_of_largest);
    args.max[row] = largest;
    args.argmax[row] = begin_of_largest + first_equal(q + begin_of_largest, n, largest);
    args.chosen[row] = to_compute(q[args.actions[row]]);
  });
}

template void max_and_gather<float, float>(const GatherArgs<float, float>&, int);
template void max_and_gather<double, double>(const GatherArgs<double, double>&, int);
template void max_and_gather<Bfloat16, float>(const GatherArgs<Bfloat16, float>&, int);
template void max_and_gather<Float16, float>(const GatherArgs<Float16, float>&, int);

}  // namespace ALIGNZOO_ISA
}  // namespace alignzoo::cpu
