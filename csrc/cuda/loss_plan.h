// How the losses cut their tokens among warps, and the memory they work in.
#pragma once

#include "cuda/plan.h"
#include "math/losses.h"

namespace alignzoo::cuda {

// A warp takes rows in segments of this many tokens, counted from the row's start: the sums of a
// row depend on that row alone. Where rows do not matter, the batch is one row. Of short rows it
// takes up to kMostPerWarp neighbours.
constexpr int64_t kLossSegment = 512, kMostPerWarp = 16;
constexpr int kLossThreads = 256, kLossWarps = kLossThreads / 32;
// Blocks of a loss, each of which leaves one set of sums; they are added up by one block.
constexpr int64_t kMostLossBlocks = 2048;
// Blocks that count before a loss: every block of the loss adds up all their counts.
constexpr int64_t kMostCountBlocks = 128;
constexpr int kCountThreads = 1024;
// What a block sums over its tokens (kLoss ... kTokens), and the largest ratio.
enum LossSum { kLoss, kClipped, kKl, kRatio, kRatioSquared, kTokens, kLargestRatio, kLossSums };

// Unmasked tokens, rows that have one, and whether bad offsets were seen.
struct LossCounts {
  double tokens, rows;
  bool bad;
};

// Rows in segments. Packed rows have theirs at floor(begin / kLossSegment) + row and after, which
// needs no sum over the rows before; up to one a row too many, and those are empty.
struct LossSegments {
  Rows rows;
  int64_t tokens;    // of the batch
  int64_t per_row;   // of a padded row
  int64_t count;     // in all, the empty ones included
  int64_t per_warp;  // neighbours that one warp takes in its turn
};

inline int64_t tokens_of(const Rows& rows) {
  return rows.offsets ? rows.width : rows.count * rows.width;
}
inline LossSegments segments_of(const Rows& rows) {
  LossSegments out{};
  out.rows = rows;
  out.tokens = tokens_of(rows);
  out.per_row = (rows.width + kLossSegment - 1) / kLossSegment;
  out.count = rows.offsets ? (rows.count > 0 ? out.tokens / kLossSegment + rows.count : 0)
                           : rows.count * out.per_row;
  // About as much work for a warp as one whole segment, where rows are short.
  const int64_t full = (out.tokens + kLossSegment - 1) / kLossSegment,
                share = full > 0 ? out.count / full : 1;
  out.per_warp = share < 1 ? 1 : share < kMostPerWarp ? share : kMostPerWarp;
  return out;
}
// The same tokens where rows do not matter.
inline LossSegments flat_segments(const Rows& rows) {
  Rows all;
  all.count = 1;
  all.width = tokens_of(rows);
  return segments_of(all);
}
inline int64_t loss_blocks(const LossSegments& segments) {
  const int64_t per_block = segments.per_warp * kLossWarps,
                blocks = (segments.count + per_block - 1) / per_block;
  // Tokens in no row are a fault of the offsets, and still have a gradient to be written.
  if (blocks == 0 && segments.tokens > 0) return 1;
  return blocks < kMostLossBlocks ? blocks : kMostLossBlocks;
}

// Offsets of the parts of the workspace, in bytes; `size` is that of all.
struct LossWorkspace {
  int64_t counts, sums, segment_sums, segment_counts, rows, row_gradients, size;
};
inline LossWorkspace loss_workspace(const Rows& rows, bool by_row) {
  LossWorkspace out{};
  const auto take = [&](int64_t count, int64_t bytes) {
    const int64_t at = out.size;
    out.size += (count * bytes + 255) / 256 * 256;
    return at;
  };
  const LossSegments segments = by_row ? segments_of(rows) : flat_segments(rows);
  out.counts = take(kMostCountBlocks, sizeof(LossCounts));
  out.sums = take(loss_blocks(segments) * kLossSums, sizeof(double));
  if (by_row) {
    out.segment_sums = take(segments.count, sizeof(double));
    out.segment_counts = take(segments.count, sizeof(double));
    out.rows = take(rows.count, sizeof(math::PolicyRow));
    out.row_gradients = take(rows.count, sizeof(double));
  }
  return out;
}

inline int64_t policy_loss_workspace_bytes(const Rows& rows, Level level, bool row_means) {
  return loss_workspace(rows, level == Level::kSequence || row_means).size;
}
inline int64_t value_loss_workspace_bytes(const Rows& rows) {
  return loss_workspace(rows, false).size;
}

}  // namespace alignzoo::cuda
