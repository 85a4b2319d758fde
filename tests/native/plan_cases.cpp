// How launches are cut and what memory they ask for, at the edges of every tile and at sizes that
// no test could run. Arithmetic of the host alone.
#include <climits>

#include "cuda/loss_plan.h"
#include "cuda/plan.h"
#include "cuda/row_plan.h"
#include "cuda/sampling_plan.h"
#include "cuda/scan_plan.h"
#include "cuda/statistics_plan.h"
#include "harness.h"

namespace alignzoo::native {
namespace {

using cuda::kMostBlocks;

void expect(bool is_so, const char* what) {
  if (!is_so) fail(what);
}

std::string text_of(const Rows& rows) {
  return "[" + std::to_string(rows.count) + ", " + std::to_string(rows.width) +
         (rows.offsets ? "], packed" : "]");
}

// Shapes around every tile of the plans, and beyond 2^31 elements.
std::vector<Rows> shapes() {
  std::vector<int64_t> edges{0, 1, 2};
  for (int power = 3; power <= 20; ++power) {
    for (const int64_t beside : {-1, 0, 1}) edges.push_back((int64_t{1} << power) + beside);
  }
  std::vector<Rows> out;
  static const int64_t some_offsets = 0;  // plans look at whether there are any
  for (const int64_t count : {int64_t{0}, int64_t{1}, int64_t{2}, int64_t{7}, int64_t{127},
                              int64_t{128}, int64_t{129}, int64_t{4095}, int64_t{4097}}) {
    for (const int64_t width : edges) {
      out.push_back({count, width, nullptr});
      out.push_back({count, width, &some_offsets});
    }
  }
  constexpr int64_t kHuge = int64_t{1} << 31;
  for (const Rows& rows : std::vector<Rows>{{1, kHuge - 1, nullptr},
                                            {1, kHuge + 1, nullptr},
                                            {1, int64_t{1} << 36, nullptr},
                                            {kHuge + 3, 1, nullptr},
                                            {kHuge + 3, 17, nullptr},
                                            {65537, 65537, nullptr},
                                            {1 << 20, 1 << 15, nullptr},
                                            {int64_t{1} << 33, 0, nullptr},
                                            {1, kHuge + 1, &some_offsets},
                                            {int64_t{1} << 33, kHuge + 1, &some_offsets},
                                            {int64_t{1} << 33, 0, &some_offsets}}) {
    out.push_back(rows);
  }
  return out;
}

// Parts of a workspace begin where each kind of number may, one behind the other.
void expect_parts(const std::vector<int64_t>& starts, const std::vector<int64_t>& sizes,
                  int64_t bytes) {
  for (size_t i = 0; i < starts.size(); ++i) {
    const int64_t end = i + 1 < starts.size() ? starts[i + 1] : bytes;
    expect(starts[i] % 256 == 0, "a part of the workspace is not aligned");
    expect(sizes[i] >= 0 && starts[i] + sizes[i] <= end, "parts of the workspace overlap");
  }
}

void scan_plans(const Rows& rows) {
  for (const int element : {4, 8}) {
    const int64_t tokens = cuda::scan_tokens(rows), chunk = cuda::scan_chunk_tokens(element);
    for (const auto shape :
         {cuda::ScanShape::kWarps, cuda::ScanShape::kBlocks, cuda::ScanShape::kSplit}) {
      const cuda::ScanPlan plan = cuda::scan_plan_of_shape(shape, rows, element);
      expect(plan.blocks >= 0 && plan.blocks <= kMostBlocks, "too many blocks");
      expect((plan.blocks > 0) == (tokens > 0), "work and blocks do not go together");
      if (tokens == 0) continue;
      // However the tokens are dealt to the rows, each row has its last chunk to itself.
      if (shape == cuda::ScanShape::kSplit) {
        expect(plan.chunks >= (rows.offsets ? tokens / chunk + rows.count
                                            : rows.count * ((rows.width + chunk - 1) / chunk)),
               "too few chunks");
      }
      const cuda::ScanWorkspace parts = cuda::scan_workspace(rows, plan, element);
      if (shape == cuda::ScanShape::kSplit) {
        expect_parts({parts.value, parts.m, parts.d, parts.y, parts.any, parts.row_faults},
                     {plan.chunks * element, plan.chunks * element, plan.chunks * element,
                      plan.chunks * element, plan.chunks, rows.count * 4},
                     parts.bytes);
      }
    }
    const int64_t bytes = cuda::scan_workspace_bytes(rows, element);
    expect(bytes >= 0 && bytes <= 8 * tokens + 64 * rows.count + 8192, "too large a workspace");
    expect(cuda::offset_check_blocks(rows) <= cuda::kMostOffsetChecks, "too many checks");
    if (rows.offsets) {
      expect(bytes >= 4 * cuda::offset_check_blocks(rows), "no room for the checks");
    }
  }
}

void loss_plans(const Rows& rows) {
  const int64_t tokens = cuda::tokens_of(rows);
  for (const bool flat : {false, true}) {
    const cuda::LossSegments segments = flat ? cuda::flat_segments(rows) : cuda::segments_of(rows);
    expect(segments.tokens == tokens, "tokens are lost");
    expect(segments.per_warp >= 1, "a warp without a segment");
    const int64_t blocks = cuda::loss_blocks(segments);
    expect(blocks >= 0 && blocks <= cuda::kMostLossBlocks, "too many blocks");
    // Tokens of no row, by offsets that are bad, are work too: they become NaN.
    expect(tokens == 0 || blocks > 0, "work and blocks do not go together");
    if (tokens > 0 && rows.count > 0) expect(segments.count > 0, "tokens without a segment");
  }
  for (const bool by_row : {false, true}) {
    const cuda::LossWorkspace parts = cuda::loss_workspace(rows, by_row);
    const cuda::LossSegments segments =
        by_row ? cuda::segments_of(rows) : cuda::flat_segments(rows);
    const int64_t sums = cuda::loss_blocks(segments) * cuda::kLossSums * 8;
    if (by_row) {
      expect_parts({parts.counts, parts.sums, parts.segment_sums, parts.segment_counts, parts.rows,
                    parts.row_gradients},
                   {cuda::kMostCountBlocks * static_cast<int64_t>(sizeof(cuda::LossCounts)), sums,
                    segments.count * 8, segments.count * 8,
                    rows.count * static_cast<int64_t>(sizeof(math::PolicyRow)), rows.count * 8},
                   parts.size);
    } else {
      expect_parts({parts.counts, parts.sums},
                   {cuda::kMostCountBlocks * static_cast<int64_t>(sizeof(cuda::LossCounts)), sums},
                   parts.size);
      expect(parts.size < 1 << 20, "a loss over tokens works in little memory");
    }
    const int64_t asked =
        cuda::policy_loss_workspace_bytes(rows, by_row ? Level::kSequence : Level::kToken, false);
    expect(asked == parts.size, "what is asked for is not what is used");
    expect(cuda::policy_loss_workspace_bytes(rows, Level::kToken, by_row) == parts.size,
           "what is asked for is not what is used");
  }
  expect(cuda::value_loss_workspace_bytes(rows) == cuda::loss_workspace(rows, false).size,
         "what is asked for is not what is used");
}

// Packed rows' first segments, at floor(begin / kLossSegment) + row, are their own.
void packed_segments() {
  Random random(9);
  for (int repeat = 0; repeat < 200; ++repeat) {
    std::vector<int64_t> offsets{0};
    const int64_t count = 1 + random.below(40);
    for (int64_t row = 0; row < count; ++row) {
      const int64_t length = random.flip() ? random.below(3) : random.below(1500);
      offsets.push_back(offsets.back() +
                        (row % 7 == 3 ? cuda::kLossSegment * random.below(3) : length));
    }
    const Rows rows{count, offsets.back(), offsets.data()};
    const cuda::LossSegments segments = cuda::segments_of(rows);
    int64_t used = 0;
    for (int64_t row = 0; row < count && segments.tokens > 0; ++row) {
      const int64_t begin = rows.begin(row), length = rows.end(row) - begin;
      const int64_t first = begin / cuda::kLossSegment + row;
      expect(first >= used, "two rows share a segment");
      used = first + (length + cuda::kLossSegment - 1) / cuda::kLossSegment;
      expect(used <= segments.count, "a row's segments lie behind the last");
    }
  }
}

void statistics_plans(const Rows& rows) {
  const int64_t blocks = cuda::moment_blocks(rows);
  expect(blocks >= 1 && blocks <= cuda::kMostMomentBlocks, "too many blocks");
  const int64_t bytes = cuda::whiten_workspace_bytes(rows);
  expect(bytes >= blocks * static_cast<int64_t>(sizeof(Moments)), "no room for the moments");
  expect(bytes < 1 << 20, "whitening works in little memory");
}

void row_plans() {
  for (const int64_t vocabulary :
       {int64_t{1}, int64_t{31}, int64_t{1023}, int64_t{1024}, int64_t{1025}, int64_t{4096},
        int64_t{8191}, int64_t{8192}, int64_t{8193}, int64_t{128256}, int64_t{1} << 31,
        (int64_t{1} << 31) + 1, int64_t{1} << 40}) {
    for (const int64_t count : {int64_t{0}, int64_t{1}, int64_t{8192}, int64_t{1} << 33}) {
      if (count > 0 && vocabulary > INT64_MAX / 64 / count) continue;
      LogitRows rows;
      rows.count = rows.inner = count;
      rows.vocabulary = rows.inner_stride = vocabulary;
      now_running("row plans", "host", std::to_string(count) + ", " + std::to_string(vocabulary));
      for (const int64_t bytes :
           {cuda::token_log_probs_workspace_bytes(rows), cuda::divergence_workspace_bytes(rows),
            cuda::gather_workspace_bytes(rows), cuda::sample_workspace_bytes(rows, 2, false),
            cuda::sample_workspace_bytes(rows, 8, false)}) {
        expect(bytes >= 0, "an overflow");
        // A hundredth of the logits, and nothing where a row is no longer than a block's share.
        expect(bytes <= count * vocabulary / 25 + count * 128, "too large a workspace");
        if (vocabulary <= 4096) expect(bytes == 0, "short rows need no memory");
      }
    }
  }
}

}  // namespace

void plan_cases() {
  now_running("blocks_for", "host", "edges");
  expect(cuda::blocks_for(0, 256) == 0 && cuda::blocks_for(1, 256) == 1, "few");
  expect(cuda::blocks_for(256, 256) == 1 && cuda::blocks_for(257, 256) == 2, "a tile's edge");
  expect(cuda::blocks_for(int64_t{1} << 31, 1) == kMostBlocks, "more than 2^31 elements");
  expect(cuda::blocks_for(int64_t{1} << 62, 1024) == kMostBlocks, "more than any device holds");
  for (const Rows& rows : shapes()) {
    now_running("plans", "host", text_of(rows));
    scan_plans(rows);
    loss_plans(rows);
    statistics_plans(rows);
  }
  now_running("segments", "host", "packed rows");
  packed_segments();
  row_plans();
  now_running("group plan", "host", "edges");
  for (const int64_t size : {int64_t{0}, int64_t{1}, int64_t{1} << 33}) {
    const int64_t bytes = cuda::group_workspace_bytes(size);
    expect(bytes >= (size > 0 ? 8 : 0) && bytes <= 64 * size, "too large a workspace");
  }
}

}  // namespace alignzoo::native
