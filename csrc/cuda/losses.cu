// The policy loss and the value loss: value, gradient and statistics.
//
// A policy loss with its gradient reads 13 bytes a token of float32 (log-probs old and new,
// advantages, mask) and writes 4: 33 us for 2^23 tokens at 4.3 TB/s. Each warp takes 512 tokens,
// so that a small batch still fills many SMs, with 16-byte loads: at four blocks of 8 warps an SM,
// one step keeps 52 KB in flight. Sums run in the tokens' type over the 16 tokens that a lane has
// of them, then in double (conversions are slow: 16 a clock). The launches: the mask is counted
// where the denominator is the batch's own (1 byte a token, which then lies in the L2 cache); all
// tokens are taken; one block adds up what at most 2048 blocks left. At sequence level each row's
// mean log-ratio comes first, and the gradient, one number a row, last; rows of any length have
// the same cut from their start, so theirs are the same numbers wherever they lie.
#include "cuda/launches.h"
#include "cuda/loss_plan.h"
#include "cuda/reduce.h"
#include "cuda/token_packs.h"
#include "math/losses.h"

namespace alignzoo::cuda {
namespace {

// What the sums are divided by.
struct Denominator {
  enum Source { kNumber, kOnDevice, kOwnTokens, kOwnRows } source;
  double number;
  const double* on_device;
  bool given;
};

// What all launches of a loss are told beside its arguments.
struct LossWork {
  LossSegments segments;
  Denominator denominator;
  int count_blocks;  // how many have left `counts`
  LossCounts* counts;
  double *sums, *segment_sums, *segment_counts;
  math::PolicyRow* rows;
  double* row_gradients;
};

ALIGNZOO_DEVICE int lane_of() { return static_cast<int>(threadIdx.x) % kWarp; }
ALIGNZOO_DEVICE int warp_of() { return static_cast<int>(threadIdx.x) / kWarp; }

// Wherever packed offsets point, what is touched lies within the arrays.
ALIGNZOO_DEVICE int64_t row_begin(const LossSegments& s, int64_t row) {
  if (!s.rows.offsets) return row * s.rows.width;
  return larger(0, smaller(s.tokens, s.rows.offsets[row]));
}
ALIGNZOO_DEVICE int64_t first_segment(const LossSegments& s, int64_t row, int64_t begin) {
  return s.rows.offsets ? begin / kLossSegment + row : row * s.per_row;
}

// The last row whose first segment is not behind this one. All lanes search together.
ALIGNZOO_DEVICE int64_t row_of_segment(const LossSegments& s, int64_t segment) {
  if (!s.rows.offsets) return s.rows.count == 1 ? 0 : segment / s.per_row;
  int64_t low = 0, size = s.rows.count;
  while (size > 1) {
    const int64_t step = ceil_div(size, kWarp), row = low + lane_of() * step;
    const bool before = row < low + size && first_segment(s, row, row_begin(s, row)) <= segment;
    const int found = __popc(__ballot_sync(kAllLanes, before));
    const int64_t skipped = (found > 0 ? found - 1 : 0) * step;
    low += skipped;
    size = smaller(step, size - skipped);
  }
  return low;
}

// Calls body(segment, row, begin, end) for the segments with a token, by warps of kLossThreads.
template <class Body>
ALIGNZOO_DEVICE void for_each_segment(const LossSegments& s, const Body& body) {
  const int64_t stride = int64_t{gridDim.x} * kLossWarps * s.per_warp;
  for (int64_t first = (int64_t{blockIdx.x} * kLossWarps + warp_of()) * s.per_warp; first < s.count;
       first += stride) {
    const int64_t stop = smaller(s.count, first + s.per_warp);
    int64_t row = row_of_segment(s, first), begin = row_begin(s, row);
    begin += larger(0, first - first_segment(s, row, begin)) * kLossSegment;
    int64_t row_end = row_begin(s, row + 1);
    for (int64_t segment = first; segment < stop; ++segment) {
      if (begin < row_end) body(segment, row, begin, smaller(row_end, begin + kLossSegment));
      begin += kLossSegment;
      if (row + 1 < s.rows.count && segment + 1 >= first_segment(s, row + 1, row_end)) {
        ++row;
        begin = row_end;
        row_end = row_begin(s, row + 1);
      }
    }
  }
}

// Calls body(t, n, whole) for the tokens of a segment: this lane's n from t on, n <= kPerLoad<T>.
template <class T, class Body>
ALIGNZOO_DEVICE void for_each_pack(int64_t begin, int64_t end, bool packs_fit, const Body& body) {
  constexpr int kVector = kPerLoad<T>;
  const bool row_fits = packs_fit && begin % kVector == 0;
#pragma unroll 1
  for (int64_t t = begin + lane_of() * kVector; t < end; t += kWarp * kVector) {
    const int n = static_cast<int>(smaller(kVector, end - t));
    body(t, n, row_fits && n == kVector);
  }
}

// Numbers of a row's segments are added in order, this many at a time; such runs in lanes, then
// over the lanes. A row with one run therefore needs one thread alone.
constexpr int64_t kRun = 16;

ALIGNZOO_DEVICE double run_sum(const double* from, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += from[i];
  return sum;
}
// The sum over the row of each lane, whose n numbers start at numbers[first]; n may be 0.
ALIGNZOO_DEVICE double row_sum(const double* numbers, int64_t first, int64_t n) {
  double sum = n <= kRun ? run_sum(numbers + first, n) : 0.0;
  for (uint32_t left = __ballot_sync(kAllLanes, n > kRun); left != 0; left &= left - 1) {
    const int owner = __ffs(static_cast<int>(left)) - 1;
    const int64_t from = __shfl_sync(kAllLanes, first, owner),
                  many = __shfl_sync(kAllLanes, n, owner);
    double part = 0;
    for (int64_t run = lane_of() * kRun; run < many; run += kWarp * kRun) {
      part += run_sum(numbers + from + run, smaller(kRun, many - run));
    }
    part = warp_reduce(part, Add());
    if (lane_of() == owner) sum = part;
  }
  return sum;
}

// Calls body(row, begin, end, first segment, number of segments) in every lane, with rows_per_warp
// (1 or 32) rows for a warp; a lane without one has row -1.
template <class Body>
ALIGNZOO_DEVICE void for_each_row(const LossSegments& s, int rows_per_warp, int64_t warp,
                                  int64_t warps, const Body& body) {
  for (int64_t first = warp * rows_per_warp; first < s.rows.count; first += warps * rows_per_warp) {
    const int64_t row = first + lane_of();
    if (lane_of() < rows_per_warp && row < s.rows.count) {
      const int64_t begin = row_begin(s, row), end = larger(begin, row_begin(s, row + 1));
      const int64_t at = first_segment(s, row, begin);
      // Bad offsets may ask for more than there are.
      body(row, begin, end, at, smaller(ceil_div(end - begin, kLossSegment), s.count - at));
    } else {
      body(int64_t{-1}, int64_t{0}, int64_t{0}, int64_t{0}, int64_t{0});
    }
  }
}

struct CountRoom {
  ReduceRoom<double, kCountThreads> wide;
  ReduceRoom<double, kLossThreads> narrow;
};

template <int kThreads>
ALIGNZOO_DEVICE void leave_counts(LossCounts mine, ReduceRoom<double, kThreads>& room,
                                  LossCounts* counts, uint32_t* faults) {
  mine.tokens = block_reduce<kThreads>(mine.tokens, Add(), room);
  mine.rows = block_reduce<kThreads>(mine.rows, Add(), room);
  mine.bad = __syncthreads_or(mine.bad) != 0;
  if (threadIdx.x != 0) return;
  counts[blockIdx.x] = mine;
  if (mine.bad) note_fault(faults, kBadOffsets);
}

// Unmasked tokens where rows do not matter, and the check of their offsets.
__global__ void __launch_bounds__(kCountThreads)
    count_kernel(Rows rows, const uint8_t* mask, int64_t tokens, LossCounts* counts,
                 uint32_t* faults) {
  ALIGNZOO_SHARED(CountRoom, room);
  const int64_t thread = int64_t{blockIdx.x} * kCountThreads + threadIdx.x,
                threads = int64_t{gridDim.x} * kCountThreads;
  int64_t found = 0;
  if (mask) {
    constexpr int kBytes = 16;
    const int64_t past = static_cast<int64_t>(reinterpret_cast<uintptr_t>(mask) % kBytes);
    const int64_t head = smaller(tokens, past == 0 ? 0 : kBytes - past),
                  packs = (tokens - head) / kBytes, tail = head + packs * kBytes;
    const auto* words = reinterpret_cast<const uint32_t*>(mask + head);
#pragma unroll 4
    for (int64_t i = thread; i < packs; i += threads) {
      const Pack<uint32_t, 4> pack = load_pack<4>(words + i * 4);
      for (int w = 0; w < 4; ++w) found += nonzero_bytes(pack.at[w]);
    }
    if (thread < head) found += mask[thread] != 0;
    if (thread < tokens - tail) found += mask[tail + thread] != 0;
  }
  const LossCounts mine{static_cast<double>(found), 0,
                        finds_bad_offsets(rows, tokens, thread, threads)};
  leave_counts<kCountThreads>(mine, room.wide, counts, faults);
}

// The same result in all threads of the block. In the counts that a denominator asks for, `tokens`
// and `rows` are alike.
ALIGNZOO_DEVICE LossCounts batch_counts(const LossWork& work,
                                        ReduceRoom<double, kLossThreads>& room) {
  LossCounts out{0, 0, false};
  if (work.count_blocks == 0) return out;
  static_assert(kMostCountBlocks <= kLossThreads, "each thread takes one block's counts");
  const int mine = static_cast<int>(threadIdx.x);
  const bool some = mine < work.count_blocks;
  out.bad = __syncthreads_or(some && work.counts[mine].bad) != 0;
  const Denominator::Source source = work.denominator.source;
  if (source == Denominator::kOwnTokens) {
    out.tokens = block_reduce<kLossThreads>(some ? work.counts[mine].tokens : 0.0, Add(), room);
  } else if (source == Denominator::kOwnRows) {
    out.rows = block_reduce<kLossThreads>(some ? work.counts[mine].rows : 0.0, Add(), room);
  }
  return out;
}

// NaN where there is nothing to divide by.
ALIGNZOO_DEVICE double denominator_of(const LossWork& work, const LossCounts& counts) {
  const Denominator& d = work.denominator;
  const double value = d.source == Denominator::kOnDevice    ? *d.on_device
                       : d.source == Denominator::kOwnTokens ? counts.tokens
                       : d.source == Denominator::kOwnRows   ? counts.rows
                                                             : d.number;
  return value > 0 && value < __builtin_inf() && !counts.bad ? value : __builtin_nan("");
}

struct LossRoom {
  ReduceRoom<double, kLossThreads> counts;
  double sums[kLossSums][kLossThreads], totals[kLossSums], gradient_scale;
};

// Each thread's sums lie in room.sums, in places of its own: registers decide how many warps an SM
// holds, and they are added to once a segment.
ALIGNZOO_DEVICE void clear_sums(LossRoom& room) {
  for (int i = 0; i < kLossSums; ++i) room.sums[i][threadIdx.x] = 0;
}
ALIGNZOO_DEVICE void add_to(LossRoom& room, LossSum sum, double value) {
  room.sums[sum][threadIdx.x] += value;
}

// Adds up those of all threads, one warp for each sum; out[i * stride] is the i-th.
ALIGNZOO_DEVICE void add_up(LossRoom& room, double* out, int64_t stride) {
  static_assert(kLossSums <= kLossWarps, "one warp for each sum");
  __syncthreads();
  const int i = warp_of();
  if (i >= kLossSums) return;
  double value = room.sums[i][lane_of()];
  if (i == kLargestRatio) {
    for (int t = lane_of() + kWarp; t < kLossThreads; t += kWarp) {
      value = Larger()(value, room.sums[i][t]);
    }
    value = warp_reduce(value, Larger());
  } else {
    for (int t = lane_of() + kWarp; t < kLossThreads; t += kWarp) value += room.sums[i][t];
    value = warp_reduce(value, Add());
  }
  if (lane_of() == 0) out[i * stride] = value;
}

// Of each segment: the sum of log-ratios, at sequence level, and the number of unmasked tokens.
template <class T>
__global__ void __launch_bounds__(kLossThreads)
    row_sums_kernel(PolicyLossArgs<T> args, LossWork work, bool packs_fit) {
  constexpr int kVector = kPerLoad<T>;
  for_each_segment(work.segments, [&](int64_t segment, int64_t, int64_t begin, int64_t end) {
    T sum = 0;
    int count = 0;
    for_each_pack<T>(begin, end, packs_fit, [&](int64_t t, int n, bool whole) {
      const auto keep = load_keep<kVector>(args.mask, t, n, whole);
      for (int i = 0; i < kVector; ++i) count += keep.at[i] != 0;
      if (args.level == Level::kToken) return;
      const auto log_prob = load_tokens<kVector>(args.log_probs + t, n, whole),
                 old_log_prob = load_tokens<kVector>(args.old_log_probs + t, n, whole);
      for (int i = 0; i < kVector; ++i) {
        sum += keep.at[i] ? log_prob.at[i] - old_log_prob.at[i] : T(0);
      }
    });
    const double total = warp_reduce(static_cast<double>(sum), Add());
    count = warp_reduce(count, Add());
    if (lane_of() == 0) {
      work.segment_sums[segment] = total;
      work.segment_counts[segment] = count;
    }
  });
}

// What the tokens of each row share, the batch's counts, and the check of the offsets.
__global__ void __launch_bounds__(kLossThreads)
    rows_kernel(LossWork work, Level level, bool masked, bool row_means, int rows_per_warp,
                uint32_t* faults) {
  ALIGNZOO_SHARED(CountRoom, room);
  const LossSegments& s = work.segments;
  const int64_t thread = int64_t{blockIdx.x} * kLossThreads + threadIdx.x,
                threads = int64_t{gridDim.x} * kLossThreads;
  LossCounts mine{0, 0, finds_bad_offsets(s.rows, s.tokens, thread, threads)};
  for_each_row(s, rows_per_warp, thread / kWarp, threads / kWarp,
               [&](int64_t row, int64_t begin, int64_t end, int64_t first, int64_t n) {
                 const double sum =
                     level == Level::kSequence ? row_sum(work.segment_sums, first, n) : 0.0;
                 const double count = masked ? row_sum(work.segment_counts, first, n)
                                             : static_cast<double>(end - begin);
                 if (row < 0) return;
                 work.rows[row] = math::policy_row(sum, count, row_means);
                 mine.tokens += count;
                 mine.rows += count > 0;
               });
  leave_counts<kLossThreads>(mine, room.narrow, work.counts, faults);
}

template <class T, math::PolicyKind kKind, Level kLevel>
__global__ void __launch_bounds__(kLossThreads, sizeof(T) == 4 ? 4 : 2)
    policy_kernel(PolicyLossArgs<T> args, LossWork work, bool packs_fit) {
  ALIGNZOO_SHARED(LossRoom, room);
  constexpr int kVector = kPerLoad<T>;
  constexpr bool kByRow = kLevel == Level::kSequence;
  constexpr bool kSlopeByRow = kByRow && kKind != math::PolicyKind::kCispo;
  const LossCounts counts = batch_counts(work, room.counts);
  if (counts.bad) {
    if (!kSlopeByRow && args.gradient) fill_with_nan(args.gradient, work.segments.tokens);
    return;
  }
  if (threadIdx.x == 0) room.gradient_scale = 1.0 / denominator_of(work, counts);
  clear_sums(room);
  __syncthreads();
  T largest = 0;
  for_each_segment(work.segments, [&](int64_t segment, int64_t row, int64_t begin, int64_t end) {
    double weight = 1.0;
    T row_ratio = 0;
    if (work.rows) {
      weight = work.rows[row].weight;
      row_ratio = static_cast<T>(work.rows[row].ratio);
    }
    const T gradient_scale = static_cast<T>(room.gradient_scale * weight);
    T loss = 0, clipped = 0, kl = 0, ratio = 0, ratio_squared = 0, slope = 0;
    int tokens = 0;
    for_each_pack<T>(begin, end, packs_fit, [&](int64_t t, int n, bool whole) {
      const auto keep = load_keep<kVector>(args.mask, t, n, whole);
      const auto log_prob = load_tokens<kVector>(args.log_probs + t, n, whole),
                 old_log_prob = load_tokens<kVector>(args.old_log_probs + t, n, whole),
                 advantage = load_tokens<kVector>(args.advantages + t, n, whole);
      Pack<T, kVector> weights;
      if (args.behaviour_weights) {
        weights = load_tokens<kVector>(args.behaviour_weights + t, n, whole);
      }
      Pack<T, kVector> gradient;
      for (int i = 0; i < kVector; ++i) {
        const bool kept = keep.at[i] != 0;
        math::PolicyToken<T> term = math::policy_token<kKind, kByRow>(
            kept ? log_prob.at[i] : T(0), kept ? old_log_prob.at[i] : T(0),
            kept ? advantage.at[i] : T(0), row_ratio, args.low, args.high, args.dual);
        if (args.behaviour_weights) {
          const T w = kept ? weights.at[i] : T(0);
          term.loss = term.loss * w;
          term.slope = term.slope * w;
        }
        const T seen = kept ? term.ratio : T(0);
        loss += term.loss;
        clipped += term.clipped;
        kl += term.kl;
        ratio += seen;
        ratio_squared = math::fma(seen, seen, ratio_squared);
        slope += term.slope;
        largest = math::max(largest, seen);
        tokens += kept;
        gradient.at[i] = kept ? term.slope * gradient_scale : T(0);
      }
      if (!kSlopeByRow && args.gradient) store_tokens(args.gradient + t, n, whole, gradient);
    });
    add_to(room, kLoss, static_cast<double>(loss) * weight);
    add_to(room, kClipped, static_cast<double>(clipped));
    add_to(room, kKl, static_cast<double>(kl));
    add_to(room, kRatio, static_cast<double>(ratio));
    add_to(room, kRatioSquared, static_cast<double>(ratio_squared));
    add_to(room, kTokens, tokens);
    if (kSlopeByRow && args.gradient) {
      const double total = warp_reduce(static_cast<double>(slope), Add());
      if (lane_of() == 0) work.segment_sums[segment] = total;
    }
  });
  add_to(room, kLargestRatio, static_cast<double>(largest));
  add_up(room, work.sums + blockIdx.x, gridDim.x);
}

template <class T>
__global__ void __launch_bounds__(kLossThreads)
    value_kernel(ValueLossArgs<T> args, LossWork work, bool packs_fit) {
  ALIGNZOO_SHARED(LossRoom, room);
  constexpr int kVector = kPerLoad<T>;
  const LossCounts counts = batch_counts(work, room.counts);
  if (counts.bad) {
    if (args.gradient) fill_with_nan(args.gradient, work.segments.tokens);
    return;
  }
  const T gradient_scale = static_cast<T>(1.0 / denominator_of(work, counts));
  clear_sums(room);
  for_each_segment(work.segments, [&](int64_t, int64_t, int64_t begin, int64_t end) {
    T loss = 0, clipped = 0;
    int tokens = 0;
    for_each_pack<T>(begin, end, packs_fit, [&](int64_t t, int n, bool whole) {
      const auto keep = load_keep<kVector>(args.mask, t, n, whole);
      const auto value = load_tokens<kVector>(args.values + t, n, whole),
                 target = load_tokens<kVector>(args.returns + t, n, whole);
      Pack<T, kVector> old_value, gradient;
      if (args.clip) old_value = load_tokens<kVector>(args.old_values + t, n, whole);
      for (int i = 0; i < kVector; ++i) {
        const bool kept = keep.at[i] != 0;
        const T v = kept ? value.at[i] : T(0), target_i = kept ? target.at[i] : T(0);
        const math::PolicyTerm<T> term =
            args.clip ? math::value_term(v, kept ? old_value.at[i] : T(0), target_i, args.range)
                      : math::plain_value_term(v, target_i);
        loss += term.loss;
        clipped += term.clipped;
        tokens += kept;
        gradient.at[i] = kept ? term.slope * gradient_scale : T(0);
      }
      if (args.gradient) store_tokens(args.gradient + t, n, whole, gradient);
    });
    add_to(room, kLoss, static_cast<double>(loss));
    add_to(room, kClipped, static_cast<double>(clipped));
    add_to(room, kTokens, tokens);
  });
  add_up(room, work.sums + blockIdx.x, gridDim.x);
}

// Any may be null.
template <class T>
struct LossOutputs {
  T *loss, *clip_frac, *approx_kl, *ratio_max, *ess;
};
template <class T>
ALIGNZOO_DEVICE void put(T* out, double value) {
  if (out) *out = static_cast<T>(value);
}

// Block 0: the scalars, out of what `loss_blocks` blocks left. The others: the gradient of each
// row by any one of its tokens, where the ratio is the row's.
template <class T>
__global__ void __launch_bounds__(kLossThreads)
    last_kernel(LossWork work, int loss_blocks, int rows_per_warp, LossOutputs<T> out) {
  ALIGNZOO_SHARED(LossRoom, room);
  const LossCounts counts = batch_counts(work, room.counts);
  const double denominator = denominator_of(work, counts);
  if (blockIdx.x > 0) {
    const int64_t warp = int64_t{blockIdx.x - 1} * kLossWarps + warp_of(),
                  warps = int64_t{gridDim.x - 1} * kLossWarps;
    for_each_row(work.segments, rows_per_warp, warp, warps,
                 [&](int64_t row, int64_t, int64_t, int64_t first, int64_t n) {
                   const double slope = row_sum(work.segment_sums, first, n);
                   if (row < 0) return;
                   const math::PolicyRow& shared = work.rows[row];
                   work.row_gradients[row] =
                       slope * shared.ratio_slope * shared.weight * (1.0 / denominator);
                 });
    return;
  }
  clear_sums(room);
  if (!counts.bad) {
    for (int i = 0; i < kLossSums; ++i) {
      double sum = 0;
      for (int b = static_cast<int>(threadIdx.x); b < loss_blocks; b += kLossThreads) {
        const double value = work.sums[int64_t{i} * loss_blocks + b];
        sum = i == kLargestRatio ? Larger()(value, sum) : sum + value;
      }
      room.sums[i][threadIdx.x] = sum;
    }
  }
  add_up(room, room.totals, 1);
  __syncthreads();
  if (threadIdx.x != 0) return;
  const double nan = __builtin_nan("");
  const double found = room.totals[kTokens], tokens = counts.bad ? nan : found > 0 ? found : 1.0;
  const double ratios = room.totals[kRatio];
  const bool nothing = found == 0 && !work.denominator.given;
  put(out.loss, nothing ? nan : room.totals[kLoss] / denominator);
  put(out.clip_frac, room.totals[kClipped] / tokens);
  put(out.approx_kl, room.totals[kKl] / tokens);
  // A maximum may lose NaN; the sum does not.
  put(out.ratio_max, counts.bad || ratios != ratios ? nan : room.totals[kLargestRatio]);
  put(out.ess, counts.bad   ? nan
               : found == 0 ? 0.0
                            : ratios * ratios / (tokens * room.totals[kRatioSquared]));
}

// At sequence level every unmasked token of a row has the same gradient.
template <class T>
__global__ void __launch_bounds__(kLossThreads)
    spread_kernel(PolicyLossArgs<T> args, LossWork work, bool packs_fit) {
  ALIGNZOO_SHARED(LossRoom, room);
  constexpr int kVector = kPerLoad<T>;
  if (batch_counts(work, room.counts).bad) {
    fill_with_nan(args.gradient, work.segments.tokens);
    return;
  }
  for_each_segment(work.segments, [&](int64_t, int64_t row, int64_t begin, int64_t end) {
    const T of_row = static_cast<T>(work.row_gradients[row]);
    for_each_pack<T>(begin, end, packs_fit, [&](int64_t t, int n, bool whole) {
      const auto keep = load_keep<kVector>(args.mask, t, n, whole);
      Pack<T, kVector> gradient;
      for (int i = 0; i < kVector; ++i) gradient.at[i] = keep.at[i] ? of_row : T(0);
      store_tokens(args.gradient + t, n, whole, gradient);
    });
  });
}

LossWork work_in(void* workspace, const Rows& rows, bool by_row) {
  const LossWorkspace plan = loss_workspace(rows, by_row);
  const auto at = [&](int64_t offset) { return static_cast<char*>(workspace) + offset; };
  LossWork work{};
  work.segments = by_row ? segments_of(rows) : flat_segments(rows);
  work.counts = reinterpret_cast<LossCounts*>(at(plan.counts));
  work.sums = reinterpret_cast<double*>(at(plan.sums));
  if (by_row) {
    work.segment_sums = reinterpret_cast<double*>(at(plan.segment_sums));
    work.segment_counts = reinterpret_cast<double*>(at(plan.segment_counts));
    work.rows = reinterpret_cast<math::PolicyRow*>(at(plan.rows));
    work.row_gradients = reinterpret_cast<double*>(at(plan.row_gradients));
  }
  return work;
}

// Puts launches on the queue as long as all went well.
class Launches {
 public:
  explicit Launches(const Queue& queue) : queue_(queue) {}
  template <class... Parameters, class... Arguments>
  void add(void (*kernel)(Parameters...), int64_t blocks, int threads,
           const Arguments&... arguments) {
    if (status_ == cudaSuccess) status_ = launch(queue_, kernel, blocks, threads, arguments...);
  }
  void note(Status status) {
    if (status_ == cudaSuccess) status_ = status;
  }
  Status status() const { return status_; }

 private:
  const Queue& queue_;
  Status status_ = cudaSuccess;
};

Denominator denominator_for(bool given, double number, const double* on_device, Aggregate aggregate,
                            const LossSegments& segments, bool masked) {
  Denominator out{Denominator::kNumber, 1.0, on_device, given};
  if (given) {
    out.number = number;
    if (on_device) out.source = Denominator::kOnDevice;
  } else if (aggregate == Aggregate::kTokenMean) {
    out.number = static_cast<double>(segments.tokens);
    if (masked) out.source = Denominator::kOwnTokens;
  } else if (aggregate == Aggregate::kSequenceMean) {
    out.source = Denominator::kOwnRows;
  } else if (aggregate == Aggregate::kSequenceSumNorm) {
    out.number = __builtin_nan("");  // which has no number of its own
  }
  return out;
}

// The counts that a loss needs where rows do not matter.
void count(Launches& launches, LossWork& work, const Rows& rows, const uint8_t* mask,
           uint32_t* faults) {
  if (work.denominator.source != Denominator::kOwnTokens) mask = nullptr;
  if (!mask && !rows.offsets) return;
  const int64_t units = larger(mask ? ceil_div(work.segments.tokens, 16) : 0, rows.count),
                blocks = larger(1, smaller(kMostCountBlocks, ceil_div(units, kCountThreads)));
  work.count_blocks = static_cast<int>(blocks);
  launches.add(count_kernel, blocks, kCountThreads, rows, mask, work.segments.tokens, work.counts,
               faults);
}

// 32 short rows or one long row, by their mean length.
int rows_per_warp(const LossSegments& segments) {
  return segments.count > kRun * segments.rows.count ? 1 : kWarp;
}
int64_t row_blocks(const LossSegments& segments, int64_t most) {
  return smaller(most, ceil_div(segments.rows.count, kLossWarps * rows_per_warp(segments)));
}

template <class T, math::PolicyKind kKind>
auto policy_kernel_for(Level level) {
  return level == Level::kToken ? policy_kernel<T, kKind, Level::kToken>
                                : policy_kernel<T, kKind, Level::kSequence>;
}
template <class T>
auto policy_kernel_for(math::PolicyKind kind, Level level) {
  using math::PolicyKind;
  return kind == PolicyKind::kPlain   ? policy_kernel_for<T, PolicyKind::kPlain>(level)
         : kind == PolicyKind::kCispo ? policy_kernel_for<T, PolicyKind::kCispo>(level)
                                      : policy_kernel_for<T, PolicyKind::kClip>(level);
}

}  // namespace

template <class T>
Status policy_loss(const Queue& queue, const PolicyLossCall<T>& call, void* workspace) {
  const PolicyLossArgs<T>& args = call.args;
  const auto kind = static_cast<math::PolicyKind>(args.kind);
  const bool by_row = args.level == Level::kSequence || args.row_means;
  if (call.aggregate == Aggregate::kSequenceMean && !args.row_means) {
    return cudaErrorInvalidConfiguration;
  }
  uint32_t* faults = nullptr;
  Launches launches(queue);
  launches.note(fault_word(queue, &faults));
  LossWork work = work_in(workspace, args.rows, by_row);
  const LossSegments& segments = work.segments;
  work.denominator = denominator_for(call.denominator_given, call.given_denominator,
                                     call.denominator, call.aggregate, segments, args.mask);
  const bool fit = packs_fit<T>(args.mask, args.log_probs, args.old_log_probs, args.advantages,
                                args.behaviour_weights, args.gradient);
  const int64_t blocks = loss_blocks(segments);
  if (by_row) {
    if (args.mask || args.level == Level::kSequence) {
      launches.add(row_sums_kernel<T>, blocks, kLossThreads, args, work, fit);
    }
    const int64_t counting =
        larger(args.rows.offsets ? 1 : 0, row_blocks(segments, kMostCountBlocks));
    work.count_blocks = static_cast<int>(counting);
    launches.add(rows_kernel, counting, kLossThreads, work, args.level, args.mask != nullptr,
                 args.row_means, rows_per_warp(segments), faults);
  } else {
    count(launches, work, args.rows, args.mask, faults);
  }
  launches.add(policy_kernel_for<T>(kind, args.level), blocks, kLossThreads, args, work, fit);
  const bool spread =
      args.gradient && args.level == Level::kSequence && kind != math::PolicyKind::kCispo;
  launches.add(last_kernel<T>, 1 + (spread ? row_blocks(segments, kMostLossBlocks) : 0),
               kLossThreads, work, static_cast<int>(blocks), rows_per_warp(segments),
               LossOutputs<T>{call.loss, call.clip_frac, call.approx_kl, call.ratio_max, call.ess});
  if (spread) launches.add(spread_kernel<T>, blocks, kLossThreads, args, work, fit);
  return launches.status();
}

template <class T>
Status value_loss(const Queue& queue, const ValueLossCall<T>& call, void* workspace) {
  const ValueLossArgs<T>& args = call.args;
  uint32_t* faults = nullptr;
  Launches launches(queue);
  launches.note(fault_word(queue, &faults));
  LossWork work = work_in(workspace, args.rows, false);
  work.denominator =
      denominator_for(call.denominator_given, call.given_denominator, call.denominator,
                      Aggregate::kTokenMean, work.segments, args.mask);
  const bool fit =
      packs_fit<T>(args.mask, args.values, args.old_values, args.returns, args.gradient);
  const int64_t blocks = loss_blocks(work.segments);
  count(launches, work, args.rows, args.mask, faults);
  launches.add(value_kernel<T>, blocks, kLossThreads, args, work, fit);
  launches.add(last_kernel<T>, 1, kLossThreads, work, static_cast<int>(blocks), kWarp,
               LossOutputs<T>{call.loss, call.clip_frac, nullptr, nullptr, nullptr});
  return launches.status();
}

#define ALIGNZOO_INSTANTIATE(T)                                                  \
  template Status policy_loss<T>(const Queue&, const PolicyLossCall<T>&, void*); \
  template Status value_loss<T>(const Queue&, const ValueLossCall<T>&, void*);
ALIGNZOO_INSTANTIATE(float)
ALIGNZOO_INSTANTIATE(double)
#undef ALIGNZOO_INSTANTIATE

}  // namespace alignzoo::cuda
