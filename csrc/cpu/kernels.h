// The table of loops that each instruction set fills.
#pragma once

#include <cstdint>

#include "arguments.h"

namespace alignzoo::cpu {

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
