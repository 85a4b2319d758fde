// What the bindings hand to the loops, and the table of loops that each instruction set fills.
//
// All input is checked: shapes agree, targets and offsets are in range, options are legal.
// Per-token arrays are contiguous, [B, T] row by row or packed [N]; they never alias an output.
// Outputs are written everywhere, 0 under the mask. A mask is bytes, 0 or not; null means all ones.
#pragma once

#include <cstdint>

// Always inlined: this header is also compiled for wider instruction sets (see math/config.h).
#define ALIGNZOO_PLAIN inline __attribute__((always_inline))

namespace alignzoo::cpu {

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

// A target below 0 is ignored: 0, 0 and no gradient, its row not read.
// saved, [rows, 3] or null: max, log S and entropy of each row, for the backward pass. Where
// entropy is null that third is 0, and no gradient can come from it.
template <class S, class T>
struct TokenLogProbsArgs {
  LogitRows rows;
  const S* logits;
  const int64_t* targets;
  double inverse_temperature;
  T *log_probs, *entropy;  // entropy may be null
  double* saved;
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

template <class T>
struct TokenKernels {
  ScanFaults (*gae)(const ScanArgs<T>&, int threads);
  ScanFaults (*td_lambda_returns)(const ScanArgs<T>&, int threads);
  ScanFaults (*vtrace)(const ScanArgs<T>&, int threads);
  void (*td_targets)(const TdTargetsArgs<T>&, int threads);
  Moments (*moments)(const Rows& rows, const T* x, const uint8_t* mask, int threads);
  void (*whiten)(const WhitenArgs<T>&, int threads);
  LossSums (*policy_loss)(const PolicyLossArgs<T>&, int threads);
  LossSums (*value_loss)(const ValueLossArgs<T>&, int threads);
  void (*kl_penalty)(const ElementwiseArgs<T>&, int threads);
  void (*huber)(const ElementwiseArgs<T>&, int threads);
};
template <class S, class T>
struct LogitKernels {
  void (*token_log_probs)(const TokenLogProbsArgs<S, T>&, int threads);
  void (*token_log_probs_backward)(const TokenLogProbsBackwardArgs<S, T>&, int threads);
  void (*sample_tokens)(SampleArgs<S, T>&, int threads);
  void (*kl_divergence)(const DivergenceArgs<S, T>&, int threads);
  void (*kl_divergence_backward)(const DivergenceBackwardArgs<S, T>&, int threads);
  void (*max_and_gather)(const GatherArgs<S, T>&, int threads);
};
struct Kernels {
  const char* isa;
  MaskCounts (*count_mask)(const Rows& rows, const uint8_t* mask);
  TokenKernels<float> f32;
  TokenKernels<double> f64;
  LogitKernels<float, float> logits_f32;
  LogitKernels<double, double> logits_f64;
  LogitKernels<Bfloat16, float> logits_bf16;
  LogitKernels<Float16, float> logits_f16;
  template <class T>
  const TokenKernels<T>& tokens() const;
  template <class S, class T>
  const LogitKernels<S, T>& logits() const;
};
template <>
inline const TokenKernels<float>& Kernels::tokens() const {
  return f32;
}
template <>
inline const TokenKernels<double>& Kernels::tokens() const {
  return f64;
}
template <>
inline const LogitKernels<float, float>& Kernels::logits() const {
  return logits_f32;
}
template <>
inline const LogitKernels<double, double>& Kernels::logits() const {
  return logits_f64;
}
template <>
inline const LogitKernels<Bfloat16, float>& Kernels::logits() const {
  return logits_bf16;
}
template <>
inline const LogitKernels<Float16, float>& Kernels::logits() const {
  return logits_f16;
}

// The loops for this machine's processor, or for ALIGNZOO_ISA (generic, avx2, avx512), read once.
// Throws std::runtime_error if that, or another of our environment variables, names something that
// does not exist here.
const Kernels& kernels();
// Those of one instruction set, null where this build or this processor has none.
const Kernels* kernels_for(const char* isa);
const char* compiled_isas();

// ALIGNZOO_NUM_THREADS, 0 if unset. Throws std::runtime_error if it is no such number.
int num_threads_setting();

// ALIGNZOO_POOL: whose threads work. kTorch: those of torch's OpenMP runtime once torch is loaded,
// our own before. kAuto: the same, but our own where OMP_WAIT_POLICY=PASSIVE lets torch's sleep,
// and where torch has no such runtime.
enum class PoolSetting { kAuto, kOwn, kTorch };
PoolSetting pool_setting();

template <class T>
void group_advantages(const GroupArgs<T>& args);

}  // namespace alignzoo::cpu
