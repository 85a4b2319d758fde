// What drawing a token a row works in.
#pragma once

#include "cuda/row_plan.h"

namespace alignzoo::cuda {

// Threads of a block that draws from a row up to kWarpRow.
constexpr int kShortRowThreads = 64;

// The statistics of each segment (math::RowStatistics). Rows that are cut need none: a block has
// one row, and all it works in.
inline int64_t sample_workspace_bytes(const LogitRows& rows, int element_size, bool cuts) {
  (void)element_size;
  return cuts ? 0 : segment_bytes(rows, kSegment, 3 * sizeof(double));
}

}  // namespace alignzoo::cuda
