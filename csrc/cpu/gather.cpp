// The largest of each row, where it is, and one chosen element, in one read of the rows.
#include "cpu/largest.h"

namespace alignzoo::cpu {
inline namespace ALIGNZOO_ISA {

template <class S, class T>
void max_and_gather(const GatherArgs<S, T>& args, int threads) {
  for_each_row(args.rows, threads, [&](int64_t row) {
    const S* q = args.q + args.rows.offset(row);
    const Largest<T> largest = row_largest(q, args.rows.vocabulary);
    args.max[row] = largest.value;
    args.argmax[row] = largest.index;
    args.chosen[row] = to_compute(q[args.actions[row]]);
  });
}

template void max_and_gather<float, float>(const GatherArgs<float, float>&, int);
template void max_and_gather<double, double>(const GatherArgs<double, double>&, int);
template void max_and_gather<Bfloat16, float>(const GatherArgs<Bfloat16, float>&, int);
template void max_and_gather<Float16, float>(const GatherArgs<Float16, float>&, int);

}  // namespace ALIGNZOO_ISA
}  // namespace alignzoo::cpu
