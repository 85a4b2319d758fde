// Backward recursions y_t = d_t + m_t y_{t+1} over the tokens of each row, 16 at a time.
//
// Masked tokens are taken out first, so the recursion itself knows no mask: a row with holes has
// the bits of the row without them. Blocks of 16 are counted from the row's first token.
#include "cpu/compact.h"
#include "cpu/segment_scan.h"

namespace alignzoo::cpu {
inline namespace ALIGNZOO_ISA {
namespace {

// Tokens of a masked row that are taken at once. What each segment costs anew, such as the first
// reads of memory that is walked backwards, wants it long; the second-level cache wants it short.
template <class T>
constexpr int64_t kSegment = 16384 / static_cast<int64_t>(sizeof(T));

// Room for a segment whose tokens do not lie together.
template <class T>
struct Scratch {
  static constexpr int64_t kRoom = kSegment<T> + kLanes;
  T rewards[kRoom], values[kRoom], next_values[kRoom], log_probs[kRoom], old_log_probs[kRoom];
  uint8_t terminated[kRoom], truncated[kRoom];
  T advantages[kRoom], returns[kRoom];
};

// The tokens [at, at + size) of the caller's arrays.
template <class T>
Segment<T> segment_at(const ScanArgs<T>& args, int64_t at, int64_t size) {
  const auto from = [at](auto* array) { return array ? array + at : nullptr; };
  Segment<T> out;
  out.size = size;
  out.rewards = from(args.rewards);
  out.values = from(args.values);
  out.next_values = from(args.next_values);
  out.log_probs = from(args.log_probs);
  out.old_log_probs = from(args.old_log_probs);
  out.terminated = args.terminated_per_row ? nullptr : from(args.terminated);
  out.truncated = args.truncated_per_row ? nullptr : from(args.truncated);
  out.advantages = from(args.advantages);
  out.returns = from(args.returns);
  return out;
}

// The same tokens without the masked ones, or with zeros in their place.
template <class T>
Segment<T> gather(const Segment<T>& from, const uint8_t* mask, int64_t size, bool as_zeros,
                  Scratch<T>& scratch) {
  Segment<T> out = from;
  out.size = size;
  const auto take = [&](auto*& array, auto* to) {
    if (array && as_zeros) blank(array, mask, from.size, to);
    if (array && !as_zeros) compress(array, mask, from.size, to);
    if (array) array = to;
  };
  take(out.rewards, scratch.rewards);
  take(out.values, scratch.values);
  take(out.next_values, scratch.next_values);
  take(out.log_probs, scratch.log_probs);
  take(out.old_log_probs, scratch.old_log_probs);
  take(out.terminated, scratch.terminated);
  take(out.truncated, scratch.truncated);
  if (from.advantages) out.advantages = scratch.advantages;
  out.returns = scratch.returns;
  return out;
}

template <class T>
void scatter(const Segment<T>& from, const uint8_t* mask, bool as_zeros, const Segment<T>& to) {
  const auto put = [&](const T* array, T* result) {
    if (result && as_zeros) blank(array, mask, to.size, result);
    if (result && !as_zeros) expand(array, mask, to.size, result);
  };
  put(from.advantages, to.advantages);
  put(from.returns, to.returns);
}

// Asks for the tokens [begin, end). Rows are taken upwards and their segments downwards, which is
// no stream that the processor would foresee.
template <class T>
ALIGNZOO_INLINE void fetch_tokens(const ScanArgs<T>& args, int64_t begin, int64_t end) {
  constexpr int64_t kLine = 64 / static_cast<int64_t>(sizeof(T));
  for (int64_t t = begin; t < end; t += kLine) {
    __builtin_prefetch(args.rewards + t);
    if (args.values) __builtin_prefetch(args.values + t);
    if (args.log_probs) __builtin_prefetch(args.log_probs + t);
    if (args.old_log_probs) __builtin_prefetch(args.old_log_probs + t);
  }
}

// A masked row, a segment at a time. `last` is its last unmasked token.
template <class T, class Rule>
bool scan_masked(const ScanArgs<T>& args, int64_t row, int64_t last, Segment<T> end,
                 SegmentScan<T, Rule>& scan) {
  const int64_t begin = args.rows.begin(row);
  const bool as_zeros = args.mask_mode == MaskMode::kZero;
  Scratch<T> scratch;
  bool good = true;
  int64_t stop = last + 1;
  int64_t left = as_zeros ? stop - begin : count_nonzero(args.mask + begin, stop - begin);
  while (left > 0) {
    const int64_t size = (left - 1) % kSegment<T> + 1;
    const bool whole = all_ones(args.mask + stop - size, size);
    const int64_t at =
        whole || as_zeros ? stop - size : start_of_last(args.mask, begin, stop, size);
    if (at > begin) {
      fetch_tokens(args, larger(begin, at - kSegment<T>), at);
    } else {
      const int64_t row_end = args.rows.end(row), tokens = args.rows.end(args.rows.count - 1);
      fetch_tokens(args, row_end, smaller(tokens, row_end + kSegment<T>));
    }
    Segment<T> there = segment_at(args, at, stop - at);
    there.ends_row = end.ends_row;
    there.end_terminated = end.end_terminated;
    there.end_truncated = end.end_truncated;
    if (whole) {
      good &= scan.run(there);
    } else {
      const Segment<T> here = gather(there, args.mask + at, size, as_zeros, scratch);
      good &= scan.run(here);
      scatter(here, args.mask + at, as_zeros, there);
    }
    end = Segment<T>();
    stop = at;
    left -= size;
  }
  if (stop > begin) {
    const Segment<T> before = segment_at(args, begin, stop - begin);
    if (before.advantages)
      memset(before.advantages, 0, sizeof(T) * static_cast<size_t>(stop - begin));
    memset(before.returns, 0, sizeof(T) * static_cast<size_t>(stop - begin));
  }
  return good;
}

template <class T, class Rule>
void scan_row(const ScanArgs<T>& args, const Rule& rule, int64_t row, ScanFaults& faults) {
  const int64_t begin = args.rows.begin(row), end = args.rows.end(row);
  const int64_t last = args.mask ? last_unmasked(args.mask, begin, end) : end - 1;
  if (last + 1 < end) {
    const size_t bytes = sizeof(T) * static_cast<size_t>(end - last - 1);
    if (args.advantages) memset(args.advantages + last + 1, 0, bytes);
    memset(args.returns + last + 1, 0, bytes);
  }
  if (last < begin) return;
  if (args.mask && args.mask_mode == MaskMode::kPrefix &&
      count_nonzero(args.mask + begin, last + 1 - begin) <= last - begin) {
    return report_row(faults.hole_row, row);
  }
  SegmentScan<T, Rule> scan(rule, args.bootstrap != nullptr,
                            args.bootstrap ? args.bootstrap[row] : T(0));
  Segment<T> whole = segment_at(args, begin, last + 1 - begin);
  whole.ends_row = true;
  whole.end_terminated = args.terminated && args.terminated_per_row && args.terminated[row];
  whole.end_truncated = args.truncated && args.truncated_per_row && args.truncated[row];
  if (!(args.mask ? scan_masked(args, row, last, whole, scan) : scan.run(whole))) {
    report_row(faults.cut_row, row);
  }
}

template <class Rule, class T>
ScanFaults scan_rows(const ScanArgs<T>& args, int threads) {
  ScanFaults faults;
  const Rule rule(args);
  const int64_t per_block = larger(1, kTile / larger(1, args.rows.width));
  auto body = [&](int64_t block) {
    const int64_t first = block * per_block, stop = smaller(args.rows.count, first + per_block);
    for (int64_t i = first; i < stop; ++i) {
      // In the direction in which a row's memory is read: tokens are gathered forwards.
      scan_row(args, rule, args.mask ? i : first + stop - 1 - i, faults);
    }
  };
  parallel_for(ceil_div(args.rows.count, per_block), threads, body);
  return faults;
}

}  // namespace

template <class T>
ScanFaults gae(const ScanArgs<T>& args, int threads) {
  return scan_rows<math::GaeRule<Wide<T>>>(args, threads);
}
template <class T>
ScanFaults td_lambda_returns(const ScanArgs<T>& args, int threads) {
  return scan_rows<math::ReturnRule<Wide<T>>>(args, threads);
}
template <class T>
ScanFaults vtrace(const ScanArgs<T>& args, int threads) {
  return scan_rows<math::VtraceRule<Wide<T>>>(args, threads);
}
#define ALIGNZOO_INSTANTIATE(T)                                      \
  template ScanFaults gae<T>(const ScanArgs<T>&, int);               \
  template ScanFaults td_lambda_returns<T>(const ScanArgs<T>&, int); \
  template ScanFaults vtrace<T>(const ScanArgs<T>&, int);
ALIGNZOO_INSTANTIATE(float)
ALIGNZOO_INSTANTIATE(double)
#undef ALIGNZOO_INSTANTIATE

}  // namespace ALIGNZOO_ISA
}  // namespace alignzoo::cpu
