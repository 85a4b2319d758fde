// How the backward scans are spread over blocks, and the memory they work in. All shapes of launch
// compute the same tree, tokens -> tile -> chunk -> row, counted from the row's first token: they
// differ in speed alone.
#pragma once

#include "cuda/plan.h"

namespace alignzoo::cuda {

// A warp takes a tile, a 16-byte load of numbers a lane; a block takes a chunk, a tile a warp.
constexpr int kScanWarps = 8, kScanThreads = kScanWarps * 32;
constexpr int64_t scan_tile_tokens(int element_size) { return 32 * (16 / element_size); }
constexpr int64_t scan_chunk_tokens(int element_size) {
  return kScanWarps * scan_tile_tokens(element_size);
}

// Offsets are checked by blocks that leave a word each (cuda/offsets.h).
constexpr int kOffsetCheckThreads = 256, kMostOffsetChecks = 32;
inline int64_t offset_check_blocks(const Rows& rows) {
  if (rows.offsets == nullptr) return 0;
  const int64_t blocks = (rows.count + kOffsetCheckThreads) / kOffsetCheckThreads;
  return blocks < kMostOffsetChecks ? blocks : kMostOffsetChecks;
}

enum class ScanShape {
  kWarps,   // a warp a row, but a block where a row is longer than warp_tokens
  kBlocks,  // a block a row, chunk after chunk from its last
  kSplit,   // every chunk a block, three to five launches: few rows, and long
};
struct ScanPlan {
  ScanShape shape;
  int64_t blocks;       // of the launch that writes the results
  int64_t warp_tokens;  // kWarps
  int64_t chunks;       // kSplit: at least as many as the rows have
};

inline int64_t scan_tokens(const Rows& rows) {
  return rows.offsets ? rows.width : rows.count * rows.width;
}

inline ScanPlan scan_plan_of_shape(ScanShape shape, const Rows& rows, int element_size) {
  ScanPlan plan = {};
  plan.shape = shape;
  const int64_t tokens = scan_tokens(rows);
  if (tokens <= 0) return plan;
  const int64_t mean = rows.count > 0 ? tokens / rows.count : tokens;
  plan.warp_tokens = 2 * mean > 4096 ? 2 * mean : 4096;
  plan.chunks = tokens / scan_chunk_tokens(element_size) + rows.count;
  if (shape == ScanShape::kWarps) plan.blocks = blocks_for(rows.count, kScanWarps);
  if (shape == ScanShape::kBlocks) plan.blocks = blocks_for(rows.count, 1);
  if (shape == ScanShape::kSplit) plan.blocks = blocks_for(plan.chunks, 1);
  // Bad offsets are found on the device, whose outputs must be written then, rows or not.
  if (plan.blocks == 0) plan.blocks = 1;
  return plan;
}

// A warp with its tiles one after the other moves about a tile in 1 us, a block eight, and a GPU is
// full with some 4000 warps. A split costs two to four launches and reads most numbers twice, but
// fills a GPU that a few blocks cannot.
inline ScanPlan scan_plan(const Rows& rows, int element_size) {
  constexpr int64_t kManyRows = 4096, kFewRows = 128, kSplitChunks = 16;
  const int64_t mean = rows.count > 0 ? scan_tokens(rows) / rows.count : 0;
  ScanShape shape = ScanShape::kBlocks;
  if (mean <= 2 * scan_tile_tokens(element_size) || rows.count >= kManyRows) {
    shape = ScanShape::kWarps;
  } else if (rows.count <= kFewRows && mean >= kSplitChunks * scan_chunk_tokens(element_size)) {
    shape = ScanShape::kSplit;
  }
  return scan_plan_of_shape(shape, rows, element_size);
}

// The workspace: the words of the offsets' check, then, where split, five arrays with an element a
// chunk (value, m, d, y; a byte for whether there is a token) and a word a row.
struct ScanWorkspace {
  int64_t value, m, d, y, any, row_faults, bytes;  // where each array starts
};
inline ScanWorkspace scan_workspace(const Rows& rows, const ScanPlan& plan, int element_size) {
  const auto aligned = [](int64_t bytes) { return (bytes + 255) / 256 * 256; };
  ScanWorkspace out = {};
  int64_t end = rows.offsets ? aligned(kMostOffsetChecks * 4) : 0;
  if (plan.shape == ScanShape::kSplit && plan.blocks > 0) {
    const auto take = [&](int64_t bytes) {
      const int64_t start = end;
      end += aligned(bytes);
      return start;
    };
    out.value = take(plan.chunks * element_size);
    out.m = take(plan.chunks * element_size);
    out.d = take(plan.chunks * element_size);
    out.y = take(plan.chunks * element_size);
    out.any = take(plan.chunks);
    out.row_faults = take(rows.count * 4);
  }
  out.bytes = end;
  return out;
}
inline int64_t scan_workspace_bytes(const Rows& rows, int element_size) {
  return scan_workspace(rows, scan_plan(rows, element_size), element_size).bytes;
}

// td_targets of several steps: tokens of a row that a block takes.
constexpr int kStepBlock = 4 * kElementThreads;

}  // namespace alignzoo::cuda
