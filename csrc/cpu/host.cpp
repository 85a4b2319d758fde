// What needs no wide registers: counts and groups.
#include <algorithm>
#include <vector>

#include "cpu/kernels.h"
#include "math/moments.h"

namespace alignzoo::cpu {

namespace {

struct Spread {
  int64_t count = 0;
  double mean = 0, m2 = 0, lowest = 0, highest = 0;
  double deviation(int64_t ddof) const {
    return math::deviation(static_cast<double>(count), m2, ddof);
  }
};

// Two passes, over the scores that indices [begin, end) name.
template <class T>
Spread spread_of(const T* scores, const int64_t* begin, const int64_t* end) {
  Spread out;
  out.count = end - begin;
  if (out.count == 0) return out;
  double sum = 0;
  out.lowest = out.highest = static_cast<double>(scores[*begin]);
  for (const int64_t* i = begin; i < end; ++i) {
    const double s = static_cast<double>(scores[*i]);
    sum += s;
    out.lowest = std::min(out.lowest, s);
    out.highest = std::max(out.highest, s);
  }
  out.mean = sum / static_cast<double>(out.count);
  for (const int64_t* i = begin; i < end; ++i) {
    const double d = static_cast<double>(scores[*i]) - out.mean;
    out.m2 += d * d;
  }
  return out;
}

template <class T>
void group_advantages_of(const GroupArgs<T>& args, const int64_t* begin, const int64_t* end,
                         double batch_deviation) {
  const Spread group = spread_of(args.scores, begin, end);
  const bool equal = group.count < 2 || group.highest == group.lowest;
  const double deviation =
      args.mode == GroupMode::kBatchStd ? batch_deviation : group.deviation(args.ddof);
  for (const int64_t* i = begin; i < end; ++i) {
    const double centred = static_cast<double>(args.scores[*i]) - group.mean;
    const double advantage =
        equal ? 0.0
              : math::group_advantage(args.mode, centred, static_cast<double>(group.count),
                                      deviation, args.eps);
    args.advantages[*i] = static_cast<T>(advantage);
  }
}

}  // namespace

template <class T>
void group_advantages(const GroupArgs<T>& args) {
  std::vector<int64_t> order;  // rows with a score, group by group, in order within each
  order.reserve(static_cast<size_t>(args.size));
  for (int64_t i = 0; i < args.size; ++i) {
    args.advantages[i] = T(0);
    if (args.scores[i] == args.scores[i]) order.push_back(i);
  }
  const int64_t* all = order.data();
  const double batch_deviation =
      args.mode == GroupMode::kBatchStd
          ? spread_of(args.scores, all, all + order.size()).deviation(args.ddof)
          : -1.0;
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return args.group_ids[a] < args.group_ids[b]; });
  for (size_t begin = 0; begin < order.size();) {
    size_t end = begin + 1;
    while (end < order.size() && args.group_ids[order[end]] == args.group_ids[order[begin]]) ++end;
    group_advantages_of(args, order.data() + begin, order.data() + end, batch_deviation);
    begin = end;
  }
}
template void group_advantages<float>(const GroupArgs<float>&);
template void group_advantages<double>(const GroupArgs<double>&);

}  // namespace alignzoo::cpu
