// Moments of the unmasked elements, whitening with them, and advantages over groups.
//
// Whitening of float32 reads 5 bytes an element for its moments, and reads 5 and writes 4 for the
// result: 14 bytes, or 9 where the moments are given. The 512 elements that a warp holds in
// registers give their mean and then the squared distances from it; such moments are merged in
// each warp, each block, and by one block at last, always in the same order.
//
// Groups are mostly a few rows: a warp finds where they start among 32 sorted rows and takes each
// in turn. What costs is waiting for loads that follow loads, so a group that would keep one warp
// waiting is taken by a block of 1024 threads.
#include "cuda/launches.h"
#include "cuda/reduce.h"
#include "cuda/statistics_plan.h"
#include "cuda/token_packs.h"
#include "math/moments.h"

namespace alignzoo::cuda {
namespace {

ALIGNZOO_DEVICE int lane_of() { return static_cast<int>(threadIdx.x) % kWarp; }
ALIGNZOO_DEVICE int warp_of() { return static_cast<int>(threadIdx.x) / kWarp; }

struct MomentRoom {
  Moments of_warp[kMomentWarps];
};

// Those of up to kMomentTile elements from `begin` on, in every lane.
template <class T>
ALIGNZOO_DEVICE Moments tile_moments(const T* x, const uint8_t* mask, int64_t begin, int64_t end,
                                     bool packs_fit) {
  constexpr int kVector = kPerLoad<T>, kPacks = static_cast<int>(kMomentTile) / (kWarp * kVector);
  Pack<T, kVector> held[kPacks];
  uint32_t keep = 0;
#pragma unroll
  for (int p = 0; p < kPacks; ++p) {
    const int64_t t = begin + (p * kWarp + lane_of()) * kVector;
    const int n = static_cast<int>(larger(0, smaller(kVector, end - t)));
    const bool whole = packs_fit && n == kVector;
    held[p] = load_tokens<kVector>(x + t, n, whole);
    const auto bytes = load_keep<kVector>(mask, t, n, whole);
    for (int i = 0; i < kVector; ++i) {
      keep |= static_cast<uint32_t>(bytes.at[i] != 0) << (p * kVector + i);
    }
  }
  const auto sum_of = [&](auto term) {
    double sum = 0;
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
#pragma unroll
      for (int i = 0; i < kVector; ++i) {
        const double of_one = term(static_cast<double>(held[p].at[i]));
        sum += keep >> (p * kVector + i) & 1u ? of_one : 0.0;
      }
    }
    return warp_reduce(sum, Add());
  };
  Moments out;
  out.count = warp_reduce(__popc(keep), Add());
  if (out.count == 0) return out;  // all lanes alike
  out.mean = sum_of([](double v) { return v; }) / out.count;
  out.m2 = sum_of([&](double v) {
    const double d = v - out.mean;
    return d * d;
  });
  return out;
}

// Bad offsets leave a count of NaN.
template <class T>
__global__ void __launch_bounds__(kMomentThreads, 2)
    moments_kernel(Rows rows, const T* x, const uint8_t* mask, int64_t tokens, bool packs_fit,
                   Moments* partial, uint32_t* faults) {
  ALIGNZOO_SHARED(MomentRoom, room);
  const int64_t thread = int64_t{blockIdx.x} * kMomentThreads + threadIdx.x,
                threads = int64_t{gridDim.x} * kMomentThreads;
  Moments mine;
  for (int64_t tile = thread / kWarp; tile * kMomentTile < tokens; tile += threads / kWarp) {
    const int64_t begin = tile * kMomentTile;
    math::merge(mine,
                tile_moments(x, mask, begin, smaller(tokens, begin + kMomentTile), packs_fit));
  }
  if (lane_of() == 0) room.of_warp[warp_of()] = mine;
  const bool bad = __syncthreads_or(finds_bad_offsets(rows, tokens, thread, threads)) != 0;
  if (threadIdx.x != 0) return;
  for (int w = 1; w < kMomentWarps; ++w) math::merge(mine, room.of_warp[w]);
  if (bad) {
    mine.count = __builtin_nan("");
    note_fault(faults, kBadOffsets);
  }
  partial[blockIdx.x] = mine;
}

// One block: out = (count, mean, m2) of all.
__global__ void __launch_bounds__(kMomentThreads)
    merge_kernel(const Moments* partial, int num_partial, double* out) {
  ALIGNZOO_SHARED(MomentRoom, room);
  const int per_thread = (num_partial + kMomentThreads - 1) / kMomentThreads,
            first = static_cast<int>(threadIdx.x) * per_thread;
  Moments mine;
  for (int i = first; i < first + per_thread && i < num_partial; ++i) {
    math::merge(mine, partial[i]);
  }
  for (int distance = 1; distance < kWarp; distance *= 2) {
    Moments next;
    next.count = __shfl_down_sync(kAllLanes, mine.count, distance);
    next.mean = __shfl_down_sync(kAllLanes, mine.mean, distance);
    next.m2 = __shfl_down_sync(kAllLanes, mine.m2, distance);
    if (lane_of() + distance < kWarp) math::merge(mine, next);
  }
  if (lane_of() == 0) room.of_warp[warp_of()] = mine;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int w = 1; w < kMomentWarps; ++w) math::merge(mine, room.of_warp[w]);
  out[0] = mine.count;
  out[1] = mine.mean;
  out[2] = mine.m2;
}

// Each block leaves whether it saw bad offsets.
__global__ void __launch_bounds__(kMomentThreads)
    whiten_check_kernel(Rows rows, int64_t tokens, uint32_t* checks, uint32_t* faults) {
  const bool bad = __syncthreads_or(finds_bad_offsets(
                       rows, tokens, int64_t{blockIdx.x} * kMomentThreads + threadIdx.x,
                       int64_t{gridDim.x} * kMomentThreads)) != 0;
  if (threadIdx.x != 0) return;
  checks[blockIdx.x] = bad;
  if (bad) note_fault(faults, kBadOffsets);
}

struct WhitenRoom {
  math::Whitening whitening;
  bool bad;
};

template <class T>
__global__ void __launch_bounds__(kWhitenThreads)
    whiten_kernel(WhitenCall<T> call, int64_t tokens, bool packs_fit, const uint32_t* checks,
                  int num_checks) {
  ALIGNZOO_SHARED(WhitenRoom, room);
  constexpr int kVector = kPerLoad<T>;
  constexpr int64_t kBlock = int64_t{kWhitenThreads} * kVector * kWhitenLoads;
  if (threadIdx.x == 0) {
    const Moments moments{call.moments[0], call.moments[1], call.moments[2]};
    room.whitening = math::whitening(moments, call.ddof, call.eps, call.shift_mean);
    room.bad = !(moments.count == moments.count);
    for (int i = 0; i < num_checks; ++i) room.bad |= checks[i] != 0;
  }
  __syncthreads();
  if (room.bad) {
    fill_with_nan(call.out, tokens);
    return;
  }
  const math::Whitening w = room.whitening;
  for (int64_t begin = blockIdx.x * kBlock; begin < tokens; begin += gridDim.x * kBlock) {
#pragma unroll
    for (int load = 0; load < kWhitenLoads; ++load) {
      const int64_t t = begin + (load * kWhitenThreads + static_cast<int>(threadIdx.x)) * kVector;
      const int n = static_cast<int>(larger(0, smaller(kVector, tokens - t)));
      const bool whole = packs_fit && n == kVector;
      const auto x = load_tokens<kVector>(call.x + t, n, whole);
      const auto keep = load_keep<kVector>(call.mask, t, n, whole);
      Pack<T, kVector> out;
      for (int i = 0; i < kVector; ++i) {
        const double wide = math::fma(static_cast<double>(x.at[i]) - w.shift, w.scale, w.offset);
        out.at[i] = keep.at[i] ? static_cast<T>(wide) : T(0);
      }
      store_tokens(call.out + t, n, whole, out);
    }
  }
}

// Who sums a group together: a warp, or a block.
struct WarpTeam {
  static constexpr int kSize = kWarp;
  ALIGNZOO_DEVICE int rank() const { return lane_of(); }
  template <class Combine>
  ALIGNZOO_DEVICE double reduce(double value, Combine combine) const {
    return warp_reduce(value, combine);
  }
};
struct BlockTeam {
  static constexpr int kSize = kGroupThreads;
  ReduceRoom<double, kGroupThreads>& room;
  ALIGNZOO_DEVICE int rank() const { return static_cast<int>(threadIdx.x); }
  template <class Combine>
  ALIGNZOO_DEVICE double reduce(double value, Combine combine) const {
    return block_reduce<kGroupThreads>(value, combine, room);
  }
};

struct Spread {
  double count, mean, m2;
  bool equal;  // or fewer than two
};

// Of the scores score_of(begin) ... score_of(end - 1) that are not NaN, in two passes.
template <class Team, class ScoreOf>
ALIGNZOO_DEVICE Spread spread_of(int64_t begin, int64_t end, const Team& team,
                                 const ScoreOf& score_of) {
  double count = 0, sum = 0, highest = -__builtin_inf(), minus_lowest = -__builtin_inf();
  for (int64_t i = begin + team.rank(); i < end; i += Team::kSize) {
    const double s = score_of(i);
    if (s != s) continue;
    count += 1;
    sum += s;
    highest = Larger()(s, highest);
    minus_lowest = Larger()(-s, minus_lowest);
  }
  Spread out{};
  out.count = team.reduce(count, Add());
  out.mean = team.reduce(sum, Add()) / out.count;
  highest = team.reduce(highest, Larger());
  out.equal = out.count < 2 || highest == -team.reduce(minus_lowest, Larger());
  double m2 = 0;
  for (int64_t i = begin + team.rank(); i < end; i += Team::kSize) {
    const double s = score_of(i), d = s - out.mean;
    if (s == s) m2 += d * d;
  }
  out.m2 = team.reduce(m2, Add());
  return out;
}

struct GroupRoom {
  ReduceRoom<double, kGroupThreads> reduce;
  int64_t begin[kGroupWarps], end[kGroupWarps];  // of each warp's large group
};

// One block: the deviation of the whole batch.
template <class T>
__global__ void __launch_bounds__(kGroupThreads)
    batch_kernel(GroupArgs<T> args, double* batch_deviation) {
  ALIGNZOO_SHARED(GroupRoom, room);
  const Spread batch = spread_of(0, args.size, BlockTeam{room.reduce},
                                 [&](int64_t i) { return static_cast<double>(args.scores[i]); });
  if (threadIdx.x == 0) *batch_deviation = math::deviation(batch.count, batch.m2, args.ddof);
}

// The group of sorted rows [begin, end).
template <class T, class Team>
ALIGNZOO_DEVICE void one_group(const GroupArgs<T>& args, const int64_t* order, int64_t begin,
                               int64_t end, const double* batch_deviation, const Team& team) {
  const auto score_of = [&](int64_t i) { return static_cast<double>(args.scores[order[i]]); };
  const Spread group = spread_of(begin, end, team, score_of);
  const double deviation = args.mode == GroupMode::kBatchStd
                               ? *batch_deviation
                               : math::deviation(group.count, group.m2, args.ddof);
  for (int64_t i = begin + team.rank(); i < end; i += Team::kSize) {
    const double s = score_of(i);
    const double advantage =
        group.equal || s != s
            ? 0.0
            : math::group_advantage(args.mode, s - group.mean, group.count, deviation, args.eps);
    args.advantages[order[i]] = static_cast<T>(advantage);
  }
}

// The first sorted row from `low` on, before `high`, that is not of group `id`; `high` if all are.
// A warp looks at 32 places at a time.
ALIGNZOO_DEVICE int64_t group_end(const int64_t* group_ids, const int64_t* order, int64_t id,
                                  int64_t low, int64_t high) {
  while (low < high) {
    const int64_t step = ceil_div(high - low, kWarp), last = low + (lane_of() + 1) * step - 1;
    const bool same = last < high && group_ids[order[last]] == id;
    low += __popc(__ballot_sync(kAllLanes, same)) * step;
    high = smaller(high, low + step - 1);
  }
  return high;
}

// Each warp looks at 32 sorted rows for the first of groups. Its lanes sum a group together; one
// of more than kLargeGroup rows is left to the block.
template <class T>
__global__ void __launch_bounds__(kGroupThreads)
    group_kernel(GroupArgs<T> args, const int64_t* order, const double* batch_deviation) {
  ALIGNZOO_SHARED(GroupRoom, room);
  const int64_t size = args.size;
  for (int64_t base = int64_t{blockIdx.x} * kGroupThreads; base < size;
       base += int64_t{gridDim.x} * kGroupThreads) {
    const int64_t first = base + warp_of() * kWarp, mine = first + lane_of();
    const int64_t id = mine < size ? args.group_ids[order[mine]] : 0;
    int64_t before = __shfl_up_sync(kAllLanes, id, 1);
    if (lane_of() == 0 && mine > 0 && mine < size) before = args.group_ids[order[mine - 1]];
    const bool starts = mine < size && (mine == 0 || id != before);
    int64_t large_begin = -1, large_end = -1;
    for (uint32_t left = __ballot_sync(kAllLanes, starts); left != 0;) {
      const int lane = __ffs(static_cast<int>(left)) - 1;
      left &= left - 1;
      const int64_t begin = first + lane, own = __shfl_sync(kAllLanes, id, lane);
      int64_t end;
      if (left != 0) {
        end = first + __ffs(static_cast<int>(left)) - 1;
      } else {
        const int64_t near = smaller(size, begin + kWarp);
        end = group_end(args.group_ids, order, own, begin + 1, near);
        if (end == near) end = group_end(args.group_ids, order, own, near, size);
      }
      if (end - begin > kLargeGroup) {
        large_begin = begin;
        large_end = end;
      } else {
        one_group(args, order, begin, end, batch_deviation, WarpTeam());
      }
    }
    if (lane_of() == 0) {
      room.begin[warp_of()] = large_begin;
      room.end[warp_of()] = large_end;
    }
    __syncthreads();
    for (int w = 0; w < kGroupWarps; ++w) {
      const int64_t begin = room.begin[w], end = room.end[w];
      if (begin >= 0) one_group(args, order, begin, end, batch_deviation, BlockTeam{room.reduce});
    }
    __syncthreads();
  }
}

}  // namespace

template <class T>
Status masked_whiten(const Queue& queue, const WhitenCall<T>& call, void* workspace) {
  uint32_t* faults = nullptr;
  Status status = fault_word(queue, &faults);
  if (status != cudaSuccess) return status;
  const int64_t tokens = whiten_tokens(call.rows);
  const bool fit = packs_fit<T>(call.mask, call.x, call.out);
  auto* checks = static_cast<uint32_t*>(workspace);
  int num_checks = 0;
  if (!call.moments_given) {
    auto* partial = static_cast<Moments*>(workspace);
    const int64_t blocks = moment_blocks(call.rows);
    status = launch(queue, moments_kernel<T>, blocks, kMomentThreads, call.rows, call.x, call.mask,
                    tokens, fit, partial, faults);
    if (status != cudaSuccess) return status;
    status = launch(queue, merge_kernel, 1, kMomentThreads, partial, static_cast<int>(blocks),
                    call.moments);
  } else if (call.rows.offsets) {
    num_checks = static_cast<int>(
        larger(1, smaller(kMostCheckBlocks, ceil_div(call.rows.count, kMomentThreads))));
    status = launch(queue, whiten_check_kernel, num_checks, kMomentThreads, call.rows, tokens,
                    checks, faults);
  }
  if (status != cudaSuccess) return status;
  return launch(queue, whiten_kernel<T>,
                blocks_for(tokens, int64_t{kWhitenThreads} * kPerLoad<T> * kWhitenLoads),
                kWhitenThreads, call, tokens, fit, checks, num_checks);
}

template <class T>
Status group_advantages(const Queue& queue, const GroupCall<T>& call, void* workspace) {
  const GroupArgs<T>& args = call.args;
  if (args.size == 0) return cudaSuccess;
  auto* batch_deviation = static_cast<double*>(workspace);
  if (args.mode == GroupMode::kBatchStd) {
    const Status status = launch(queue, batch_kernel<T>, 1, kGroupThreads, args, batch_deviation);
    if (status != cudaSuccess) return status;
  }
  return launch(queue, group_kernel<T>, blocks_for(args.size, kGroupThreads), kGroupThreads, args,
                call.order, batch_deviation);
}

#define ALIGNZOO_INSTANTIATE(T)                                                \
  template Status masked_whiten<T>(const Queue&, const WhitenCall<T>&, void*); \
  template Status group_advantages<T>(const Queue&, const GroupCall<T>&, void*);
ALIGNZOO_INSTANTIATE(float)
ALIGNZOO_INSTANTIATE(double)
#undef ALIGNZOO_INSTANTIATE

}  // namespace alignzoo::cuda
