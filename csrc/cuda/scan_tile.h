// The backward recursions y_t = d_t + m_t y_{t+1} within a tile: 32 lanes, and for each as many
// tokens one after the other as a 16-byte load holds.
//
// A masked token is the identity y -> y, so it drops out of the recursion however many there are;
// so does what lies behind a row's end. The maps y -> d + m y of the rest are composed over a
// lane's tokens, over lanes by doubling, over the tiles of a chunk and over chunks one after the
// other. That tree is counted from the row's first token, whatever the launch: see scan_plan.h.
#pragma once

#include "cuda/runtime.h"
#include "cuda/scan_plan.h"
#include "math/advantages.h"

namespace alignzoo::cuda {

template <class T>
constexpr int64_t kTileTokens = scan_tile_tokens(sizeof(T));
template <class T>
constexpr int64_t kChunkTokens = scan_chunk_tokens(sizeof(T));

// y -> d + m y.
template <class T>
struct Affine {
  T m = 1, d = 0;
  ALIGNZOO_DEVICE T operator()(T y) const { return math::add_later(d, m, y); }
};
// `map` of what `later` gives.
template <class T>
ALIGNZOO_DEVICE Affine<T> after(const Affine<T>& map, const Affine<T>& later) {
  return {math::product(map.m, later.m), map(later.d)};
}

// What the tokens before need to know of those behind: whether one of them is unmasked, and the
// value of the state after a step, which is the bootstrap where none is.
template <class T>
struct Following {
  bool any;
  T value;
};

// What a tile tells those before it: whether it has an unmasked token, and the first one's value
// (where masked tokens are steps: that of its first token, 0 under the mask).
template <class T>
ALIGNZOO_DEVICE Following<T> before_tile(bool any, T value, const Following<T>& behind,
                                         bool as_zeros) {
  if (any) return {true, value};
  return {behind.any, as_zeros && behind.any ? T(0) : behind.value};
}

// Whole chunks of unmasked tokens after none of which an episode ends have constant multipliers.
// These are their products as `after` forms them, so that the shorter way to the results, which
// leaves the multipliers out, gives the same bits.
template <class T>
struct ScanPowers {
  bool usable;
  T one, step[5];              // of a token; of a lane's tokens, two lanes', ..., 16 lanes'
  T later_lanes[kWarp], tile;  // of the lanes behind each; of all
  T later_tiles[kScanWarps], chunk;
};
// A row as its tiles see it.
template <class T>
struct ScanRow {
  int64_t row, begin, size;
  bool packs;  // its lanes' tokens lie at addresses that whole loads and stores can take
};

// A lane's tokens as they come from memory. Loading waits for none of them.
template <class T>
struct LaneTokens {
  static constexpr int kItems = kPerLoad<T>;
  Pack<T, kItems> reward, value, log_prob, old_log_prob;
  uint32_t mask, terminated, truncated;  // a byte a token, 0 behind the row's end
};

template <class T>
ALIGNZOO_DEVICE Pack<T, kPerLoad<T>> load_numbers(const T* from, int count, bool packs) {
  constexpr int kItems = kPerLoad<T>;
  if (packs && count == kItems) return load_pack<kItems>(from);
  Pack<T, kItems> out;
  ALIGNZOO_UNROLL
  for (int i = 0; i < kItems; ++i) out.at[i] = i < count ? from[i] : T(0);
  return out;
}
template <int kItems>
ALIGNZOO_DEVICE uint32_t load_bytes(const uint8_t* from, int count, bool packs) {
  if (packs && count == kItems) {
    if constexpr (kItems == 4) return load_pack<1>(reinterpret_cast<const uint32_t*>(from)).at[0];
    if constexpr (kItems == 2) return load_pack<1>(reinterpret_cast<const uint16_t*>(from)).at[0];
  }
  uint32_t out = 0;
  ALIGNZOO_UNROLL
  for (int i = 0; i < kItems; ++i) {
    if (i < count) out |= static_cast<uint32_t>(from[i]) << (8 * i);
  }
  return out;
}
template <class T>
ALIGNZOO_DEVICE void store_numbers(T* to, const Pack<T, kPerLoad<T>>& numbers, int count,
                                   bool packs) {
  constexpr int kItems = kPerLoad<T>;
  if (packs && count == kItems) {
    store_pack(to, numbers);
    return;
  }
  ALIGNZOO_UNROLL
  for (int i = 0; i < kItems; ++i) {
    if (i < count) to[i] = numbers.at[i];
  }
}

// How many of a lane's tokens, of which the first is the row's token `at`, exist.
template <int kItems, class T>
ALIGNZOO_DEVICE int existing(const ScanRow<T>& row, int64_t at) {
  return static_cast<int>(larger(0, smaller(kItems, row.size - at)));
}
template <class T>
ALIGNZOO_DEVICE uint32_t load_mask(const ScanArgs<T>& args, const ScanRow<T>& row, int64_t at) {
  constexpr int kItems = kPerLoad<T>;
  const int count = existing<kItems>(row, at);
  if (args.mask) return load_bytes<kItems>(args.mask + row.begin + at, count, row.packs);
  return 0x01010101u & static_cast<uint32_t>((uint64_t{1} << (8 * count)) - 1);
}

template <class Rule, class T>
ALIGNZOO_DEVICE LaneTokens<T> load_tokens(const ScanArgs<T>& args, const ScanRow<T>& row,
                                          int64_t at) {
  constexpr int kItems = kPerLoad<T>;
  const int count = existing<kItems>(row, at);
  const int64_t from = row.begin + at;
  LaneTokens<T> out;
  out.mask = load_mask(args, row, at);
  out.reward = load_numbers(args.rewards + from, count, row.packs);
  out.value = {};
  if (args.values) out.value = load_numbers(args.values + from, count, row.packs);
  if constexpr (Rule::kRatios) {
    out.log_prob = load_numbers(args.log_probs + from, count, row.packs);
    out.old_log_prob = load_numbers(args.old_log_probs + from, count, row.packs);
  }
  out.terminated = out.truncated = 0;
  if (args.terminated && !args.terminated_per_row) {
    out.terminated = load_bytes<kItems>(args.terminated + from, count, row.packs);
  }
  if (args.truncated && !args.truncated_per_row) {
    out.truncated = load_bytes<kItems>(args.truncated + from, count, row.packs);
  }
  return out;
}

ALIGNZOO_DEVICE bool byte_set(uint32_t bytes, int i) { return (bytes >> (8 * i) & 0xffu) != 0; }

// One step, as math/advantages.h wants it.
template <class T>
struct ScanStep {
  bool ended;
  T reward, value, next_value, ratio;
};

template <class T, class Rule>
ScanPowers<T> scan_powers(const Rule& rule) {
  ScanPowers<T> out = {};
  if constexpr (Rule::kConstantMultiplier) {
    out.one = rule.multiplier(ScanStep<T>{});
    T lanes[kWarp], own = 1;
    for (int i = 0; i < kPerLoad<T>; ++i) own = math::product(out.one, own);
    for (T& lane : lanes) lane = own;
    for (int k = 0; k < 5; ++k) {
      out.step[k] = lanes[0];
      const int distance = 1 << k;
      for (int l = 0; l + distance < kWarp; ++l) {
        lanes[l] = math::product(lanes[l], lanes[l + distance]);
      }
    }
    for (int l = 0; l < kWarp; ++l) out.later_lanes[l] = l + 1 < kWarp ? lanes[l + 1] : T(1);
    out.tile = lanes[0];
    T tiles = 1;
    for (int w = kScanWarps - 1; w >= 0; --w) {
      out.later_tiles[w] = tiles;
      tiles = math::product(out.tile, tiles);
    }
    out.chunk = tiles;
    out.usable = out.one > T(0);
  }
  return out;
}

// A lane's part of a tile, in three turns: what the tile tells those before it, then the map of its
// steps, then the results. Every lane of the warp takes each turn.
template <class T, class Rule>
class LaneScan {
 public:
  static constexpr int kItems = kPerLoad<T>;

  ALIGNZOO_DEVICE LaneScan(const ScanArgs<T>& args, const ScanPowers<T>& powers,
                           const LaneTokens<T>& tokens)
      : as_zeros_(args.mask_mode == MaskMode::kZero) {
    if constexpr (Rule::kConstantMultiplier) {
      constexpr uint32_t kOnes = kItems == 4 ? 0x01010101u : 0x0101u;
      plain_ = __all_sync(kAllLanes, powers.usable && tokens.mask == kOnes &&
                                         (tokens.terminated | tokens.truncated) == 0);
    }
    if (plain_) {
      live_ = (1u << kItems) - 1;
      lanes_ = kAllLanes;
      ALIGNZOO_UNROLL
      for (int i = 0; i < kItems; ++i) {
        step_[i].reward = tokens.reward.at[i];
        step_[i].value = tokens.value.at[i];
      }
      first_ = step_[0].value;
      return;
    }
    live_ = 0;
    ALIGNZOO_UNROLL
    for (int i = 0; i < kItems; ++i) {
      const bool live = byte_set(tokens.mask, i);
      live_ |= static_cast<uint32_t>(live) << i;
      step_[i].reward = live ? tokens.reward.at[i] : T(0);
      step_[i].value = live ? tokens.value.at[i] : T(0);
      if constexpr (Rule::kRatios) {
        step_[i].ratio = math::importance_ratio(live ? tokens.log_prob.at[i] : T(0),
                                                live ? tokens.old_log_prob.at[i] : T(0));
      }
    }
    lanes_ = __ballot_sync(kAllLanes, live_ != 0);
    first_ = step_[0].value;
    if (!as_zeros_) {
      ALIGNZOO_UNROLL
      for (int i = kItems - 1; i >= 0; --i) {
        if (live_ >> i & 1) first_ = step_[i].value;
      }
    }
  }

  ALIGNZOO_DEVICE bool any() const { return lanes_ != 0; }
  // All tokens exist, are unmasked and have no flag of their own.
  ALIGNZOO_DEVICE bool plain() const { return plain_; }
  ALIGNZOO_DEVICE T first_value() const {
    return __shfl_sync(kAllLanes, first_, as_zeros_ || lanes_ == 0 ? 0 : __ffs(lanes_) - 1);
  }

  // The tile's map, in every lane. `at` is the row's token that is the lane's first.
  ALIGNZOO_DEVICE Affine<T> map(const ScanArgs<T>& args, const Rule& rule,
                                const ScanPowers<T>& powers, const LaneTokens<T>& tokens,
                                const ScanRow<T>& row, int64_t at, const Following<T>& behind) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    plain_ = plain_ && behind.any;
    if (plain_) return plain_map(rule, powers, lane, behind.value);
    const uint32_t later_lanes = lane == kWarp - 1 ? 0 : lanes_ >> (lane + 1);
    const bool any = later_lanes != 0 || behind.any;
    const bool from_lane = as_zeros_ ? any && lane < kWarp - 1 : later_lanes != 0;
    const int next_lane = lane + (as_zeros_ || later_lanes == 0 ? 1 : __ffs(later_lanes));
    const T in_tile = __shfl_sync(kAllLanes, first_, from_lane ? next_lane : lane);
    Affine<T> own = steps(args, rule, tokens, row, at, {any, from_lane ? in_tile : behind.value});

    // By doubling: after each turn a lane's map covers twice as many lanes from its own on.
    ALIGNZOO_UNROLL
    for (int distance = 1; distance < kWarp; distance *= 2) {
      const Affine<T> later = {__shfl_down_sync(kAllLanes, own.m, distance),
                               __shfl_down_sync(kAllLanes, own.d, distance)};
      if (lane + distance < kWarp) own = after(own, later);
    }
    later_ = {__shfl_down_sync(kAllLanes, own.m, 1), __shfl_down_sync(kAllLanes, own.d, 1)};
    if (lane == kWarp - 1) later_ = {};
    return {__shfl_sync(kAllLanes, own.m, 0), __shfl_sync(kAllLanes, own.d, 0)};
  }

  // The lane's results, where y behind the tile is known.
  ALIGNZOO_DEVICE void write(const ScanArgs<T>& args, const Rule& rule, const ScanRow<T>& row,
                             int64_t at, T behind) const {
    Pack<T, kItems> advantages, returns;
    T y = later_(behind);
    ALIGNZOO_UNROLL
    for (int i = kItems - 1; i >= 0; --i) {
      const T next_y = y;
      y = map_[i](y);
      const math::StepResult<T> result = rule.result(step_[i], y, next_y);
      const bool live = live_ >> i & 1;
      advantages.at[i] = live ? result.advantage : T(0);
      returns.at[i] = live ? result.returned : T(0);
    }
    const int count = existing<kItems>(row, at);
    const int64_t to = row.begin + at;
    if constexpr (Rule::kAdvantages) {
      store_numbers(args.advantages + to, advantages, count, row.packs);
    }
    store_numbers(args.returns + to, returns, count, row.packs);
  }

  // Faults found so far among the lane's own tokens.
  ALIGNZOO_DEVICE uint32_t faults() const { return faults_; }

 private:
  // As `map`, of a tile whose steps all go on.
  ALIGNZOO_DEVICE Affine<T> plain_map(const Rule& rule, const ScanPowers<T>& powers, int lane,
                                      T behind) {
    T next_value = __shfl_down_sync(kAllLanes, first_, 1);
    if (lane == kWarp - 1) next_value = behind;
    T own = 0;
    ALIGNZOO_UNROLL
    for (int i = kItems - 1; i >= 0; --i) {
      step_[i].ended = false;
      step_[i].next_value = next_value;
      map_[i] = {powers.one, rule.term(step_[i])};
      own = math::fma(powers.one, own, map_[i].d);
      next_value = step_[i].value;
    }
    ALIGNZOO_UNROLL
    for (int k = 0; k < 5; ++k) {
      const T later = __shfl_down_sync(kAllLanes, own, 1 << k);
      if (lane + (1 << k) < kWarp) own = math::fma(powers.step[k], later, own);
    }
    later_ = {powers.later_lanes[lane], __shfl_down_sync(kAllLanes, own, 1)};
    if (lane == kWarp - 1) later_.d = T(0);
    return {powers.tile, __shfl_sync(kAllLanes, own, 0)};
  }

  // The composed map of the lane's steps.
  ALIGNZOO_DEVICE Affine<T> steps(const ScanArgs<T>& args, const Rule& rule,
                                  const LaneTokens<T>& tokens, const ScanRow<T>& row, int64_t at,
                                  Following<T> behind) {
    Affine<T> all;
    ALIGNZOO_UNROLL
    for (int i = kItems - 1; i >= 0; --i) {
      const bool live = live_ >> i & 1;
      if (!live && behind.any && args.mask_mode == MaskMode::kPrefix) faults_ |= kMaskHole;
      map_[i] = {};
      step_[i].ended = false;
      step_[i].next_value = behind.value;
      if (live || (as_zeros_ && behind.any)) {
        take_step(args, rule, tokens, row, at, i, behind);
        all = after(map_[i], all);
      }
    }
    return all;
  }

  ALIGNZOO_DEVICE void take_step(const ScanArgs<T>& args, const Rule& rule,
                                 const LaneTokens<T>& tokens, const ScanRow<T>& row, int64_t at,
                                 int i, Following<T>& behind) {
    const bool live = live_ >> i & 1, is_last = !behind.any;
    bool terminated = live && byte_set(tokens.terminated, i);
    bool truncated = live && byte_set(tokens.truncated, i);
    if (is_last && args.terminated && args.terminated_per_row) {
      terminated = args.terminated[row.row] != 0;
    }
    if (is_last && args.truncated && args.truncated_per_row) {
      truncated = args.truncated[row.row] != 0;
    }
    ScanStep<T>& step = step_[i];
    if (truncated && !terminated) {
      if (args.next_values) {
        step.next_value = args.next_values[row.begin + at + i];
      } else if (!is_last || !args.bootstrap) {
        faults_ |= kTruncatedWithoutValue;
      }
    }
    if (terminated) step.next_value = T(0);
    step.ended = terminated || truncated || is_last;
    map_[i] = {step.ended ? T(0) : rule.multiplier(step), rule.term(step)};
    behind = {true, step.value};
  }

  bool as_zeros_, plain_ = false;
  uint32_t live_, lanes_, faults_ = 0;  // a bit a token of the lane; a bit a lane of the tile
  T first_;
  ScanStep<T> step_[kItems];
  Affine<T> map_[kItems], later_;
};

}  // namespace alignzoo::cuda
