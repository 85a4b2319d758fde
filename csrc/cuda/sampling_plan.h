// What drawing a token a row works in.
#pragma once

#include "cuda/plan.h"

namespace alignzoo::cuda {

// Logits of a row that one block looks at to find the largest and the mass relative to it. A row of
// one segment is drawn from at once.
constexpr int64_t kSampleSegment = 8192;

// Of one segment: its largest logit, and the sum of e^{(z - largest) / temperature}.
struct SegmentMass {
  double max, sum;
};

inline int64_t sample_segments(int64_t vocabulary) {
  return (vocabulary + kSampleSegment - 1) / kSampleSegment;
}

// Rows that are cut are drawn from by one block each, which needs no memory but its own.
inline int64_t sample_workspace_bytes(const LogitRows& rows, int element_size, bool cuts) {
  (void)element_size;
  const int64_t segments = sample_segments(rows.vocabulary);
  if (cuts || segments <= 1) return 0;
  return rows.count * segments * static_cast<int64_t>(sizeof(SegmentMass));
}

}  // namespace alignzoo::cuda
