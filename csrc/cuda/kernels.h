// The CUDA core as the bindings see it: a table of launches in a library of its own, which is
// loaded when the first CUDA tensor arrives. Importing alignzoo therefore touches no driver.
//
// All pointers in the arguments are addresses on the queue's device. A launch puts its work on the
// queue's stream and returns: it allocates nothing, waits for nothing, and can be captured in a
// graph. Memory to work in is the caller's: cuda/plan.h says how much.
//
// What only the data can tell is not checked before the launch, since that would wait for it: a
// target out of range, a mask with a hole, cu_seqlens that fall. Such a row gives NaN (an id of 0
// where a token is drawn), nothing outside the arrays is touched, and a fault is noted that stays
// until `take_faults` reads it.
#pragma once

#include "arguments.h"

namespace alignzoo::cuda {

// Where a call's work goes: a device, and its stream (cudaStream_t).
struct Queue {
  int device;
  void* stream;
};

// cudaError_t: 0 is success. That of work put on a stream earlier may arrive with a later call.
using Status = int;

enum Fault : uint32_t {
  kTargetOutOfRange = 1,       // targets, or actions
  kMaskHole = 2,               // in mask_mode "prefix"
  kTruncatedWithoutValue = 4,  // a truncated step without a value to follow it
  kBadOffsets = 8,             // cu_seqlens that do not run from 0 to N without falling
  kNoDistribution = 16,        // a row to draw from with NaN, +inf, or nothing but -inf
  kRowIdOutOfRange = 32,       // a row id below 0
};

// What is read and written beside the arguments of the CPU's loops. For Rows: where packed, `width`
// is the number of all tokens, an upper bound.

// 0-d results, each null where it is not wanted. Without a denominator of the caller's own, the
// batch's count is found on the device; it may lie there too (`denominator`), or be a number.
template <class T>
struct PolicyLossCall {
  PolicyLossArgs<T> args;  // gradient_scale is not read
  Aggregate aggregate;
  bool denominator_given;
  double given_denominator;   // if given and `denominator` is null
  const double* denominator;  // on the device
  T *loss, *clip_frac, *approx_kl, *ratio_max, *ess;
};
template <class T>
struct ValueLossCall {
  ValueLossArgs<T> args;  // gradient_scale is not read
  bool denominator_given;
  double given_denominator;
  const double* denominator;
  T *loss, *clip_frac;
};

// `moments`, [3] float64 on the device (count, mean, m2), is read if `moments_given`, else written.
template <class T>
struct WhitenCall {
  Rows rows;
  const T* x;
  const uint8_t* mask;
  bool moments_given, shift_mean;
  int64_t ddof;
  double eps;
  double* moments;
  T* out;
};

// `order`: the rows, stably sorted by group_ids.
template <class T>
struct GroupCall {
  GroupArgs<T> args;
  const int64_t* order;
};

template <class T>
struct TokenKernels {
  Status (*gae)(const Queue&, const ScanArgs<T>&, void* workspace);
  Status (*td_lambda_returns)(const Queue&, const ScanArgs<T>&, void* workspace);
  Status (*vtrace)(const Queue&, const ScanArgs<T>&, void* workspace);
  Status (*td_targets)(const Queue&, const TdTargetsArgs<T>&);
  Status (*masked_whiten)(const Queue&, const WhitenCall<T>&, void* workspace);
  Status (*group_advantages)(const Queue&, const GroupCall<T>&, void* workspace);
  Status (*policy_loss)(const Queue&, const PolicyLossCall<T>&, void* workspace);
  Status (*value_loss)(const Queue&, const ValueLossCall<T>&, void* workspace);
  Status (*kl_penalty)(const Queue&, const ElementwiseArgs<T>&);
  Status (*huber)(const Queue&, const ElementwiseArgs<T>&);
};
// A target that is `ignore_index` (see arguments.h) is left out; another outside [0, V) is a fault.
template <class S, class T>
struct LogitKernels {
  Status (*token_log_probs)(const Queue&, const TokenLogProbsArgs<S, T>&, void* workspace);
  Status (*token_log_probs_backward)(const Queue&, const TokenLogProbsBackwardArgs<S, T>&);
  Status (*sample_tokens)(const Queue&, const SampleArgs<S, T>&, void* workspace);
  Status (*kl_divergence)(const Queue&, const DivergenceArgs<S, T>&, void* workspace);
  Status (*kl_divergence_backward)(const Queue&, const DivergenceBackwardArgs<S, T>&);
  Status (*max_and_gather)(const Queue&, const GatherArgs<S, T>&, void* workspace);
};

constexpr int kTableRevision = 1;

struct Kernels {
  int revision;               // kTableRevision of when it was compiled
  bool host_memory;           // true for the emulator of the tests, whose device is the host
  const char* architectures;  // "80, 90"
  int (*device_count)();      // 0 without a driver
  int (*runtime_version)();   // 1000 * major + 10 * minor
  const char* (*describe)(Status);
  // Reads and clears the faults noted on the queue's device, after all work on its stream.
  Status (*take_faults)(const Queue&, uint32_t* faults);
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

}  // namespace alignzoo::cuda

// The library's one symbol.
extern "C" const alignzoo::cuda::Kernels* alignzoo_cuda_kernels();
