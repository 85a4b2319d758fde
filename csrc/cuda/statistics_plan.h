// How whitening and group advantages are cut, and the memory they work in.
#pragma once

#include "cuda/plan.h"

namespace alignzoo::cuda {

// Whitening: a warp holds this many elements in registers, so that the sum of their squared
// distances from their own mean costs no second read.
constexpr int64_t kMomentTile = 512;
constexpr int kMomentThreads = 256, kMomentWarps = kMomentThreads / 32;
// Blocks, each of which leaves its moments; they are merged by one block.
constexpr int64_t kMostMomentBlocks = 1024;
// Blocks that look for bad offsets where moments are given.
constexpr int kMostCheckBlocks = 32;
constexpr int kWhitenThreads = 256, kWhitenLoads = 4;

// Group advantages: each thread of a block looks at one of the sorted rows.
constexpr int kGroupThreads = 1024, kGroupWarps = kGroupThreads / 32;
// A group of more rows than this is taken by a block, a smaller one by a warp.
constexpr int64_t kLargeGroup = 1024;

inline int64_t whiten_tokens(const Rows& rows) {
  return rows.offsets ? rows.width : rows.count * rows.width;
}
inline int64_t moment_blocks(const Rows& rows) {
  const int64_t per_block = kMomentTile * kMomentWarps,
                blocks = (whiten_tokens(rows) + per_block - 1) / per_block;
  // One where there is nothing to look at but offsets.
  return blocks < 1 ? 1 : blocks < kMostMomentBlocks ? blocks : kMostMomentBlocks;
}

inline int64_t whiten_workspace_bytes(const Rows& rows) {
  const int64_t moments = moment_blocks(rows) * static_cast<int64_t>(sizeof(Moments));
  const int64_t checks = kMostCheckBlocks * static_cast<int64_t>(sizeof(uint32_t));
  return moments > checks ? moments : checks;
}
// The deviation over the batch.
inline int64_t group_workspace_bytes(int64_t size) { return size > 0 ? sizeof(double) : 0; }

}  // namespace alignzoo::cuda
