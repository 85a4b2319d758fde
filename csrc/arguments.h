// What the bindings hand to the kernels of either device, and how it is laid out.
//
// On the CPU all input is checked: shapes agree, targets and offsets are in range, options are
// legal. On a CUDA device only what the host can see is: see cuda/kernels.h. Per-token arrays are
// contiguous, [B, T] row by row or packed [N]; they never alias an output. Outputs are written
// everywhere, 0 under the mask. A mask is bytes, 0 or not; null means all ones.
#pragma once

#include <cstdint>

// Always inlined: this header is also compiled for wider instruction sets (see math/config.h).
#if defined(__CUDACC__)
#define ALIGNZOO_PLAIN __host__ __device__ __forceinline__
#else
#define ALIGNZOO_PLAIN inline __attribute__((always_inline))
#endif

namespace alignzoo {

struct Bfloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

// Rows of tokens: row b is [b * width, (b + 1) * width), or [offsets[b], offsets[b + 1]) where
// packed; width is then the longest row's.
struct Rows {
  int64_t count = 0, width = 0;
  const int64_t* offsets = nullptr;
  ALIGNZOO_PLAIN int64_t begin(int64_t b) const { return offsets ? offsets[b] : b * width; }
  ALIGNZOO_PLAIN int64_t end(int64_t b) const { return offsets ? offsets[b + 1] : (b + 1) * width; }
};

enum class MaskMode { kCarry, kZero, kPrefix };

// The backward scans. Terminated and truncated are per token ([B, T] or [N]) or, with per_row, [B]
// for the last unmasked token of each row. values are null for discounted returns; log_probs,
// old_log_probs and the clips are read by vtrace alone. advantages are null for returns.
template <class T>
struct ScanArgs {
  Rows rows;
  const T *rewards, *values, *next_values, *bootstrap;
  const uint8_t *mask, *terminated, *truncated;
  bool terminated_per_row, truncated_per_row;
  MaskMode mask_mode;
  T gamma, lambda;
  T *advantages, *returns;
  const T *log_probs = nullptr, *old_log_probs = nullptr;
  T clip_rho = 0, clip_c = 0, clip_pg_rho = 0;
};

// First row at fault in what only the data can tell, -1 for none.
struct ScanFaults {
  int64_t hole_row = -1;  // a mask with a hole, in mask_mode prefix
  int64_t cut_row = -1;   // a truncated step without a value to follow it
};

// terminated may be null. Rows are contiguous, [count, width].
template <class T>
struct TdTargetsArgs {
  Rows rows;
  const T *rewards, *next_values;
  const uint8_t* terminated;
  T gamma;
  int64_t n_step;
  T* targets;
};

struct Moments {
  double count = 0, mean = 0, m2 = 0;
};
template <class T>
struct WhitenArgs {
  Rows rows;
  const T* x;
  const uint8_t* mask;
  T* out;
  double shift, scale, offset;  // out = (x - shift) * scale + offset
};

enum class GroupMode { kGrpo, kDrGrpo, kRloo, kBatchStd };
template <class T>
struct GroupArgs {
  int64_t size;
  const T* scores;
  const int64_t* group_ids;
  GroupMode mode;
  double eps;
  int64_t ddof;
  T* advantages;
};

// Logit row i starts at base + offset of its index in two outer dimensions: i / inner times
// outer_stride plus i % inner times inner_stride, in elements. The last dimension is contiguous.
struct LogitRows {
  int64_t count = 0, vocabulary = 0;
  int64_t inner = 1, outer_stride = 0, inner_stride = 0;
  ALIGNZOO_PLAIN int64_t offset(int64_t i) const {
    return i / inner * outer_stride + i % inner * inner_stride;
  }
};

// A target to be ignored (on the CPU below 0, on a CUDA device equal to ignore_index) gives 0, 0
// and no gradient; its row is not read. saved, [rows, 3] or null: max, log S and entropy of each
// row, for the backward pass. Where entropy is null that third is 0, and no gradient can come from
// it.
template <class S, class T>
struct TokenLogProbsArgs {
  LogitRows rows;
  const S* logits;
  const int64_t* targets;
  double inverse_temperature;
  T *log_probs, *entropy;  // entropy may be null
  double* saved;
  int64_t ignore_index = -1;
};

// gradient may be logits itself; its rows are contiguous. Either upstream may be null.
template <class S, class T>
struct TokenLogProbsBackwardArgs {
  LogitRows rows;
  const S* logits;
  const int64_t* targets;
  double inverse_temperature;
  const double* saved;
  const T *up_log_probs, *up_entropy;
  S* gradient;
  int64_t ignore_index = -1;
};

// Two rows of logits a and b, and KL(a || b) of the distributions they stand for.
// saved, [rows, 5] or null: maximum and sum of a, of b, and the mean of x - y
// (math/divergence.h) for the backward pass.
template <class S, class T>
struct DivergenceArgs {
  LogitRows a_rows, b_rows;
  const S *a, *b;
  double inverse_temperature;
  T* value;
  double* saved;
};

// Either gradient may be null. Their rows are contiguous.
template <class S, class T>
struct DivergenceBackwardArgs {
  LogitRows a_rows, b_rows;
  const S *a, *b;
  double inverse_temperature;
  const double* saved;
  const T* upstream;
  S *a_gradient, *b_gradient;
};

template <class S, class T>
struct GatherArgs {
  LogitRows rows;
  const S* q;
  const int64_t* actions;
  T* max;
  int64_t* argmax;
  T* chosen;
};

template <class S, class T>
struct SampleArgs {
  LogitRows rows;
  const S* logits;
  double inverse_temperature;  // 0: the largest logit
  int64_t top_k;               // 0: all
  double top_p;
  uint64_t seed, offset;
  const int64_t* row_ids;  // null: 0, 1, ...
  int64_t* ids;
  T* log_probs;
  int64_t bad_row;  // output: first row that is no distribution, -1 for none
};

enum class Level { kToken, kSequence };
enum class Aggregate { kTokenMean, kSequenceMean, kSequenceSumNorm, kTokenSum };

// Sums over all rows. For value losses only loss and clipped are used.
struct LossSums {
  double loss = 0, clipped = 0, kl = 0, ratio = 0, ratio_squared = 0, ratio_max = 0;
};
struct MaskCounts {
  int64_t tokens = 0, rows = 0;  // unmasked tokens; rows that have one
};

// gradient may be null. Each token's gradient is multiplied by gradient_scale.
template <class T>
struct PolicyLossArgs {
  Rows rows;
  const T *log_probs, *old_log_probs, *advantages, *behaviour_weights;
  const uint8_t* mask;
  int kind;  // math::PolicyKind
  Level level;
  bool row_means;  // each row's sum is divided by its number of unmasked tokens
  T low, high, dual;
  double gradient_scale;
  T* gradient;
};
template <class T>
struct ValueLossArgs {
  Rows rows;
  const T *values, *old_values, *returns;
  const uint8_t* mask;
  bool clip;
  T range;
  double gradient_scale;
  T* gradient;
};

template <class T>
struct ElementwiseArgs {
  int64_t size;
  const T *x, *y;  // y: ref_log_probs, null for huber
  int estimator;   // math::KlEstimator
  T delta;
  T *value, *gradient;  // gradient may be null
};

}  // namespace alignzoo
