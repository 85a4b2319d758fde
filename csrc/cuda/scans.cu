// Backward recursions y_t = d_t + m_t y_{t+1} over the unmasked tokens of each row.
//
// The floor of gae is 17 bytes a token: rewards, values and mask read, advantages and returns
// written. Where rows or their tiles fill the device, one launch moves just that: from a row's tail
// on, each thread asks for its next tokens before it works on those at hand, so that memory is busy
// while the block agrees on the values and sums between its tiles. What follows a token (the next
// unmasked one's value, whether the row has one) comes along the same way, so no token is read to
// find it. Few long rows are split: then most numbers are read twice.
#include "cuda/launches.h"
#include "cuda/offsets.h"
#include "cuda/scan_tile.h"

namespace alignzoo::cuda {
namespace {

// Blocks that a multiprocessor must have room for, which bounds their registers: 64 for gae in
// float32, with 36 bytes asked for by each of 1024 threads. By warps and split, which keep more or
// ask for less, the bound is loose.
template <class Rule, class T>
constexpr int kResidentBlocks = Rule::kRatios    ? 2
                                : sizeof(T) == 4 ? 4
                                                 : 3;
template <class Rule, class T>
constexpr int kFewResidentBlocks = Rule::kRatios && sizeof(T) == 8 ? 1 : 2;

// What a block's tiles tell each other.
template <class T>
struct ScanRoom {
  Pack<T, kScanWarps / 2> d[2];
  T value[kScanWarps], m[kScanWarps];
  Pack<uint8_t, kScanWarps> any;  // kAny, and kPlain if so
};
constexpr uint8_t kAny = 1, kPlain = 2;
static_assert(kMaskHole != kAny && kTruncatedWithoutValue != kAny, "kept in one byte with kAny");

template <class T>
ALIGNZOO_DEVICE ScanRow<T> scan_row(const ScanArgs<T>& args, int64_t row, bool packs) {
  const int64_t begin = args.rows.begin(row);
  return {row, begin, args.rows.end(row) - begin, packs && begin % kPerLoad<T> == 0};
}

// What follows a row's last token.
template <class T>
ALIGNZOO_DEVICE Following<T> row_end(const ScanArgs<T>& args, int64_t row) {
  return {false, args.bootstrap ? args.bootstrap[row] : T(0)};
}

ALIGNZOO_DEVICE uint32_t faults_of_warp(uint32_t faults) {
  const bool hole = __any_sync(kAllLanes, (faults & kMaskHole) != 0) != 0,
             cut = __any_sync(kAllLanes, (faults & kTruncatedWithoutValue) != 0) != 0;
  return (hole ? kMaskHole : 0u) | (cut ? kTruncatedWithoutValue : 0u);
}
ALIGNZOO_DEVICE uint32_t faults_of_block(uint32_t faults) {
  const bool hole = __syncthreads_or((faults & kMaskHole) != 0) != 0,
             cut = __syncthreads_or((faults & kTruncatedWithoutValue) != 0) != 0;
  return (hole ? kMaskHole : 0u) | (cut ? kTruncatedWithoutValue : 0u);
}
ALIGNZOO_DEVICE void note_faults(uint32_t* word, uint32_t faults) {
  if (faults & kMaskHole) note_fault(word, kMaskHole);
  if (faults & kTruncatedWithoutValue) note_fault(word, kTruncatedWithoutValue);
}

// NaN in the tokens [begin, end) of the results, by threads `first`, `first` + `step`, ...
template <class Rule, class T>
ALIGNZOO_DEVICE void fill_nan(const ScanArgs<T>& args, int64_t begin, int64_t end, int first,
                              int step) {
  for (int64_t t = begin + first; t < end; t += step) {
    if constexpr (Rule::kAdvantages) args.advantages[t] = NotANumber<T>::kValue;
    args.returns[t] = NotANumber<T>::kValue;
  }
}

template <class Rule, class T>
ALIGNZOO_DEVICE void scan_row_by_warp(const ScanArgs<T>& args, const Rule& rule,
                                      const ScanPowers<T>& powers, const ScanRow<T>& row,
                                      uint32_t* fault_word) {
  constexpr int64_t kTile = kTileTokens<T>;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const bool as_zeros = args.mask_mode == MaskMode::kZero;
  int64_t tile = ceil_div(row.size, kTile) - 1;
  if (tile < 0) return;
  int64_t at = tile * kTile + lane * kPerLoad<T>;
  Following<T> behind = row_end(args, row.row);
  Affine<T> chunk;  // of the tiles behind within the chunk
  T y = 0;          // behind the chunk
  uint32_t faults = 0;
  LaneTokens<T> next = load_tokens<Rule>(args, row, at);
  for (; tile >= 0; --tile, at -= kTile) {
    const LaneTokens<T> tokens = next;
    if (tile > 0) next = load_tokens<Rule>(args, row, at - kTile);
    LaneScan<T, Rule> scan(args, powers, tokens);
    const Affine<T> map = scan.map(args, rule, powers, tokens, row, at, behind);
    scan.write(args, rule, row, at, chunk(y));
    behind = before_tile(scan.any(), scan.first_value(), behind, as_zeros);
    chunk = after(map, chunk);
    if (tile % kScanWarps == 0) {
      y = chunk(y);
      chunk = {};
    }
    faults |= scan.faults();
  }
  faults = faults_of_warp(faults);
  if (faults == 0) return;
  if (lane == 0) note_faults(fault_word, faults);
  __syncwarp();  // the row's results are written
  fill_nan<Rule>(args, row.begin, row.begin + row.size, lane, kWarp);
}

constexpr uint64_t kAllPlain = 0x0303030303030303u;

// What the chunk's tiles from `first` on, and what is behind them, tell the tile before:
// before_tile of one after the other. `any` has a byte a tile.
template <class T>
ALIGNZOO_DEVICE Following<T> before_tiles(uint64_t any, int first, const ScanRoom<T>& room,
                                          const Following<T>& behind, bool as_zeros) {
  static_assert(kScanWarps == 8, "a byte a tile");
  const uint64_t tiles = first < kScanWarps ? any >> (8 * first) : 0;
  int tile = first;  // whose value counts
  if (tiles == 0) {
    if (!as_zeros || !behind.any || first == kScanWarps) return behind;
  } else if (!as_zeros) {
    const uint32_t low = static_cast<uint32_t>(tiles);
    tile += low != 0 ? (__ffs(low) - 1) / 8 : (__ffs(static_cast<uint32_t>(tiles >> 32)) + 31) / 8;
  }
  return {true, room.value[tile]};
}

// A chunk by the whole block, of which `tokens` are the thread's own, from the row's token `at` on.
// Takes what follows the chunk, gives what follows the one before; returns the chunk's map.
template <bool kResults, class Rule, class T>
ALIGNZOO_DEVICE Affine<T> scan_chunk(const ScanArgs<T>& args, const Rule& rule,
                                     const ScanPowers<T>& powers, const ScanRow<T>& row, int64_t at,
                                     const LaneTokens<T>& tokens, ScanRoom<T>& room, T y,
                                     Following<T>& behind, uint32_t& faults) {
  const int warp = static_cast<int>(threadIdx.x) / kWarp,
            lane = static_cast<int>(threadIdx.x) % kWarp;
  const bool as_zeros = args.mask_mode == MaskMode::kZero;
  LaneScan<T, Rule> scan(args, powers, tokens);
  const T first_value = scan.first_value();
  if (lane == 0) {
    room.any.at[warp] = scan.plain() ? kAny | kPlain : scan.any() ? kAny : 0;
    room.value[warp] = first_value;
  }
  __syncthreads();
  uint64_t any;
  memcpy(&any, &room.any, sizeof any);
  const bool plain = any == kAllPlain && behind.any;
  const Following<T> behind_tile = before_tiles(any, warp + 1, room, behind, as_zeros);
  behind = before_tiles(any, 0, room, behind, as_zeros);
  const Affine<T> map = scan.map(args, rule, powers, tokens, row, at, behind_tile);
  if (lane == 0) {
    room.m[warp] = map.m;
    room.d[warp / (kScanWarps / 2)].at[warp % (kScanWarps / 2)] = map.d;
  }
  __syncthreads();
  const Pack<T, kScanWarps / 2> d[2] = {room.d[0], room.d[1]};
  Affine<T> chunk, later;
  if (plain) {
    ALIGNZOO_UNROLL
    for (int w = kScanWarps - 1; w >= 0; --w) {
      if (w == warp) later.d = chunk.d;
      chunk.d = math::fma(powers.tile, chunk.d, d[w / (kScanWarps / 2)].at[w % (kScanWarps / 2)]);
    }
    later.m = powers.later_tiles[warp];
    chunk.m = powers.chunk;
  } else {
    ALIGNZOO_UNROLL
    for (int w = kScanWarps - 1; w >= 0; --w) {
      if (w == warp) later = chunk;
      const T d_of_tile = d[w / (kScanWarps / 2)].at[w % (kScanWarps / 2)];
      chunk = after(Affine<T>{room.m[w], d_of_tile}, chunk);
    }
  }
  if constexpr (kResults) scan.write(args, rule, row, at, later(y));
  faults |= scan.faults();
  return chunk;
}

template <class Rule, class T>
ALIGNZOO_DEVICE void scan_row_by_block(const ScanArgs<T>& args, const Rule& rule,
                                       const ScanPowers<T>& powers, const ScanRow<T>& row,
                                       ScanRoom<T>& room, uint32_t* fault_word) {
  constexpr int64_t kChunk = kChunkTokens<T>;
  const int thread = static_cast<int>(threadIdx.x);
  int64_t at = (ceil_div(row.size, kChunk) - 1) * kChunk + thread * kPerLoad<T>;
  if (row.size <= 0) return;
  Following<T> behind = row_end(args, row.row);
  T y = 0;
  uint32_t faults = 0;
  LaneTokens<T> next = load_tokens<Rule>(args, row, at);
  for (; at >= 0; at -= kChunk) {
    const LaneTokens<T> tokens = next;
    if (at >= kChunk) next = load_tokens<Rule>(args, row, at - kChunk);
    const Affine<T> chunk =
        scan_chunk<true>(args, rule, powers, row, at, tokens, room, y, behind, faults);
    y = chunk(y);
  }
  faults = faults_of_block(faults);
  if (faults == 0) return;
  if (thread == 0) note_faults(fault_word, faults);
  fill_nan<Rule>(args, row.begin, row.begin + row.size, thread, kScanThreads);
}

// `checks`: what the check of the offsets left, num_checks words.
struct ScanQueue {
  uint32_t *faults, *checks;
  int num_checks;
  bool packs;
};

template <class Rule, class T>
ALIGNZOO_DEVICE bool stop_at_bad_offsets(const ScanArgs<T>& args, const ScanQueue& on) {
  if (on.num_checks == 0 || !offsets_are_bad(on.checks, on.num_checks)) return false;
  if constexpr (Rule::kAdvantages) fill_nan_by_grid(args.advantages, args.rows.width);
  fill_nan_by_grid(args.returns, args.rows.width);
  return true;
}

template <class Rule, class T>
__global__ void __launch_bounds__(kScanThreads, kResidentBlocks<Rule, T>)
    scan_rows_by_blocks_kernel(ScanArgs<T> args, Rule rule, ScanPowers<T> powers, ScanQueue on) {
  ALIGNZOO_SHARED(ScanRoom<T>, room);
  if (stop_at_bad_offsets<Rule>(args, on)) return;
  for (int64_t row = blockIdx.x; row < args.rows.count; row += gridDim.x) {
    scan_row_by_block(args, rule, powers, scan_row(args, row, on.packs), room, on.faults);
  }
}

template <class Rule, class T>
__global__ void __launch_bounds__(kScanThreads, kFewResidentBlocks<Rule, T>)
    scan_rows_by_warps_kernel(ScanArgs<T> args, Rule rule, ScanPowers<T> powers, ScanQueue on,
                              int64_t warp_tokens) {
  ALIGNZOO_SHARED(ScanRoom<T>, room);
  if (stop_at_bad_offsets<Rule>(args, on)) return;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  for (int64_t first = int64_t{blockIdx.x} * kScanWarps; first < args.rows.count;
       first += int64_t{gridDim.x} * kScanWarps) {
    if (first + warp < args.rows.count) {
      const ScanRow<T> row = scan_row(args, first + warp, on.packs);
      if (row.size <= warp_tokens) scan_row_by_warp(args, rule, powers, row, on.faults);
    }
    const int64_t stop = smaller(args.rows.count, first + kScanWarps);
    for (int64_t b = first; b < stop; ++b) {
      const ScanRow<T> row = scan_row(args, b, on.packs);
      if (row.size > warp_tokens) scan_row_by_block(args, rule, powers, row, room, on.faults);
    }
  }
}

// What a split keeps of each chunk: first what it tells those before it, then what follows it.
template <class T>
struct SplitState {
  T *value, *m, *d, *y;
  uint8_t* any;  // 1: there is an unmasked token; and the faults found in the chunk
  uint32_t* row_faults;
  int64_t chunks;
};

// Where row `row` begins among the chunks of all rows, some of which do not exist.
template <class T>
ALIGNZOO_DEVICE int64_t first_chunk(const Rows& rows, int64_t row) {
  return rows.begin(row) / kChunkTokens<T> + row;
}
template <class T>
ALIGNZOO_DEVICE int64_t row_of_chunk(const Rows& rows, int64_t chunk) {
  int64_t low = 0, high = rows.count;  // the row is in [low, high)
  while (high - low > 1) {
    const int64_t middle = low + (high - low) / 2;
    (first_chunk<T>(rows, middle) <= chunk ? low : high) = middle;
  }
  return low;
}

// First launch of a split: what each chunk tells those before it.
template <class T>
__global__ void __launch_bounds__(kScanThreads)
    first_values_kernel(ScanArgs<T> args, ScanQueue on, SplitState<T> state) {
  ALIGNZOO_SHARED(ScanRoom<T>, room);
  constexpr int kItems = kPerLoad<T>;
  if (on.num_checks != 0 && offsets_are_bad(on.checks, on.num_checks)) return;
  const int thread = static_cast<int>(threadIdx.x), warp = thread / kWarp, lane = thread % kWarp;
  const bool as_zeros = args.mask_mode == MaskMode::kZero;
  for (int64_t i = blockIdx.x; i < state.chunks; i += gridDim.x) {
    const ScanRow<T> row = scan_row(args, row_of_chunk<T>(args.rows, i), on.packs);
    const int64_t at = (i - first_chunk<T>(args.rows, row.row)) * kChunkTokens<T> + thread * kItems;
    const uint32_t mask = load_mask(args, row, at);
    int item = 0;
    while (!as_zeros && item < kItems - 1 && !byte_set(mask, item)) ++item;
    const uint32_t lanes = __ballot_sync(kAllLanes, mask != 0);
    if (lane == (as_zeros || lanes == 0 ? 0 : __ffs(lanes) - 1)) {
      room.any.at[warp] = lanes != 0;
      room.value[warp] =
          args.values && byte_set(mask, item) ? args.values[row.begin + at + item] : T(0);
    }
    __syncthreads();
    if (thread == 0) {
      Following<T> chunk = {false, T(0)};
      for (int w = kScanWarps - 1; w >= 0; --w) {
        chunk = before_tile(room.any.at[w] != 0, room.value[w], chunk, as_zeros);
      }
      state.any[i] = chunk.any ? kAny : 0;
      state.value[i] = chunk.value;
    }
    __syncthreads();
  }
}

// A row's chunks from its last, a block at a time: each thread loads a chunk's numbers, one thread
// takes them in turn, each stores what has become of its own.
template <class T, class Number, class Load, class Turn, class Store>
ALIGNZOO_DEVICE void chain_chunks(int64_t begin, int64_t count, Number* room, const Load& load,
                                  const Turn& turn, const Store& store) {
  const int thread = static_cast<int>(threadIdx.x);
  Number next = {};
  if (thread < count) next = load(begin + count - 1 - thread);
  for (int64_t left = count; left > 0; left -= kScanThreads) {
    const int64_t mine = left - 1 - thread;
    room[thread] = next;
    if (mine >= kScanThreads) next = load(begin + mine - kScanThreads);
    __syncthreads();
    if (thread == 0) {
      const int size = static_cast<int>(smaller(left, kScanThreads));
      for (int k = 0; k < size; ++k) turn(room[k]);
    }
    __syncthreads();
    if (mine >= 0) store(begin + mine, room[thread]);
  }
}

// Second launch: what follows each chunk.
template <class T>
struct FollowingRoom {
  Following<T> chunk[kScanThreads];
};
template <class T>
__global__ void __launch_bounds__(kScanThreads)
    chain_values_kernel(ScanArgs<T> args, ScanQueue on, SplitState<T> state) {
  ALIGNZOO_SHARED(FollowingRoom<T>, room);
  if (on.num_checks != 0 && offsets_are_bad(on.checks, on.num_checks)) return;
  const bool as_zeros = args.mask_mode == MaskMode::kZero;
  for (int64_t b = blockIdx.x; b < args.rows.count; b += gridDim.x) {
    const ScanRow<T> row = scan_row(args, b, on.packs);
    Following<T> behind = row_end(args, b);
    chain_chunks<T>(
        first_chunk<T>(args.rows, b), ceil_div(row.size, kChunkTokens<T>), room.chunk,
        [&](int64_t i) { return Following<T>{state.any[i] != 0, state.value[i]}; },
        [&](Following<T>& chunk) {
          const Following<T> before = before_tile(chunk.any, chunk.value, behind, as_zeros);
          chunk = behind;
          behind = before;
        },
        [&](int64_t i, const Following<T>& chunk) {
          state.any[i] = chunk.any ? kAny : 0;
          state.value[i] = chunk.value;
        });
  }
}

// Third launch: the map of each chunk.
template <class Rule, class T>
__global__ void __launch_bounds__(kScanThreads, kFewResidentBlocks<Rule, T>)
    chunk_maps_kernel(ScanArgs<T> args, Rule rule, ScanPowers<T> powers, ScanQueue on,
                      SplitState<T> state) {
  ALIGNZOO_SHARED(ScanRoom<T>, room);
  if (on.num_checks != 0 && offsets_are_bad(on.checks, on.num_checks)) return;
  const int thread = static_cast<int>(threadIdx.x);
  for (int64_t i = blockIdx.x; i < state.chunks; i += gridDim.x) {
    const ScanRow<T> row = scan_row(args, row_of_chunk<T>(args.rows, i), on.packs);
    const int64_t begin = (i - first_chunk<T>(args.rows, row.row)) * kChunkTokens<T>;
    if (begin >= row.size) continue;
    const int64_t at = begin + thread * kPerLoad<T>, end = begin + kChunkTokens<T>;
    const LaneTokens<T> tokens = load_tokens<Rule>(args, row, at);
    Following<T> behind;
    if (args.mask) {
      behind = {state.any[i] != 0, state.value[i]};
    } else if (end < row.size) {
      behind = {true, args.values ? args.values[row.begin + end] : T(0)};
    } else {
      behind = row_end(args, row.row);
    }
    const Following<T> behind_chunk = behind;
    uint32_t faults = 0;
    const Affine<T> map =
        scan_chunk<false>(args, rule, powers, row, at, tokens, room, T(0), behind, faults);
    faults = faults_of_block(faults);
    if (thread == 0) {
      state.m[i] = map.m;
      state.d[i] = map.d;
      state.any[i] = static_cast<uint8_t>((behind_chunk.any ? kAny : 0) | faults);
      state.value[i] = behind_chunk.value;
    }
  }
}

// Fourth launch: y behind each chunk.
template <class T>
struct ChainedMap {
  T m, d, y;
};
template <class T>
struct MapRoom {
  ChainedMap<T> chunk[kScanThreads];
};
template <class T>
__global__ void __launch_bounds__(kScanThreads)
    chain_maps_kernel(ScanArgs<T> args, ScanQueue on, SplitState<T> state) {
  ALIGNZOO_SHARED(MapRoom<T>, room);
  if (on.num_checks != 0 && offsets_are_bad(on.checks, on.num_checks)) return;
  for (int64_t b = blockIdx.x; b < args.rows.count; b += gridDim.x) {
    const ScanRow<T> row = scan_row(args, b, on.packs);
    T y = 0;
    uint32_t faults = 0;
    chain_chunks<T>(
        first_chunk<T>(args.rows, b), ceil_div(row.size, kChunkTokens<T>), room.chunk,
        [&](int64_t i) {
          faults |= state.any[i];
          return ChainedMap<T>{state.m[i], state.d[i], T(0)};
        },
        [&](ChainedMap<T>& chunk) {
          chunk.y = y;
          y = math::add_later(chunk.d, chunk.m, y);
        },
        [&](int64_t i, const ChainedMap<T>& chunk) { state.y[i] = chunk.y; });
    faults = faults_of_block(faults);
    if (threadIdx.x == 0) {
      state.row_faults[b] = faults;
      note_faults(on.faults, faults);
    }
  }
}

// Last launch: the results.
template <class Rule, class T>
__global__ void __launch_bounds__(kScanThreads, kFewResidentBlocks<Rule, T>)
    scan_chunks_kernel(ScanArgs<T> args, Rule rule, ScanPowers<T> powers, ScanQueue on,
                       SplitState<T> state) {
  ALIGNZOO_SHARED(ScanRoom<T>, room);
  if (stop_at_bad_offsets<Rule>(args, on)) return;
  const int thread = static_cast<int>(threadIdx.x);
  for (int64_t i = blockIdx.x; i < state.chunks; i += gridDim.x) {
    const ScanRow<T> row = scan_row(args, row_of_chunk<T>(args.rows, i), on.packs);
    const int64_t begin = (i - first_chunk<T>(args.rows, row.row)) * kChunkTokens<T>;
    if (begin >= row.size) continue;
    if (state.row_faults[row.row] != 0) {
      const int64_t end = smaller(row.size, begin + kChunkTokens<T>);
      fill_nan<Rule>(args, row.begin + begin, row.begin + end, thread, kScanThreads);
      continue;
    }
    const int64_t at = begin + thread * kPerLoad<T>;
    const LaneTokens<T> tokens = load_tokens<Rule>(args, row, at);
    Following<T> behind = {(state.any[i] & kAny) != 0, state.value[i]};
    uint32_t faults = 0;
    scan_chunk<true>(args, rule, powers, row, at, tokens, room, state.y[i], behind, faults);
  }
}

// Whether rows that start at a multiple of a load's elements can be loaded and stored whole.
template <class T>
bool arrays_fit_packs(const ScanArgs<T>& a) {
  const auto fit = [](const auto*... array) {
    return (... && fits_pack(array, kPerLoad<T> * static_cast<int>(sizeof *array)));
  };
  const uint8_t *terminated = a.terminated_per_row ? nullptr : a.terminated,
                *truncated = a.truncated_per_row ? nullptr : a.truncated;
  return fit(a.rewards, a.values, a.log_probs, a.old_log_probs, a.mask, terminated, truncated,
             a.advantages, a.returns);
}

template <class Rule, class T>
Status scan(const Queue& queue, const ScanArgs<T>& args, void* workspace, const ScanPlan& plan) {
  if (plan.blocks == 0) return cudaSuccess;
  const Rule rule(args);
  const ScanPowers<T> powers = scan_powers<T>(rule);
  const ScanWorkspace layout = scan_workspace(args.rows, plan, sizeof(T));
  char* const room = static_cast<char*>(workspace);
  ScanQueue on = {};
  on.checks = reinterpret_cast<uint32_t*>(room);
  on.num_checks = static_cast<int>(offset_check_blocks(args.rows));
  on.packs = arrays_fit_packs(args);
  Status status = fault_word(queue, &on.faults);
  if (status != cudaSuccess) return status;
  status = check_offsets(queue, args.rows, on.checks, on.faults);
  if (status != cudaSuccess) return status;

  if (plan.shape == ScanShape::kWarps) {
    return launch(queue, scan_rows_by_warps_kernel<Rule, T>, plan.blocks, kScanThreads, args, rule,
                  powers, on, plan.warp_tokens);
  }
  if (plan.shape == ScanShape::kBlocks) {
    return launch(queue, scan_rows_by_blocks_kernel<Rule, T>, plan.blocks, kScanThreads, args, rule,
                  powers, on);
  }
  const auto numbers = [room](int64_t at) { return reinterpret_cast<T*>(room + at); };
  SplitState<T> state = {};
  state.value = numbers(layout.value);
  state.m = numbers(layout.m);
  state.d = numbers(layout.d);
  state.y = numbers(layout.y);
  state.any = reinterpret_cast<uint8_t*>(room + layout.any);
  state.row_faults = reinterpret_cast<uint32_t*>(room + layout.row_faults);
  state.chunks = plan.chunks;
  const int64_t row_blocks = blocks_for(args.rows.count, 1);
  if (args.mask) {
    status = launch(queue, first_values_kernel<T>, plan.blocks, kScanThreads, args, on, state);
    if (status != cudaSuccess) return status;
    status = launch(queue, chain_values_kernel<T>, row_blocks, kScanThreads, args, on, state);
    if (status != cudaSuccess) return status;
  }
  status = launch(queue, chunk_maps_kernel<Rule, T>, plan.blocks, kScanThreads, args, rule, powers,
                  on, state);
  if (status != cudaSuccess) return status;
  status = launch(queue, chain_maps_kernel<T>, row_blocks, kScanThreads, args, on, state);
  if (status != cudaSuccess) return status;
  return launch(queue, scan_chunks_kernel<Rule, T>, plan.blocks, kScanThreads, args, rule, powers,
                on, state);
}

}  // namespace

template <class T>
Status gae(const Queue& queue, const ScanArgs<T>& args, void* workspace) {
  return scan<math::GaeRule<T>>(queue, args, workspace, scan_plan(args.rows, sizeof(T)));
}
template <class T>
Status td_lambda_returns(const Queue& queue, const ScanArgs<T>& args, void* workspace) {
  return scan<math::ReturnRule<T>>(queue, args, workspace, scan_plan(args.rows, sizeof(T)));
}
template <class T>
Status vtrace(const Queue& queue, const ScanArgs<T>& args, void* workspace) {
  return scan<math::VtraceRule<T>>(queue, args, workspace, scan_plan(args.rows, sizeof(T)));
}
#define ALIGNZOO_INSTANTIATE(T)                                                  \
  template Status gae<T>(const Queue&, const ScanArgs<T>&, void*);               \
  template Status td_lambda_returns<T>(const Queue&, const ScanArgs<T>&, void*); \
  template Status vtrace<T>(const Queue&, const ScanArgs<T>&, void*);
ALIGNZOO_INSTANTIATE(float)
ALIGNZOO_INSTANTIATE(double)
#undef ALIGNZOO_INSTANTIATE

}  // namespace alignzoo::cuda
