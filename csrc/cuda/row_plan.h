// How the kernels over rows of logits cut their work, and the memory they need for it.
#pragma once

#include <cstdint>

#include "cuda/plan.h"

namespace alignzoo::cuda {

// A thread holds this many logits of a row in registers, loaded before the first of them is used.
constexpr int kHeld = 32;
// A row is cut into segments of this many logits, counted from its start; a block takes one.
constexpr int kRowThreads = 256;
constexpr int64_t kSegment = int64_t{kRowThreads} * kHeld;
// A row up to this size is one warp's; a block then takes kRowsPerBlock of them.
constexpr int64_t kWarpRow = 32 * kHeld;
constexpr int kRowsPerBlock = kRowThreads / 32;

// Blocks that hold segments of two rows take half as much of each.
constexpr int kHeldOfPair = kHeld / 2;
constexpr int64_t kPairSegment = kSegment / 2, kWarpPair = kWarpRow / 2;

inline int64_t segments_of(int64_t vocabulary, int64_t segment) {
  return (vocabulary + segment - 1) / segment;
}
// What is written for each segment of a row that has more than one.
inline int64_t segment_bytes(const LogitRows& rows, int64_t segment, int64_t bytes_each) {
  const int64_t segments = segments_of(rows.vocabulary, segment);
  return segments > 1 ? rows.count * segments * bytes_each : 0;
}

// math::RowStatistics, math::DivergenceSums, and the largest of each segment with its index.
inline int64_t token_log_probs_workspace_bytes(const LogitRows& rows) {
  return segment_bytes(rows, kSegment, 3 * sizeof(double));
}
inline int64_t divergence_workspace_bytes(const LogitRows& rows) {
  return segment_bytes(rows, kPairSegment, 6 * sizeof(double));
}
inline int64_t gather_workspace_bytes(const LogitRows& rows) {
  return segment_bytes(rows, kSegment, sizeof(double) + sizeof(int64_t));
}

}  // namespace alignzoo::cuda
